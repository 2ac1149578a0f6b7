"""A real engine as another version of DeepSpeed might have it: without some of its internals.

`lacking` names them: "engine.skipped_steps", "optimizer.clip_grad", "parameter._hp_mapping", and
with a "?" behind it one that is there and is not what we know. The engine itself goes on with all
that it has; only who looks through the proxy misses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from sentinel.errors import AttachError
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter


class Lacking:
    """Stands for an object and says of some attributes that they are not there, or are odd."""

    __slots__ = ("_missing", "_parts", "_real")

    def __init__(self, real: Any, missing: set[str], parts: dict[str, Any]) -> None:
        for name, value in (("_real", real), ("_missing", missing), ("_parts", parts)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(name)
        return self._parts[name] if name in self._parts else getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return vars(self._real)


@contextmanager
def lacking(engine: Any, names: list[str]) -> Any:
    """The engine without these; what parameters lack is put back at the end."""
    gone: dict[str, set[str]] = {"engine": set(), "optimizer": set(), "parameter": set()}
    odd: dict[str, dict[str, Any]] = {"engine": {}, "optimizer": {}}
    for full in names:
        owner, _, name = full.partition(".")
        if name.endswith("?"):
            odd[owner][name[:-1]] = object()
        else:
            gone[owner].add(name)
    parameters = [one for one in engine.module.parameters() if gone["parameter"] & set(vars(one))]
    kept = [{name: vars(one).pop(name) for name in gone["parameter"]} for one in parameters]
    optimizer = Lacking(engine.optimizer, gone["optimizer"], odd["optimizer"])
    try:
        yield Lacking(engine, gone["engine"], {"optimizer": optimizer, **odd["engine"]})
    finally:
        for one, attributes in zip(parameters, kept, strict=True):
            vars(one).update(attributes)


def watch_lacking(
    engine: Any, names: list[str], train: Callable[[], None], describe: Callable[..., Any]
) -> dict[str, Any]:
    """Attach to the engine without these, train a step, and say what was missing and what not."""
    os.environ["SENTINEL_RAISE"] = "0"
    with lacking(engine, names) as partial:
        try:
            adapter = DeepSpeedAdapter(partial)
        except AttachError as error:
            train()
            return {"refused": str(error)}
        boundaries: list[int] = []
        adapter.install(boundaries.append, lambda _: None)
        train()
        (sample,) = adapter.panel.settled()
        seen = {
            "missing": dict(adapter.panel.missing),
            "values": describe(adapter, sample)["values"],
            "lost": {one.signal: one.reason for one in adapter.panel.changes()},
            "boundaries": boundaries,
        }
        adapter.detach()
    return seen
