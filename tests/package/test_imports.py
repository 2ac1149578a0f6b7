"""Neither side drags in what only the other one needs.

import-linter reads the sources (see pyproject.toml); here is what really gets imported, and
whether what is imported is declared.
"""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from tests.package.tools import ROOT

# Prints the modules that importing everything named in sys.argv brings, beyond what a first
# import (sys.argv[1], may be empty) has brought already.
PROGRAM = """
import importlib, json, pkgutil, sys
first, *packages = sys.argv[1:]
if first:
    importlib.import_module(first)
before = set(sys.modules)
for name in packages:
    package = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""

TRAINING_SIDE = (
    "sentinel_hooks.attach",
    "sentinel_hooks.adapters",
    "sentinel_hooks.probes",
    "sentinel.control",
)


def brought(first: str, *packages: str) -> set[str]:
    """Top-level names that importing `packages` brings to an interpreter that has `first`."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, first, *packages],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return {name.partition(".")[0] for name in json.loads(ran.stdout)}


def test_the_training_side_adds_msgspec_alone_to_torch() -> None:
    added = brought("torch", *TRAINING_SIDE)
    assert added - set(sys.stdlib_module_names) <= {"msgspec", "sentinel", "sentinel_hooks"}
    assert "sqlite3" not in added


def test_the_whole_daemon_side_never_imports_torch() -> None:
    assert brought("", "sentinel").isdisjoint({"torch", "deepspeed", "sentinel_hooks"})


def imported(files: Iterable[Path]) -> set[str]:
    """The top-level names of what these files import, anywhere in them, but for Python's own."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - {"sentinel", "sentinel_hooks"} - set(sys.stdlib_module_names)


def declared(extra: str) -> set[str]:
    """Names of the distributions that the package requires, with this extra."""
    wanted = set()
    for line in metadata.requires("sentinel-train") or []:
        needed, _, marker = line.partition(";")
        if not marker or f"extra == '{extra}'" in marker:
            name = needed.partition(">")[0].partition("[")[0].strip()
            wanted.add(name.lower().replace("_", "-"))
    return wanted


@pytest.mark.parametrize(
    ("patterns", "extras"),
    [
        (["sentinel/**/*.py"], ["daemon"]),
        (["hooks/**/*.py", "sentinel/*.py"], ["trainer", "gpu"]),
    ],
)
def test_what_is_imported_is_declared_and_what_is_declared_is_imported(
    patterns: list[str], extras: list[str]
) -> None:
    distributions = metadata.packages_distributions()
    used = imported(file for pattern in patterns for file in ROOT.glob(pattern))
    names = {name.lower().replace("_", "-") for module in used for name in distributions[module]}
    assert names == set().union(*map(declared, extras))


def test_the_import_contracts_name_every_module() -> None:
    """A module that is in no contract would be watched by nobody."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    shared = {
        *("address", "bearer", "blackbox", "clock", "control", "errors", "remedies"),
        *("signals", "splitter", "tls", "wire"),
    }
    modules = {found.name for found in pkgutil.iter_modules([str(ROOT / "sentinel")])}
    for module in modules - shared - {"__main__"}:
        assert f'"sentinel.{module}"' in pyproject, f"no contract keeps hooks from {module}"
