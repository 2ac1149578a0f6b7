"""The names of all that is read of a GPU: what the sampler writes and the ranks expect."""

from __future__ import annotations

THROTTLING = {  # nvmlClocksEventReasons, formerly nvmlClocksThrottleReasons
    0x001: "gpu_idle",
    0x002: "application_clocks",
    0x004: "software_power_cap",
    0x008: "hardware_slowdown",
    0x010: "sync_boost",
    0x020: "software_thermal",
    0x040: "hardware_thermal",
    0x080: "hardware_power_brake",
    0x100: "display_clocks",
}
ECC_COUNTERS = ("volatile", "aggregate")
REMAPPINGS = ("correctable", "uncorrectable")

NEW_ERRORS = "gpu_ecc_uncorrected_new"  # a rank's own reckoning

_LABELS = {
    "gpu_throttled": tuple(THROTTLING.values()),
    "gpu_ecc_corrected_errors": ECC_COUNTERS,
    "gpu_ecc_uncorrected_errors": ECC_COUNTERS,
    "gpu_remapped_rows": REMAPPINGS,
}

SIGNALS = (
    "gpu_utilization",
    "gpu_memory_utilization",
    "gpu_memory_used_bytes",
    "gpu_power_watts",
    "gpu_power_limit_watts",
    "gpu_temperature_celsius",
    "gpu_memory_temperature_celsius",
    "gpu_clock_hertz",
    "gpu_memory_clock_hertz",
    "gpu_throttled",
    "gpu_slowdown",
    "gpu_ecc_corrected_errors",
    "gpu_ecc_uncorrected_errors",
    NEW_ERRORS,
    "gpu_remapped_rows",
    "gpu_row_remap_pending",
    "gpu_row_remap_failure",
    "gpu_nvlink_replays",
    "gpu_pcie_replays",
    "gpu_xid",
    "gpu_lost",
)

# Signal and label of each series, in the order of a rank's frames.
SERIES = tuple((signal, label) for signal in SIGNALS for label in _LABELS.get(signal, ("",)))


def key(signal: str, label: str) -> str:
    """Under which name a series stands in a report."""
    return f"{signal}|{label}" if label else signal
