"""The factor on the loss in fp16 training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample
from sentinel_hooks.probes.rate import kept


class LossScaleProbe(Probe):
    """The loss scale before the step, and whether the scaler may make it no smaller.

    At its floor a scaler has no answer to an overflow: DeepSpeed's ends the run there, or skips
    one step after the other. `scale` and `floor` read the two; `absent` names the signals that
    this trainer does not show, with the reason.
    """

    name = "loss scale"
    signals = ("loss_scale", "loss_scale_at_floor")

    def __init__(
        self,
        scale: Callable[[], float | Tensor | None],
        floor: Callable[[], float | None],
        absent: Mapping[str, str],
    ) -> None:
        self._scale = scale
        self._floor = floor
        self._absent = {name: absent[name] for name in self.signals if name in absent}
        self._place: dict[str, int] = {}
        self._last: tuple[float | Tensor | None, float | None] = (None, None)

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals if name not in self._absent]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._place = {one.signal: index for index, one in enumerate(self.series(), first)}

    def optimizer_began(self) -> None:
        if self._place:
            scale = self._scale()
            self._last = (None if scale is None else kept(scale), self._floor())

    def read(self, sample: Sample) -> None:
        (scale, floor), self._last = self._last, (None, None)
        place = self._place

        def fill(values: list[float]) -> None:
            if "loss_scale" in place:
                sample.put(place["loss_scale"], values[0])
            if "loss_scale_at_floor" in place and floor is not None:
                sample.put(place["loss_scale_at_floor"], float(values[0] <= floor))

        if isinstance(scale, Tensor):
            sample.later(scale, fill)
        elif scale is not None:
            fill([scale])
