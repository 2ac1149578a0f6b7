"""A plain loop over DistributedDataParallel, for real, on two ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.hooks.two_ranks import two_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ddp")
    return two_ranks("ddp_run", out)


def test_watching_changes_no_bit_of_the_losses(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["watched"]["losses"] == rank["plain"]["losses"]
        assert rank["watched"]["norms"] == rank["plain"]["norms"]


def test_gradients_are_measured_once_reduced_and_before_they_are_clipped(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        watched = rank["watched"]
        measured = [values["grad_norm"] for values in watched["steps"]]
        assert measured == pytest.approx(watched["norms"], rel=1e-6)
        assert min(measured) > 0.2


def test_replicas_that_are_sound_agree_to_the_last_bit(ranks: list[dict[str, Any]]) -> None:
    for first, second in zip(*(rank["watched"]["steps"] for rank in ranks), strict=True):
        for signal in ("replica_checksum|0-1", "replica_grad_norm|0-1"):
            assert first[signal] == second[signal] > 0
        assert first["replica_grad_norm|0-1"] == first["grad_norm"]
    sums = [values["replica_checksum|0-1"] for values in ranks[0]["watched"]["steps"]]
    assert len(set(sums)) == len(sums)


def test_one_rank_answers_for_the_layers_that_all_hold(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["watched"] for rank in ranks)
    assert (first["layers"], second["layers"]) == (16, 0)
    for values in first["steps"]:
        squares = [value for name, value in values.items() if name.startswith("layer_grad_norm")]
        assert math.sqrt(sum(squares)) == pytest.approx(values["grad_norm"], rel=1e-6)
