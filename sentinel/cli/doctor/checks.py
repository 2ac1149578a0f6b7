"""All checks, in the order of the report. To add a group: write its file, and name it here."""

from __future__ import annotations

from sentinel.cli.doctor import (
    daemon,
    devices,
    host,
    messages,
    servers,
    state_directory,
    versions,
)
from sentinel.cli.doctor.check import REGISTRY, Check

_GROUPS = (state_directory, daemon, versions, devices, host, messages, servers)
_ORDER = [module.GROUP for module in _GROUPS]


def checks() -> list[Check]:
    """Every check there is."""
    return sorted(REGISTRY, key=lambda one: _ORDER.index(one.group))
