"""`sentinel top`: asking (snapshot, asking), drawing (frame, runs, ranks, letters), the terminal
(screen)."""

from __future__ import annotations

from sentinel.cli.top.command import command as command
