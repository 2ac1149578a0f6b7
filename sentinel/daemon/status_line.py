"""What a daemon does, in the one line that `systemctl status` has for it."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.daemon.run import Run


def status_line(active: Sequence[Run]) -> str:
    """As `serving 2 runs with 16 ranks; held: gpt`, or `...; 2 are held`."""
    if not active:
        return "serving; no run goes on"
    ranks = sum(len(run.connected) for run in active)
    held = [run.name for run in active if run.state == "held"]
    line = f"serving {_many(len(active), 'run')} with {_many(ranks, 'rank')}"
    if len(held) == 1:
        return f"{line}; held: {held[0]}"
    return f"{line}; {len(held)} are held" if held else line


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
