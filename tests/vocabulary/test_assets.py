"""Shipped files are found; what a wheel holds is tried in tests/package/test_wheel.py."""

from __future__ import annotations

from typing import Literal

import pytest

from sentinel.assets import asset_dir


@pytest.mark.parametrize(
    ("kind", "shipped"),
    [
        ("rules", "default.yaml"),
        ("dashboards", "sentinel.json"),
        ("systemd", "sentinel.service"),
    ],
)
def test_every_kind_of_shipped_file_is_found(
    kind: Literal["rules", "dashboards", "systemd"], shipped: str
) -> None:
    folder = asset_dir(kind)
    assert folder.is_absolute()
    assert (folder / shipped).is_file()
