"""How often the rules of the shipped packs begin to fire on healthy runs.

    python -m benchmarks.packs [--logs DIR] [--write] RUN...

RUN is a state directory or a log of a run in which nothing went wrong, `--logs` a folder of
labelled logs (see benchmarks/labelled/labels.py) whose runs without any label are taken. Printed
for each rule that fired: how often in 1,000 steps, on recorded runs and on logs, whose rows are
taken for steps; and what each pack would have paused. `--write` puts it into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.labelled.labels import load
from benchmarks.results import write_part
from sentinel.engine.rule import Rule
from sentinel.engine.rulefile import load as load_rules
from sentinel.engine.rulefile import resolve_pack
from sentinel.replay.backtest import Backtest
from sentinel.replay.past import open_past

PACKS = ("default", "deepseek-guide", "strict")
HEADING = "# How often rules fire on healthy runs"


@dataclass
class Tally:
    """What packs have said of some runs."""

    runs: int = 0
    steps: int = 0
    fired: dict[str, Counter[str]] = field(default_factory=dict)  # by pack and rule
    pauses: Counter[str] = field(default_factory=Counter)  # by pack

    def count(self, path: Path, packs: Mapping[str, Sequence[Rule]]) -> None:
        """Replay all that is in this file or directory."""
        for past in open_past(path, format="auto", columns={}):
            test = Backtest(past, packs)
            for _ in test.go():
                pass
            self.runs += 1
            self.steps += test.rows
            for trial in test.trials:
                self.fired.setdefault(trial.pack, Counter()).update(trial.by_rule)
                self.pauses[trial.pack] += trial.pauses

    def rate(self, count: int) -> str:
        """So many in 1,000 steps."""
        return f"{1000 * count / self.steps:.2f}" if self.steps else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    packs = {name: load_rules(resolve_pack(name)) for name in PACKS}
    recorded, logged = Tally(), Tally()
    for path in options.runs:
        recorded.count(path, packs)
    for path in _clean(options.logs) if options.logs else ():
        logged.count(path, packs)
    text = "\n".join(_table(recorded, logged))
    print(text)
    if options.write:
        write_part(text)


def _clean(folder: Path) -> Iterable[Path]:
    return (run.path for run in load(folder) if not run.events)


def _table(recorded: Tally, logged: Tally) -> Iterable[str]:
    yield HEADING
    yield ""
    yield "Written by `python -m benchmarks.packs --write`, whose description says what is counted."
    yield ""
    yield (
        f"{recorded.runs} recorded runs of {recorded.steps:,} steps in all; "
        f"{logged.runs} logs of {logged.steps:,} rows. Alerts per 1,000 of them."
    )
    yield ""
    yield "| pack | rule | recorded runs | logs |"
    yield "|---|---|---|---|"
    shown: set[str] = set()
    for pack in PACKS:
        on_runs, on_logs = recorded.fired.get(pack, Counter()), logged.fired.get(pack, Counter())
        for rule in sorted({*on_runs, *on_logs} - shown):
            rates = recorded.rate(on_runs[rule]), logged.rate(on_logs[rule])
            yield f"| {pack} | {rule} | {rates[0]} | {rates[1]} |"
            shown.add(rule)
        pauses = recorded.rate(recorded.pauses[pack]), logged.rate(logged.pauses[pack])
        yield f"| {pack} | *all pauses asked for* | {pauses[0]} | {pauses[1]} |"


if __name__ == "__main__":
    main()
