"""What `choose` makes of what `attach` is given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sentinel.errors import AttachError
from sentinel_hooks.adapters.choice import choose

MODEL = torch.nn.Linear(2, 2)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "nothing to watch"),
    "a number": ({"trainer": 3}, "an? int is no trainer.*DeepSpeed engine"),
    "a bare model": ({"trainer": MODEL}, "Linear is a model, no trainer.*model=.*optimizer="),
    "an optimizer": ({"trainer": OPTIMIZER}, "SGD is no trainer"),
    "an engine that is none": (
        {"trainer": SimpleNamespace(engine=MODEL)},
        "SimpleNamespace is no trainer.*attribute 'engine'",
    ),
    "no optimizer": ({"model": MODEL}, "optimizer= is None"),
    "no model": ({"optimizer": OPTIMIZER}, "model= is None"),
    "a model that is none": ({"model": "gpt", "optimizer": OPTIMIZER}, "model= is a str"),
    "an optimizer that is none": ({"model": MODEL, "optimizer": 0.1}, "optimizer= is a float"),
    "both": ({"trainer": MODEL, "model": MODEL, "optimizer": OPTIMIZER}, "not both"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_no_trainer_is_refused_at_once_and_says_what_would_be_right(given: str) -> None:
    arguments, message = REFUSED[given]
    with pytest.raises(AttachError, match=message):
        choose(**arguments)


def test_a_model_and_its_optimizer_are_a_plain_loop() -> None:
    adapter = choose(model=MODEL, optimizer=OPTIMIZER)
    assert adapter.trainer == "plain"
    assert adapter.model is MODEL
    assert adapter.step() == 0
    assert adapter.offers == ("scale_lr", "skip_batches")
