"""The catalog holds together: names, labels and reductions that both sides can rely on."""

from __future__ import annotations

import re

import msgspec
import pytest

from sentinel.engine.language.functions import USAGE
from sentinel.signals import CATALOG, Reduction, Signal, did_you_mean
from sentinel.wire import MAX_SERIES, Series

EVERY_SIGNAL = pytest.mark.parametrize("signal", CATALOG.values(), ids=CATALOG.keys())

# Names that expressions use for something else would make a signal unreachable in rules.
RESERVED = {"and", "or", "not", "if", "else", "in", "is", "True", "False", "None", "lambda", *USAGE}


@EVERY_SIGNAL
def test_a_name_is_an_identifier_that_rules_can_use(signal: Signal) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", signal.name)
    assert signal.name not in RESERVED


@EVERY_SIGNAL
def test_a_signal_says_what_it_is_in_one_line(signal: Signal) -> None:
    assert signal.unit
    assert signal.help.strip() == signal.help != ""
    assert "\n" not in signal.help
    assert signal.made_by in ("rank", "derived", "engine")


@EVERY_SIGNAL
def test_the_unit_is_in_the_name_of_what_is_measured_in_seconds_or_bytes(signal: Signal) -> None:
    unit = {"_seconds": "s", "_bytes": "B", "_bytes_per_second": "B/s", "_per_second": "1/s"}
    named = [expected for suffix, expected in unit.items() if signal.name.endswith(suffix)]
    assert not named or signal.unit == named[0]


@EVERY_SIGNAL
def test_only_sums_of_squares_become_norms(signal: Signal) -> None:
    if signal.reduction is Reduction.ROOT_SUM:
        assert "2-norm" in signal.help


def test_the_catalog_is_keyed_by_name() -> None:
    assert all(name == signal.name for name, signal in CATALOG.items())
    assert len(CATALOG) < MAX_SERIES


def test_the_catalog_has_what_a_first_day_needs() -> None:
    """Renaming a signal breaks every rule, dashboard and record that names it."""
    assert set(CATALOG) >= {
        "loss", "lr", "loss_scale", "grad_norm", "layer_grad_norm", "nonfinite_activation",
        "nonfinite_gradient", "nonfinite_update", "skipped", "overflow", "step_seconds",
        "data_seconds", "forward_seconds", "backward_seconds", "optimizer_seconds",
        "monitor_seconds", "tokens_per_second", "host_memory_process_bytes",
        "host_memory_used_bytes", "host_memory_limit_bytes", "device_memory_allocated_bytes",
        "device_memory_reserved_bytes", "device_memory_peak_bytes", "device_memory_used_bytes",
        "device_memory_limit_bytes", "silence", "lost",
    }  # fmt: skip


def test_every_name_fits_the_wire() -> None:
    everything = tuple(Series(name) for name in CATALOG)
    assert msgspec.convert([[name] for name in CATALOG], tuple[Series, ...]) == everything


@pytest.mark.parametrize("typo", ["grad_nrom", "gradnorm", "gard_norm"])
def test_a_misspelled_name_gets_a_hint(typo: str) -> None:
    assert did_you_mean(typo, CATALOG) == ", did you mean 'grad_norm'?"


def test_a_name_like_no_other_gets_no_hint() -> None:
    assert did_you_mean("zzz", CATALOG) == ""
