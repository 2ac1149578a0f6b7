"""Pictures of backtests: where they are written, what is in them, and when there can be none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sentinel.errors import ReplayError
from sentinel.replay.backtest import Backtest
from sentinel.replay.past import open_past
from sentinel.replay.plot import Plot
from tests.replay.test_backtest import HIGH, NAN, NOT_FINITE, log

PNG = b"\x89PNG\r\n\x1a\n"


def drawn(plot: Plot, file: Path) -> Path:
    (past,) = open_past(file, format="auto", columns={})
    test = Backtest(past, {"mine": [HIGH, NOT_FINITE]})
    picture = plot.begin(test, alone=past.alone)
    for _ in test.go(picture.look):
        pass
    return picture.draw()


def test_a_run_with_alerts_and_one_with_nothing_but_nan_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = Plot(tmp_path / "p.png", several=True)
    usual = log(tmp_path / "a$b.jsonl", [2.0] * 5 + [9.0, NAN, 2.0])
    (tmp_path / "other").mkdir()
    same = log(tmp_path / "other" / "a$b.jsonl", [NAN] * 3)
    single = log(tmp_path / "single.jsonl", [1.0])
    made = [drawn(plot, file) for file in (usual, same, single)]
    assert [path.name for path in made] == ["p-a_b.png", "p-a_b-2.png", "p-single.png"]
    assert all(path.read_bytes().startswith(PNG) for path in made)
    assert made[0].read_bytes() != made[1].read_bytes()


def test_one_run_has_the_very_name_that_was_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = Plot(tmp_path / "p.png", several=False)
    assert drawn(plot, log(tmp_path / "a.jsonl", [1.0, 9.0])) == tmp_path / "p.png"


def test_a_picture_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ReplayError, match="there is no directory"):
        Plot(tmp_path / "nowhere" / "p.png", several=False)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ReplayError, match="cannot be written"):
        Plot(tmp_path / "taken.png", several=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_not_ours_is_said_before_the_work(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tmp_path.chmod(0o500)
    with pytest.raises(ReplayError, match="cannot be written"):
        Plot(tmp_path / "p.png", several=False)


def test_without_matplotlib_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ReplayError, match=r"pip install 'sentinel-train\[daemon\]'"):
        Plot(tmp_path / "p.png", several=False)
