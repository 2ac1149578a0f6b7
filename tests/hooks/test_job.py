"""The board that the processes of a job share, on torch's own store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from operator import attrgetter

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from sentinel.errors import AttachError
from sentinel_hooks.job import Board, Job, LocalBoard, StoreBoard, _group_timeout, deadline, join


def boards() -> Iterator[Callable[[], Board]]:
    local = LocalBoard()
    yield lambda: local
    server = TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    prefixed = PrefixStore("default_pg", server)
    yield lambda: StoreBoard(prefixed, "1")


@pytest.mark.parametrize("board", list(boards()), ids=["local", "torch"])
class TestEveryBoard:
    def test_a_register_starts_empty_and_changes_by_compare_and_swap_only(
        self, board: Callable[[], Board]
    ) -> None:
        one, other = board(), board()
        assert one.read() == b""
        assert not one.swap(b"never there", b"x")
        assert one.read() == b""
        assert one.swap(b"", b"first")
        assert not other.swap(b"", b"second")
        assert other.read() == b"first"
        assert other.swap(b"first", b"second")
        assert one.read() == b"second"

    def test_counters_lose_nothing_when_many_add_at_once(self, board: Callable[[], Board]) -> None:
        def add() -> None:
            mine = board()
            for _ in range(100):
                mine.count("1/standing", 1)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert board().count("1/standing", 0) == 400

    def test_notes_are_found_once_published_and_looking_never_waits(
        self, board: Callable[[], Board]
    ) -> None:
        assert board().look_up("daemon") is None
        board().publish("daemon", "unix:///tmp/ä")
        assert board().look_up("daemon") == "unix:///tmp/ä"


def test_the_users_store_keeps_its_own_timeout() -> None:
    server = TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    timeout = attrgetter("timeout")
    before = timeout(server)
    StoreBoard(server, "1")
    assert timeout(server) == before


def test_a_launched_process_that_has_not_met_the_others_cannot_attach() -> None:
    with pytest.raises(AttachError, match="not initialized yet"):
        join(2)
    assert join(1).world_size == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, 0.0),
        ("1780000000", 1_780_000_000.0),
        ("", 0.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("1e9", 0.0),
        ("nan", 0.0),
        ("9" * 40, 0.0),
        ("2026-01-01T00:00:00", 0.0),
    ],
)
def test_slurm_says_when_the_job_ends(said: str | None, seconds: float) -> None:
    assert deadline({} if said is None else {"SLURM_JOB_END_TIME": said}) == seconds


def test_the_shortest_timeout_of_any_group_is_known() -> None:
    assert _group_timeout() == 0.0
    server = TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    hour, soon = timedelta(hours=1), timedelta(seconds=90)
    dist.init_process_group("gloo", store=server, rank=0, world_size=1, timeout=hour)
    try:
        assert _group_timeout() == 3600.0
        dist.new_group([0], timeout=soon)
        assert _group_timeout() == 90.0
    finally:
        dist.destroy_process_group()


def test_a_guarded_rank_waits_for_all_and_no_other_does() -> None:
    board = LocalBoard()
    first, second = (Job(rank, 2, board, 60.0) for rank in (0, 1))
    with pytest.raises(AttachError, match="only 1 of 2 ranks have called attach within 0 s"):
        first.agree(guard=True, patience=0.0)
    second.agree(guard=True, patience=0.0)
    third = Job(0, 2, LocalBoard(), 60.0)
    third.agree(guard=False)
    with pytest.raises(AttachError, match="guard=True on rank 1 and not on 1 of 2 ranks"):
        Job(1, 2, third.board, 60.0).agree(guard=True)
