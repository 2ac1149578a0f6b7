"""Run the reference trainer: `torchrun --nproc_per_node 2 -m sentinel_hooks.reference`.

Or `deepspeed --num_gpus 2 --module sentinel_hooks.reference`, or as one plain process.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist

import sentinel
from sentinel_hooks.reference.config import Settings
from sentinel_hooks.reference.data import Text, read_text
from sentinel_hooks.reference.faults import Fault, parse
from sentinel_hooks.reference.feed_forward import Mixture
from sentinel_hooks.reference.model import Decoder, Shape
from sentinel_hooks.reference.options import command_line

if TYPE_CHECKING:
    from sentinel_hooks.reference.trainer import Step, Trainer


def run() -> None:
    """Train as the command line says, until all steps are done.

    Raises SystemExit when the command line cannot be followed, and with status 0 when the run is
    stopped through Sentinel, on every rank after the same step.
    """
    parser = command_line()
    args = parser.parse_args()
    rank, world_size = launched()
    torch.set_num_threads(args.threads or threads())
    try:
        settings, model, text, faults = prepare(args, rank, world_size)
    except (ValueError, OSError) as error:
        parser.error(str(error))

    # Only now, since it takes seconds, which a slip in an option need not cost.
    from sentinel_hooks.reference.trainer import Trainer

    trainer = Trainer(model, text, settings)
    if args.resume:
        trainer.load_checkpoint(args.resume)
        trainer.rewind_data(args.resume)
    for fault in faults:
        fault.arm(trainer, rank)
    if rank == 0:
        introduce(trainer, faults)
    watched = sentinel.attach(trainer, checkpoints=args.save_dir) if args.sentinel else None
    with watched or nullcontext():
        train(trainer, args, rank)


def launched() -> tuple[int, int]:
    """This process's rank and how many there are. Without a launcher it is the only one."""
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def threads() -> int:
    """A rank's share of this machine's cores, at most 4."""
    # torchrun's word for the ranks on this machine, and the `deepspeed` launcher's.
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return min(max((os.cpu_count() or 1) // int(ranks), 1), 4)


def prepare(
    args: argparse.Namespace, rank: int, world_size: int
) -> tuple[Settings, Decoder, Text, list[Fault]]:
    """All that a trainer is made of. Raises ValueError or OSError for options that are wrong."""
    torch.manual_seed(args.seed)
    settings = Settings(**{name: getattr(args, name) for name in Settings.__annotations__})
    shape = Shape(args.layers, args.width, args.heads, args.context)
    model = Decoder(shape, mixture(args), recompute=args.activation_checkpointing)
    if args.resume:
        settings.checkpoint(args.resume)
    if args.losses:
        losses_of(rank, args).write_text("")
    faults = [parse(fault) for fault in args.fault]
    for fault in faults:
        fault.check(model, world_size)
    rows = settings.micro_batch * settings.accumulation
    words = read_text(args.text)
    text = Text(words, rows=rows, context=shape.context, seed=args.seed, rank=rank)
    return settings, model, text, faults


def mixture(args: argparse.Namespace) -> Mixture | None:
    """The experts that were asked for, if any; raises ValueError."""
    if args.experts == 0:
        return None
    return Mixture(
        args.experts, args.shared_experts, args.top_k, args.capacity_factor, args.balance
    )


def introduce(trainer: Trainer, faults: list[Fault]) -> None:
    """Say what is about to be trained."""
    settings, engine = trainer.settings, trainer.engine
    print(
        f"{trainer.parameters / 1e6:.2f}M parameters, {engine.world_size} ranks,"
        f" ZeRO {settings.stage}, {settings.precision}, {len(trainer.text.text) / 1e6:.1f} MB of"
        f" text, from step {engine.global_steps + 1} to {settings.steps}"
    )
    for fault in faults:
        print(f"fault to come: {fault}", flush=True)


def train(trainer: Trainer, args: argparse.Namespace, rank: int) -> None:
    """Step until all are done, reporting and saving as asked."""
    tokens, since = 0, time.perf_counter()
    while trainer.engine.global_steps < args.steps:
        step = trainer.step()
        tokens += step.tokens
        if args.losses:
            record(step, losses_of(rank, args))
        if rank == 0 and step.number % args.log_every == 0:
            now = time.perf_counter()
            report(step, args.steps, tokens * trainer.engine.world_size / (now - since))
            tokens, since = 0, now
        rolled_back = trainer.engine.global_steps != step.number
        if args.save_every and step.number % args.save_every == 0 and not rolled_back:
            trainer.save_checkpoint(f"step{step.number}")


def losses_of(rank: int, args: argparse.Namespace) -> Path:
    """The file of one rank's exact losses."""
    return Path(f"{args.losses}.{rank}")


def record(step: Step, file: Path) -> None:
    """Add one exact loss; the file is closed each time, so that a kill leaves all that was done."""
    with file.open("a") as losses:
        losses.write(f"{step.number} {float(step.loss).hex()}\n")


def report(step: Step, steps: int, speed: float) -> None:
    """One line of progress; `speed` in tokens per second."""
    norm = "-" if step.grad_norm is None else f"{float(step.grad_norm):.3f}"
    print(
        f"step {step.number}/{steps}  loss {float(step.loss):.4f}  lr {step.lr:.2e}"
        f"  grad norm {norm}  {speed:,.0f} tokens/s{'' if step.applied else '  skipped'}",
        flush=True,
    )


def leave(code: int) -> NoReturn:
    """End this process at once, with all ranks together if all is well.

    After a failure there is nothing to wait for: the launcher ends the other ranks. And never
    through the interpreter's exit, where gloo's threads abort about half of all processes.
    """
    try:
        if code == 0 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    except RuntimeError:  # another rank died on its way here
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> NoReturn:
    """`run`, and a clean end whatever comes of it."""
    code = 1
    try:
        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - all that can end a process: told, and made an exit code
        traceback.print_exc()
    leave(code)


if __name__ == "__main__":
    main()
