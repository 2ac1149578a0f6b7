"""What a batch is known by: a hash of its tensors, and the ids of its samples.

    fingerprint(batch) == "9f86d081884c7d65"

A person who has the data set finds the batch again by asking this of every batch of a rank.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice

import torch
from torch import Tensor

from sentinel.wire import MAX_SAMPLES

MAX_BYTES = 1 << 15  # hashed of one batch: 4,096 tokens, in less than 0.2 ms
MAX_TENSORS = 64
ID_KEYS = ("ids", "id", "sample_ids", "sample_id", "indices", "index", "indexes", "idx", "uids")
_DEPTH = 4  # how deep tensors are looked for in a batch
_ID_LENGTH = 200  # characters


def fingerprint(batch: object) -> str:
    """16 hexadecimal digits: BLAKE2b of the types, shapes and elements of a batch's tensors.

    The tensors are taken in the order in which they stand in tuples, lists and mappings, whose
    own shape does not count. Of batches beyond `MAX_BYTES` every n-th element of each tensor is
    taken, with the smallest n that is enough. Empty when there is no tensor, or one that is not
    in the host's memory: to read it would be to wait for the device.
    """
    tensors = list(_tensors(batch, _DEPTH))[:MAX_TENSORS]
    if not tensors or not all(map(_is_readable, tensors)):
        return ""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    stride = -(-size // MAX_BYTES)
    state = blake2b(digest_size=8)
    for tensor in tensors:
        state.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        state.update(_bytes(tensor.detach(), stride))
    return state.hexdigest()


def _is_readable(tensor: Tensor) -> bool:
    """Whether its elements lie in the host's memory: not so of wrappers around other tensors."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def _bytes(tensor: Tensor, stride: int) -> bytes:
    """The elements, or every `stride`-th of them in the order of a contiguous tensor."""
    if stride <= 1:
        chosen = tensor.contiguous()
    elif tensor.is_contiguous():
        chosen = tensor.view(-1)[::stride].contiguous()
    else:  # without a copy of it all
        chosen = tensor.take(torch.arange(0, tensor.numel(), stride))
    return ctypes.string_at(chosen.data_ptr(), chosen.numel() * chosen.element_size())


def _tensors(batch: object, depth: int) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif depth and isinstance(batch, tuple | list):
        for one in batch:
            yield from _tensors(one, depth - 1)
    elif depth and isinstance(batch, Mapping):
        for one in batch.values():
            yield from _tensors(one, depth - 1)


def sample_ids(batch: object) -> tuple[str, ...]:
    """The ids of a batch's samples, where it is a mapping that has one of `ID_KEYS`."""
    if not isinstance(batch, Mapping):
        return ()
    return next((id_texts(batch[key]) for key in ID_KEYS if key in batch), ())


def id_texts(ids: object) -> tuple[str, ...]:
    """Ids as text: of a string, a number, or a sequence, an array or a tensor of such.

    The first `MAX_SAMPLES` of them. None of what lies on a device, or has several dimensions.
    """
    if isinstance(ids, str | bytes | int | float):
        return (_text(ids),)
    if isinstance(ids, Tensor):
        if ids.dim() > 1 or not _is_readable(ids):
            return ()
        ids = ids.reshape(-1)[:MAX_SAMPLES].tolist()
    if not isinstance(ids, Iterable) or isinstance(ids, Iterator) or getattr(ids, "ndim", 1) != 1:
        return ()
    first = list(islice(ids, MAX_SAMPLES))
    if any(
        isinstance(one, Tensor) and (one.numel() != 1 or not _is_readable(one)) for one in first
    ):
        return ()
    return tuple(map(_text, first))


def _text(one: object) -> str:
    value = one.item() if isinstance(one, Tensor) else one
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text[:_ID_LENGTH].encode(errors="replace").decode()
