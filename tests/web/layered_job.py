"""Made-up ranks with layers, whose black boxes can be asked for."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from sentinel import address, blackbox, clock, wire
from sentinel.blackbox import PART
from tests.daemon.fake_job import FakeJob, FakeRank

LAYERS = ("embed", "layers.0.attn", "layers.0.mlp", "layers.1.attn", "layers.1.mlp", "head")
SIGNALS = ("loss", "grad_norm", "nonfinite_activation", "nonfinite_update", "step_seconds")
SERIES = (
    *map(wire.Series, SIGNALS),
    *(wire.Series("layer_grad_norm", layer) for layer in LAYERS),
)
SELDOM = tuple(
    wire.Series(f"layer_{norm}_norm", layer) for norm in ("update", "weight") for layer in LAYERS
)
WEIGHTS = 100.0  # the norm of those of each layer

Values = Mapping[str, float]  # by signal, or by layer


class LayeredRank(FakeRank):
    """Says also the norm of each layer; `silent` layers are not measured at a step.

    What the step did to each layer is measured every `seldom` steps, if at all.
    """

    def __init__(self, *arguments: object, seldom: int = 0, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.kept: list[wire.Frame] = []
        self.seldom = seldom
        self.series = SERIES + (SELDOM if seldom else ())

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        every = dict.fromkeys((one.signal for one in SELDOM), self.seldom) if self.seldom else {}
        announced = {"series": self.series, "every": every}
        return wire.Hello(**{**_fields(super().hello()), **announced})  # type: ignore[arg-type]

    def say(self, values: Values, silent: Sequence[str] = ()) -> None:
        """One step more."""
        self.step += 1
        self._sequence += 1
        good = {"loss": 2.0, "grad_norm": 1.0, "step_seconds": 0.25}
        row = [values.get(name, good.get(name, 0.0)) for name in SIGNALS]
        # What ranks say of a layer is the square of their part of its norm.
        norms = [values.get(layer, 1.0 + at) for at, layer in enumerate(LAYERS)]
        if self.seldom:
            norms += [*norms, *[WEIGHTS] * len(LAYERS)]
        row += [norm**2 / self.world_size for norm in norms]
        unmeasured = {one for one in SERIES if (one.label or one.signal) in silent}
        if self.seldom and self.step % self.seldom:
            unmeasured.update(SELDOM)
        missing = sum(1 << at for at, one in enumerate(self.series) if one in unmeasured)
        found = wire.Finding("nonfinite_activation", "layers.1.mlp", 0, batch="9f86d081884c7d65")
        frame = wire.Frame(
            self.step,
            self._sequence,
            clock.steady(),
            struct.pack(f"<{len(row)}d", *row),
            missing.to_bytes(-(-len(self.series) // 8), "little") if missing else b"",
            (found,) if values.get("nonfinite_activation") else (),
        )
        self.kept.append(frame)
        self.send(frame)

    def hand_over(self) -> bool:
        """Give the black box to whoever has asked for it; whether anybody has."""
        self.obey()
        asked = [order for order in self.orders if isinstance(order, wire.Capture)]
        for order in asked:
            content = self._box()
            parts = [content[at : at + PART] for at in range(0, len(content), PART)]
            for number, data in enumerate(parts):
                self.send(wire.BlackBoxPart(order.incident, number, len(parts), data))
        return bool(asked)

    def _box(self) -> bytes:
        named = blackbox.Header(self.run, self.rank, self.world_size, "a", self.host, 7, 1.0)
        header = blackbox.plan(named, len(self.series))
        head = blackbox.pack(header, blackbox.HEADER_SIZE - len(blackbox.MAGIC)) or b""
        content = bytearray(header.size)
        content[: len(blackbox.MAGIC) + len(head)] = blackbox.MAGIC + head
        table = blackbox.pack(self.series, header.table_size) or b""
        content[blackbox.HEADER_SIZE : blackbox.HEADER_SIZE + len(table)] = table
        for number, frame in enumerate(self.kept[-header.slots :]):
            slot = (
                blackbox.pack(blackbox.Record(number, frame, ("batch",)), header.slot_size) or b""
            )
            place = header.slot_place(number)
            content[place : place + len(slot)] = slot
        return bytes(content)


def _fields(hello: wire.Hello) -> dict[str, object]:
    return {name: getattr(hello, name) for name in hello.__struct_fields__}


class LayeredJob(FakeJob):
    """All ranks of one, in step with each other."""

    def __init__(
        self, place: address.Address, *, run: str, ranks: int = 2, seldom: int = 0
    ) -> None:
        super().__init__(place, run=run, ranks=ranks)
        self.layered = [
            LayeredRank(place, self.register, run=run, rank=rank, world_size=ranks, seldom=seldom)
            for rank in range(ranks)
        ]
        self.ranks = [*self.layered]

    def steps(self, count: int, **values: float) -> None:
        """So many steps, alike on all ranks."""
        for _ in range(count):
            self.say(values)

    def say(self, *values: Values, silent: Sequence[str] = ()) -> None:
        """A step, with what each rank says, or all of them."""
        for rank, said in zip(self.layered, values * len(self.layered), strict=False):
            rank.say(said, silent)
