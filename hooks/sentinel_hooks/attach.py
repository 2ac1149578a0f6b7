"""`attach`: one line in a training script."""

from __future__ import annotations

import os
import sys
import time
import uuid
from pathlib import Path

import torch

from sentinel import address
from sentinel.errors import AttachError
from sentinel_hooks import job as jobs
from sentinel_hooks.adapters.checkpoints import folder_of
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.probes.device_peak import stated_peak
from sentinel_hooks.watch import Watch


def attach(
    trainer: object = None,
    *,
    model: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    run: str | None = None,
    daemon: str | None = None,
    guard: bool | None = None,
    budget: float = 0.01,
    exact_updates: bool = False,
    peak_flops: float | None = None,
    nccl_timing: bool = False,
    checkpoints: str | os.PathLike[str] | None = None,
) -> Watch:
    """Watch a trainer: a DeepSpeed engine, an object with one as `engine`, or a plain loop's
    `model` and `optimizer`.

    Call it on every rank, after `deepspeed.initialize` or `init_process_group`. `run` names the
    run (default: `$SENTINEL_RUN`, then the script's name and the time), `daemon` is the address
    of the daemon (default: `$SENTINEL_DAEMON`, then the usual socket); rank 0's word counts for
    all ranks. If no daemon answers, training goes on as if nothing had been attached.
    `exact_updates`: measure update sizes on whole tensors instead of samples of 1,024 elements,
    at the price of a copy of this rank's weights. `nccl_timing`: have NCCL time every collective
    by CUDA events, at some cost of its own.

    `budget` is the share of a step that Sentinel may take on rank 0. Past it, what it need not
    measure at every step is measured more rarely on all ranks, and coverage says so. `peak_flops`
    is what one rank's device could do at best, in FLOP/s, for `model_flops_utilization` (default:
    `$SENTINEL_PEAK_FLOPS`, then the data sheets of known GPUs). `checkpoints` is the folder in
    which a DeepSpeed engine's are; it is known anyway once the script has saved or loaded one.

    `guard` (default: `$SENTINEL_GUARD`, 1 or 0, then no): no rank applies a step whose gradients
    are not finite on every rank; it counts as skipped. It adds one small collective and one wait
    for the device to each step, needs every rank to attach with it, all of them stepping equally
    often, and waits here until all have. docs/guard.md says what it does to counters and schedules.

    Raises `AttachError` when there is no trainer in what was given or it makes no sense, and
    `AddressError` when the daemon's address cannot be parsed. After it has returned, nothing of
    Sentinel's ever raises in the training loop but the `SystemExit` of an ordered stop.
    """
    place = address.parse(daemon) if daemon is not None else address.default_address()
    name = run if run is not None else os.environ.get("SENTINEL_RUN") or _default_name()
    if not name.strip() or len(name) > 200 or not name.isprintable() or "/" in name:
        raise AttachError(f"{name!r} cannot name a run: expected up to 200 characters without '/'")
    if not 0 < budget <= 1:
        raise AttachError(f"budget={budget!r}: expected a share of the step's time, such as 0.01")
    joined = jobs.join(int(os.environ.get("WORLD_SIZE") or 1))
    folder = folder_of(checkpoints)
    if checkpoints is not None and not folder:
        raise AttachError(f"checkpoints={checkpoints!r}: expected the path of a folder")
    guarded = _asked_for() if guard is None else guard
    options = Options(exact_updates, stated_peak(peak_flops), nccl_timing, folder, guarded)
    adapter = choose(trainer, model, optimizer, options=options)
    joined.agree(guard=guarded)
    watch = Watch(adapter, joined, name, place, budget)
    watch._start()
    return watch


def _asked_for() -> bool:
    """Whether the environment asks for the guard."""
    asked = os.environ.get("SENTINEL_GUARD") or "0"
    if asked not in ("0", "1"):
        raise AttachError(f"SENTINEL_GUARD={asked!r}: expected 1 or 0")
    return asked == "1"


def _default_name() -> str:
    script = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python").stem or "python"
    return f"{script}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
