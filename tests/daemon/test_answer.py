"""Large answers do not keep everybody else waiting while they are written as JSON."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from sentinel.daemon.answer import in_parts, respond_in_turns


class Point(msgspec.Struct):
    at: int


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        [[]],
        [{}, {}],
        {"a": [], "b": {}, 'quoted "\n': [1, [2]]},
        {"series": [{"mean": [1.5, "NaN", None]}, {"mean": []}], "steps": [1, 2]},
        [{"x": [{"y": {"z": 1}}]}, [Point(3)], "mixed", None],
        Point(4),
    ],
)
def test_the_parts_are_the_whole(value: object) -> None:
    whole = b"".join(in_parts(value))
    assert msgspec.json.decode(whole) == msgspec.json.decode(msgspec.json.encode(value))


async def test_others_have_their_turn_while_a_large_answer_is_written() -> None:
    series = [{"label": str(n), "mean": [float(at) for at in range(2000)]} for n in range(200)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    answer = await respond_in_turns({"series": series})
    counting.cancel()
    assert turns > 4
    assert answer.body == msgspec.json.encode({"series": series})
