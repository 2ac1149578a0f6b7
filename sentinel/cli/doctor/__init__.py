"""`sentinel doctor`: one file a group of checks, which add themselves to a registry (check)."""

from __future__ import annotations

from sentinel.cli.doctor.command import command as command
