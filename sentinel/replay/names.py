"""What the columns of training logs are called, and which signals of the catalog they are.

Names are compared without regard to case and to anything but letters and digits, so that
`train/loss`, `train_loss` and `Train Loss` are one. Of several columns for one signal the one that
comes first in its list here is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from sentinel.errors import ReplayError
from sentinel.signals import CATALOG, did_you_mean
from sentinel.wire import Series

STEP, TIME, EPOCH = Series("step"), Series("time"), Series("epoch")  # no signals of the catalog
# In per cent, until columns.py has made bytes of them.
HOST_PERCENT, DEVICE_PERCENT = Series("host_memory_percent"), Series("device_memory_percent")
HOST_AVAILABLE = Series("host_memory_available")
VAL_LOSS = Series("logged", "val_loss")
_MAX_NAME = 512
_OF_RUN = " - "  # what W&B puts between a run's name and a metric's


class Meaning(NamedTuple):
    """What a column is; of two columns for one series, the one with the lower rank is read."""

    series: Series
    rank: int
    scale: float = 1.0


_GPUS = range(16)
_NAMES: Mapping[Series, tuple[str, ...]] = {
    STEP: (
        "step",
        "global_step",
        "train/global_step",
        "trainer/global_step",
        "global_step/max_steps",
        "train/step",
        "trainer/step",
        "iteration",
        "train/iteration",
        "iter",
        "train_step",
        "training_step",
        "current_iteration",
        "update",
        "num_updates",
        "updates",
        "total_steps",
        "total_step",
        "steps",
        "iterations",
        "iters",
        "it",
        "batch_idx",
    ),
    EPOCH: ("epoch", "epochs", "train/epoch"),
    TIME: ("_timestamp", "timestamp", "wall_time", "unix_time", "time"),
    Series("loss"): (
        "loss",
        "lm loss",
        "train/lm_loss",
        "lm_loss/train",
        "train_loss_step",
        "loss/train_step",
        "train/loss_step",
        "train/batch_loss",
        "loss/train/total",
        "train_loss",
        "loss/train",
        "train/loss",
        "training_loss",
        "loss/training",
        "tr_loss",
        "trn_loss",
        "reduced_train_loss",
        "masked lm loss",
        "train/total_loss",
        "train_inner/loss",
        "train/CrossEntropyLoss",
        "train/ce_loss",
        "train/cross_entropy",
        "train/nll_loss",
        "loss_metrics/global_avg_loss",
        "metrics/loss",
        "metric/loss",
        "objective/loss",
        "Train/Samples/train_loss",
        "batch_loss",
        "step_loss",
        "loss_step",
        "total_loss",
        "loss/total",
        "loss_total",
        "mean_loss",
        "avg_loss",
        "loss_avg",
        "cross_entropy_loss",
        "ce_loss",
        "nll_loss",
        "train_loss_avg",
        "train_loss_epoch",
        "loss_epoch",
        "epoch_loss",
    ),
    Series("grad_norm"): (
        "grad_norm",
        "gradient_norm",
        "global_grad_norm",
        "train/grad_norm",
        "train/gradient_norm",
        "train/global_grad_norm",
        "total_grad_norm",
        "optim/total_grad_norm",
        "train/total_grad_norm",
        "grad_norm/train",
        "grad_norm/global",
        "grad_norm/total",
        "grad_norm_total",
        "grad_total_norm",
        "l2_norm/grad/global",
        "grad_norm_step",
        "grad_norm_before_clip",
        "grad_norm_preclip",
        "grad_norm_unclipped",
        "grad_2_norm_total",
        "train/grad_2_norm_total",
        "grad_2.0_norm_total",
        "grad_l2_norm",
        "grad_l2norm",
        "grads_norm",
        "optim/grad_norm",
        "optimizer/grad_norm",
        "trainer/grad_norm",
        "metrics/grad_norm",
        "gnorm",
        "train_inner/gnorm",
        "gradnorm",
        "norm",
    ),
    Series("lr"): (
        "lr",
        "learning_rate",
        "train/lr",
        "train/learning_rate",
        "lr/train",
        "learning_rate/train",
        "training/lr",
        "optim/lr",
        "optimizer/lr",
        "trainer/lr",
        "schedule/lr",
        "metrics/lr",
        "lr_group0",
        "lr/group0",
        "lr_0",
        "lr/0",
        "learning_rate_group0",
        "optim/learning_rate_group0",
        "lr-Adam",
        "lr-AdamW",
        "lr-SGD",
        "lr-AdamW/pg1",
        "lr-DecoupledAdamW/group0",
        "train_inner/lr",
        "Train/Samples/lr",
        "learning_rates",
        "current_lr",
        "lr_step",
    ),
    Series("loss_scale"): (
        "loss_scale",
        "train/loss_scale",
        "lossscale",
        "grad_scale",
        "fp16_loss_scale",
        "Train/Samples/loss_scale",
        "train_inner/loss_scale",
    ),
    Series("skipped"): ("skipped", "step_skipped", "skipped_step", "is_skipped"),
    Series("overflow"): ("overflow", "fp16_overflow", "grad_overflow"),
    Series("step_seconds"): (
        "step_seconds",
        "step_time",
        "iter_time",
        "iteration_time",
        "seconds_per_step",
        "sec_per_step",
        "time_per_step",
        "time_per_iteration",
        "elapsed time per iteration (s)",
        "train/step_time",
        "train/iteration_time",
        "train_step_timing in s",
        "step_duration",
        "step_time_s",
        "iter time (s)",
        "s/it",
        "sec/it",
        "elapsed time per iteration (ms)",
        "step_time_ms",
        "iter_time_ms",
        "iteration_time_ms",
        "ms_per_step",
        "ms/step",
    ),
    Series("tokens_per_second"): (
        "tokens_per_second",
        "tokens_per_sec",
        "tokens/s",
        "tokens/sec",
        "tok/s",
        "tok/sec",
        "tok_per_sec",
        "train/tokens_per_second",
        "train/tokens_per_sec",
        "train/tok_per_sec",
        "throughput/tokens_per_sec",
        "throughput/device/tokens_per_sec",
        "throughput (tokens/s)",
        "throughput(tps)",
        "tokens_per_second_per_device",
        "tokens_per_second_per_gpu",
        "tps",
    ),
    VAL_LOSS: (
        "val_loss",
        "validation_loss",
        "valid_loss",
        "eval_loss",
        "dev_loss",
        "loss/val",
        "loss/validation",
        "loss/valid",
        "loss/eval",
        "loss/dev",
        "val_loss_epoch",
        "val_loss_mean",
        "valid_loss_epoch",
        "eval_loss_epoch",
        "lm loss validation",
        "lm_loss/val",
        "val/lm_loss",
        "validation/lm_loss",
        "valid/lm_loss",
        "eval/lm_loss",
        "val/nll_loss",
        "valid/nll_loss",
        "eval/nll_loss",
        "val/ce_loss",
        "eval/ce_loss",
        "eval/CrossEntropyLoss",
        "val/cross_entropy",
        "val/total_loss",
        "eval/total_loss",
        "eval/val_loss",
        "val/val_loss",
        "mean_val_loss",
        "validate/loss",
        "vl_loss",
    ),
    HOST_PERCENT: ("memory_percent", "system.memory_percent", "system.memory"),
    HOST_AVAILABLE: ("proc.memory.availableMB", "system.proc.memory.availableMB"),
    DEVICE_PERCENT: tuple(
        f"{prefix}gpu.{gpu}.{which}"
        for gpu in _GPUS
        for prefix in ("", "system.")
        for which in ("memoryAllocated", "process.memoryAllocated")
    ),
    Series("host_memory_process_bytes"): ("proc.memory.rssMB", "system.proc.memory.rssMB"),
    Series("gpu_temperature_celsius"): tuple(
        f"{prefix}gpu.{gpu}.temp" for gpu in _GPUS for prefix in ("", "system.")
    ),
    Series("gpu_power_watts"): tuple(
        f"{prefix}gpu.{gpu}.powerWatts" for gpu in _GPUS for prefix in ("", "system.")
    ),
}
_NOT_A_LETTER = re.compile(r"[^a-z0-9]+")
# A catalog name in a log of our own, or of somebody who has read the catalog, is what it says.
_OWN = {
    name: Series(name) for name, one in CATALOG.items() if not one.label and one.made_by == "rank"
}


def plain(name: str) -> str:
    """A name as it is compared: lower case, letters and digits only."""
    return _NOT_A_LETTER.sub("", name.lower())


def _scale(name: str) -> float:
    if name.endswith(("ms", "msperstep", "msstep")):
        return 1e-3
    return float(1 << 20) if name.endswith("mb") else 1.0


def _table() -> dict[str, Meaning]:
    table: dict[str, Meaning] = {}
    for series, names in _NAMES.items():
        for rank, name in enumerate(map(plain, names)):
            scaled = series.signal == "step_seconds" or name.endswith("mb")
            table.setdefault(name, Meaning(series, rank, _scale(name) if scaled else 1.0))
    for name, series in _OWN.items():
        table.setdefault(plain(name), Meaning(series, 0))
    return table


_TABLE = _table()


def meaning(name: str) -> Meaning | None:
    """What a column of this name is, or None if nobody here knows it."""
    return None if len(name) > _MAX_NAME else _meaning(name)


@lru_cache(maxsize=8192)
def _meaning(name: str) -> Meaning | None:
    found = _TABLE.get(plain(name)) or _TABLE.get(plain(name.rpartition(_OF_RUN)[2]))
    if found is not None and found.series == STEP and name.startswith("_"):
        return Meaning(STEP, len(_NAMES[STEP]))  # W&B's own counter, after those of the script
    return found


def chosen(columns: Mapping[str, str]) -> dict[Series, str]:
    """The name of the column that was asked for, by series. Raises `ReplayError`.

    `columns` has it by the signal's name: "loss", "logged.NAME", "layer_grad_norm.h.3", or "step"
    and "time".
    """
    return {_named(signal): column for signal, column in columns.items()}


def _named(signal: str) -> Series:
    if signal in ("step", "time"):
        return Series(signal)
    name, _, label = signal.partition(".")
    known = CATALOG.get(name)
    if known is None or known.made_by != "rank":
        names: Iterable[str] = [one.name for one in CATALOG.values() if one.made_by == "rank"]
        hint = did_you_mean(name, [*names, "step", "time"])
        raise ReplayError(f"column for {signal!r}: no such signal{hint}")
    if known.label and not label:
        raise ReplayError(
            f"column for {signal!r}: its series have a {known.label}:"
            f" say {name}.{known.label.upper()}"
        )
    if label and not known.label:
        raise ReplayError(f"column for {signal!r}: {name!r} has no labels")
    if len(label) > _MAX_NAME:
        raise ReplayError(f"column for {signal!r}: a label of more than {_MAX_NAME} characters")
    return Series(name, label)
