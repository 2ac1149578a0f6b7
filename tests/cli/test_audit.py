"""`sentinel audit`: what it prints, and how it ends when the record does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sentinel.cli.main import execute
from sentinel.store import Store
from sentinel.store.writing import Refusal
from tests.store.changes import alert, incident, pause
from tests.store.test_journal import TAMPERED, fill, tamper


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A record of two runs, and of what belongs to none."""
    store = Store.open(tmp_path / "state")
    fill(store)
    fill(store, "other")
    store.add_refusal(Refusal(1.0, "10.0.0.3\x1b[2J", "pause", "unknown token", "elsewhere"))
    store.close()
    return tmp_path / "state"


Shown = tuple[int, str, str]


def audit(capsys: pytest.CaptureFixture[str], state: Path, *arguments: str) -> Shown:
    code = execute(["audit", *arguments, "--state", str(state)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def head_of(state: Path, number: int) -> str:
    store = Store.open(state, readonly=True)
    try:
        return str(store.journal("gpt")[number - 1].hash)
    finally:
        store.close()


def test_people_read_who_did_what_on_which_evidence_and_what_came_of_it(
    capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    code, out, _ = audit(capsys, state, "gpt")
    assert code == 0
    assert out.splitlines() == [
        "gpt: 5 rows",
        "     1  1970-01-01T00:16:40.000Z  pause requested at step 37, rule:NonFiniteUpdate",
        "        weights are not finite",
        "        held until somebody answers",
        "        incident of gpt, on 1 of:",
        "          nonfinite_update = 1.0 at step 37, rank 1",
        "     2  1970-01-01T00:16:41.000Z  pause done at step 41, rule:NonFiniteUpdate",
        "        weights are not finite",
        "     3  1970-01-01T00:16:42.000Z  resume requested at step 41, "
        "user ann (by the kernel's word)",
        "        force True, lr_scale 0.5",
        "     4  1970-01-01T00:16:43.000Z  resume failed at step 41, "
        "user ann (by the kernel's word)",
        "        rank 1: out of memory",
        "     5  1970-01-01T00:16:44.000Z  resume done at step 41, user ann (by the kernel's word)",
        "        learning rate times 0.5",
        f"  head {head_of(state, 5)}",
    ]


def test_without_a_run_everything_is_shown_and_no_terminal_obeys_it(
    capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    code, out, _ = audit(capsys, state)
    assert code == 0
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "gpt: 5 rows",
        "other: 5 rows",
        "(no run): 1 row",
    ]
    assert "10.0.0.3 [2J" in out


def test_programs_get_the_bytes_that_were_hashed(
    capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    code, out, _ = audit(capsys, state, "gpt", "--json")
    rows = json.loads(out)
    assert code == 0
    assert all(set(row) == {"hash", "content", "row"} for row in rows)
    assert [json.loads(row["content"]) for row in rows] == [row["row"] for row in rows]
    assert rows[4]["hash"] == head_of(state, 5)


def test_a_record_that_holds_is_status_0(capsys: pytest.CaptureFixture[str], state: Path) -> None:
    head = head_of(state, 5)
    assert audit(capsys, state, "gpt", "--verify") == (
        0,
        f"gpt: 5 rows, unbroken, up to {head}\n",
        "",
    )
    for shown in (head, head[:12], head_of(state, 2)[:12].upper()):
        assert audit(capsys, state, "gpt", "--head", shown)[0] == 0
    code, out, _ = audit(capsys, state, "--verify", "--json")
    assert (code, [one["intact"] for one in json.loads(out)]) == (0, [True] * 3)


def test_the_first_bad_row_is_named_and_the_status_is_1(
    capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    tamper(state, TAMPERED["a row gone"][0])
    code, out, _ = audit(capsys, state, "--verify")
    broken, other, none = out.splitlines()
    assert code == 1
    assert broken.startswith("gpt: BROKEN at row 3: it was written as row 4: a row is missing")
    assert "unbroken" in other
    assert "unbroken" in none
    code, out, _ = audit(capsys, state, "gpt", "--verify", "--json")
    (said,) = json.loads(out)
    assert (code, said["intact"], said["broken_row"], said["rows"]) == (1, False, 3, 4)


def test_a_cut_tail_shows_against_the_head_of_a_message(
    capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    head = head_of(state, 5)[:12]
    tamper(state, "DELETE FROM journal WHERE run = 'gpt' AND number = 5")
    tamper(state, "UPDATE actions SET state = 'failed' WHERE run = 'gpt' AND action = 'resume'")
    assert audit(capsys, state, "gpt", "--verify")[0] == 0
    code, out, _ = audit(capsys, state, "gpt", "--head", head)
    assert code == 1
    assert f"gpt: BROKEN: no row has the hash {head}: the newest rows were cut off" in out


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["gpt", "--head", "xyz"], 2, "is no head: 12 to 64 hexadecimal digits"),
        (["gpt", "--head", "0123456789a"], 2, "is no head"),
        (["--head", "0" * 12], 2, "--head needs the RUN"),
        (["gtp"], 1, "there is no run 'gtp', did you mean 'gpt'?"),
        (["gpt", "--head", "0" * 12], 1, ""),
    ],
)
def test_what_is_asked_wrongly_is_said(
    capsys: pytest.CaptureFixture[str], state: Path, arguments: list[str], code: int, reason: str
) -> None:
    status, _, said = audit(capsys, state, *arguments)
    assert status == code
    assert reason in said
    assert "Traceback" not in said


def test_a_run_without_a_record_and_a_directory_without_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = Store.open(tmp_path)
    assert audit(capsys, tmp_path) == (0, "nothing is on record\n", "")
    store.commit([incident(), alert()])
    assert audit(capsys, tmp_path, "gpt") == (0, "nothing is on record\n", "")
    assert audit(capsys, tmp_path, "gpt", "--verify") == (0, "gpt: 0 rows, unbroken\n", "")
    store.commit([pause()])
    assert audit(capsys, tmp_path, "gpt")[1].startswith("gpt: 1 row\n"), "while a daemon has it"
    store.close()
    assert audit(capsys, tmp_path / "none")[0] == 1
