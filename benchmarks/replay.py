"""How many rows a minute `sentinel replay` judges, beside the floor of only decoding them.

    python -m benchmarks.replay [--rows 1000000] [--pack default] [--write]

The log is made up: JSON lines of step, loss, grad_norm and lr, a loss that falls, noise with heavy
tails, and a spike now and then. Printed, on one core by process time: decoding the lines with
msgspec and throwing them away; reading them as `sentinel replay` does; and all of it, with the
pack. The last column is what the process has grown by meanwhile. `--write` puts the table into
benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.engine_throughput import processor, resident
from benchmarks.results import write_part
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.replay.log import open_log, replay_log


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pack", default="default")
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    options = parser.parse_args()
    lines = [
        "# How fast a log is replayed",
        "",
        "Written by `python -m benchmarks.replay --write`, whose description says how.",
        "",
        f"{processor()}, one core; Python {platform.python_version()}, "
        f"msgspec {version('msgspec')}; {options.rows:,} rows, pack {options.pack}",
        "",
        "| what is done | rows a minute | microseconds a row | of the floor | grown by |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "made_up.jsonl"
        _write_log(log, options.rows)
        lines += _rows(log, options.rows, options.pack)
    if options.write:
        write_part("\n".join(lines))


def _rows(log: Path, rows: int, pack: str) -> list[str]:
    rules = load(resolve_pack(pack))
    ways: dict[str, Callable[[], object]] = {
        "floor: lines are decoded": lambda: _decode(log),
        "lines are read as rows": lambda: sum(1 for _ in open_log(log)),
        "**rows are judged by the pack**": lambda: list(replay_log(open_log(log), rules)),
    }
    told: list[str] = []
    floor = math.nan
    for name, way in ways.items():
        before, began = resident(), time.process_time()
        way()
        took, grown = time.process_time() - began, resident() - before
        floor = took if math.isnan(floor) else floor
        told.append(
            f"| {name} | {60 * rows / took:,.0f} | {1e6 * took / rows:.2f} | {took / floor:.1f} "
            f"| {grown / 2**20:.1f} MiB |"
        )
        print(told[-1], flush=True)
    return told


def _decode(log: Path) -> None:
    decode = msgspec.json.Decoder().decode
    with log.open("rb") as file:
        for line in file:
            decode(line)


def _write_log(path: Path, rows: int) -> None:
    noise = random.Random(0)
    with path.open("w") as file:
        for step in range(1, rows + 1):
            tail = noise.gauss(0, 0.05) / math.sqrt(noise.uniform(0.2, 1))
            spike = 3.0 if noise.random() < 1e-5 else 0.0
            loss = 2 + 8 / (1 + step / 500) + tail + spike
            norm = 0.5 * math.exp(noise.gauss(0, 0.3)) + 10 * spike
            file.write(
                f'{{"step": {step}, "loss": {loss!r}, "grad_norm": {norm!r}, "lr": 0.0003}}\n'
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
