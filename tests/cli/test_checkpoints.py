"""`sentinel checkpoints`: what a person reads, and what a program does, from a directory alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel.engine.checkpoint import Checkpoint, State
from sentinel.store.store import Store
from tests.daemon.process import sentinel

AT = 1_780_000_000.0


def saved(step: int, state: State, why: str, *, tag: str = "", folder: str = "/ckpt") -> Checkpoint:
    return Checkpoint(
        *(folder, tag or f"step{step}", step, AT + step, 1.25, state, why),
        clean_steps=3,
        gone=state == "gone",
    )


KNOWN = (
    Checkpoint("/ckpt", "old", None, None, 0.0, "unseen", "nobody saw it being saved"),
    saved(50, "gone", "it is not in its folder any more"),
    saved(100, "healthy", "50 clean steps after it"),
    saved(150, "healthy", "50 clean steps after it"),
    saved(
        160, "healthy", "50 clean steps after it", folder="/be\x1b[31mst", tag="b\nad\u202e" * 20
    ),
    saved(200, "tainted", "the loss was not finite at step 212"),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    state = tmp_path_factory.mktemp("cli") / "state"
    store = Store.open(state)
    store.save_checkpoints("gpt", KNOWN, AT)
    store.save_checkpoints("other", [saved(7, "unproven", "1 of 50 clean steps after it")], AT)
    store.close()

    def show(*arguments: str) -> str:
        done = sentinel("checkpoints", *arguments, "--state", state)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return show


def test_a_person_reads_how_each_stands_and_which_is_last_good(shown: Callable[..., str]) -> None:
    lines = shown("gpt").splitlines()
    cut = ("b ad " * 20)[:31] + "…"
    assert lines[0] == f"gpt: last good is {cut}, step 160"
    assert lines[1] == "  in /be [31mst"
    assert lines[2].startswith(f"  * {cut}  ")
    assert [line.split() for line in lines[3:5]] == [["in", "/ckpt"], ["old", "?", "?", "unseen"]]
    assert "  step150" in lines[6]
    assert "2026-05-28 20:29:10" in lines[6]
    assert lines[6].endswith("healthy")
    assert lines[7].endswith("tainted: the loss was not finite at step 212")
    assert lines[8] == "  1 gone (--all shows it)"
    assert max(map(len, lines)) <= 120


def test_what_is_gone_is_shown_when_asked_for(shown: Callable[..., str]) -> None:
    assert "step50" not in shown("gpt")
    assert "step50" in shown("gpt", "--all")
    everything = shown()
    assert "gpt: last good" in everything
    assert "other: none is known to be healthy" in everything


def test_a_program_reads_all_of_them(shown: Callable[..., str]) -> None:
    found = json.loads(shown("gpt", "--json"))
    assert [one["step"] for one in found] == [None, 50, 100, 150, 160, 200]
    assert [one["last_good"] for one in found] == [False, False, False, False, True, False]
    assert found[-1] == {
        "run": "gpt",
        "tag": "step200",
        "folder": "/ckpt",
        "step": 200,
        "saved_at": "2026-05-28T20:30:00.000Z",
        "seconds": 1.25,
        "state": "tainted",
        "why": "the loss was not finite at step 212",
        "clean_steps": 3,
        "last_good": False,
    }


def test_a_run_without_checkpoints_and_one_that_is_not_there(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state")
    store.save_checkpoints("gpt", [], AT)
    store.close()
    done = sentinel("checkpoints", "gpt", "--state", tmp_path / "state")
    assert (done.returncode, done.stdout) == (0, "no checkpoint was seen being saved\n")
    done = sentinel("checkpoints", "gtp", "--state", tmp_path / "state")
    assert (done.returncode, done.stderr) == (
        1,
        "sentinel: there is no run 'gtp', did you mean 'gpt'?\n",
    )
