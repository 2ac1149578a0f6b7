"""What a device could do at best: dense matrix products in 16 bits, by its vendor's data sheet."""

from __future__ import annotations

import math
import os
import re

import torch

from sentinel.errors import AttachError

# FLOP/s in bf16 (on V100 and T4, which have none, fp16), without sparsity. The first whose words
# are all in the device's name counts, as whole words. Where a data sheet has only a figure with
# 2:4 sparsity, half of it. A name without a form factor is that of the SXM module.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("B300", 2.25e15),
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("GH200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("H800 PCIe", 756e12),
    ("H800", 989.4e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("A40", 149.7e12),
    ("A30", 165e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("V100 PCIE", 112e12),
    ("V100", 125e12),
    ("T4", 65e12),
    ("MI325X", 1307.4e12),
    ("MI300X", 1307.4e12),
    ("MI250X", 191.5e12),  # of one of its two dies, which is what is seen as a device
    ("MI250", 181e12),
)


def known_peak(name: str) -> float | None:
    """FLOP/s of the device of this name, or None if it is not in the table."""
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    if "MIG" in words:  # a slice of it
        return None
    for wanted, peak in _PEAKS:
        if set(wanted.upper().split()) <= words:
            return peak
    return None


def peak_of(device: torch.device, given: float | None) -> tuple[float, str]:
    """FLOP/s of this device, and why they are not known where they are not (then 0).

    `given` comes before the table.
    """
    if given is not None:
        return given, ""
    ask = "give attach(peak_flops=...) or SENTINEL_PEAK_FLOPS"
    if device.type != "cuda":
        return 0.0, f"what a {device.type} could do at best is in no data sheet: {ask}"
    name = torch.cuda.get_device_name(device)
    peak = known_peak(name)
    return (0.0, f"{name} is not in the table of peaks: {ask}") if peak is None else (peak, "")


def stated_peak(given: float | None) -> float | None:
    """`given`, or what `$SENTINEL_PEAK_FLOPS` says, or None. Raises `AttachError` for nonsense."""
    text = os.environ.get("SENTINEL_PEAK_FLOPS") if given is None else str(given)
    if not text:
        return None
    try:
        peak = float(text)
    except ValueError:
        peak = math.nan
    if not 0 < peak < math.inf:
        name = "SENTINEL_PEAK_FLOPS" if given is None else "peak_flops"
        raise AttachError(f"{name} is {text}: expected FLOP/s of one device, such as 989.4e12")
    return peak
