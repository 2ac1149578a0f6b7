"""`sentinel top`: what it shows, what it fits into, and how it leaves the terminal."""

from __future__ import annotations

import io
import re
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from sentinel import clock, wire
from sentinel.cli.client import Client
from sentinel.cli.top import ranks
from sentinel.cli.top.frame import View, frame
from sentinel.cli.top.letters import Letters, number, scaled, seconds
from sentinel.cli.top.screen import split_keys
from sentinel.cli.top.snapshot import (
    WITHOUT_DEVICE,
    Incidents,
    Number,
    RunLine,
    Snapshot,
    Trend,
    take,
)
from sentinel.store.shapes import CauseJSON, IncidentJSON, RankJSON
from tests.cli.terminal import Terminal
from tests.daemon.fake_job import FakeJob, FakeRank, Register
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import broken

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"


def rank(number: int, **more: object) -> RankJSON:
    """A rank on a good day."""
    good = RankJSON(
        rank=number,
        host=f"node-{number // 8}",
        pid=1,
        step=500,
        phase="forward",
        last_seen_s=0.1,
        collectives={},
    )
    return {**good, **more}  # type: ignore[typeddict-item]


def incident(run: str, at_rank: int | None) -> IncidentJSON:
    """An open one that names this rank."""
    cause = CauseJSON(
        rule="NonFiniteLoss",
        signal="nonfinite_loss",
        step=499,
        rank=at_rank,
        host="node-9",
        device="cuda:3",
        module="layers.17.mlp",
        parameter=None,
        micro_batch=None,
        batch=None,
        samples=[],
    )
    return IncidentJSON(
        id="1",
        run=run,
        state="open",
        severity="critical",
        opened_step=499,
        cause=cause,
        certainty="",
        alerts=[],
        actions=[],
        evidence=[],
        head="",
        acknowledged=None,
        silenced=None,
        inhibited_by=None,
    )


def large() -> Snapshot:
    """A job of 8,000 ranks, of which a few are not well, beside 200 runs."""
    several: list[RankJSON] = [rank(number) for number in range(8000)]
    several[77] = rank(77, step=498, phase="data")
    several[4242] = rank(4242, last_seen_s=73.0)
    latest: dict[str, Number] = {
        "loss": "NaN",
        "tokens_per_second": 1.25e6,
        "step_seconds": 0.431,
        "grad_norm": 1.5,
    }
    line = RunLine(
        "gpt", "running", 500, 8000, Incidents(1, 3, "critical"), latest, Trend([3.0, 2.0, "NaN"])
    )
    others = [RunLine(f"run-{number}", "running", 1, 8) for number in range(200)]
    waits = dict.fromkeys(range(8000), 0.25) | {6000: 0.001}
    return Snapshot(
        1.8e9,
        [*others, line],
        "gpt",
        several,
        None,
        [incident("gpt", 613)],
        {"wait": waits, "memory": dict.fromkeys(range(8000), 71e9)},
    )


def drawn(view: View, width: int, height: int | None, *, ascii: bool = False) -> list[str]:
    """The picture as lines of text."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height or 25, force_terminal=False)
    console.print(frame(view, width, height, Letters(ascii)))
    return file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (120, 50), (200, 60), (40, 10)])
def test_a_picture_fits_the_terminal_whatever_there_is_to_show(width: int, height: int) -> None:
    view = View("/state", large(), keys=True)
    for shown in (view, replace(view, trouble="3 s old, asking again: no daemon answers")):
        lines = drawn(shown, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        assert "q quit" in lines[-1]


def test_at_eighty_columns_all_that_matters_is_there() -> None:
    text = "\n".join(drawn(View("/state", large(), keys=True), 80, 24))
    assert "201 runs, 1 open incident" in text
    (line,) = (line for line in text.splitlines() if line.startswith("▸"))
    assert line.split()[1:5] == ["gpt", "running", "500", "NaN"]
    for shown in ("1.25M", "431 ms", "1 open", "█▁!"):
        assert shown in line
    assert "critical: NonFiniteLoss in layers.17.mlp on rank 613 (node-9, cuda:3)" in text
    assert "of 8,000 ranks, the worst first" in text
    assert "71GB" in text


def test_more_columns_come_where_there_is_room() -> None:
    narrow, wide = (drawn(View("/state", large()), width, 24)[1] for width in (80, 140))
    assert "grad norm" not in narrow
    assert "grad norm" in wide


def test_of_many_ranks_the_worst_come_first() -> None:
    snapshot = large()
    found = [one["rank"] for one in ranks.first(snapshot, "worst", 6)]
    assert found == [613, 77, 4242, 6000, 0, 1]
    named = replace(snapshot, incidents=[incident("gpt", 7999)])
    assert ranks.first(named, "worst", 1)[0]["rank"] == 7999
    assert [one["rank"] for one in ranks.first(snapshot, "rank", 3)] == [0, 1, 2]
    assert ranks.first(snapshot, "wait", 8000)[-1]["rank"] == 6000


@pytest.mark.parametrize("ascii", [False, True])
def test_nothing_that_a_terminal_would_obey_comes_from_a_name(ascii: bool) -> None:
    line = RunLine("\x1b]0;owned\x07günther", "running", 1, 1)
    view = View("/stäte", Snapshot(0.0, [line], line.run, [rank(0, host="\x1b[2Jnö\r\nde")]))
    text = "".join(drawn(view, 80, 24, ascii=ascii))
    assert not {"\x1b", "\x07", "\r"} & set(text)
    assert text.isascii() is ascii


def test_nothing_known_yet_is_said() -> None:
    assert any("no run is known yet" in line for line in drawn(View("/s", Snapshot(0.0)), 80, 24))


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 5, ""),
        ([1.0], 5, "▁"),
        ([2.0, 2.0], 5, "▁▁"),
        ([0.0, 7.0], 5, "▁█"),
        ([0.0, None, "NaN", "-Infinity", 8.0], 9, "▁ !!█"),
        ([float(n) for n in range(1000)], 4, "▂▄▆█"),
        ([1.0, 2.0], 0, ""),
    ],
)
def test_a_course_keeps_its_peaks_and_its_holes(
    values: list[float | str | None], width: int, line: str
) -> None:
    assert Letters().sparkline(values, width) == line


def test_amounts_are_short() -> None:
    given: list[Number] = [2.31449, "NaN", None, 0.0, 1e-5]
    assert [number(one) for one in given] == ["2.314", "NaN", "-", "0", "1e-05"]
    given = [999.0, 12_345.0, 4.1e9, "Infinity"]
    assert [scaled(one) for one in given] == ["999", "12.3k", "4.1G", "inf"]
    given = [0.0123, 4.25, 200.0, 7200.0]
    assert [seconds(one) for one in given] == ["12.3 ms", "4.25 s", "3 min", "2.0 h"]


@pytest.mark.parametrize(
    ("data", "names", "left"),
    [
        (b"q", ["quit"], b""),
        (b"\x1b[A\x1bOBjk", ["up", "down", "down", "up"], b""),
        (b"s\x1b", ["sort"], b"\x1b"),
        (b"\x1b[", [], b"\x1b["),
        (b"\x1bq", ["quit"], b""),
        (b"\x1b[1;5Cx\xc3\xa9 ", ["pause"], b""),
    ],
)
def test_keys_are_told_apart(data: bytes, names: list[str], left: bytes) -> None:
    assert split_keys(data) == (names, left)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, FakeJob]]:
    """A daemon with a held run."""
    daemon = Daemon(tmp_path_factory.mktemp("held") / "state").start()
    yield daemon, broken(daemon)
    daemon.kill()


def test_in_a_pipe_it_is_shown_once(held: tuple[Daemon, FakeJob]) -> None:
    done = sentinel("top", "--state", held[0].state)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "on rank 1 (node-1, cpu)" in done.stdout
    assert "Cost so far: 0.0" in done.stdout


def test_a_run_that_is_not_there_is_said_at_once(held: tuple[Daemon, FakeJob]) -> None:
    done = sentinel("top", "runn", "--once", "--state", held[0].state)
    assert done.returncode == 1
    assert done.stderr == "sentinel: there is no run 'runn', did you mean 'run'?\n"


def test_it_obeys_keys_and_sizes_and_outlives_its_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state").start()
    jobs = [FakeJob(daemon.place, run=name).connect() for name in ("other", "run")]
    for job in jobs:
        job.train()
    with Terminal("top", "--every", "0.2", "--state", str(daemon.state)) as terminal:
        terminal.await_text("run: 2 ranks, the worst first")
        assert re.search(rb"\x1b\[(1;)?3[0-9]m", terminal.written)
        terminal.press(b"s")
        terminal.await_text("run: 2 ranks, by rank")
        terminal.press(b"\x1b[B")
        terminal.await_text("other: 2 ranks, by rank")
        terminal.resize(150, 40)
        terminal.await_text(" " * 80)
        terminal.press(b"p")
        terminal.await_text("PAUSED")
        terminal.press(b"p")
        daemon.kill()
        terminal.await_text("asking again: no daemon answers")
        daemon.start()
        terminal.await_text(f"{daemon.state}")
        eventually(lambda: "asking again" not in terminal.await_text("q quit"))
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.mode == list(terminal.before)
    daemon.kill()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_terminal_is_left_as_it_was_whatever_ends_it(
    held: tuple[Daemon, FakeJob], end: signal.Signals
) -> None:
    with Terminal("top", "--state", str(held[0].state), env={"NO_COLOR": "1"}) as terminal:
        terminal.await_text("q quit")
        assert terminal.mode != list(terminal.before)
        terminal.process.send_signal(end)
        assert terminal.end() == 128 + end
        assert terminal.mode == list(terminal.before)
    assert terminal.written.count(ALTERNATE) == terminal.written.count(NORMAL) == 1
    assert terminal.written.rfind(SHOWN) > terminal.written.rfind(HIDDEN)
    assert b"Traceback" not in terminal.written
    assert not re.search(rb"\x1b\[(1;)?3[0-9]m", terminal.written)


def test_a_terminal_that_can_nothing_is_shown_it_once_in_plain_letters(
    held: tuple[Daemon, FakeJob],
) -> None:
    plain = {"TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    with Terminal("top", "--state", str(held[0].state), env=plain) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.written
    assert b"the worst first" in terminal.written
    assert b"\n> " in terminal.written
    assert terminal.written.isascii()


class Measuring(FakeRank):
    """A rank that tells its memory, as much more as its number says."""

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        series = (wire.Series("loss"), wire.Series(WITHOUT_DEVICE))
        return msgspec.structs.replace(super().hello(), series=series)

    def measure(self) -> None:
        """One step more."""
        self.step += 1
        packed = struct.pack("<2d", 2.5, 1e9 * (1 + self.rank))
        self.send(wire.Frame(self.step, self.step, clock.steady(), packed))


def test_the_numbers_are_those_that_the_daemon_has(held: tuple[Daemon, FakeJob]) -> None:
    register, place = Register(), held[0].place
    ranks_of_it = [
        Measuring(place, register, run="measured", rank=rank, world_size=2) for rank in range(2)
    ]
    for one in ranks_of_it:
        one.connect()
    for _ in range(3):
        for one in ranks_of_it:
            one.measure()

    def taken() -> Snapshot | None:
        found = take(Client(held[0].state), "measured")
        return found if len(found.by_rank.get("memory", ())) == 2 else None

    snapshot = eventually(taken, "values by rank")
    assert snapshot.by_rank["memory"] == {0: 1e9, 1: 2e9}
    line = next(line for line in snapshot.runs if line.run == "measured")
    assert (line.state, line.step, line.latest["loss"]) == ("running", 3, 2.5)
    broken_one = next(line for line in snapshot.runs if line.run == "run")
    assert (broken_one.state, broken_one.incidents.open) == ("held", 1)
    assert broken_one.needs_somebody
    assert take(Client(held[0].state), None).chosen == "run"
    for one in ranks_of_it:
        one.close()
