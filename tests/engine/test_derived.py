"""Quantities that follow from what ranks report."""

from __future__ import annotations

import struct

import pytest

from sentinel.engine.language.parse import parse
from sentinel.engine.rule import Rule
from sentinel.wire import Extension, Frame, Series
from tests.engine.world import Job, alerts

REDUCE = "all_reduce@0-1"


def test_an_update_ratio_is_the_ratio_of_the_norms_over_all_shards() -> None:
    job = Job([], ["layer_update_norm/head", "layer_weight_norm/head", "loss"])
    job.step(1, {"layer_update_norm/head": 9.0, "layer_weight_norm/head": 900.0, "loss": 1.0})
    assert job.engine.latest[Series("layer_update_ratio", "head")] == pytest.approx(0.1)
    job.step(2, {"layer_weight_norm/head": 900.0, "loss": 1.0})
    assert Series("layer_update_ratio", "head") not in job.engine.latest


def test_the_norm_of_the_whole_update_is_that_of_all_layers_and_none_may_lack() -> None:
    names = ["layer_update_norm/head", "layer_update_norm/body"]
    job = Job([], names)
    shard = {names[0]: 4.5, names[1]: 8.0}  # squares, of each of two ranks
    job.step(1, shard)
    assert job.engine.latest[Series("update_norm")] == pytest.approx(5.0)
    job.step(2, {names[0]: 4.5})
    assert Series("update_norm") not in job.engine.latest


def test_the_rank_that_waits_least_is_the_one_the_others_wait_for() -> None:
    names = [f"collective_seconds/{REDUCE}", f"collective_bytes/{REDUCE}"]
    rule = Rule("Waits", "", parse("by_rank(collective_wait_seconds) > 1"))
    job = Job([rule], names)
    job.step(1, {names[0]: 5.0, names[1]: 100.0}, {1: {names[0]: 2.0, names[1]: 100.0}})
    latest = job.engine.latest
    assert latest[Series("collective_wait_seconds", REDUCE)] == 3.0
    assert latest[Series("collective_bytes_per_second", REDUCE)] == 50.0
    (alert,) = alerts(job.told)
    assert alert.labels == {"collective": REDUCE, "rank": "0"}
    assert alert.value == 3.0


def test_a_rank_may_find_more_to_measure_and_its_earlier_frames_still_count() -> None:
    job = Job([], ["loss"])
    more = Extension((Series("logged", "bleu"),))

    def report(rank: int, sequence: int, *values: float) -> None:
        packed = struct.pack(f"<{len(values)}d", *values)
        job.engine.feed(rank, Frame(sequence, sequence, 0.0, packed), job.now)

    for rank in (0, 1):
        report(rank, 1, 2.0)
    job.engine.feed(0, more, job.now)
    report(0, 2, 3.0)  # was queued before it
    report(1, 2, 5.0)
    assert job.engine.latest == {Series("loss"): 4.0}
    report(0, 3, 3.0, 0.5)
    report(1, 3, 3.0)
    assert job.engine.latest == {Series("loss"): 3.0, Series("logged", "bleu"): 0.5}
    assert job.engine.refused == {}


def test_a_series_cannot_be_announced_twice() -> None:
    job = Job([], ["loss"])
    job.engine.feed(0, Extension((Series("loss"),)), job.now)
    assert sum(job.engine.refused.values()) == 1
    job.step(1, {"loss": 2.0})
    assert job.engine.step == 1


def test_a_rank_outside_of_a_group_takes_no_part_in_what_follows_from_it() -> None:
    label = "all_reduce@group-3:0-2/2"
    names = [f"collective_seconds/{label}", f"collective_bytes/{label}"]
    job = Job([], {0: names, 1: ["loss"], 2: names}, world_size=3)
    moved = {names[1]: 600.0}
    job.step(1, {"loss": 1.0}, {0: {names[0]: 4.0, **moved}, 2: {names[0]: 3.0, **moved}})
    latest = job.engine.latest
    assert latest[Series("collective_wait_seconds", label)] == 1.0
    assert latest[Series("collective_bytes_per_second", label)] == 200.0
    job.step(2, {"loss": 1.0}, {0: moved, 2: moved})  # durations that are not known
    assert Series("collective_bytes_per_second", label) not in job.engine.latest
