"""A picture of a backtest: signals against steps, with the alerts of the first pack marked."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.engine.run import RunEngine
from sentinel.errors import ReplayError
from sentinel.pictures.style import COLORS, DPI, INK, is_steep, mark_not_finite, plain_axis, short
from sentinel.replay.backtest import Backtest, Episode
from sentinel.replay.envelope import Envelope
from sentinel.wire import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST = ("loss", "grad_norm", "update_norm", "lr", "loss_scale")  # shown wherever they are there
_MAX_PANELS = 6
_MAX_SERIES = 64  # that are followed
_MAX_LANES = 12  # rules that are named
_WIDTH = 6.0  # inches
_TITLE, _PANEL, _LANE, _FOOT = 0.95, 1.75, 0.36, 0.55  # inches


class Plot:
    """Pictures of runs. Raises `ReplayError` at once when they could not be drawn or written."""

    def __init__(self, path: Path, *, several: bool) -> None:
        """`several`: one picture a run, FILE-RUN.png."""
        self._path = path
        self._several = several
        self._taken: set[Path] = set()
        _import()
        folder = path.parent
        if not folder.is_dir():
            raise ReplayError(f"{path}: there is no directory {folder}")
        place = path if path.exists() and not several else folder
        if path.is_dir() or not os.access(place, os.W_OK):
            raise ReplayError(f"{path}: cannot be written")

    def begin(self, test: Backtest, *, alone: bool) -> Picture:
        """A picture of this run, still empty."""
        path = self._path
        if self._several or not alone:
            path = path.with_name(f"{path.stem}-{_file_name(test.run)}{path.suffix}")
        stem, number = path.stem, 1
        while path in self._taken:
            number += 1
            path = path.with_name(f"{stem}-{number}{path.suffix}")
        self._taken.add(path)
        return Picture(path, test)


class Picture:
    """What is to be drawn of one run, in bounded memory."""

    def __init__(self, path: Path, test: Backtest) -> None:
        self.path = path
        self._test = test
        self._series: dict[Series, Envelope] = {}
        self._last: Mapping[Series, float] = {}

    def look(self, engine: RunEngine) -> None:
        """Take in the step that was just judged, if one was."""
        latest = engine.latest
        if latest is self._last or not latest:
            return
        self._last = latest
        for series, value in latest.items():
            if series.label and series.signal != "logged":
                continue
            envelope = self._series.get(series)
            if envelope is None:
                if len(self._series) == _MAX_SERIES:
                    continue
                envelope = self._series[series] = Envelope()
            envelope.add(engine.step, value)

    def draw(self) -> Path:
        """Write it; returns where it is. Raises `ReplayError`."""
        figure = _figure(self._test, self._chosen())
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=DPI)
        try:
            self.path.write_bytes(data.getvalue())
        except OSError as error:
            raise ReplayError(f"{self.path}: cannot be written: {error.strerror}") from None
        return self.path

    def _chosen(self) -> dict[Series, Envelope]:
        """What is shown: what everybody looks at, what alerts speak of, what a script logged."""
        fired = [episode.alert.signal for episode in self._test.trials[0].episodes]
        wanted = [Series(signal) for signal in dict.fromkeys((*FIRST, *fired))]
        logged = [series for series in self._series if series.signal == "logged"]
        there = [series for series in (*wanted, *logged) if series in self._series]
        return {series: self._series[series] for series in there[:_MAX_PANELS]}


def _import() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ReplayError(
            "--plot needs matplotlib, which is not installed: pip install 'sentinel-train[daemon]'"
        ) from None
    kind: type[Figure] = Figure
    return kind


def _figure(test: Backtest, chosen: Mapping[Series, Envelope]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    rules = [*test.trials[0].by_rule][:_MAX_LANES]  # in the order in which they first fired
    panels, lanes = max(1, len(chosen)), len(rules)
    lanes_height = _LANE * lanes + 0.3 if lanes else 0.0
    height = _TITLE + lanes_height + panels * _PANEL + _FOOT
    figure = _import()(figsize=(_WIDTH, height), facecolor="white")
    grid = figure.add_gridspec(
        panels + 1,
        height_ratios=[max(lanes_height, 0.01), *[_PANEL] * panels],
        left=0.15,
        right=0.97,
        top=1 - _TITLE / height,
        bottom=_FOOT / height,
        hspace=0.32,
    )
    axes = [figure.add_subplot(grid[at + 1]) for at in range(panels)]
    for (series, envelope), ax in zip(chosen.items(), axes, strict=False):
        _panel(ax, series, envelope, test.trials[0].episodes)
    low, high = _limits(test, chosen)
    if lanes:
        top = figure.add_subplot(grid[0])
        _lanes(top, test, rules)
        axes.append(top)
    for ax in axes:
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _words(figure, test, axes[panels - 1], height, chosen)
    return figure


def _limits(test: Backtest, chosen: Mapping[Series, Envelope]) -> tuple[float, float]:
    steps = [step for envelope in chosen.values() for step, _ in envelope.points()]
    steps += [step for envelope in chosen.values() for step in envelope.odd]
    low = min(steps, default=float(test.first_step or 0))
    high = max(steps, default=float(test.last_step))
    margin = 0.02 * (high - low) or 1.0
    return low - margin, high + margin


def _panel(ax: Axes, series: Series, envelope: Envelope, episodes: Sequence[Episode]) -> None:
    """One signal, and when something was alerted."""
    points = list(envelope.points())
    if points:
        dots = "." if len(points) <= 60 else ""
        thin = 0.5 if len(points) > 1000 else 1.0
        ax.plot(*zip(*points, strict=True), color=INK, linewidth=thin, marker=dots)
    steep = is_steep(series.signal, envelope.lowest, envelope.highest)
    if steep:
        ax.set_yscale("log")
    else:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    if envelope.odd:
        mark_not_finite(ax, envelope.odd)
    for severity, color in reversed(COLORS.items()):  # the gravest is drawn last
        fired = [one for one in episodes if one.alert.severity == severity]
        ax.vlines(
            [one.alert.fired_step for one in fired],
            0,
            1,
            transform=ax.get_xaxis_transform(),
            color=color,
            linewidth=1.0,
            alpha=0.75,
            zorder=1,
        )
    name = f"{series.signal} {series.label}".strip().replace("_", " ")
    ax.set_title(f"{name} (log)" if steep else name, loc="left", fontsize=11, pad=3)
    plain_axis(ax)
    ax.tick_params(labelbottom=False)


def _lanes(ax: Axes, test: Backtest, rules: Sequence[str]) -> None:
    """One row for each rule: its name, and from when to when it fired."""
    trial = test.trials[0]
    for lane, rule in enumerate(rules):
        episodes = [one for one in trial.episodes if one.alert.rule == rule]
        color = COLORS[episodes[0].alert.severity]
        bars = [_bar(one, test.last_step) for one in episodes]
        ax.broken_barh(bars, (lane + 0.62, 0.22), facecolors=color, alpha=0.45, linewidth=0)
        starts = [one.alert.fired_step for one in episodes]
        ax.plot(starts, [lane + 0.73] * len(starts), "|", color=color, markersize=9, mew=2)
        does = sorted({action for one in episodes for action in one.alert.actions})
        would = f"  (would {' and '.join(does)})" if does else ""
        times = f"  {len(episodes)} times" if len(episodes) > 1 else ""
        ax.text(
            0.0,
            lane + 0.48,
            f"{rule}{times}{would}",
            transform=ax.get_yaxis_transform(),
            color=color,
            fontsize=10,
            fontweight="bold",
            verticalalignment="bottom",
        )
    ax.set_ylim(len(rules), 0)
    ax.set_yticks([])
    ax.tick_params(labelbottom=False, bottom=False)
    for side in ax.spines.values():
        side.set_visible(False)


def _bar(episode: Episode, last: int) -> tuple[float, float]:
    begin = episode.alert.fired_step
    end = last if episode.until is None else episode.until[0]
    return begin, max(0, end - begin)


def _words(
    figure: Figure,
    test: Backtest,
    lowest: Axes,
    height: float,
    chosen: Mapping[Series, Envelope],
) -> None:
    """Whose run, which pack, what the colors mean."""
    trial = test.trials[0]
    lowest.tick_params(labelbottom=True)
    lowest.set_xlabel("step", fontsize=11)
    lowest.xaxis.set_major_formatter(lambda step, _: short(step))
    run = test.run if len(test.run) <= 48 else test.run[:47] + "…"
    alerts, pauses = len(trial.episodes), trial.pauses
    counts = f"{alerts:,} alert{'s' * (alerts != 1)}, {pauses:,} pause{'s' * (pauses != 1)}"
    figure.text(0.03, 1 - 0.32 / height, run, fontsize=14, fontweight="bold", parse_math=False)
    figure.text(
        0.03,
        1 - 0.56 / height,
        f"{test.rows:,} rows, rules {trial.pack}: {counts}",
        fontsize=11,
        parse_math=False,
    )
    present = {episode.alert.severity for episode in trial.episodes}
    keys = [(f"| {name} alert", color) for name, color in COLORS.items() if name in present]
    if any(envelope.odd for envelope in chosen.values()):
        keys.append(("x not finite", COLORS["critical"]))
    if trial.blind:
        keys.append((f"{len(trial.blind)} rules were blind", "#666666"))
    at = 0.03
    for text, color in keys:
        figure.text(at, 1 - 0.79 / height, text, fontsize=10, color=color, fontweight="bold")
        at += 0.022 * len(text) * 0.62 + 0.03


def _file_name(run: str) -> str:
    """A run's name as part of a file's."""
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in run)
    return kept[:120]
