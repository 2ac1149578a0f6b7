"""The chart is drawn whatever was measured, in a process that nobody has to wait for."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from numpy.typing import NDArray

from sentinel.clock import monotonic
from sentinel.notify.appendix import scene_of
from sentinel.notify.chart import Scene, draw
from sentinel.notify.drawing import ask
from sentinel.notify.drawing import draw as draw_elsewhere
from sentinel.notify.notice import Action, Cause
from sentinel.notify.telemetry import Course, Measured, Normal
from tests.notify.notices import HELD, notice

NAN = math.nan
STEPS = tuple(range(30, 50))


def course(*values: float, low: float | None = None, high: float = 2.0, **named: str) -> Course:
    edges = ((), ()) if low is None else ((low,) * len(values), (high,) * len(values))
    steps = STEPS[: len(values)]
    return Course(named.get("signal", "loss"), named.get("label", ""), "1", steps, values, *edges)


def pixels(picture: bytes) -> NDArray[np.float32]:
    return np.asarray(image.imread(io.BytesIO(picture), format="png"))[..., :3]


def colored(picture: bytes, red: int, green: int, blue: int) -> int:
    """How many pixels have just this color."""
    return int((np.abs(pixels(picture) * 255 - (red, green, blue)).max(axis=-1) < 2).sum())


def test_it_is_of_a_telephones_size() -> None:
    picture = draw(Scene("x", Measured((course(1.0, 2.0),))))
    assert pixels(picture).shape[:2] == (750, 1000)


@pytest.mark.parametrize(
    "drawn",
    [
        Measured((course(1.0),)),
        Measured((course(1.0, 1.0, 1.0), course(0.0, 0.0)), Normal(1.0, 1.0, 1.0, 9)),
        Measured((course(NAN, NAN, math.inf, low=NAN, high=NAN),), None, 1, 511),
        Measured((course(1e-300, 1e300, -math.inf),), Normal(1.0, 0.1, 2.0, 9), 1, 0),
        Measured((course(1.0, 2.0, signal="$\\frac{1", label="<b>\u202e漢字$_^"),), None, 3, 1),
        Measured((course(*[float(n % 7) for n in range(20)], low=0.0),) * 3, None, None, 8),
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_whatever_was_measured_is_drawn(drawn: Measured) -> None:
    scene = Scene("$x_{$ <@U1> " * 20, drawn, "a `summary` with $\\math$", "critical", 33, 40)
    assert draw(scene).startswith(b"\x89PNG")


def test_what_is_not_finite_is_a_mark_and_not_a_gap() -> None:
    sound = draw(Scene("x", Measured((course(1.0, 2.0, 1.5, 2.0),)), severity="critical", onset=99))
    broken = Measured((course(1.0, 2.0, NAN, math.inf),))
    marked = draw(Scene("x", broken, severity="critical", onset=99))
    assert colored(marked, 0xC1, 0x12, 0x1F) > colored(sound, 0xC1, 0x12, 0x1F) + 200


def test_normal_range_and_hold_are_shown_where_they_are_known() -> None:
    drawn = Measured((course(1.0, 1.2, 1.1, 3.0),), Normal(1.1, 1.0, 1.2, 20))
    known = draw(Scene("x", drawn, onset=33, held=35))
    unknown = draw(Scene("x", Measured(drawn.courses), onset=33))
    for color in ((0x2A, 0x9D, 0x4A), (0x5A, 0x3E, 0xA6)):
        assert colored(known, *color) > 100
        assert colored(unknown, *color) == 0


def test_a_scene_is_made_of_what_the_message_says() -> None:
    resumed = Action("resume", "done", 41, "ann")
    shown = notice(actions=(HELD, resumed), cause=Cause("LossSpike", "loss", 37, 1))
    scene = scene_of(shown, Measured())
    assert (scene.headline, scene.onset, scene.held) == ("LossSpike in run gpt, rank 1", 37, 41)
    assert scene_of(notice(), Measured()).held is None


async def test_it_is_drawn_elsewhere_and_failures_are_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = await draw_elsewhere(Scene("x", Measured((course(1.0, 2.0),))), tmp_path)
    assert drawn is not None
    assert pixels(drawn).shape[:2] == (750, 1000)
    assert await draw_elsewhere(Scene("x", Measured()), tmp_path) is None
    assert "nothing to draw" in caplog.text


async def test_who_takes_too_long_is_ended_and_secrets_stay_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-secret")
    show = "import os, sys; sys.stdout.write(str(os.environ.get('SLACK_BOT_TOKEN')))"
    assert await ask((sys.executable, "-c", show), b"", {}, timeout=60) == b"None"
    begun = monotonic()
    sleep = (sys.executable, "-c", "import time; time.sleep(600)")
    assert await ask(sleep, b"", {}, timeout=0.2) is None
    assert monotonic() - begun < 300
    assert "took longer than 0.2 s" in caplog.text
    assert await ask(("/nowhere/python",), b"", {}, timeout=1) is None
    assert "cannot be started" in caplog.text
