"""What is promised to those who import Sentinel, and what importing it costs them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata

import pytest

import sentinel
from tests.package.tools import ROOT


def test_the_public_names_are_these_and_no_others() -> None:
    assert sentinel.__all__ == ["__version__", "attach"]


def test_attach_is_the_one_of_the_training_side() -> None:
    assert sentinel.attach is importlib.import_module("sentinel_hooks.attach").attach


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'sentinel' has no attribute 'atach'"):
        _ = sentinel.atach


def test_the_version_is_that_of_the_distribution_and_of_the_changelog() -> None:
    assert metadata.version("sentinel-train") == sentinel.__version__
    assert f"## [{sentinel.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_sentinel_alone_imports_nothing_else() -> None:
    program = (
        "import sys; before = set(sys.modules); import sentinel; print(*set(sys.modules) - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    brought = {name.partition(".")[0] for name in ran.stdout.split()}
    assert brought - set(sys.stdlib_module_names) == {"sentinel"}


def test_without_extras_the_distribution_requires_msgspec_alone() -> None:
    required = metadata.requires("sentinel-train") or []
    assert [name for name in required if "extra ==" not in name] == ["msgspec>=0.19"]
