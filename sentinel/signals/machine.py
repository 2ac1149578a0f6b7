"""Where time, memory and communication go, and how the hardware does."""

from __future__ import annotations

from sentinel.signals.signal import Reduction, Signal, Stage

_MEAN, _SUM, _MAX = Reduction.MEAN, Reduction.SUM, Reduction.MAX
_AROUND = Stage.AROUND

PHASES = (
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

HOST_MEMORY = (
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

DEVICE_MEMORY = (
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

COLLECTIVES = (
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
        "B/s",
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

HARDWARE = (
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
