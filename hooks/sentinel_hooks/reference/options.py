"""The command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentinel_hooks.reference.config import Settings
from sentinel_hooks.reference.faults import SYNTAX
from sentinel_hooks.reference.model import Shape


def command_line() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="python -m sentinel_hooks.reference",
        description="Train a small byte-level decoder with DeepSpeed, watched by Sentinel.",
        epilog=f"faults:\n{SYNTAX}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stage", type=int, choices=range(4), default=Settings.stage, help="of ZeRO, %(default)s")
    add("--precision", choices=("bf16", "fp32"), default=Settings.precision)
    add("--steps", type=count, default=Settings.steps, help="to train, %(default)s")
    add("--warmup", type=count, default=Settings.warmup, metavar="STEPS")
    add("--lr", type=float, default=Settings.lr, help="after warm-up, %(default)s")
    add(
        "--micro-batch",
        type=count,
        default=Settings.micro_batch,
        metavar="ROWS",
        help="per rank, %(default)s",
    )
    add("--accumulation", type=count, default=Settings.accumulation, metavar="MICRO_BATCHES")
    add("--activation-checkpointing", action="store_true", help="recompute layers in backward")
    for size in ("layers", "width", "heads", "context"):
        add(f"--{size}", type=count, default=getattr(Shape, size), help="of the model, %(default)s")
    add("--text", type=Path, metavar="FILE", help="to learn, instead of Python's own sources")
    add("--seed", type=int, default=0)
    add("--threads", type=count, help="of each rank; default: its share of the machine, at most 4")
    add("--save-dir", type=Path, default=Settings.save_dir, metavar="DIR", help="of checkpoints")
    add("--save-every", type=count, metavar="STEPS", help="as DIR/stepN; default: never")
    add("--resume", metavar="TAG", help="go on from DIR/TAG; give the other options as before")
    add("--log-every", type=count, default=10, metavar="STEPS")
    add("--losses", type=Path, metavar="FILE", help="write each rank's exact losses to FILE.RANK")
    add("--fault", action="append", default=[], metavar="FAULT", help="break it on purpose: below")
    add("--no-sentinel", dest="sentinel", action="store_false", help="train unwatched")
    return parser


def count(text: str) -> int:
    """An argument that counts something: 1 or more."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
