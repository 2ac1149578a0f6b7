"""What the DeepSpeed adapter can do for a held run: the trainer's remedies, and the engine's."""

from __future__ import annotations

import math

import pytest
import torch

from sentinel.errors import ControlError
from sentinel.wire import Remedies
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from tests.hooks.engines import Bare


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")


class Trainer:
    """Has an engine and remedies of its own."""

    def __init__(self) -> None:
        self.engine = Bare()
        self.done: list[tuple[str, object]] = []

    def scale_lr(self, factor: float) -> None:
        self.done.append(("scale_lr", factor))

    def skip_batches(self, count: int) -> None:
        if count > 9:
            raise ValueError("not so many")
        self.done.append(("skip_batches", count))

    def load_checkpoint(self, tag: str) -> None:
        if tag == "gone":
            raise FileNotFoundError("no such checkpoint")
        self.done.append(("load_checkpoint", tag))

    def rewind_data(self, tag: str) -> None:
        self.done.append(("rewind_data", tag))


def test_the_trainers_own_remedies_are_offered_and_used() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    assert adapter.offers == ("scale_lr", "skip_batches", "load_checkpoint", "rewind_data")
    everything = Remedies(lr_scale=0.5, skip_batches=3, rollback="best", rewind=True)
    assert adapter.refuses(everything) == ""
    adapter.apply(everything)
    assert trainer.done == [
        ("load_checkpoint", "best"),
        ("rewind_data", "best"),
        ("skip_batches", 3),
        ("scale_lr", 0.5),
    ]
    assert trainer.engine.optimizer.param_groups[0]["lr"] == 0.01
    with pytest.raises(ControlError, match=r"skip_batches\(10\) failed: not so many"):
        adapter.apply(Remedies(skip_batches=10))


def test_what_failed_on_another_rank_is_taken_back_here() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    remedies = Remedies(lr_scale=0.5, skip_batches=3)
    adapter.apply(remedies)
    adapter.undo(remedies)
    assert trainer.done[2:] == [("scale_lr", 2.0), ("skip_batches", -3)]


def test_after_a_rollback_that_failed_anywhere_only_a_rollback_is_accepted() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    with pytest.raises(ControlError, match=r"load_checkpoint\('gone'\) failed: no such"):
        adapter.apply(Remedies(rollback="gone", lr_scale=0.5))
    assert trainer.done == []
    assert "the rollback to 'gone' has failed" in adapter.refuses(Remedies())
    assert adapter.refuses(Remedies(rollback="best")) == ""
    adapter.apply(Remedies(rollback="best"))
    assert adapter.refuses(Remedies()) == ""
    adapter.undo(Remedies(rollback="best"))
    assert "failed on another rank" in adapter.refuses(Remedies(lr_scale=0.5))


def test_a_rollback_to_weights_that_are_not_finite_fails_and_names_one() -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    with torch.no_grad():
        trainer.engine.module.head.weight[3, 5] = math.inf
    with pytest.raises(ControlError, match=r"weights are not finite: head\.weight"):
        adapter.apply(Remedies(rollback="best"))
    assert adapter.refuses(Remedies()) != ""


@pytest.mark.parametrize(
    ("remedies", "why"),
    [
        (Remedies(rollback="../best"), "cannot name a checkpoint"),
        (Remedies(rollback=".."), "cannot name a checkpoint"),
        (Remedies(rollback="a\nb"), "cannot name a checkpoint"),
        (Remedies(rollback="b" * 300), "cannot name a checkpoint"),
        (Remedies(rewind=True), "together with a rollback"),
        (Remedies(checkpoint=True), "does not offer save_checkpoint"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(remedies: Remedies, why: str) -> None:
    trainer = Trainer()
    adapter = DeepSpeedAdapter(trainer.engine, trainer)
    assert why in adapter.refuses(remedies)
    assert trainer.done == []


def test_an_engine_alone_offers_only_what_can_be_done_from_outside() -> None:
    engine = Bare()
    adapter = DeepSpeedAdapter(engine)
    assert adapter.offers == ("scale_lr", "skip_batches")
    adapter.apply(Remedies(lr_scale=0.5))
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert "watch.batches" in adapter.refuses(Remedies(skip_batches=1))
    assert "does not offer load_checkpoint" in adapter.refuses(Remedies(rollback="best"))
    with pytest.raises(ControlError, match="does not offer load_checkpoint"):
        adapter.apply(Remedies(rollback="best"))
