"""The usual panels of a signal, by what the catalog says of it."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.grafana.panel import Panel, flags, lines
from sentinel.grafana.query import Query, by_label, signal
from sentinel.grafana.unit import is_flag, unit_of
from sentinel.grafana.words import of_signals, title_of
from sentinel.signals import CATALOG
from sentinel.signals.exposition import own_stat, stats

_LOWEST, _HIGHEST = "lowest rank", "highest rank"
_CALLED = {
    "max": _HIGHEST,
    "mean": "mean of ranks",
    "norm": "norm over ranks",
    "sum": "sum of ranks",
}


def over_ranks(name: str, title: str = "", *, warn: float | None = None) -> Panel:
    """A signal without a label: as rules judge it, and how far ranks differ.

    A sum or a norm over ranks stands alone: it lies far from what each of them has. So does what
    is of the run and of no rank.
    """
    own, known = own_stat(CATALOG[name]), stats(CATALOG[name])
    judged = Query(signal(name, own), _CALLED[own])
    queries: tuple[Query, ...] = (judged,)
    if own == "mean" and "min" in known:
        lowest = Query(signal(name, "min"), _LOWEST, "edge")
        queries = (lowest, Query(signal(name, "max"), _HIGHEST, "band"), judged)
    elif own == "max" and "mean" in known:
        queries = (judged, Query(signal(name, "mean"), _CALLED["mean"]))
    return lines(
        title or title_of(name),
        of_signals([name]),
        *queries,
        unit=unit_of(CATALOG[name]),
        warn=warn,
    )


def over_labels(name: str, title: str = "", width: int = 12) -> Panel:
    """A signal with a label: each of them, or the worst of many, and the median of all."""
    found = CATALOG[name]
    queries = [Query(by_label(name), f"{{{{{found.label}}}}}")]
    if "median" in stats(found):
        queries.append(Query(signal(name, "median"), f"median {found.label}", "middle"))
    more = f"The {found.label}s with the largest values, as many as the daemon is told to export."
    return lines(
        title or title_of(name), of_signals([name], more), *queries, unit=unit_of(found)
    ).sized(width)


def together(title: str, names: Sequence[str], *, limit: str = "", stacked: bool = False) -> Panel:
    """The highest rank of several signals of one unit in one panel; `limit` is a dashed line."""
    every = [*names, *([limit] if limit else [])]
    return lines(
        title,
        of_signals(every),
        *(Query(signal(name, "max"), name) for name in names),
        *([Query(signal(limit, "max"), limit, "limit")] if limit else []),
        unit=unit_of(CATALOG[every[0]]),
        stacked=stacked,
    )


def questions(title: str, names: Sequence[str], height: int) -> Panel:
    """A line for each signal that says yes or no, or counts what should not be there at all."""
    queries = [
        Query(by_label(name), f"{name} {{{{{CATALOG[name].label}}}}}")
        if CATALOG[name].label
        else Query(signal(name, "max"), name)
        for name in names
    ]
    return flags(title, of_signals(names), *queries).sized(24, height)


def usual(name: str) -> Panel:
    """The panel of a signal that nobody has drawn another for."""
    found = CATALOG[name]
    if is_flag(found):
        return questions(title_of(name), [name], 4)
    return over_labels(name) if found.label else over_ranks(name)
