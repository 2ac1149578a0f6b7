"""Where the threads of a process stand: told in bounds, whatever they do, and without waiting."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sentinel import wire
from sentinel_hooks.stacks import MAX_FRAMES, MAX_THREADS, stack

WITHIN = 20.0  # s, for what takes a millisecond


@contextmanager
def standing(
    work: Callable[[Callable[[], object]], object], thread: type[threading.Thread] | None = None
) -> Iterator[threading.Thread]:
    """A thread that has come to where `work` calls what it is given, and stands there."""
    there, go = threading.Event(), threading.Event()

    def stand() -> None:
        there.set()
        go.wait()

    one = (thread or threading.Thread)(target=work, args=(stand,), daemon=True)
    one.start()
    assert there.wait(30)
    try:
        yield one
    finally:
        go.set()
        one.join(30)


def taken(training: threading.Thread) -> wire.Stack:
    """As the sender's thread takes it, which must not be held up by anything."""
    found: list[wire.Stack] = []
    sender = threading.Thread(
        target=lambda: found.append(stack("7", training.ident or 0, "phase data")), daemon=True
    )
    sender.start()
    sender.join(WITHIN)
    assert found, "it has been held up"
    (answer,) = found
    assert wire.decode_from_rank(wire.encode(answer)[4:]) == answer
    return answer


def wait_for_batch(stand: Callable[[], object]) -> None:
    secret = "hunter2"
    stand()
    del secret


def test_the_thread_that_trains_comes_first_and_its_innermost_frame() -> None:
    with standing(wait_for_batch) as trainer:
        trainer.name = "trainer"
        told = taken(trainer)
    lines = told.text.splitlines()
    assert lines[:2] == ["phase data", "trainer, which trains:"]
    functions = [line.rpartition(".")[2].rpartition(" ")[2] for line in lines[2:7]]
    assert functions[:4] == ["wait", "wait", "stand", "wait_for_batch"]
    assert f"{__file__}:" in lines[5]
    assert "MainThread:" in lines
    assert told.place.startswith("threading.py:")
    assert ", from test_stacks.py:" in told.place
    assert told.place.endswith("stand")
    assert "hunter2" not in told.text
    assert "stand()" not in told.text  # nor what the source says
    assert "_take" not in told.text  # nor the one that looks


def test_many_deep_threads_are_told_of_in_bounds() -> None:
    def deep(stand: Callable[[], object], left: int = 300) -> None:
        deep(stand, left - 1) if left else stand()

    with standing(deep) as trainer:
        stopped = threading.Event()
        others = [threading.Thread(target=stopped.wait, daemon=True) for _ in range(60)]
        for one in others:
            one.start()
        told = taken(trainer)
        stopped.set()
        for one in others:
            one.join(30)
    assert len(told.text) <= wire.MAX_STACK
    assert 1 < sum(line.endswith("deep") for line in told.text.splitlines()) < MAX_FRAMES
    assert "  and frames further out" in told.text
    assert told.text.count(":\n") <= MAX_THREADS


def test_names_that_cannot_be_sent_or_are_endless_do_no_harm() -> None:
    names = {"\ud800\x1b[31m" * 2000: 0}
    scope: dict[str, Callable[[Callable[[], object]], None]] = {}
    exec(compile("def f(stand):\n stand()", f"/\udcff{'x' * 9000}.py", "exec"), {}, scope)
    with standing(scope["f"]) as trainer:
        trainer.name = next(iter(names))
        told = taken(trainer)
    assert len(told.text) <= wire.MAX_STACK
    assert "x.py:2 f" in told.text


def test_a_thread_that_raises_when_asked_its_name_spoils_the_answer_and_nothing_else() -> None:
    class Broken(threading.Thread):
        @property
        def name(self) -> str:
            raise ValueError("no name")

        @name.setter
        def name(self, value: str) -> None:
            """Nothing is kept."""

    with standing(wait_for_batch, Broken) as trainer:
        assert taken(trainer).text == "ValueError: no name"


def test_a_thread_that_has_ended_stands_nowhere() -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    assert taken(ended).place == "no Python code"


def test_no_file_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "hung.py"
    os.mkfifo(pipe)  # whoever reads it waits for ever, as on a file server that is gone
    scope: dict[str, Callable[[Callable[[], object]], None]] = {}
    exec(compile("def f(stand):\n stand()", str(pipe), "exec"), {}, scope)
    try:
        with standing(scope["f"]) as trainer:
            text = taken(trainer).text
    finally:
        os.close(os.open(pipe, os.O_RDWR))  # lets go of those who wait
    assert f"{pipe}:2 f" in text


def test_no_lock_is_waited_for() -> None:
    lock = threading._active_limbo_lock  # type: ignore[attr-defined]
    begin, done = threading.Event(), threading.Event()

    def send(number: int) -> None:
        begin.wait()
        stack("7", number, "phase data")
        done.set()

    with standing(wait_for_batch) as trainer:
        sender = threading.Thread(target=send, args=(trainer.ident,), daemon=True)
        sender.start()
        with lock:  # as a thread does that stands where one is started
            begin.set()
            assert done.wait(WITHIN), "it waits for the lock of the list of threads"


def test_nothing_that_a_frame_holds_is_kept_alive() -> None:
    class Tensor:
        """Something large."""

    kept: list[weakref.ref[Tensor]] = []

    def train(stand: Callable[[], object]) -> None:
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        stand()

    gc.disable()
    try:
        with standing(train) as trainer:
            told = taken(trainer)
        assert "train" in told.text
        assert kept[0]() is None
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="functions have their full names from 3.11")
def test_functions_have_their_full_names() -> None:
    class Loader:
        def fetch(self, stand: Callable[[], object]) -> None:
            stand()

    with standing(Loader().fetch) as trainer:
        assert "Loader.fetch" in taken(trainer).text
