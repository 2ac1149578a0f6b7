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
    REDUCTION = 3
    OPTIMIZER = 4
    AROUND = 5


@dataclass(frozen=True)
class Signal:
    """One named quantity.

    `label` names the one label its series carry besides the rank ("layer"), or is empty.
    `made_by` is "rank" for what probes measure, "derived" for what follows from such signals when
    a step is judged (see engine.derived), "engine" for what the daemon knows by itself.
    `sporadic`: measured only when it happens, so that its silence says nothing.
    """

    name: str
    unit: str
    reduction: Reduction
    stage: Stage
    help: str
    label: str = ""
    made_by: str = "rank"
    sporadic: bool = False


_MEAN, _SUM, _MAX, _ROOT_SUM = Reduction.MEAN, Reduction.SUM, Reduction.MAX, Reduction.ROOT_SUM
_FORWARD, _LOSS, _BACKWARD = Stage.FORWARD, Stage.LOSS, Stage.BACKWARD
_REDUCTION, _OPTIMIZER, _AROUND = Stage.REDUCTION, Stage.OPTIMIZER, Stage.AROUND

_TRAINING = (
    Signal("loss", "1", _MEAN, _LOSS, "loss of the rank's own micro-batches, mean over them"),
    Signal("lr", "1", _MEAN, _OPTIMIZER, "learning rate that this step used, first group"),
    Signal(
        "zero_lr",
        "1",
        _MAX,
        _OPTIMIZER,
        "1 if every group's learning rate was 0, so that the step could change nothing",
    ),
    Signal("loss_scale", "1", _MEAN, _BACKWARD, "factor on the loss in fp16 training"),
    Signal(
        "loss_scale_at_floor",
        "1",
        _MAX,
        _BACKWARD,
        "1 if the loss scale is as small as the scaler may make it",
    ),
    Signal("grad_norm", "1", _MEAN, _REDUCTION, "2-norm of all gradients, before clipping"),
    Signal(
        "summed_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of all gradients, before clipping, from the shards of all ranks",
    ),
    Signal(
        "grad_norm_masked",
        "1",
        _MAX,
        _REDUCTION,
        "1 if the trainer said -1, infinity or nothing where its gradient norm was not finite",
    ),
    Signal(
        "clip_coefficient",
        "1",
        _MEAN,
        _OPTIMIZER,
        "what clipping multiplied the gradients by; 1 is no clipping",
    ),
    Signal(
        "backward_bypassed",
        "1",
        _MAX,
        _BACKWARD,
        "1 if loss.backward() was called past the trainer's own backward",
    ),
    Signal("skipped", "1", _MAX, _OPTIMIZER, "1 if the optimizer silently skipped this step"),
    Signal("overflow", "1", _MAX, _OPTIMIZER, "1 if an fp16 loss scaler skipped this step"),
)

_PARAMETERS = (
    Signal(
        "layer_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of the gradients of a module's own parameters, before clipping",
        label="layer",
    ),
    Signal(
        "update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to all parameters",
        made_by="derived",
    ),
    Signal(
        "layer_update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to a module's own parameters",
        label="layer",
    ),
    Signal(
        "layer_weight_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of a module's own parameters before the step",
        label="layer",
    ),
    Signal(
        "layer_update_ratio",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of the update over the 2-norm of the weights, of a module's own parameters",
        label="layer",
        made_by="derived",
    ),
    Signal(
        "layer_adam_rms",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "Adam's RMS_t as a 2-norm: root of the mean of g^2 / max(v, eps^2) over a module's own"
        " parameters",
        label="layer",
    ),
    Signal(
        "tensor_grad_norm",
        "1",
        _ROOT_SUM,
        _REDUCTION,
        "2-norm of the gradient of one parameter tensor, before clipping",
        label="tensor",
    ),
    Signal(
        "tensor_update_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of what the step added to one parameter tensor",
        label="tensor",
    ),
    Signal(
        "tensor_weight_norm",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of one parameter tensor before the step",
        label="tensor",
    ),
    Signal(
        "tensor_update_ratio",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "2-norm of the update over the 2-norm of the weights, of one parameter tensor",
        label="tensor",
        made_by="derived",
    ),
    Signal(
        "tensor_adam_rms",
        "1",
        _ROOT_SUM,
        _OPTIMIZER,
        "Adam's RMS_t as a 2-norm: root of the mean of g^2 / max(v, eps^2) over one tensor",
        label="tensor",
    ),
)

_NON_FINITE = (
    Signal("nonfinite_activation", "modules", _SUM, _FORWARD, "modules that put out NaN or Inf"),
    Signal(
        "nonfinite_local_gradient",
        "parameters",
        _SUM,
        _BACKWARD,
        "parameters whose gradient had NaN or Inf on this rank, before it was reduced",
    ),
    Signal(
        "nonfinite_gradient", "layers", _MAX, _REDUCTION, "layers whose gradient had NaN or Inf"
    ),
    Signal("nonfinite_update", "1", _MAX, _OPTIMIZER, "1 if a non-finite gradient was applied"),
)

_PHASES = (
    Signal("step_seconds", "s", _MAX, _AROUND, "from one step boundary to the next"),
    Signal("data_seconds", "s", _MAX, _AROUND, "waiting for batches"),
    Signal("forward_seconds", "s", _MAX, _AROUND, "forward passes of all micro-batches"),
    Signal("backward_seconds", "s", _MAX, _AROUND, "backward passes of all micro-batches"),
    Signal("optimizer_seconds", "s", _MAX, _AROUND, "the optimizer step"),
    Signal(
        "checkpoint_seconds",
        "s",
        _MAX,
        _AROUND,
        "saving checkpoints since the last step",
        sporadic=True,
    ),
    Signal(
        "exposed_communication_seconds",
        "s",
        _MAX,
        _AROUND,
        "waiting for collectives with no compute to hide them",
    ),
    Signal("tokens_per_second", "1/s", _SUM, _AROUND, "tokens of the micro-batches per second"),
    Signal(
        "model_flops_utilization",
        "1",
        _MEAN,
        _AROUND,
        "floating-point operations that the model needs over what the device could do",
    ),
)

_HOST_MEMORY = (
    Signal("host_memory_process_bytes", "B", _MAX, _AROUND, "resident in the rank's process"),
    Signal(
        "host_memory_children_bytes",
        "B",
        _MAX,
        _AROUND,
        "resident in all that it has started, shared pages counted in each",
    ),
    Signal(
        "host_memory_pinned_bytes",
        "B",
        _MAX,
        _AROUND,
        "locked or pinned by the rank's process, for devices included",
    ),
    Signal("host_memory_used_bytes", "B", _MAX, _AROUND, "in use on the host or in its cgroup"),
    Signal("host_memory_limit_bytes", "B", _MAX, _AROUND, "what the host or its cgroup may use"),
    Signal("host_swap_used_bytes", "B", _MAX, _AROUND, "swapped out of the host or its cgroup"),
    Signal(
        "host_oom_kills",
        "kills",
        _MAX,
        _AROUND,
        "by the kernel, for want of memory, in the rank's cgroup or on the host, so far",
    ),
)

_DEVICE_MEMORY = (
    Signal("device_memory_allocated_bytes", "B", _MAX, _AROUND, "tensors on the device"),
    Signal("device_memory_reserved_bytes", "B", _MAX, _AROUND, "held by torch's allocator"),
    Signal(
        "device_memory_peak_bytes",
        "B",
        _MAX,
        _AROUND,
        "highest allocated, since the start or the script's last reset of torch's peak",
    ),
    Signal(
        "device_memory_inactive_split_bytes",
        "B",
        _MAX,
        _AROUND,
        "free parts of blocks that the allocator has split and cannot give back",
    ),
    Signal(
        "device_memory_largest_free_bytes",
        "B",
        _MAX,
        _AROUND,
        "largest free block that the allocator holds",
    ),
    Signal(
        "device_memory_fragmentation",
        "1",
        _MAX,
        _AROUND,
        "share of the allocator's free memory that is not in its largest free block",
    ),
    Signal(
        "device_memory_retries",
        "retries",
        _MAX,
        _AROUND,
        "allocations that succeeded only after the cache was flushed, so far",
    ),
    Signal("device_memory_ooms", "errors", _MAX, _AROUND, "out-of-memory errors, so far"),
    Signal("device_memory_used_bytes", "B", _MAX, _AROUND, "in use on the device, by everyone"),
    Signal(
        "device_memory_others_bytes", "B", _MAX, _AROUND, "in use on the device by other processes"
    ),
    Signal(
        "device_memory_limit_bytes",
        "B",
        _MAX,
        _AROUND,
        "the most torch's allocator can come to hold: what it may take, or others leave",
    ),
    Signal(
        "out_of_memory",
        "1",
        _MAX,
        _AROUND,
        "1 if memory ran out in this step, on the rank's device or its host",
    ),
)

_COLLECTIVES = (
    Signal(
        "collective_seconds",
        "s",
        _MAX,
        _AROUND,
        "from start to end of wait, summed over collectives of one kind and group in this step",
        label="collective",
    ),
    Signal(
        "collective_bytes",
        "B",
        _MAX,
        _AROUND,
        "that a rank gives to or gets from such collectives in this step, whichever is more",
        label="collective",
    ),
    Signal(
        "collective_sequence",
        "1",
        _MAX,
        _AROUND,
        "number of the last collective that the rank has entered in a group",
        label="group",
    ),
    Signal(
        "collective_wait_seconds",
        "s",
        _MAX,
        _AROUND,
        "spent longer in collectives than the group's fastest rank, which arrived last",
        label="collective",
        made_by="derived",
    ),
    Signal(
        "collective_bytes_per_second",
        "1/s",
        _MAX,
        _AROUND,
        "bytes over the seconds of the group's fastest rank",
        label="collective",
        made_by="derived",
    ),
    Signal(
        "gradient_compression",
        "1",
        _MEAN,
        _AROUND,
        "bytes that a compressed optimizer sends over the bytes it would send without",
    ),
)

_EXPERTS = (
    Signal(
        "expert_load",
        "1",
        _MEAN,
        _FORWARD,
        "share of a layer's routed tokens that one expert got",
        label="expert",
    ),
    Signal(
        "expert_imbalance",
        "1",
        _MEAN,
        _FORWARD,
        "load of a layer's busiest expert over the mean load of its experts, of a rank's tokens",
        label="layer",
    ),
    Signal(
        "expert_dropped_tokens",
        "tokens",
        _SUM,
        _FORWARD,
        "tokens that found no room in a layer's experts, once for each that was full",
        label="layer",
    ),
)

_HARDWARE = (
    Signal("gpu_utilization", "1", _MAX, _AROUND, "share of the time in which a kernel ran"),
    Signal("gpu_memory_utilization", "1", _MAX, _AROUND, "share of the time memory was accessed"),
    Signal("gpu_memory_used_bytes", "B", _MAX, _AROUND, "in use on the GPU, by everyone"),
    Signal("gpu_power_watts", "W", _MAX, _AROUND, "power drawn"),
    Signal("gpu_power_limit_watts", "W", _MAX, _AROUND, "power it may draw"),
    Signal("gpu_temperature_celsius", "C", _MAX, _AROUND, "temperature of the GPU"),
    Signal("gpu_memory_temperature_celsius", "C", _MAX, _AROUND, "temperature of its memory"),
    Signal("gpu_clock_hertz", "Hz", _MAX, _AROUND, "clock of the multiprocessors"),
    Signal("gpu_memory_clock_hertz", "Hz", _MAX, _AROUND, "clock of the memory"),
    Signal(
        "gpu_throttled",
        "1",
        _MAX,
        _AROUND,
        "1 if clocks are held down for this reason",
        label="reason",
    ),
    Signal(
        "gpu_slowdown",
        "1",
        _MAX,
        _AROUND,
        "1 if clocks are held down by heat, or by the hardware to protect itself",
    ),
    Signal(
        "gpu_ecc_corrected_errors",
        "errors",
        _MAX,
        _AROUND,
        "memory errors that were corrected, since the driver was loaded or in the GPU's life",
        label="kind",
    ),
    Signal(
        "gpu_ecc_uncorrected_errors",
        "errors",
        _MAX,
        _AROUND,
        "memory errors that were not, since the driver was loaded or in the GPU's life",
        label="kind",
    ),
    Signal(
        "gpu_ecc_uncorrected_new",
        "errors",
        _MAX,
        _AROUND,
        "memory errors that were not corrected, since the rank's process began to watch",
    ),
    Signal(
        "gpu_remapped_rows", "rows", _MAX, _AROUND, "memory rows remapped, by cause", label="kind"
    ),
    Signal("gpu_row_remap_pending", "1", _MAX, _AROUND, "1 if a row is remapped at the next reset"),
    Signal("gpu_row_remap_failure", "1", _MAX, _AROUND, "1 if a memory row could not be remapped"),
    Signal("gpu_nvlink_replays", "replays", _MAX, _AROUND, "of all links, so far"),
    Signal("gpu_pcie_replays", "replays", _MAX, _AROUND, "on the bus, so far"),
    Signal(
        "gpu_xid",
        "1",
        _MAX,
        _AROUND,
        "code of an Xid event of the last minute, 0 if there was none",
    ),
    Signal("gpu_lost", "1", _MAX, _AROUND, "1 if the driver has lost the GPU"),
)

DROPS = ("queue full", "no daemon")  # why a rank drops frames: the labels of `monitor_dropped`

_OURSELVES = (
    Signal("monitor_seconds", "s", _MAX, _AROUND, "time spent in Sentinel's own code"),
    Signal("monitor_share", "1", _MAX, _AROUND, "the same over the time of the step"),
    Signal("monitor_queue", "frames", _MAX, _AROUND, "frames that wait to be sent"),
    Signal("monitor_dropped", "frames", _MAX, _AROUND, "frames dropped, by reason", label="reason"),
    Signal("silence", "s", _MAX, _AROUND, "since a rank was last heard from", made_by="engine"),
    Signal(
        "stall",
        "s",
        _MAX,
        _AROUND,
        "since a rank last did a step or entered a collective, or stood to save or on hold",
        made_by="engine",
    ),
    Signal(
        "collective_lag",
        "1",
        _MAX,
        _AROUND,
        "collectives that a rank has not entered and others of its group have",
        made_by="engine",
    ),
    Signal(
        "lost",
        "1",
        _MAX,
        _AROUND,
        "1 once a rank's connection ended without a farewell and did not come back",
        made_by="engine",
    ),
    Signal(
        "failed",
        "1",
        _MAX,
        _AROUND,
        "1 once a rank's script has ended with an exception",
        made_by="engine",
    ),
    Signal(
        "last_good_at_risk",
        "1",
        _MAX,
        _AROUND,
        "1 while the next save is likely to remove the newest healthy checkpoint, too early",
        made_by="engine",
    ),
    Signal(
        "last_good_gone",
        "1",
        _MAX,
        _AROUND,
        "1 while no checkpoint is healthy, since the script has removed what was or would be",
        made_by="engine",
    ),
)

_LOGGED = (
    Signal(
        "logged",
        "1",
        _MEAN,
        _AROUND,
        "what the script gave to watch.log",
        label="name",
        sporadic=True,
    ),
)

_ALL = (
    *_TRAINING,
    *_PARAMETERS,
    *_NON_FINITE,
    *_PHASES,
    *_HOST_MEMORY,
    *_DEVICE_MEMORY,
    *_COLLECTIVES,
    *_EXPERTS,
    *_HARDWARE,
    *_OURSELVES,
    *_LOGGED,
)

CATALOG: Mapping[str, Signal] = {signal.name: signal for signal in _ALL}

# What is found in these is of one micro-batch of the rank itself. Other findings name none, such as
# those in gradients that have been reduced over all ranks and micro-batches of the step.
OF_ONE_MICRO_BATCH = frozenset({"loss", "nonfinite_activation", "nonfinite_local_gradient"})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelled name: `, did you mean 'grad_norm'?`, or nothing."""
    names = list(known)
    close = get_close_matches(name, names)
    if not close:
        return ""
    # Of those that are equally near, the one that comes first: catalogs begin with what is usual.
    best = max(names, key=lambda one: (one in close) * SequenceMatcher(a=name, b=one).ratio())
    return f", did you mean {best!r}?"
