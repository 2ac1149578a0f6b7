"""Hypothesis strategies for wire messages, made from the types themselves.

A field or a message that is added to `sentinel.wire` is covered without a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from sentinel import wire

Message = wire.FromRank | wire.FromDaemon

FROM_RANK = cast(tuple[type[wire.FromRank], ...], get_args(wire.FromRank))
FROM_DAEMON = cast(tuple[type[wire.FromDaemon], ...], get_args(wire.FromDaemon))


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Every message of this kind that keeps to its limits; NaN would not be equal to itself."""
    return cast("st.SearchStrategy[Message]", _of(inspect.type_info(kind)))


def _of(kind: inspect.Type) -> st.SearchStrategy[object]:
    match kind:
        case inspect.StructType():
            fields = {f.encode_name: _of(f.type) for f in kind.fields}
            build = cast(Callable[..., msgspec.Struct], kind.cls)
            return st.fixed_dictionaries(fields).map(lambda values: build(**values))
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            low = kind.ge if kind.ge is not None else -(1 << 63)
            high = kind.lt - 1 if kind.lt is not None else kind.le
            return st.integers(low, (1 << 64) - 1 if high is None else high)
        case inspect.FloatType():
            return _floats(kind)
        case inspect.StrType():
            return st.text(max_size=min(kind.max_length or 32, 32))
        case inspect.BytesType():
            return st.binary(max_size=64)
        case inspect.TupleType():
            return st.tuples(*(_of(item) for item in kind.item_types))
        case inspect.VarTupleType():
            items = _of(kind.item_type)
            return st.lists(items, max_size=min(kind.max_length or 4, 4)).map(tuple)
        case inspect.DictType():
            keys, values = _of(kind.key_type), _of(kind.value_type)
            return st.dictionaries(keys, values, max_size=4)
        case inspect.NoneType():
            return st.none()
        case inspect.UnionType():
            return st.one_of(*map(_of, kind.types))
        case _:
            raise NotImplementedError(f"no strategy for {kind}")


def _floats(kind: inspect.FloatType) -> st.SearchStrategy[float]:
    return st.floats(
        min_value=kind.gt if kind.gt is not None else kind.ge,
        max_value=kind.lt if kind.lt is not None else kind.le,
        exclude_min=kind.gt is not None,
        exclude_max=kind.lt is not None,
        allow_nan=False,
    )
