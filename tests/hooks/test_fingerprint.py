"""What a batch is known by."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sentinel_hooks.probes.fingerprint import MAX_BYTES, fingerprint, id_texts, sample_ids

IDS = torch.arange(32).reshape(4, 8)
BIG = torch.arange(3 * MAX_BYTES // 8).reshape(3, -1)


def test_the_same_batch_has_the_same_fingerprint_in_every_process() -> None:
    assert fingerprint({"tokens": IDS, "labels": IDS}) == "2333f5de68df836e"


@pytest.mark.parametrize(
    "same",
    [
        IDS.clone(),
        (IDS,),
        [IDS],
        {"tokens": IDS},
        {"tokens": IDS, "text": ["a"]},
        IDS.t().clone().t(),
    ],
)
def test_only_the_tensors_count_and_not_what_they_are_in(same: object) -> None:
    assert fingerprint(same) == fingerprint(IDS)


@pytest.mark.parametrize(
    "other",
    [IDS + 1, IDS.reshape(8, 4), IDS.int(), IDS.t(), (IDS, IDS), IDS.float(), IDS.bfloat16()],
)
def test_another_element_shape_or_type_is_another_fingerprint(other: object) -> None:
    assert fingerprint(other) != fingerprint(IDS)
    assert len(fingerprint(other)) == 16


@given(st.integers(min_value=0, max_value=31))
def test_every_element_of_a_small_batch_counts(place: int) -> None:
    changed = IDS.clone()
    changed.view(-1)[place] += 1
    assert fingerprint(changed) != fingerprint(IDS)


def test_of_a_large_batch_every_nth_element_counts_however_it_lies_in_memory() -> None:
    one, other = BIG.clone(), BIG.clone()
    one[0, 1] += 1
    other[0, 3] += 1
    assert fingerprint(BIG) == fingerprint(one)
    assert fingerprint(BIG) != fingerprint(other)
    assert fingerprint(BIG.t().contiguous().t()) == fingerprint(BIG)


@pytest.mark.parametrize(
    "batch",
    [
        None,
        ["text"],
        {},
        torch.zeros(2, 2, device="meta"),
        (IDS, torch.zeros(2, 2, device="meta")),
        torch.eye(3).to_sparse(),
        FakeTensorMode().from_tensor(torch.zeros(4)),
    ],
)
def test_what_cannot_be_read_on_the_host_has_no_fingerprint(batch: object) -> None:
    assert fingerprint(batch) == ""


def test_empty_tensors_and_tensors_with_gradients_have_one() -> None:
    assert fingerprint(torch.zeros(0, 5)) != fingerprint(torch.zeros(5, 0))
    assert fingerprint(torch.ones(2, requires_grad=True)) == fingerprint(torch.ones(2))


@pytest.mark.parametrize(
    ("batch", "ids"),
    [
        ({"ids": torch.tensor([3, 1]), "x": IDS}, ("3", "1")),
        ({"index": ["a.txt:7", "b.txt:9"]}, ("a.txt:7", "b.txt:9")),
        ({"idx": 5}, ("5",)),
        ({"id": "row-5"}, ("row-5",)),
        ({"sample_ids": (b"one", torch.tensor(2))}, ("one", "2")),
        ({"indices": torch.arange(100).numpy()}, tuple(map(str, range(32)))),
        ({"ids": torch.arange(100)}, tuple(map(str, range(32)))),
        ({"ids": IDS}, ()),
        ({"ids": torch.zeros(2, device="meta")}, ()),
        ({"ids": [torch.zeros(2, device="meta")]}, ()),
        ({"ids": iter([1, 2])}, ()),
        ({"ids": object()}, ()),
        ({"input_ids": torch.tensor([3, 1])}, ()),
        ((torch.tensor([3, 1]),), ()),
    ],
)
def test_ids_are_found_under_the_usual_keys(batch: object, ids: tuple[str, ...]) -> None:
    assert sample_ids(batch) == ids


def test_ids_are_texts_that_can_be_sent() -> None:
    (long, strange) = id_texts(["x" * 1000, "\ud800"])
    assert len(long) == 200
    assert strange.encode() == b"?"
    assert id_texts(SimpleNamespace()) == ()


def test_reading_ids_takes_nothing_from_an_iterator() -> None:
    ids = iter([1, 2, 3])
    assert id_texts(ids) == ()
    assert list(ids) == [1, 2, 3]


def test_a_tensor_with_a_gradient_is_no_trouble_as_an_id() -> None:
    assert id_texts([torch.tensor(2.0, requires_grad=True)]) == ("2.0",)


def test_noncontiguous_rows_are_hashed_as_they_read() -> None:
    rows: Tensor = IDS[:, :-1]
    assert fingerprint(rows) == fingerprint(rows.contiguous())
