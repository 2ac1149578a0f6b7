"""What detectors find, miss and falsely alarm about: ours, packages, and published formulas.

    python -m benchmarks.detection [--logs DIR] [--quick] [--seeds N] [--only NAME]
                                   [--failures] [--alarms DIR] [--write]

Two parts, each detector being told the rows of a log one at a time:

synthetic  families of traces with a stated generator (benchmarks/traces/), each of which says what
           is to be found in which rows, what is to be let pass, and that nothing pauses or stops a
           run without cause
labelled   real logs with labels, where `--logs` names a folder of them (benchmarks/labelled/ says
           what must be in it), by where they come from

Ours is the default pack through the code of `sentinel replay`. The packages are used where they are
installed (`pip install trainpulse losslint`). `--failures` names the traces that our pack did not
take as it should; `--alarms` writes all alarms as JSON lines, in the shape of `sentinel replay
--json`, a file for each detector; `--write` puts each part's tables into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.detection_tables import families_table, logs_table, sources_table, traces_table
from benchmarks.detectors.alarm import Alarm, Watch
from benchmarks.detectors.packages import installed, left_out
from benchmarks.detectors.published import PUBLISHED
from benchmarks.detectors.sentinel_pack import pack
from benchmarks.detectors.verdict import Verdict, judge
from benchmarks.labelled.labels import LabelledRun, load
from benchmarks.labelled.score import Score, score
from benchmarks.results import write_part
from benchmarks.traces.curve import Size
from benchmarks.traces.families import FAMILIES, trace

OURS = "Sentinel"
QUICK = Size(highest=2_000)

Alarms = Mapping[str, Sequence[Alarm]]  # by detector


def detectors() -> dict[str, Watch]:
    """All that can be compared here, ours first."""
    return {OURS: pack, **installed(), **PUBLISHED}


def all_alarms(path: Path) -> Alarms:
    """What each detector says of a log."""
    return {name: list(watch(path)) for name, watch in detectors().items()}


def on_trace(case: tuple[str, int], size: Size) -> dict[str, Verdict]:
    """Every detector on the trace of a family and seed."""
    one = trace(*case, size)
    with tempfile.TemporaryDirectory() as folder:
        said = all_alarms(one.write(Path(folder)))
    return {name: judge(one, alarms) for name, alarms in said.items()}


def on_log(run: LabelledRun) -> Alarms:
    """Every detector on a real log."""
    return all_alarms(run.path)


def synthetic(options: argparse.Namespace, pool: ProcessPoolExecutor) -> str:
    """The part on synthetic traces."""
    size = QUICK if options.quick else Size()
    seeds = options.seeds or (2 if options.quick else 6)
    cases = [
        (family, seed)
        for family in FAMILIES
        if not options.only or options.only in family
        for seed in range(seeds)
    ]
    by_family: dict[str, dict[str, Verdict]] = defaultdict(lambda: defaultdict(Verdict))
    for (family, seed), verdicts in zip(
        cases, pool.map(partial(on_trace, size=size), cases), strict=True
    ):
        for name, verdict in verdicts.items():
            by_family[family][name] += verdict
        if options.failures and not verdicts[OURS].right:
            print(f"not as it should be: {family}, seed {seed}: {verdicts[OURS]}", flush=True)
    head = (
        f"{_SYNTHETIC}{_versions()}. {seeds} seeds of each family, {size.lowest:,} to "
        f"{size.highest:,} rows.\n\n"
    )
    return head + traces_table(by_family) + "\n\n" + families_table(by_family)


def labelled(options: argparse.Namespace, pool: ProcessPoolExecutor) -> str:
    """The part on labelled logs."""
    runs = load(options.logs)
    said = list(pool.map(on_log, runs))
    if options.alarms:
        _write_alarms(options.alarms, runs, said)
    scores: dict[str, list[tuple[LabelledRun, Score]]] = defaultdict(list)
    for run, by_detector in zip(runs, said, strict=True):
        for name, alarms in by_detector.items():
            scores[name].append((run, score(run, alarms)))
    head = f"{_LABELLED}{_versions()}. {len(runs)} runs, {sum(map(len, runs)):,} rows.\n\n"
    return head + logs_table(scores) + "\n\n" + sources_table(scores[OURS])


def _write_alarms(folder: Path, runs: Sequence[LabelledRun], said: Iterable[Alarms]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = defaultdict(list)
    for run, by_detector in zip(runs, said, strict=True):
        for name, alarms in by_detector.items():
            for alarm in alarms:
                line = {
                    "run": run.name,
                    "step": run.steps[alarm.row],
                    "rule": alarm.rule,
                    "severity": alarm.severity,
                    "actions": ["pause"] * alarm.acts,
                }
                lines[name].append(json.dumps(line) + "\n")
    for name in detectors():
        (folder / f"{name.replace(' ', '_')}.jsonl").write_text("".join(lines[name]))


_SYNTHETIC = """# What is found in synthetic traces

Written by `python -m benchmarks.detection --write`; [docs/detection.md](../docs/detection.md) says
what is measured and how.

"""
_LABELLED = """# What is found in labelled logs

Written by `python -m benchmarks.detection --logs DIR --write`;
[docs/detection.md](../docs/detection.md) says what is measured and how. The logs are not in this
repository. Intervals: 95%, bootstrap over runs.

"""


def _versions() -> str:
    found = [f"{name} {metadata.version(name)}" for name in installed()]
    missing = [f"{name} not installed" for name in left_out()]
    return f"Python {platform.python_version()}; " + ", ".join([*found, *missing])


def main() -> None:
    options = _options()
    with ProcessPoolExecutor(options.jobs) as pool:
        for part in (synthetic, labelled) if options.logs else (synthetic,):
            text = part(options, pool)
            print(text + "\n", flush=True)
            if options.write:
                write_part(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--logs", type=Path, metavar="DIR", help="labels.json and data/")
    parser.add_argument("--quick", action="store_true", help="few seeds, short traces")
    parser.add_argument("--seeds", type=int, metavar="N", help="of each family")
    parser.add_argument("--only", metavar="NAME", help="families whose name has this in it")
    parser.add_argument("--failures", action="store_true", help="name what ours got wrong")
    parser.add_argument("--alarms", type=Path, metavar="DIR", help="write the alarms on the logs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--only is for a look: --write wants all families")
    if options.only and not any(options.only in family for family in FAMILIES):
        parser.error(f"no family has {options.only!r} in its name: {', '.join(FAMILIES)}")
    if options.logs and not (options.logs / "labels.json").is_file():
        parser.error(f"{options.logs} has no labels.json")
    return options


if __name__ == "__main__":
    main()
