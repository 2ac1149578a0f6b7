"""The catalog of signals: what each quantity is called, its unit, and how ranks combine.

Both sides read it: a rank announces the series it can measure by these names, and the daemon
reduces them over ranks and checks the names in rules against it.

A *step* is the n-th optimizer step, counted from 1, as DeepSpeed counts it in its log and in the
tags of its checkpoints: `global_steps` after `engine.step()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from enum import Enum


class Reduction(str, Enum):
    """How one series becomes one number from the values of all ranks that reported it."""

    MEAN = "mean"
    SUM = "sum"
    MAX = "max"
    ROOT_SUM = "root_sum"  # ranks send sums of squares of their shards; the result is a 2-norm


class Stage(int, Enum):
    """Where in a step a quantity arises: what is earlier can be the cause of what is later."""

    FORWARD = 0
    LOSS = 1
    BACKWARD = 2
    OPTIMIZER = 3
    AROUND = 4


@dataclass(frozen=True)
class Signal:
    """One named quantity.

    `label` names the one label its series carry besides the rank ("layer"), or is empty.
    `made_by` is "rank" for what probes measure, "engine" for what the daemon knows by itself.
    """

    name: str
    unit: str
    reduction: Reduction
    stage: Stage
    help: str
    label: str = ""
    made_by: str = "rank"


_MEAN, _SUM, _MAX = Reduction.MEAN, Reduction.SUM, Reduction.MAX

_ALL = (
    Signal("loss", "1", _MEAN, Stage.LOSS, "loss of the rank's own micro-batches, mean over them"),
    Signal("lr", "1", _MEAN, Stage.OPTIMIZER, "learning rate that this step used, first group"),
    Signal("loss_scale", "1", _MEAN, Stage.BACKWARD, "factor on the loss in fp16 training"),
    Signal("grad_norm", "1", _MEAN, Stage.BACKWARD, "2-norm of all gradients, before clipping"),
    Signal(
        "layer_grad_norm",
        "1",
        Reduction.ROOT_SUM,
        Stage.BACKWARD,
        "2-norm of the gradients of a module's own parameters, before clipping",
        label="layer",
    ),
    Signal(
        "nonfinite_activation",
        "modules",
        _SUM,
        Stage.FORWARD,
        "modules whose output had NaN or Inf",
    ),
    Signal(
        "nonfinite_gradient", "layers", _MAX, Stage.BACKWARD, "layers whose gradient had NaN or Inf"
    ),
    Signal(
        "nonfinite_update", "1", _MAX, Stage.OPTIMIZER, "1 if a non-finite gradient was applied"
    ),
    Signal("skipped", "1", _MAX, Stage.OPTIMIZER, "1 if the optimizer silently skipped this step"),
    Signal("overflow", "1", _MAX, Stage.OPTIMIZER, "1 if an fp16 loss scaler skipped this step"),
    Signal("step_seconds", "s", _MAX, Stage.AROUND, "from one step boundary to the next"),
    Signal("data_seconds", "s", _MAX, Stage.AROUND, "from a step boundary to the first forward"),
    Signal("forward_seconds", "s", _MAX, Stage.AROUND, "forward passes of all micro-batches"),
    Signal("backward_seconds", "s", _MAX, Stage.AROUND, "backward passes of all micro-batches"),
    Signal("optimizer_seconds", "s", _MAX, Stage.AROUND, "the optimizer step"),
    Signal("monitor_seconds", "s", _MAX, Stage.AROUND, "time spent in Sentinel's own code"),
    Signal(
        "tokens_per_second",
        "1/s",
        _SUM,
        Stage.AROUND,
        "tokens of the rank's micro-batches per second",
    ),
    Signal(
        "host_memory_process_bytes",
        "B",
        _MAX,
        Stage.AROUND,
        "resident memory of the rank's process",
    ),
    Signal(
        "host_memory_used_bytes",
        "B",
        _MAX,
        Stage.AROUND,
        "memory in use on the host or in its cgroup",
    ),
    Signal(
        "host_memory_limit_bytes", "B", _MAX, Stage.AROUND, "memory the host or its cgroup may use"
    ),
    Signal("device_memory_allocated_bytes", "B", _MAX, Stage.AROUND, "tensors on the device"),
    Signal(
        "device_memory_reserved_bytes", "B", _MAX, Stage.AROUND, "held by torch's caching allocator"
    ),
    Signal("device_memory_peak_bytes", "B", _MAX, Stage.AROUND, "highest allocated so far"),
    Signal(
        "device_memory_used_bytes", "B", _MAX, Stage.AROUND, "in use on the device by all processes"
    ),
    Signal("device_memory_limit_bytes", "B", _MAX, Stage.AROUND, "memory the device has"),
    Signal(
        "silence", "s", _MAX, Stage.AROUND, "since a rank was last heard from", made_by="engine"
    ),
    Signal(
        "lost",
        "1",
        _MAX,
        Stage.AROUND,
        "1 once a rank's connection ended without a farewell and did not come back",
        made_by="engine",
    ),
)

CATALOG: Mapping[str, Signal] = {signal.name: signal for signal in _ALL}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelled name: `, did you mean 'grad_norm'?`, or nothing."""
    names = list(known)
    close = get_close_matches(name, names)
    if not close:
        return ""
    # Of those that are equally near, the one that comes first: catalogs begin with what is usual.
    best = max(names, key=lambda one: (one in close) * SequenceMatcher(a=name, b=one).ratio())
    return f", did you mean {best!r}?"
