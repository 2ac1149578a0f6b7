"""The command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from sentinel_hooks.reference.config import SCHEDULES, Settings
from sentinel_hooks.reference.faults import SYNTAX
from sentinel_hooks.reference.feed_forward import Mixture
from sentinel_hooks.reference.model import Shape


def command_line() -> argparse.ArgumentParser:
    """All options, by what they are about."""
    parser = argparse.ArgumentParser(
        prog="python -m sentinel_hooks.reference",
        description="Train a small byte-level decoder with DeepSpeed, watched by Sentinel.",
        epilog=f"faults:\n{SYNTAX}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _how_to_train(parser.add_argument_group("how to train"))
    _model(parser.add_argument_group("the model"))
    _experts(parser.add_argument_group("mixture of experts, in all layers but the first"))
    _data(parser.add_argument_group("data and checkpoints"))
    _watching(parser.add_argument_group("watching and breaking"))
    # What the `deepspeed` launcher adds; the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser


def _how_to_train(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--stage", type=int, choices=range(4), default=Settings.stage, help="of ZeRO, %(default)s")
    add(
        "--offload",
        action="store_true",
        help="keep the optimizer's state in host memory and step there; stages 1 to 3",
    )
    add("--precision", choices=("bf16", "fp32"), default=Settings.precision)
    add("--steps", type=count, default=Settings.steps, help="to train, %(default)s")
    add(
        "--schedule",
        choices=SCHEDULES,
        default=Settings.schedule,
        help="of the learning rate; three-phase: 10%% of the steps linear warm-up, 70%% cosine"
        " decay, 20%% at its end with weight decay on, which is off before; default: %(default)s"
        " after --warmup, with weight decay throughout",
    )
    add(
        "--warmup",
        type=count,
        default=Settings.warmup,
        metavar="STEPS",
        help="of the schedule cosine, %(default)s",
    )
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
    add("--seed", type=int, default=0)
    add("--threads", type=count, help="of each rank; default: its share of the machine, at most 4")


def _model(group: argparse._ArgumentGroup) -> None:
    for size in ("layers", "width", "heads", "context"):
        default = getattr(Shape, size)
        group.add_argument(f"--{size}", type=count, default=default, help="%(default)s")


def _experts(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--experts", type=int, default=0, metavar="N", help="routed ones; 0, the default: none")
    add(
        "--shared-experts",
        type=int,
        default=Mixture.shared,
        metavar="N",
        help="which every token passes, %(default)s",
    )
    add(
        "--top-k",
        type=count,
        default=Mixture.top_k,
        metavar="K",
        help="routed experts of a token, %(default)s",
    )
    add(
        "--capacity-factor",
        type=float,
        default=Mixture.capacity,
        metavar="FACTOR",
        help="an expert takes so many times its even share and drops the rest, %(default)s",
    )
    add(
        "--balance",
        type=float,
        default=Mixture.balance,
        metavar="WEIGHT",
        help="of the load-balancing loss, %(default)s",
    )


def _data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--text", type=Path, metavar="FILE", help="to learn, instead of Python's own sources")
    add("--save-dir", type=Path, default=Settings.save_dir, metavar="DIR", help="of checkpoints")
    add("--save-every", type=count, metavar="STEPS", help="as DIR/stepN; default: never")
    add("--resume", metavar="TAG", help="go on from DIR/TAG; give the other options as before")


def _watching(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--log-every", type=count, default=10, metavar="STEPS")
    add("--losses", type=Path, metavar="FILE", help="write each rank's exact losses to FILE.RANK")
    add("--fault", action="append", default=[], metavar="FAULT", help="break it on purpose: below")
    add("--no-sentinel", dest="sentinel", action="store_false", help="train unwatched")


def count(text: str) -> int:
    """An argument that counts something: 1 or more."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
