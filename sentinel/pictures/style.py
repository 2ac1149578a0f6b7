"""How pictures of runs look, wherever they are drawn: for a telephone, and for any eyes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"critical": "#c1121f", "warning": "#e07a00", "info": "#1f77b4"}
INK = "#22333b"
DPI = 200  # letters of 10 points can be read on a telephone, where a picture is 5 or 6 inches wide
_STEEP = 30.0  # the highest over the lowest value from which on the scale is logarithmic


def is_steep(signal: str, lowest: float, highest: float) -> bool:
    """Whether a signal is to be drawn on a logarithmic scale. A schedule is known by its shape."""
    return lowest > 0 and highest > _STEEP * lowest and signal != "lr"


def mark_not_finite(ax: Axes, steps: Sequence[float], color: str = COLORS["critical"]) -> None:
    """A cross at the upper edge for each step at which there is no number to draw."""
    ax.plot(
        steps,
        [0.94] * len(steps),
        "x",
        color=color,
        markersize=6,
        markeredgewidth=1.6,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )


def plain_axis(ax: Axes) -> None:
    """Nothing around the picture that says nothing."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=10)


def short(step: float) -> str:
    """A step in few letters: 1500k for 1,500,000."""
    return f"{step / 1000:g}k" if step and step % 100 == 0 and step >= 10_000 else f"{step:g}"
