"""The tables of the history in `telemetry.db`."""

from __future__ import annotations

from sqlite_utils import Database as Tables


def history_tables(tables: Tables) -> None:
    """Histories, their columns, their blocks of steps, and the sheets of those."""
    tables.create_table("histories", {"id": int, "run": str}, pk="id", not_null=["run"])
    tables["histories"].create_index(["run"])  # type: ignore[union-attr]
    tables.create_table(
        "history_columns",
        {"history": int, "sheet": str, "number": int, "name": str, "first": int},
        pk=("history", "sheet", "number"),
        not_null=["name", "first"],
    )
    blocks = tables.create_table(
        "history_blocks",
        {
            "id": int,
            "history": int,
            "first": int,
            "last": int,
            "whole": int,
            "bytes": int,
            "steps": bytes,
        },
        pk="id",
        not_null=["history", "first", "last", "whole", "bytes", "steps"],
    )
    blocks.create_index(["history"])
    # What is read of a whole run comes before what is read of parts of it.
    sheets = tables.create_table(
        "history_sheets",
        {"id": int, "block": int, "sheet": str, "bytes": int, "coarse": bytes, "body": bytes},
        pk="id",
        not_null=["block", "sheet", "bytes"],
    )
    sheets.create_index(["block", "sheet"], unique=True)
