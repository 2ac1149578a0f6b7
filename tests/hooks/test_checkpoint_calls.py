"""What is made of a trainer's own calls to save and load, on a stand-in for DeepSpeed's engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sentinel
from sentinel.errors import AttachError
from sentinel.wire import Checkpoint, Remedies
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.adapters.parameters import parameters_of
from sentinel_hooks.adapters.weights import first_bad
from sentinel_hooks.probes.holdings import Holdings, Piece
from tests.hooks.engines import Bare
from tests.hooks.scripts.gpt import Gpt, batch


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


class Engine(Bare):
    """Saves and loads as DeepSpeed's does at stage 0: everything in one file."""

    def __init__(self) -> None:
        super().__init__(steps=0)
        self.latest: list[bool] = []
        self.broken = ""

    def _get_ckpt_name(self, folder: str, tag: str) -> str:
        return os.path.join(folder, tag, "mp_rank_00_model_states.pt")

    def save_checkpoint(
        self,
        save_dir: str | os.PathLike[str],
        tag: str | None = None,
        client_state: dict[str, object] = {},  # noqa: B006 - as DeepSpeed has it
        save_latest: bool = True,
    ) -> bool:
        if self.broken:
            raise OSError(self.broken)
        file = Path(
            save_dir, tag or f"global_step{self.global_steps}", "mp_rank_00_model_states.pt"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        self.latest.append(save_latest)
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "steps": self.global_steps, **client_state}, file)
        return True

    def load_checkpoint(
        self, load_dir: str, tag: str | None = None, load_optimizer_states: bool = True
    ) -> tuple[str | None, object]:
        if self.broken:
            raise OSError(self.broken)
        tag = tag or "latest"
        file = Path(load_dir, tag, "mp_rank_00_model_states.pt")
        if not file.exists():
            return None, None
        state = torch.load(file)
        self.module.load_state_dict(state["module"])
        if load_optimizer_states:
            self.optimizer.load_state_dict(state["optimizer"])
        self.global_steps = state["steps"]
        return str(file), {}

    def train(self, steps: int = 1) -> None:
        for _ in range(steps):
            rows = batch(self.global_steps)
            self.backward(self.module(rows[:, :-1], rows[:, 1:]))
            self.step()

    @property
    def rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate


class Seen:
    """An engine, perhaps in a trainer, and what was told of it."""

    def __init__(self, trainer: object = None, options: Options | None = None) -> None:
        self.engine: Engine = getattr(trainer, "engine", None) or Engine()
        self.adapter = DeepSpeedAdapter(self.engine, trainer, options or Options())
        self.saved: list[Checkpoint] = []
        self.phases: list[str] = []
        self.boundaries: list[int] = []
        self.adapter.install(self.boundaries.append, self.phases.append, on_saved=self.saved.append)


def test_a_script_that_saves_can_be_rolled_back_and_saved_in_the_same_folder(
    tmp_path: Path,
) -> None:
    seen = Seen()
    engine, adapter = seen.engine, seen.adapter
    assert adapter.offers == (
        "scale_lr",
        "skip_batches",
        "save_checkpoint",
        "load_checkpoint",
        "rewind_data",
    )
    for remedies in (Remedies(checkpoint=True), Remedies(rollback="global_step2")):
        assert "no folder of checkpoints is known" in adapter.refuses(remedies)
    engine.train(2)
    engine.save_checkpoint(tmp_path)  # DeepSpeed's own name for it
    (told,) = seen.saved
    assert (told.step, told.tag, told.folder) == (2, "global_step2", str(tmp_path))
    assert told.present == ("global_step2",)
    assert told.seconds > 0
    engine.train(2)
    weights = engine.module.head.weight.detach().clone()
    adapter.apply(Remedies(checkpoint=True))
    assert seen.saved[-1].tag == "sentinel-step4"
    assert seen.saved[-1].present == ("global_step2", "sentinel-step4")
    adapter.apply(Remedies(rollback="global_step2"))
    assert adapter.step() == 2
    engine.train(2)
    assert torch.equal(engine.module.head.weight, weights)
    assert seen.boundaries == [1, 2, 3, 4, 3, 4]
    assert [sample.step for sample in adapter.panel.settled()] == seen.boundaries


def test_a_load_by_the_script_tells_of_its_folder_too(tmp_path: Path) -> None:
    engine = Engine()
    engine.train(1)
    engine.save_checkpoint(tmp_path, "old")
    seen = Seen()
    seen.engine.load_checkpoint(str(tmp_path), tag="old")
    assert seen.adapter.refuses(Remedies(rollback="old")) == ""
    assert seen.saved == []
    assert "checkpoint" in seen.phases
    assert seen.phases[-1] == "data"
    why = seen.adapter.refuses(Remedies(rollback="old", rewind=True))
    assert "not known to this process" in why


def test_attach_can_be_told_of_the_folder(tmp_path: Path) -> None:
    engine = Engine()
    engine.save_checkpoint(tmp_path, "old")
    seen = Seen(options=Options(checkpoints=str(tmp_path)))
    assert seen.adapter.refuses(Remedies(rollback="old", checkpoint=True)) == ""
    assert "there: old" in seen.adapter.refuses(Remedies(rollback="new"))
    with pytest.raises(AttachError, match="expected the path of a folder"):
        sentinel.attach(engine, checkpoints="")


@pytest.mark.parametrize(
    ("own", "latest"),
    [
        ({}, [True, True]),
        ({"client_state": {"epoch": 3}}, [True, False]),
        ({"save_latest": False}, [False, False]),
    ],
)
def test_what_the_script_starts_from_stays_its_own_where_ours_would_lack_something(
    tmp_path: Path, own: dict[str, object], latest: list[bool]
) -> None:
    seen = Seen()
    seen.engine.save_checkpoint(tmp_path, "own", **own)  # type: ignore[arg-type]
    seen.adapter.apply(Remedies(checkpoint=True))
    assert seen.engine.latest == latest


class Trainer:
    """Has methods of its own around those of its engine, with names of its own."""

    def __init__(self, folder: Path, rename: Callable[[str], str] = str) -> None:
        self.engine = Engine()
        self.folder = folder
        self.rename = rename

    def save_checkpoint(self, tag: str) -> None:
        self.engine.save_checkpoint(self.folder, self.rename(tag))

    def load_checkpoint(self, tag: str) -> None:
        self.engine.load_checkpoint(str(self.folder), self.rename(tag))


def test_a_trainers_save_that_calls_the_engines_is_told_of_once(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    seen = Seen(trainer)
    trainer.save_checkpoint("one")
    seen.adapter.apply(Remedies(checkpoint=True))
    assert [one.tag for one in seen.saved] == ["one", "sentinel-step0"]
    assert seen.phases == ["checkpoint", "data"] * 2
    assert seen.adapter.refuses(Remedies(rollback="one")) == ""
    assert "there is no checkpoint 'two'" in seen.adapter.refuses(Remedies(rollback="two"))


def test_a_trainer_with_names_of_its_own_is_believed_to_know_them(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, rename=lambda tag: f"checkpoint-{tag}")
    seen = Seen(trainer)
    trainer.save_checkpoint("7")
    assert [one.tag for one in seen.saved] == ["checkpoint-7"]
    assert seen.adapter.refuses(Remedies(rollback="7")) == ""


def test_a_trainer_that_saves_without_its_engine_is_told_of_without_a_folder() -> None:
    class Alone:
        def __init__(self) -> None:
            self.engine = Engine()

        def save_checkpoint(self, tag: str) -> None:
            pass

    trainer = Alone()
    seen = Seen(trainer)
    trainer.save_checkpoint("one")
    assert [(one.tag, one.folder, one.present) for one in seen.saved] == [("one", "", ())]


def test_a_save_that_fails_is_not_told_of_and_raises_what_it_raised(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    seen = Seen(trainer)
    trainer.engine.broken = "No space left on device"
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint("one")
    assert seen.saved == []
    assert seen.phases == ["checkpoint", "data"]
    trainer.engine.broken = ""
    trainer.save_checkpoint("two")
    assert [one.tag for one in seen.saved] == ["two"]


def test_a_save_that_was_interrupted_leaves_the_next_one_as_it_is(tmp_path: Path) -> None:
    class Interrupted(Engine):
        def save_checkpoint(self, *args: object, **options: object) -> bool:
            if not self.latest:
                self.latest.append(True)
                raise KeyboardInterrupt
            return super().save_checkpoint(*args, **options)  # type: ignore[arg-type]

    trainer = Trainer(tmp_path)
    trainer.engine = Interrupted()
    seen = Seen(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint("one")
    trainer.save_checkpoint("two")
    assert [one.tag for one in seen.saved] == ["two"]
    assert seen.phases[-2:] == ["checkpoint", "data"]


def test_weights_that_are_not_finite_are_named_with_the_checkpoint(tmp_path: Path) -> None:
    seen = Seen()
    with torch.no_grad():
        seen.engine.module.head.weight[1, 1] = float("nan")
    seen.engine.save_checkpoint(tmp_path, "bad")
    assert [one.bad_weights for one in seen.saved] == ["head.weight"]


def test_names_that_cannot_be_sent_are_left_out(tmp_path: Path) -> None:
    seen = Seen()
    os.makedirs(os.fsencode(tmp_path) + b"/no\xfftext")
    (tmp_path / "file").write_text("no folder")
    seen.engine.save_checkpoint(tmp_path, "one")
    seen.engine.save_checkpoint(tmp_path, "x" * 201)  # no name that could be asked for
    assert [one.tag for one in seen.saved] == ["one"]
    assert seen.saved[0].present == ("one",)


@pytest.mark.parametrize("own", [True, False])
def test_a_factor_asked_for_lives_with_the_checkpoints(tmp_path: Path, own: bool) -> None:
    """Each load brings the rate that the checkpoint was saved with, whoever asks for it."""
    seen = Seen()
    engine, adapter = seen.engine, seen.adapter

    def load(tag: str, **options: bool) -> None:
        if own:
            engine.load_checkpoint(str(tmp_path), tag, **options)
        else:
            adapter.apply(Remedies(rollback=tag))

    engine.save_checkpoint(tmp_path, "before")
    adapter.apply(Remedies(lr_scale=0.5))
    engine.train()
    engine.save_checkpoint(tmp_path, "halved")
    adapter.apply(Remedies(lr_scale=0.5))
    assert engine.rate == pytest.approx(0.0025)
    load("halved")
    assert engine.rate == pytest.approx(0.005)
    load("before")
    assert engine.rate == 0.01
    engine.train()
    assert engine.rate == 0.01
    adapter.apply(Remedies(rollback="halved", lr_scale=0.1))
    assert engine.rate == pytest.approx(0.0005)
    adapter.undo(Remedies(rollback="halved", lr_scale=0.1))
    assert engine.rate == pytest.approx(0.005)


def test_loads_that_bring_no_rates_leave_the_factor_alone(tmp_path: Path) -> None:
    seen = Seen()
    engine = seen.engine
    engine.save_checkpoint(tmp_path, "before")
    seen.adapter.apply(Remedies(lr_scale=0.5))
    engine.load_checkpoint(str(tmp_path), "before", load_optimizer_states=False)
    assert engine.rate == pytest.approx(0.005)
    assert engine.load_checkpoint(str(tmp_path), "none") == (None, None)
    assert engine.rate == pytest.approx(0.005)
    engine.broken = "Input/output error"
    with pytest.raises(OSError, match="Input/output"):
        engine.load_checkpoint(str(tmp_path), "before")
    assert engine.rate == pytest.approx(0.005)
    engine.train()
    assert engine.rate == pytest.approx(0.005)


def test_after_detaching_the_calls_are_as_they_were(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    before = [sorted(vars(one)) for one in (trainer, trainer.engine)]
    seen = Seen(trainer)
    seen.adapter.detach()
    assert [sorted(vars(one)) for one in (trainer, trainer.engine)] == before
    trainer.save_checkpoint("one")
    assert seen.saved == []


def test_the_optimizers_copy_of_a_weight_is_looked_at_too() -> None:
    model = Gpt()
    parameters = parameters_of(model)
    tensors = parameters.tensors
    place = tensors.names.index("norm.weight")
    flat = torch.zeros(100)
    masters = Holdings(tensors, (Piece(place, 0, 10, 0, 32),), lambda: [flat])
    assert first_bad(model, masters) == ""
    flat[41] = float("inf")
    assert first_bad(model, masters) == "norm.weight (the optimizer's copy)"
    flat[41], flat[99] = 0.0, float("nan")  # in what belongs to none: padding, or another rank's
    assert first_bad(model, masters) == "the optimizer's copy of the weights, part 0"
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    assert first_bad(model, masters) == "head.weight"


def test_sums_that_overflow_are_no_bad_weights() -> None:
    model = torch.nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(3e38)
    assert first_bad(model) == ""
