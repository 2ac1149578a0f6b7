"""What a rank holds just as other ranks do, so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parallel import DistributedDataParallel

from sentinel_hooks.adapters.membership import Members, ranges, replicas_of, replicated

LONGEST = 512  # characters of a label
_SHARED_OUT = "ZeRO 3 shares the weights out: no rank holds what another does"
_SHARDED_GRADIENTS = "ZeRO shares the gradients out: no rank holds what another does"
_ALONE = "no other rank is known to hold the same weights"


@dataclass(frozen=True)
class Replicas:
    """The parameters of a rank that other ranks hold too.

    `places` has their indices among `parameters`, by all the ranks that hold them, as text.
    `absent` says why there are none, `no_gradients` why their gradients are not the same.
    """

    parameters: Sequence[Parameter] = ()
    places: dict[str, list[int]] = field(default_factory=dict)
    absent: str = ""
    no_gradients: str = ""

    @cached_property
    def held(self) -> dict[str, list[Tensor]]:
        """The parameters themselves."""
        return {
            ranks: [self.parameters[one] for one in places] for ranks, places in self.places.items()
        }


def of_engine(engine: object, parameters: Sequence[Parameter]) -> Replicas:
    """Of a DeepSpeed engine: whatever it does not share out."""
    if any(hasattr(one, "ds_id") for one in parameters):
        return Replicas(absent=_SHARED_OUT, no_gradients=_SHARED_OUT)
    try:
        found = _replicas(parameters, lambda one: replicas_of(engine, one))
    except Exception as error:  # noqa: BLE001 - DeepSpeed's internals are not as expected
        why = f"DeepSpeed does not say which ranks hold the same: {error!r}"[:500]
        return Replicas(absent=why, no_gradients=why)
    shared_out = any(hasattr(one, "_hp_mapping") for one in parameters)
    return found if not shared_out else _without_gradients(found)


def of_model(model: Module, parameters: Sequence[Parameter]) -> Replicas:
    """Of a plain loop: under DistributedDataParallel, which keeps the weights equal."""
    if not isinstance(model, DistributedDataParallel):
        return Replicas(absent=_ALONE, no_gradients=_ALONE)
    held = replicated(model.process_group)
    return _replicas(parameters, lambda _: held)


def _replicas(parameters: Sequence[Parameter], members: Members) -> Replicas:
    places: dict[str, list[int]] = {}
    for place, parameter in enumerate(parameters):
        ranks = members(parameter).replicas
        if len(ranks) > 1 and not hasattr(parameter, "to_local"):
            places.setdefault(ranges(ranks), []).append(place)
    places = {ranks: found for ranks, found in places.items() if len(ranks) <= LONGEST}
    if not places:
        return Replicas(absent=_ALONE, no_gradients=_ALONE)
    return Replicas(parameters, places)


def _without_gradients(found: Replicas) -> Replicas:
    why = found.absent or _SHARDED_GRADIENTS
    return Replicas(found.parameters, found.places, found.absent, why)
