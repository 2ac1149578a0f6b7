"""Whatever is done to a log, nothing but a `ReplayError` comes out."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import ReplayError
from sentinel.replay.log import FORMATS, moments, open_log
from tests.replay.event_bytes import event_file
from tests.replay.reading import found
from tests.replay.test_text_logs import DEEPSPEED, MEGATRON

_ROWS: list[dict[str, object]] = [
    {"step": step, "loss": 2.5 - step / 64, "grad_norm": math.nan if step == 7 else 1.5}
    for step in range(1, 13)
]
_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS)
VALID: dict[str, bytes] = {
    "jsonl": _LINES.encode(),
    "array": json.dumps(_ROWS).encode(),
    "trainer_state": json.dumps({"log_history": _ROWS}, indent=2).encode(),
    "csv": b"step,loss,grad_norm\n" + b"".join(b"%d,2.5,1.5\n" % step for step in range(12)),
    "wandb": b'"Step","a - train/loss","a - train/loss__MIN"\n"1","2.5",""\n"2","",""\n',
    "megatron": MEGATRON.encode(),
    "deepspeed": DEEPSPEED.encode(),
    "printed": b"step:1/9 train_loss:6.9 step_avg:96ms\n{'loss': 2.5, 'epoch': 0.1}\n" * 4,
    "tensorboard": event_file([(step, {"loss": 2.5, "lr": 0.1}) for step in range(12)]),
    "gzip": gzip.compress(_LINES.encode()),
    "utf-16": _LINES.encode("utf-16"),
}


def _read(path: Path, data: bytes, format: str = "auto") -> int:
    """How many moments a log has, or -1 if it is refused."""
    path.write_bytes(data)
    try:
        return sum(1 for _ in moments(open_log(path, format=format)))
    except ReplayError as error:
        if not str(error).startswith(str(path)):
            raise AssertionError("an error without its file") from error
        return -1


@pytest.mark.parametrize("kind", VALID)
def test_every_sample_is_read(tmp_path: Path, kind: str) -> None:
    assert found(tmp_path / "a", VALID[kind]).rows


@pytest.mark.parametrize("kind", VALID)
def test_a_log_cut_anywhere_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    data = VALID[kind]
    for length in range(0, len(data), max(1, len(data) // 100)):
        _read(tmp_path / "a", data[:length])


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_log_that_is_being_written_is_read_at_any_moment(tmp_path: Path, kind: str) -> None:
    """Once it has its header and a row, a cut loses no more than the last row."""
    data = VALID[kind]
    start = data.index(b"\n", data.index(b"\n") + 1) + 1
    for length in range(start, len(data), 3):
        rows = found(tmp_path / "a", data[:length]).rows
        assert len(rows) >= data[:length].count(b"\n") - (kind == "csv")


@settings(max_examples=200)
@given(kind=st.sampled_from(sorted(VALID)), data=st.data())
def test_a_log_with_flipped_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    broken = bytearray(VALID[kind])
    places = st.lists(
        st.tuples(st.integers(0, len(broken) - 1), st.integers(1, 255)), min_size=1, max_size=4
    )
    for place, flip in data.draw(places):
        broken[place] ^= flip
    _read(tmp_path_factory.getbasetemp() / "flipped", bytes(broken))


@settings(max_examples=200)
@given(content=st.binary(max_size=300), format=st.sampled_from(["auto", *FORMATS]))
def test_any_bytes_are_read_or_refused_as_any_format(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, format: str
) -> None:
    _read(tmp_path_factory.getbasetemp() / "bytes", content, format)


_CELLS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([[], [1.0], {}, {"loss": 1.0}, [[[]]], "\ud800", 10**400])
)
_NAMES = st.sampled_from(
    ["step", "loss", "train_loss", "epoch", "lr", "time", "memory_percent", "gpu.0.memoryAllocated"]
) | st.text(max_size=6)


@settings(max_examples=60)
@given(
    rows=st.lists(st.dictionaries(_NAMES, _CELLS, max_size=5), max_size=4),
    as_lines=st.booleans(),
)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, object]],
    as_lines: bool,
) -> None:
    data = "\n".join(map(json.dumps, rows)) if as_lines else json.dumps(rows)
    _read(tmp_path_factory.getbasetemp() / "json", data.encode())


@settings(max_examples=150)
@given(
    names=st.lists(_NAMES, min_size=1, max_size=5),
    rows=st.lists(
        st.lists(st.sampled_from(["1", "2.5", "nan", "", "x", '"', "1e999"])), max_size=6
    ),
    delimiter=st.sampled_from(",\t;"),
)
def test_any_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    rows: list[list[str]],
    delimiter: str,
) -> None:
    data = "\n".join(delimiter.join(cells) for cells in [names, *rows])
    path = tmp_path_factory.getbasetemp() / "table"
    _read(path, data.encode("utf-8", "replace"))
    _read(path, data.encode("utf-8", "replace"), "csv")
