"""Faults as they are written on the command line."""

from __future__ import annotations

import math

import pytest

from sentinel_hooks.reference.faults import SYNTAX, Fault, FaultError, KillRank, LrJump, Nan, parse
from sentinel_hooks.reference.model import Decoder, Shape

MODEL = Decoder(Shape(layers=2, width=16, heads=2, context=8))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nan:module=layers.1.mlp,step=40", Nan("layers.1.mlp", 40, rank=0, batches=1)),
        ("nan:module=norm,rank=1,step=40,batches=6", Nan("norm", 40, rank=1, batches=6)),
        ("nan:module=head,step=4,batches=forever", Nan("head", 4, batches=math.inf)),
        ("lr-jump:step=40,factor=1000", LrJump(40, 1000.0)),
        ("kill-rank:rank=1,step=40", KillRank(1, 40)),
    ],
)
def test_what_is_written_right_is_read(text: str, fault: Fault) -> None:
    assert parse(text) == fault


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no fault ''"),
        ("nam:module=norm,step=1", "there is no fault 'nam'"),
        ("nan", "nan needs module and step"),
        ("nan:module=norm", "nan needs step"),
        ("nan:module=norm,step=1,times=3", "nan has no 'times'"),
        ("nan:module=norm,step=1,step=2", "step is given twice"),
        ("nan:module=norm,step=soon", "'soon' is no step"),
        ("nan:module=norm,step", "'' is no step"),
        ("nan:module=norm,step=0", "step must be at least 1, got 0"),
        ("nan:module=norm,step=1,batches=0", "batches must be at least 1, got 0"),
        ("lr-jump:step=1,factor=-2", "factor must be a positive number, got -2.0"),
        ("lr-jump:step=1,factor=nan", "factor must be a positive number, got nan"),
        ("kill-rank:step=1", "kill-rank needs rank"),
    ],
)
def test_what_is_written_wrong_is_told_with_what_is_right(text: str, told: str) -> None:
    with pytest.raises(FaultError) as error:
        parse(text)
    assert told in str(error.value)
    assert SYNTAX in str(error.value)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Nan("layers.1.mpl", 1), "no module 'layers.1.mpl'.*close: layers.1.mlp"),
        (Nan("layers", 1), "no module 'layers'"),  # a container, which is never called
        (Nan("", 1), "no module ''"),
        (Nan("norm", 1, rank=2), "no rank 2 among 2"),
        (KillRank(rank=-1, step=1), "no rank -1 among 2"),
    ],
)
def test_a_fault_that_cannot_happen_here_is_refused(fault: Fault, told: str) -> None:
    with pytest.raises(FaultError, match=told):
        fault.check(MODEL, world_size=2)
