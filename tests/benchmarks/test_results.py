"""RESULTS.md has a part for each benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results import write_part


def test_a_part_takes_the_place_of_the_one_with_its_heading(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_part("# One\n\ntext\n\n## Its table\n", path)
    write_part("# Two\n\nother", path)
    write_part("# One\n\nanew\n", path)
    assert path.read_text() == "# One\n\nanew\n\n# Two\n\nother\n"


def test_a_part_needs_a_heading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heading"):
        write_part("no heading", tmp_path / "RESULTS.md")
