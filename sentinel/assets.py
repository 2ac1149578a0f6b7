"""Find the files that ship with Sentinel: rules, dashboards, systemd units."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def asset_dir(kind: Literal["rules", "dashboards", "systemd"]) -> Path:
    """The folder of one kind of shipped file, in an installed wheel and in a source checkout."""
    package = Path(__file__).parent
    packaged = package / "_data" / kind
    return packaged if packaged.is_dir() else package.parent / kind
