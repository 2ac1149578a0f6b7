"""`make` says what is missing on a machine where it cannot do its set-up."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.package.tools import ROOT, tool

OLD = "exit 1"  # whatever it is asked, it is no Python 3.10
WITHOUT_VENV = (
    'case "$*" in *venv*) mkdir -p .venv/bin; exit 1;; esac'  # Debian without python3-venv
)


@pytest.mark.parametrize("target", ["demo", "test"])
@pytest.mark.parametrize(
    ("python", "told"),
    [(OLD, "needs Python 3.10 or newer"), (WITHOUT_VENV, "apt-get install python3-venv")],
    ids=["old", "without venv"],
)
def test_an_unfit_python_is_named_with_the_way_out(
    python: str, told: str, target: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    interpreter = tmp_path / "python3"
    interpreter.write_text(f"#!/bin/sh\n{python}\n")
    interpreter.chmod(0o755)
    ran = subprocess.run(
        [tool("make"), target, f"PYTHON={interpreter}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert told in ran.stdout
    assert not (tmp_path / ".venv" / f"installed-{target}").exists()


def test_ci_runs_what_make_test_runs() -> None:
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "make test"


def test_the_oldest_and_the_newest_deepspeed_that_are_promised_are_those_that_are_tested() -> None:
    makefile = (ROOT / "Makefile").read_text()
    oldest = re.search(r"^OLDEST_DEEPSPEED := (\S+)$", makefile, re.MULTILINE)
    promised = re.search(r'"deepspeed>=([^"]+)"', (ROOT / "pyproject.toml").read_text())
    newest = re.search(r"^deepspeed==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert oldest
    assert promised
    assert newest
    assert oldest[1] == promised[1]
    page = (ROOT / "docs" / "deepspeed.md").read_text()
    assert oldest[1] in page
    assert newest[1] in page
