"""What NVML is asked about one GPU.

Every question may be one that this GPU or this driver does not answer: its signals are then
missing, with NVML's own word for why, and the others are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pynvml

from sentinel_hooks.hardware.quantities import ECC_COUNTERS, NEW_ERRORS, REMAPPINGS, THROTTLING, key

Handle = object  # NVML's own, opaque
Values = Mapping[str, float]  # by signal, or `signal|label`
Note = Callable[[str], None]

_SLOWDOWN = 0x008 | 0x020 | 0x040 | 0x080  # heat, or a signal to the hardware from outside
_NO_SUCH_LINK = (pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_SUPPORTED)
_ECC = dict(zip(ECC_COUNTERS, (pynvml.NVML_VOLATILE_ECC, pynvml.NVML_AGGREGATE_ECC), strict=True))


@dataclass(frozen=True)
class Question:
    """One call, or a few of one kind, and the signals that it answers."""

    name: str  # of the call
    signals: tuple[str, ...]
    ask: Callable[[Handle], Values]


def ask_all(handle: Handle, note: Note) -> tuple[dict[str, float], dict[str, str]]:
    """The values of one GPU, and why there are no others.

    `note` is told the name of each call before it is made: it may be the last that is heard.
    """
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    lost = False
    for question in QUESTIONS:
        note(question.name)
        try:
            values.update(question.ask(handle))
        except Exception as error:  # noqa: BLE001 - one question that fails is one, whatever it is
            if isinstance(error, pynvml.NVMLError):
                lost = lost or error.value == pynvml.NVML_ERROR_GPU_IS_LOST
            why = f"{question.name}: {error}"[:400]
            reasons.update(dict.fromkeys(question.signals, why))
    if lost or values:
        values["gpu_lost"] = float(lost)
    else:
        reasons["gpu_lost"] = "no call succeeded, and none says that the GPU is lost"
    return values, reasons


def first_known(names: Sequence[str], *arguments: object) -> float:
    """Call the first of these functions that both pynvml and the driver have."""
    unknown = pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    for name in names:
        function = getattr(pynvml, name, None)
        if function is None:
            continue
        try:
            return float(function(*arguments))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
    raise unknown


def _utilization(handle: Handle) -> Values:
    used = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return {"gpu_utilization": used.gpu / 100, "gpu_memory_utilization": used.memory / 100}


def _memory(handle: Handle) -> Values:
    return {"gpu_memory_used_bytes": float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)}


def _power(handle: Handle) -> Values:
    return {"gpu_power_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _power_limit(handle: Handle) -> Values:
    return {"gpu_power_limit_watts": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000}


def _temperature(handle: Handle) -> Values:
    names = ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV")
    return {"gpu_temperature_celsius": first_known(names, handle, pynvml.NVML_TEMPERATURE_GPU)}


def _memory_temperature(handle: Handle) -> Values:
    (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_MEMORY_TEMP])
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return {"gpu_memory_temperature_celsius": float(field.value.uiVal)}


def _clock(handle: Handle) -> Values:
    megahertz = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
    return {"gpu_clock_hertz": megahertz * 1e6}


def _memory_clock(handle: Handle) -> Values:
    megahertz = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)
    return {"gpu_memory_clock_hertz": megahertz * 1e6}


def _throttling(handle: Handle) -> Values:
    names = (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    )
    bits = int(first_known(names, handle))
    by_reason = {
        key("gpu_throttled", name): float(bits & bit != 0) for bit, name in THROTTLING.items()
    }
    return {**by_reason, "gpu_slowdown": float(bits & _SLOWDOWN != 0)}


def _ecc(signal: str, error_type: int) -> Callable[[Handle], Values]:
    def ask(handle: Handle) -> Values:
        return {
            key(signal, kind): float(
                pynvml.nvmlDeviceGetTotalEccErrors(handle, error_type, counter)
            )
            for kind, counter in _ECC.items()
        }

    return ask


def _remapped_rows(handle: Handle) -> Values:
    *rows, pending, failure = pynvml.nvmlDeviceGetRemappedRows(handle)
    by_cause = zip(REMAPPINGS, rows, strict=True)
    return {
        **{key("gpu_remapped_rows", cause): float(count) for cause, count in by_cause},
        "gpu_row_remap_pending": float(pending),
        "gpu_row_remap_failure": float(failure),
    }


def _nvlink_replays(handle: Handle) -> Values:
    """The sum over the links that are active; a GPU without one has none to count."""
    counter = pynvml.NVML_NVLINK_ERROR_DL_REPLAY
    replays = [
        pynvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter)
        for link in _active_links(handle)
    ]
    if not replays:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return {"gpu_nvlink_replays": float(sum(replays))}


def _active_links(handle: Handle) -> list[int]:
    active = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            if pynvml.nvmlDeviceGetNvLinkState(handle, link) == pynvml.NVML_FEATURE_ENABLED:
                active.append(link)
        except pynvml.NVMLError as error:
            if error.value not in _NO_SUCH_LINK:
                raise
    return active


def _pcie_replays(handle: Handle) -> Values:
    return {"gpu_pcie_replays": float(pynvml.nvmlDeviceGetPcieReplayCounter(handle))}


def _ecc_question(error_type: int, signal: str, *also: str) -> Question:
    return Question("nvmlDeviceGetTotalEccErrors", (signal, *also), _ecc(signal, error_type))


QUESTIONS = (
    Question(
        "nvmlDeviceGetUtilizationRates",
        ("gpu_utilization", "gpu_memory_utilization"),
        _utilization,
    ),
    Question("nvmlDeviceGetMemoryInfo", ("gpu_memory_used_bytes",), _memory),
    Question("nvmlDeviceGetPowerUsage", ("gpu_power_watts",), _power),
    Question("nvmlDeviceGetEnforcedPowerLimit", ("gpu_power_limit_watts",), _power_limit),
    Question("nvmlDeviceGetTemperature", ("gpu_temperature_celsius",), _temperature),
    Question("nvmlDeviceGetFieldValues", ("gpu_memory_temperature_celsius",), _memory_temperature),
    Question("nvmlDeviceGetClockInfo", ("gpu_clock_hertz",), _clock),
    Question("nvmlDeviceGetClockInfo", ("gpu_memory_clock_hertz",), _memory_clock),
    Question(
        "nvmlDeviceGetCurrentClocksEventReasons", ("gpu_throttled", "gpu_slowdown"), _throttling
    ),
    _ecc_question(pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, "gpu_ecc_corrected_errors"),
    _ecc_question(
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, "gpu_ecc_uncorrected_errors", NEW_ERRORS
    ),
    Question(
        "nvmlDeviceGetRemappedRows",
        ("gpu_remapped_rows", "gpu_row_remap_pending", "gpu_row_remap_failure"),
        _remapped_rows,
    ),
    Question("nvmlDeviceGetNvLinkErrorCounter", ("gpu_nvlink_replays",), _nvlink_replays),
    Question("nvmlDeviceGetPcieReplayCounter", ("gpu_pcie_replays",), _pcie_replays),
)
