"""Labels of groups, what the flight recorder says, and NCCL's own timing, on stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentinel_hooks.collectives.completion import CompletionHook
from sentinel_hooks.collectives.group import Groups, Known, compact, label_of
from sentinel_hooks.collectives.sequence import Sequences
from sentinel_hooks.collectives.tap import Tap
from sentinel_hooks.probes.collective_time import MAX_KINDS, CollectiveTimeProbe
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Outcome

CPU = torch.device("cpu")


class FakeGroup:
    """What is asked of a process group, with numbers that a test sets."""

    def __init__(self, number: int | None = 0) -> None:
        self.number = number
        self.hooks: list[Callable[[Any], None]] = []
        self.timed = False

    def _get_sequence_number_for_group(self) -> int:
        if self.number is None:
            raise RuntimeError("this backend does not count")
        return self.number

    def _enable_collectives_timing(self) -> None:
        self.timed = True

    def _register_on_completion_hook(self, hook: Callable[[Any], None]) -> None:
        if self.hooks:
            raise RuntimeError("hook already registered")
        self.hooks.append(hook)


def groups_of(*fakes: FakeGroup, backend: str = "gloo") -> Groups:
    groups = Groups(CPU, list)
    groups.known = tuple(
        Known(lambda fake=fake: fake, f"g{place}:0-1", backend, place)  # type: ignore[misc]
        for place, fake in enumerate(fakes)
    )
    groups._by_id = {id(fake): known for fake, known in zip(fakes, groups.known, strict=True)}
    groups._seen = []
    return groups


def dump(status: dict[str, tuple[int, int]]) -> Callable[[str], Callable[[bool, bool], bytes]]:
    """A flight recorder with the last enqueued and completed of each of its own numbers."""

    def record(collectives: bool, active: bool) -> bytes:
        assert not collectives, "the trace takes a tenth of a second"
        found = {
            name: {"last_enqueued_collective": str(last), "last_completed_collective": str(done)}
            for name, (last, done) in status.items()
        }
        return json.dumps({"pg_status": found, "version": "2.10"}).encode()

    return lambda backend: record


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([0], "0"),
        ([0, 1], "0-1"),
        ([0, 1, 2, 3, 8], "0-3,8"),
        ([0, 2], "0,2"),
        ([1, 3, 5, 7], "1-7/2"),
        ([0, 8, 16, 17], "0-16/8,17"),
    ],
)
def test_ranks_are_written_short(ranks: list[int], text: str) -> None:
    assert compact(ranks) == text


@given(st.sets(st.integers(0, 4000), min_size=1, max_size=60))
def test_ranks_written_short_are_the_same_ranks(ranks: set[int]) -> None:
    found: list[int] = []
    for part in compact(sorted(ranks)).split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    assert found == sorted(ranks)


def test_a_group_is_called_by_its_description_or_else_by_torchs_name() -> None:
    assert label_of("default_pg", "0", [1, 0]) == "default:0-1"
    assert label_of("data", "4", range(8)) == "data:0-7"
    assert label_of("undefined", "4", range(8)) == "group-4:0-7"


def test_labels_of_scattered_groups_are_short_and_differ() -> None:
    scattered = [rank * rank for rank in range(200)]
    one, other = label_of("x", "1", scattered), label_of("x", "1", [*scattered[:-1], 77_777])
    assert len(one) <= 160
    assert one != other
    assert one == label_of("x", "1", scattered)


def test_completion_is_believed_only_while_the_recorder_agrees_with_the_group() -> None:
    fakes = (FakeGroup(7), FakeGroup(0), FakeGroup(9))
    status = {"0": (7, 6), "2": (8, 8)}
    sequences = Sequences(groups_of(*fakes), dump(status))
    # The recorder hears of a collective a moment after the group: 8 is the 9 that it will be.
    assert sequences.read() == {"g0:0-1": (7, 6), "g1:0-1": (0, 0), "g2:0-1": (9, 8)}
    status["2"] = (5, 5)  # somebody else's number
    assert sequences.read()["g2:0-1"] == (9, None)


def test_without_a_recorder_what_is_entered_is_known_still() -> None:
    sequences = Sequences(groups_of(FakeGroup(7), FakeGroup(None)), lambda backend: None)
    assert sequences.read() == {"g0:0-1": (7, None)}
    garbled = Sequences(groups_of(FakeGroup(7)), lambda backend: lambda *_: b"\x80pickle")
    assert garbled.read() == {"g0:0-1": (7, None)}


def work_info(kind: str, seconds: float) -> SimpleNamespace:
    return SimpleNamespace(
        op_type=SimpleNamespace(name=kind), active_duration=timedelta(seconds=seconds)
    )


def test_nccls_hook_passes_durations_on_until_it_is_closed() -> None:
    told: list[tuple[str, float]] = []
    group = FakeGroup()
    hook = CompletionHook(group, lambda kind, took: told.append((kind, took)))  # type: ignore[arg-type]
    assert group.timed
    group.hooks[0](work_info("ALLREDUCE", 0.5))
    group.hooks[0](work_info("_ALLGATHER_BASE", 0.25))
    hook.close()
    group.hooks[0](work_info("ALLREDUCE", 9.0))
    assert told == [("all_reduce", 0.5), ("all_gather", 0.25)]


def nccl_panel(group: FakeGroup, *, asked: bool) -> tuple[Panel, CollectiveTimeProbe, Tap]:
    tap = Tap()
    groups = groups_of(group, backend="nccl")
    groups.refresh = lambda: None  # type: ignore[method-assign]
    probe = CollectiveTimeProbe(groups, CPU, nccl_timing=asked, tap=tap)
    return Panel([probe], CPU), probe, tap


def test_on_nccl_nothing_is_touched_unless_it_is_asked_for() -> None:
    group = FakeGroup()
    panel, probe, tap = nccl_panel(group, asked=False)
    panel.start(0)
    assert set(panel.missing) == set(probe.signals)
    assert all("nccl_timing=True" in reason for reason in panel.missing.values())
    assert (group.hooks, tap._listeners) == ([], ())
    group.number = 5
    panel.optimizer_ended(Outcome(1))
    panel.read(1)
    assert not panel.changes(), "what is not asked for is missing for that reason, and no other"


def test_on_nccl_seconds_come_from_nccl_and_bytes_from_what_python_starts() -> None:
    group = FakeGroup()
    panel, probe, tap = nccl_panel(group, asked=True)
    assert "host runs ahead" in panel.missing["exposed_communication_seconds"]
    panel.start(0)
    for visible in (True, False):
        if visible:
            call = probe.entered(group, "all_reduce", ([torch.zeros(10)],))  # type: ignore[arg-type]
        assert group.number is not None
        group.number += 1
        if visible:
            probe.left(call, object())
        group.hooks[0](work_info("ALLREDUCE", 0.5))
        panel.optimizer_ended(Outcome(1))
        panel.read(1)
    seen, unseen = panel.settled()
    seconds, size = (
        next(i for i, one in enumerate(panel.series) if one.signal == name)
        for name in ("collective_seconds", "collective_bytes")
    )
    assert (seen.values[seconds], seen.values[size]) == (0.5, 40.0)
    assert unseen.values[seconds] == 0.5
    assert unseen.is_missing(size)
    assert {change.signal for change in panel.changes()} == {"collective_bytes"}
    panel.detach()
    assert tap._listeners == ()
    group.hooks[0](work_info("ALLREDUCE", 9.0))  # is left behind, and does nothing
    assert not probe._told


def test_no_more_kinds_are_followed_than_there_is_room_for() -> None:
    group = FakeGroup()
    panel, _, _ = nccl_panel(group, asked=True)
    panel.start(0)
    for number in range(MAX_KINDS + 1):
        group.hooks[0](work_info(f"KIND_{number}", 0.5))
    panel.optimizer_ended(Outcome(1))
    panel.read(1)
    assert len(panel.series) == 2 * MAX_KINDS
    panel.detach()
