"""For all tests: the fast ones first, so that a plain mistake shows at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest
from hypothesis import HealthCheck, settings

# The processes of the tests share the cores: threads of each that spin for work take them from
# others. Before anything imports PyTorch; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared machine may be slow: no test fails for the time that it took.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_report_header() -> str:
    """The versions that decide what training shows."""
    return ", ".join(f"{name} {_version(name)}" for name in ("torch", "deepspeed"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `slow` run last; otherwise the order stays as it is.

    Where several processes share them they run first: a long one that began last would be waited
    for by all others.
    """
    first = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None) != first)


@pytest.fixture(autouse=True, scope="session")
def _black_boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Black boxes of ranks that tests kill stay with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINEL_BLACKBOX", str(tmp_path_factory.mktemp("blackbox")))
        yield
