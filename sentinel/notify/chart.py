"""A chart of the signals around the beginning of an incident, to be read on a telephone.

`python -m sentinel.notify.chart` draws one in a process of its own (see drawing.py): what is to be
drawn comes in, as msgpack, and a PNG goes out.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from sentinel.notify.quantity import quantity
from sentinel.notify.telemetry import WAITING, Course, Measured
from sentinel.pictures.style import COLORS, DPI, INK, is_steep, mark_not_finite, plain_axis, short
from sentinel.signals import CATALOG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SCENE = 16 << 20  # bytes
_WIDTH, _HEIGHT = 5.0, 3.75  # inches: 1000 x 750 pixels
_OTHERS = "#8fa3ad"
_NORMAL = "#2a9d4a"
_HELD = "#5a3ea6"
_LEAST_WAITS = "waiting for the other ranks: the slow one is the one that waits least"
_HINTS = dict.fromkeys(WAITING, _LEAST_WAITS)  # the catalog's words do not say how to read it
_LEAST, _MOST = 1e-30, 1e30
_CROSSES = 40  # at most beside each other
_SUMMARY_LINE = 0.037  # of the height
_UNKINDLY = 10  # of nice: training on the same machine goes first


class Scene(Struct, frozen=True):
    """What is drawn. `onset` is the step at which it began; `held` after which the run stands."""

    headline: str
    measured: Measured
    summary: str = ""
    severity: str = "warning"
    onset: int = 0
    held: int | None = None


def draw(scene: Scene) -> bytes:
    """A PNG of 1000 x 750 pixels."""
    data = io.BytesIO()
    _figure(scene).savefig(data, format="png", dpi=DPI)
    return data.getvalue()


def _figure(scene: Scene) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    courses = scene.measured.courses
    figure = Figure(figsize=(_WIDTH, _HEIGHT), facecolor="white")
    grid = figure.add_gridspec(
        len(courses),
        height_ratios=[1.5 if len(courses) > 1 and not at else 1 for at in range(len(courses))],
        left=0.155,
        right=0.97,
        top=(0.705 if courses[0].signal in CATALOG else 0.745) - _lower(scene),
        bottom=0.12,
        hspace=0.5,
    )
    axes = [figure.add_subplot(grid[at]) for at in range(len(courses))]
    low, high = _limits(scene)
    for at, (course, ax) in enumerate(zip(courses, axes, strict=True)):
        ax.set_xlim(low, high)
        _panel(ax, course, scene, leading=not at)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.tick_params(labelbottom=False)
    axes[-1].tick_params(labelbottom=True)
    axes[-1].xaxis.set_major_formatter(lambda step, _: short(step))
    axes[-1].set_xlabel("step", fontsize=10, labelpad=1)
    _head(figure, scene)
    return figure


def _limits(scene: Scene) -> tuple[float, float]:
    steps = [step for course in scene.measured.courses for step in course.steps]
    last = max([*steps, scene.onset, *([scene.held] if scene.held is not None else [])])
    first = min([*steps, scene.onset])
    margin = max(1.0, 0.03 * (last - first))
    return first - margin, last + margin


def _panel(ax: Axes, course: Course, scene: Scene, *, leading: bool) -> None:
    color = COLORS.get(scene.severity, INK)
    normal = scene.measured.normal if leading else None
    if normal is not None and normal.low < normal.high:
        ax.axhspan(normal.low, normal.high, color=_NORMAL, alpha=0.22, linewidth=0, zorder=0)
        for edge in (normal.low, normal.high):
            ax.axhline(edge, color=_NORMAL, linewidth=1.0, alpha=0.8, zorder=1.5)
    if course.low:
        _others(ax, course, scene.measured.others)
    dots = "." if len(course.steps) <= 60 else ""
    ax.plot(course.steps, _finite(course.values), color=INK, linewidth=1.5, marker=dots, zorder=3)
    _onset(ax, course, scene.onset, color, named=leading)
    ax.axvline(scene.onset, color=color, linewidth=1.4, zorder=2)
    if scene.held is not None:
        ax.axvline(scene.held, color=_HELD, linewidth=1.4, linestyle="--", zorder=2)
    _scale(ax, course)
    own, span = _not_finite(course), ax.get_xlim()[1] - ax.get_xlim()[0]
    mark_not_finite(ax, _apart([s for s in course.odd if s not in own], span), _OTHERS)
    mark_not_finite(ax, _apart(own, span), color)
    _name(ax, course, explained=leading)
    plain_axis(ax)
    ax.tick_params(labelsize=9)


def _name(ax: Axes, course: Course, *, explained: bool) -> None:
    """What is drawn here, and in other words what that is."""
    steep = " (log scale)" if ax.get_yscale() == "log" else ""
    name = f"{course.signal} {course.label}".strip().replace("_", " ")
    known = CATALOG.get(course.signal)
    lower = 2.0
    if explained and known is not None:
        words = _fitting(_HINTS.get(course.signal, known.help), 76)
        ax.annotate(
            words, (0, 1), (0, 3), "axes fraction", "offset points", fontsize=8, parse_math=False
        )
        lower = 14.0
    name = _fitting(name, 44) + steep
    ax.set_title(name, loc="left", fontsize=10, fontweight="bold", pad=lower, parse_math=False)


def _others(ax: Axes, course: Course, count: int) -> None:
    """One other rank is a line, several are where all of them are."""
    if count == 1:
        ax.plot(course.steps, _finite(course.low), color=_OTHERS, linewidth=1.5, zorder=1)
    else:
        ax.fill_between(
            course.steps,
            _finite(course.low),
            _finite(course.high),
            color=_OTHERS,
            alpha=0.5,
            linewidth=0,
            zorder=1,
        )


def _onset(ax: Axes, course: Course, onset: int, color: str, *, named: bool) -> None:
    """A ring around the value with which it began, if that is a number, and the number."""
    from matplotlib.patheffects import withStroke

    found = dict(zip(course.steps, course.values, strict=True)).get(onset, math.nan)
    if math.isfinite(found):
        ax.plot(
            [onset],
            [_bounded(found)],
            "o",
            mfc="none",
            color=color,
            markersize=7,
            mew=1.6,
            zorder=4,
        )
        if named:
            ax.annotate(
                quantity(found, course.unit),
                (onset, _bounded(found)),
                xytext=(-7, 2),
                textcoords="offset points",
                horizontalalignment="right",
                fontsize=10,
                fontweight="bold",
                color=color,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )


def _scale(ax: Axes, course: Course) -> None:
    every = (*course.values, *course.low, *course.high)
    drawn = [_bounded(value) for value in every if math.isfinite(value)]
    if not drawn:
        ax.set_yticks([])
        return
    lowest, highest = min(drawn), max(drawn)
    if is_steep(course.signal, lowest, highest):
        ax.set_yscale("log")
        ax.set_ylim(lowest / 1.5, highest * (highest / lowest) ** 0.25)
        ax.yaxis.set_major_formatter(lambda value, _: quantity(value, _short_unit(course.unit)))
        return
    ax.locator_params(axis="y", nbins=4)
    ax.yaxis.set_major_formatter(lambda value, _: quantity(value, _short_unit(course.unit)))
    # Room for crosses at the upper edge, and for a line that is flat.
    room = 0.25 * (highest - lowest) or 0.1 * abs(highest) or 1.0
    ax.set_ylim(lowest - 0.35 * room, highest + room)


def _short_unit(unit: str) -> str:
    return unit if unit in ("s", "B", "B/s") else "1"


def _finite(values: Sequence[float]) -> list[float]:
    """What can be drawn of them; NaN is not."""
    return [_bounded(value) if math.isfinite(value) else math.nan for value in values]


def _bounded(value: float) -> float:
    """Axes have room for so much and no more."""
    return math.copysign(min(max(abs(value), _LEAST), _MOST), value) if value else value


def _not_finite(course: Course) -> list[float]:
    pairs = zip(course.steps, course.values, strict=True)
    return [step for step, value in pairs if not math.isfinite(value)]


def _apart(steps: Sequence[float], span: float) -> list[float]:
    """The first of these steps, and others far enough from each other to be told apart."""
    kept: list[float] = []
    for step in steps:
        if not kept or step - kept[-1] >= span / _CROSSES:
            kept.append(step)
    return kept


def _head(figure: Figure, scene: Scene) -> None:
    """What this is, and what the lines and colors mean: each word in the color that it explains."""
    measured, color = scene.measured, COLORS.get(scene.severity, INK)
    headline, lower = _fitting(scene.headline, 50), _lower(scene)
    figure.text(0.03, 0.945, headline, fontsize=11, fontweight="bold", parse_math=False)
    for line, words in enumerate(_summary(scene)):
        y = 0.902 - _SUMMARY_LINE * line
        figure.text(0.03, y, words, fontsize=8.5, color=INK, parse_math=False)
    whose = "all ranks together" if measured.rank is None else f"rank {measured.rank}"
    keys = [(f"— {whose}", INK)]
    if any(course.low for course in measured.courses):
        several = f"▇ {measured.others} others" if measured.others != 1 else "— the other rank"
        keys.append((several if measured.rank is not None else "▇ each rank", _OTHERS))
    if measured.normal is not None and measured.normal.low < measured.normal.high:
        keys.append(("▇ normal", _NORMAL))
    second = [(f"| began at step {scene.onset}", color)]
    if scene.held is not None:
        second.append((f"┆ held at step {scene.held}", _HELD))
    if any(_not_finite(course) or course.odd for course in measured.courses):
        second.append(("\N{MULTIPLICATION SIGN} NaN or Inf", color))
    for words_of_line, y in ((keys, 0.856 - lower), (second, 0.81 - lower)):
        at = 0.03
        for text, shade in words_of_line:
            figure.text(at, y, text, fontsize=9.5, color=shade, fontweight="bold")
            at += 0.0178 * len(text) + 0.035


def _summary(scene: Scene) -> list[str]:
    """What happened, in at most two lines."""
    return textwrap.wrap(scene.summary, 80, max_lines=2, placeholder=" …")


def _lower(scene: Scene) -> float:
    """How much lower all else is for the second line, as a share of the height."""
    return _SUMMARY_LINE * max(0, len(_summary(scene)) - 1)


def _fitting(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def main() -> None:
    """Draw what comes in; exit status 1, and nothing, when that cannot be read."""
    with contextlib.suppress(OSError):  # a service may be forbidden to: the picture matters more
        os.nice(_UNKINDLY)
    data = sys.stdin.buffer.read(MAX_SCENE + 1)
    try:
        scene = msgspec.msgpack.decode(data, type=Scene)
    except msgspec.MsgspecError as error:
        sys.exit(f"not a scene: {error}")
    if not scene.measured.courses:
        sys.exit("nothing to draw")
    sys.stdout.buffer.write(draw(scene))


if __name__ == "__main__":
    main()
