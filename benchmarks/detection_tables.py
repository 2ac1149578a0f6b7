"""The tables of benchmarks/detection.py, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.detectors.verdict import Verdict
from benchmarks.labelled.interval import bootstrap, wilson
from benchmarks.labelled.labels import LabelledRun
from benchmarks.labelled.score import Score

Scored = Sequence[tuple[LabelledRun, Score]]


def traces_table(by_family: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Detectors, over all families."""
    total = {
        name: sum((verdicts[name] for verdicts in by_family.values()), Verdict())
        for name in _detectors(by_family.values())
    }
    rows = [
        [
            name,
            f"{one.right} of {one.traces}",
            f"{one.found / one.events:.2f} {_range(wilson(one.found, one.events))}"
            if one.events
            else "",
            f"{one.false_rate:.2f}",
            _plain(one.delay),
            str(one.needless),
        ]
        for name, one in total.items()
    ]
    head = ["detector", "traces as they should be", "faults found (95% CI, Wilson)"]
    head += ["false alarms per 1,000 clean rows", "median delay, rows", "needless pauses"]
    return _table(head, rows)


def families_table(by_family: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Families by detectors: faults found, and false alarms per 1,000 clean rows."""
    names = _detectors(by_family.values())
    rows = [[family, *(_cell(by_family[family][name]) for name in names)] for family in by_family]
    return (
        "Of each family: faults found of those there were, and episodes of false alarms per 1,000 "
        "clean rows.\n\n" + _table(["family", *names], rows)
    )


def _detectors(verdicts: Iterable[Mapping[str, object]]) -> list[str]:
    return list(next(iter(verdicts), {}))


def _cell(one: Verdict) -> str:
    rate = f"{one.false_rate:.2g}" if one.false_alarms else "0"
    return f"{one.found}/{one.events}, {rate}" if one.events else rate


def logs_table(scores: Mapping[str, Scored]) -> str:
    """Detectors, over all training logs."""
    return _table(
        ["detector", *_FIGURES, "needless pauses"],
        [
            _figures(name, [one for run, one in scored if run.suite == "training"])
            for name, scored in scores.items()
        ],
    )


def sources_table(scored: Scored) -> str:
    """Ours, by where the logs come from."""
    sources = dict.fromkeys(run.source for run, _ in scored)
    rows = []
    for source in sources:
        of_source = [one for run, one in scored if run.source == source]
        runs = "1 run" if len(of_source) == 1 else f"{len(of_source)} runs"
        rows.append(_figures(f"{source} ({runs})", of_source))
    return "Sentinel by source.\n\n" + _table(["source", *_FIGURES, "needless pauses"], rows)


_FIGURES = {
    "incident recall": "recall",
    "precision": "precision",
    "F1": "f1",
    "false alarms per 1,000 clean rows": "false_rate",
    "median delay, rows": "delay",
}


def _figures(name: str, scores: Sequence[Score]) -> list[str]:
    total = sum(scores, Score())
    cells = [name]
    for field in _FIGURES.values():
        figure = _getter(field)
        value = figure(total)
        if field == "delay":
            cells.append(_plain(value))
        elif value is None:
            cells.append("")
        else:
            interval = bootstrap(scores, figure)
            cells.append(f"{value:.2f}" + (f" {_range(interval)}" if interval else ""))
    return [*cells, str(total.needless)]


def _getter(field: str) -> Callable[[Score], float | None]:
    def get(one: Score) -> float | None:
        value: float | None = getattr(one, field)
        return value

    return get


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _range(interval: tuple[float, float]) -> str:
    return f"({interval[0]:.2f} to {interval[1]:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
