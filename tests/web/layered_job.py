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

Values = Mapping[str, float]  # by signal, or by layer


class LayeredRank(FakeRank):
    """Says also the norm of each layer; `silent` layers are not measured at a step."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.kept: list[wire.Frame] = []

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        announced = {"series": SERIES, "every": {}}
        return wire.Hello(**{**_fields(super().hello()), **announced})  # type: ignore[arg-type]

    def say(self, values: Values, silent: Sequence[str] = ()) -> None:
        """One step more."""
        self.step += 1
        self._sequence += 1
        good = {"loss": 2.0, "grad_norm": 1.0, "step_seconds": 0.25}
        names = [*SIGNALS, *LAYERS]
        row = [values.get(name, good.get(name, 0.0)) for name in names]
        # What ranks say of a layer is the square of their part of its norm.
        row[len(SIGNALS) :] = [
            values.get(layer, 1.0 + at) ** 2 / self.world_size for at, layer in enumerate(LAYERS)
        ]
        missing = sum(1 << at for at, name in enumerate(names) if name in silent)
        found = wire.Finding("nonfinite_activation", "layers.1.mlp", 0, batch="9f86d081884c7d65")
        frame = wire.Frame(
            self.step,
            self._sequence,
            clock.steady(),
            struct.pack(f"<{len(row)}d", *row),
            missing.to_bytes(2, "little") if missing else b"",
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
        header = blackbox.plan(named, len(SERIES))
        head = blackbox.pack(header, blackbox.HEADER_SIZE - len(blackbox.MAGIC)) or b""
        content = bytearray(header.size)
        content[: len(blackbox.MAGIC) + len(head)] = blackbox.MAGIC + head
        table = blackbox.pack(SERIES, header.table_size) or b""
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

    def __init__(self, place: address.Address, *, run: str, ranks: int = 2) -> None:
        super().__init__(place, run=run, ranks=ranks)
        self.layered = [
            LayeredRank(place, self.register, run=run, rank=rank, world_size=ranks)
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
