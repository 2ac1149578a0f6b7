"""Quantities of different units are neither compared nor added."""

from __future__ import annotations

import pytest

from sentinel.engine.language.parse import parse
from sentinel.errors import RuleError


@pytest.mark.parametrize(
    "text",
    [
        "host_memory_used_bytes > 0.95 * host_memory_limit_bytes",
        "host_memory_used_bytes / host_memory_limit_bytes > loss",
        "host_memory_used_bytes - 3e9 > 0",
        "slope(host_memory_process_bytes[100]) > 0.001 * host_memory_limit_bytes",
        "robust_z(host_memory_process_bytes) > loss",
        "collective_bytes / collective_seconds > collective_bytes_per_second",
        "loss / step_seconds > tokens_per_second",
        "gpu_clock_hertz * step_seconds > loss",
        "step_seconds * step_seconds > -(data_seconds * forward_seconds)",
        'logged["bytes"] > host_memory_used_bytes and logged["bytes"] > loss',
        "steps_until(host_memory_used_bytes[9], host_memory_limit_bytes) < count(loss[5])",
        "seconds_since(loss) > silence",
        "rank_outlier(step_seconds) > loss",
        "gpu_temperature_celsius - 5 > gpu_memory_temperature_celsius",
        "gpu_power_watts / gpu_power_limit_watts > 0.5",
        "device_memory_retries > device_memory_ooms + out_of_memory",
    ],
)
def test_quantities_of_one_unit_can_be_compared(text: str) -> None:
    assert parse(text).text == text


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        (
            "lr > 0 and loss > host_memory_used_bytes",
            12,
            "cannot be compared: a plain number, in bytes: divide what is in bytes by its like, "
            "such as host_memory_limit_bytes",
        ),
        ("data_seconds > loss", 1, "in seconds, a plain number: divide what is in seconds"),
        ("3 * gpu_power_watts >= step_seconds", 1, "in watts, in seconds: bring both to one unit"),
        ("step_seconds / host_memory_used_bytes > 1 / collective_bytes", 1, "in seconds / bytes"),
        ("data_seconds * step_seconds < data_seconds", 1, "in seconds^2, in seconds"),
        ("tokens_per_second > loss", 1, "in 1 / seconds, a plain number: divide what is"),
        ("0 < loss + step_seconds", 5, "'loss + step_seconds' cannot be added or subtracted"),
        ("mean(step_seconds[9]) > count(loss[9])", 1, "cannot be compared: in seconds, a plain"),
        ("steps_until(loss[9], data_seconds) > 1", 1, "cannot be compared: a plain number, in s"),
        ("1 < loss < silence", 1, "cannot be compared"),
        ("loss / 0 > 1", 8, "divides by zero"),
        ("loss / -0.0 > 1", 8, "divides by zero"),
    ],
)
def test_quantities_of_different_units_cannot(text: str, column: int, reason: str) -> None:
    with pytest.raises(RuleError) as raised:
        parse(text)
    assert reason in raised.value.reason
    assert raised.value.column == column
