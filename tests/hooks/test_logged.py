"""Numbers of the script's own, on their way into the frames."""

from __future__ import annotations

import math

import pytest
import torch

from sentinel_hooks.probes.logged import MAX_NAMES, LogProbe
from sentinel_hooks.probes.panel import Panel
from tests.hooks.test_probe_values import Faraway

CPU = torch.device("cpu")


class Script:
    """A script that logs, and what its frames said."""

    def __init__(self, device: torch.device = CPU, readback: Faraway | None = None) -> None:
        self.panel = Panel([LogProbe(device)], CPU, readback=readback)  # type: ignore[arg-type]
        self.panel.start(0)
        self.step = 0

    def log(self, **values: object) -> None:
        self.panel.logged(values)

    def take_step(self) -> dict[str, float]:
        self.step += 1
        self.panel.read(self.step)
        self.panel.resumed()
        (sample,) = self.panel.settled()
        return {
            one.label: sample.values[index]
            for index, one in enumerate(self.panel.series)
            if index < len(sample.values) and not sample.is_missing(index)
        }


def test_what_is_logged_between_two_steps_is_in_the_next_frame_only() -> None:
    script = Script()
    assert script.take_step() == {}
    script.log(val_loss=2.5, tokens=7)
    script.log(accuracy=torch.tensor(0.5), shaped=torch.tensor([[3]]))
    assert script.take_step() == {"val_loss": 2.5, "tokens": 7, "accuracy": 0.5, "shaped": 3}
    assert script.take_step() == {}
    script.log(val_loss=2.25)
    assert script.take_step() == {"val_loss": 2.25}


def test_of_several_values_the_last_counts() -> None:
    script = Script()
    script.log(val_loss=3.0)
    script.log(val_loss=2.0)
    assert script.take_step() == {"val_loss": 2.0}


def test_nan_is_a_value() -> None:
    script = Script()
    script.log(val_loss=float("nan"), reward=torch.tensor(-math.inf))
    values = script.take_step()
    assert math.isnan(values["val_loss"])
    assert values["reward"] == -math.inf


def test_a_tensor_counts_as_it_was_when_it_was_logged() -> None:
    script = Script()
    loss = torch.tensor(1.0)
    script.log(val_loss=loss)
    loss.fill_(9)
    assert script.take_step() == {"val_loss": 1.0}


@pytest.mark.parametrize(
    "value",
    ["2.5", None, torch.zeros(2), torch.tensor(1j), 10**400, torch.zeros((), device="meta"), [1]],
    ids=["text", "none", "two", "complex", "huge", "elsewhere", "list"],
)
def test_what_is_no_number_is_dropped_with_one_warning(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script()
    for _ in range(3):
        script.log(bad=value, good=1)
    assert script.take_step() == {"good": 1}
    assert len(caplog.messages) == 1
    assert "bad: expected a number" in caplog.messages[0]


def test_what_is_no_name_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    script.log(**{"": 1, "with space/and slash": 2})
    assert script.take_step() == {"with space/and slash": 2}
    assert ["is no name" in said for said in caplog.messages] == [True]


def test_names_are_bounded_and_those_that_are_there_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script()
    script.log(**{f"n{i}": i for i in range(MAX_NAMES + 50)})
    assert len(script.take_step()) == MAX_NAMES
    script.log(n0=5.0, beyond=1.0)
    assert script.take_step() == {"n0": 5.0}
    assert len(caplog.messages) == 1


class Device(Faraway):
    """Stands for one whose values nobody can read at once."""

    def values(self) -> list[list[float]]:
        return [[7.0] * tensor.numel() for tensor in self._tensors]


def test_values_on_a_device_are_read_when_they_arrive() -> None:
    script = Script(torch.device("meta"), Device())
    script.log(here=torch.tensor(2.0), there=torch.zeros((), device="meta"), number=1.0)
    assert script.take_step() == {"here": 2.0, "there": 7.0, "number": 1.0}
