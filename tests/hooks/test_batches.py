"""`watch.batches` around loaders of all kinds, in loops of all kinds."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable, Iterator, Sized
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sentinel.wire import Finding
from sentinel_hooks.batches import Batches, watched
from sentinel_hooks.notes import Notes
from sentinel_hooks.probes.data import DataProbe
from sentinel_hooks.probes.fingerprint import fingerprint
from sentinel_hooks.probes.mark import Marker
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.probe import Sample

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")


def tensors(count: int, first: int = 0) -> list[Tensor]:
    return [torch.tensor([number, number]) for number in range(first, first + count)]


class Clock(Marker):
    """A time that passes only when it is told to."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.time = 0.0

    def now(self) -> float:
        return self.time


class Trainer:
    """Tells a panel what a training loop does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.panel = Panel([DataProbe(self.clock)], CPU)
        self.panel.start(0)
        self.phases: list[str] = []
        self.notes = Notes(self.panel, self.clock, self.phases.append)
        self.steps = 0

    def watch(
        self, loader: object, ids: Callable[[object], object] | None = None
    ) -> Batches[object]:
        return watched(loader, self.notes, ids)  # type: ignore[arg-type]

    def slow(self, batches: list[Tensor], first: float = 1.0) -> Iterator[Tensor]:
        """Takes `first` seconds for its first batch, and twice as long for each that follows."""
        for number, batch in enumerate(batches):
            self.clock.time += first * 2**number
            yield batch

    def forward(self, *inputs: object, training: bool = True) -> None:
        self.clock.time += 1000.0
        self.panel.forward_began(inputs, {}, training)

    def step(self) -> Sample:
        self.steps += 1
        self.panel.read(self.steps)
        self.panel.resumed()
        (sample,) = self.panel.settled()
        return sample

    def train(self, batch: object) -> Sample:
        self.forward(batch)
        return self.step()


@pytest.fixture
def trainer() -> Trainer:
    return Trainer()


def test_everything_comes_through_in_order_in_every_epoch(trainer: Trainer) -> None:
    given = tensors(5)
    batches = trainer.watch(given)
    for epoch in (1, 2):
        assert [id(one) for one in batches] == [id(one) for one in given]
        assert (batches.position, batches.passes) == (5, epoch)
    assert set(trainer.phases) == {"data"}


def test_each_step_has_the_fingerprints_of_its_micro_batches(trainer: Trainer) -> None:
    batches = iter(trainer.watch(tensors(6)))
    for step in range(3):
        for _ in range(2):
            trainer.forward(next(batches))
        mine = tensors(2, first=2 * step)
        assert trainer.step().batches == [fingerprint(one) for one in mine]


def test_micro_batches_cut_from_one_batch_have_that_batchs_fingerprint(trainer: Trainer) -> None:
    for batch in trainer.watch(tensors(2)):
        assert isinstance(batch, Tensor)
        for part in batch.chunk(2):
            trainer.forward(part)
        assert trainer.step().batches == [fingerprint(batch)] * 2


def test_the_wait_for_batches_is_that_of_the_step_they_are_trained_in(trainer: Trainer) -> None:
    batches = iter(trainer.watch(trainer.slow(tensors(5))))
    waits = []
    for _ in range(2):
        trainer.forward(next(batches))
        waits.append(trainer.train(next(batches)).values[0])
    assert waits == [1 + 2, 4 + 8]


def test_the_start_of_an_epoch_is_part_of_the_wait(trainer: Trainer) -> None:
    class Workers:
        def __iter__(self) -> Iterator[Tensor]:
            trainer.clock.time += 30.0
            return trainer.slow(tensors(2))

    waits = [trainer.train(batch).values[0] for batch in trainer.watch(Workers())]
    assert waits == [30 + 1, 2]


def test_batches_that_are_left_out_were_waited_for_all_the_same(trainer: Trainer) -> None:
    for number, batch in enumerate(trainer.watch(trainer.slow(tensors(3)))):
        if number == 2:
            assert trainer.train(batch).values[0] == 1 + 2 + 4


def test_a_batch_of_several_steps_is_waited_for_once(trainer: Trainer) -> None:
    for batch in trainer.watch(trainer.slow(tensors(1))):
        assert trainer.train(batch).values[0] == 1
        assert trainer.train(batch).values[0] == 0


def test_without_it_the_wait_is_from_the_boundary_to_the_forward(trainer: Trainer) -> None:
    rows = tensors(1)[0]
    first, second = trainer.train(rows), trainer.train(rows)
    assert first.is_missing(0)  # nobody saw where the first step began
    assert second.values[0] == 1000
    assert second.batches == [fingerprint(rows)]


def test_a_checkpoint_between_two_steps_is_no_wait_for_data(trainer: Trainer) -> None:
    trainer.train(None)
    trainer.panel.interlude(400)
    assert trainer.train(None).values[0] == 600


def test_an_evaluation_before_the_forward_is_neither_batch_nor_wait(trainer: Trainer) -> None:
    held_out = trainer.watch(list(trainer.slow(tensors(20, first=100))))
    waits = []
    for batch in trainer.watch(trainer.slow(tensors(3))):
        for other in held_out:
            trainer.forward(other, training=False)
        sample = trainer.train(batch)
        assert sample.batches == [fingerprint(batch)]
        waits.append(sample.values[0])
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("kept", [True, False])
def test_an_evaluation_that_stops_early_is_not_mistaken_for_training(
    trainer: Trainer, kept: bool
) -> None:
    evaluation = iter(trainer.watch(tensors(9, first=100)))
    for batch in trainer.watch(tensors(3)):
        if kept:
            trainer.forward(next(evaluation), training=False)
        else:
            for held_out in trainer.watch(tensors(9, first=100)):
                trainer.forward(held_out, training=False)
                break
        assert trainer.train(batch).batches == [fingerprint(batch)]


def test_an_evaluation_without_it_leaves_the_training_batch_alone(trainer: Trainer) -> None:
    for batch in trainer.watch(tensors(3)):
        for held_out in tensors(2, first=100):
            trainer.forward(held_out, training=False)
        assert trainer.train(batch).batches == [fingerprint(batch)]


def test_two_loaders_trained_on_in_turn_are_told_apart(trainer: Trainer) -> None:
    pairs = zip(trainer.watch(tensors(3)), trainer.watch(tensors(3, first=50)), strict=True)
    for _, second in pairs:
        assert trainer.train(second).batches == [fingerprint(second)]
    text, images = iter(trainer.watch(tensors(3))), iter(trainer.watch(tensors(3, first=50)))
    for source in (text, images, images, text, text):
        batch = next(source)
        assert trainer.train(batch).batches == [fingerprint(batch)]


def test_one_inside_the_other_counts_once(trainer: Trainer) -> None:
    inner = trainer.watch(trainer.slow(tensors(3)))
    assert trainer.watch(inner) is inner
    waits = []
    for batch in trainer.watch(islice(inner, 2)):
        sample = trainer.train(batch)
        assert sample.batches == [fingerprint(batch)]
        waits.append(sample.values[0])
    assert waits == [1, 2]


def test_after_a_break_the_inputs_of_the_model_are_what_is_known(trainer: Trainer) -> None:
    for batch in trainer.watch(tensors(3)):
        trainer.train(batch)
        break
    gc.collect()
    other = torch.tensor([5.0])
    assert trainer.train(other).batches == [fingerprint(other)]


def test_what_the_loader_raises_passes_and_it_can_go_on(trainer: Trainer) -> None:
    class Shaky:
        def __init__(self) -> None:
            self.asked = 0

        def __iter__(self) -> Shaky:
            return self

        def __next__(self) -> Tensor:
            self.asked += 1
            if self.asked == 2:
                raise OSError("a shard is gone")
            if self.asked == 4:
                raise StopIteration
            return torch.tensor([self.asked])

    batches = trainer.watch(Shaky())
    assert next(batches) == torch.tensor([1])  # type: ignore[call-overload]
    with pytest.raises(OSError, match="a shard is gone"):
        next(batches)  # type: ignore[call-overload]
    assert [int(one) for one in batches] == [3]  # type: ignore[call-overload]
    with pytest.raises(StopIteration):
        next(iter(trainer.watch([])))


def test_it_has_a_length_and_a_next_where_the_loader_has_one(trainer: Trainer) -> None:
    sized = trainer.watch(tensors(4))
    assert len(sized) == 4  # type: ignore[arg-type]
    assert list(sized)
    unsized = trainer.watch(iter(tensors(2)))
    assert not isinstance(unsized, Sized)
    assert len(list(unsized)) == 2
    assert not isinstance(sized, Iterator)
    generator = trainer.watch(iter(tensors(2)))
    assert isinstance(generator, Iterator)
    assert iter(generator) is generator
    assert generator.position == 0
    next(generator)
    assert generator.position == 1


def test_a_data_loader_is_as_it_was(trainer: Trainer) -> None:
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=4)
    batches = trainer.watch(loader)
    assert len(batches) == 3  # type: ignore[arg-type]
    assert batches.sampler is loader.sampler
    assert batches.batch_size == 4
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = batches.nonsense
    assert copy.copy(batches).batch_size == 4
    for row in batches:
        assert trainer.train(row).batches == [fingerprint(row)]


def test_a_loader_whose_length_nobody_knows_says_so_as_before(trainer: Trainer) -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    batches = trainer.watch(DataLoader(Stream(), batch_size=None))
    with pytest.raises(TypeError):
        len(batches)  # type: ignore[arg-type]
    assert list(batches) == [0, 1, 2]


def test_worker_processes_and_their_batches_come_through(trainer: Trainer) -> None:
    loader = DataLoader(TensorDataset(torch.arange(6)), batch_size=2, num_workers=1)
    rows = [row for row in trainer.watch(loader) if trainer.train(row).batches != [""]]
    assert [one[0].tolist() for one in rows] == [[0, 1], [2, 3], [4, 5]]  # type: ignore[index]


def test_ids_of_the_samples_come_from_the_batch_or_from_who_knows_them(trainer: Trainer) -> None:
    named = [{"x": torch.ones(2), "index": torch.tensor([4, 5])}]
    for batch in trainer.watch(named):
        assert trainer.train(batch).samples == [("4", "5")]
    nameless = [(torch.ones(2), ["a", "b"])]
    for batch in trainer.watch(nameless, ids=lambda batch: batch[1]):  # type: ignore[index]
        assert trainer.train(batch).samples == [("a", "b")]
    assert trainer.train({"ids": ["z"]}).samples == [("z",)]  # of the model's inputs


def test_a_fault_in_finding_ids_reaches_nobody_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SENTINEL_RAISE")
    trainer, asked = Trainer(), []

    def ids(batch: object) -> object:
        asked.append(batch)
        raise KeyError("uid")

    for batch in trainer.watch(tensors(3), ids=ids):
        sample = trainer.train(batch)
        assert (sample.batches, sample.samples) == ([fingerprint(batch)], [()])
        assert not sample.is_missing(0)
    assert len(asked) == 1
    assert sum("ids= of watch.batches" in said for said in caplog.messages) == 1


def test_batches_taken_in_another_thread_are_not_this_ones(trainer: Trainer) -> None:
    batches = trainer.watch(tensors(4, first=100))
    taken: list[object] = []
    reader = iter(batches)
    thread = threading.Thread(target=lambda: taken.extend(islice(reader, 2)))
    own = iter(trainer.watch(tensors(1)))
    batch = next(own)
    thread.start()
    thread.join()
    assert len(taken) == 2
    next(iter(batches))  # and one here, of an iterator that is gone
    assert trainer.train(batch).batches == [fingerprint(batch)]


def test_after_detaching_it_goes_on_as_the_loader_alone(trainer: Trainer) -> None:
    given = tensors(4)
    batches = iter(trainer.watch(given))
    next(batches)
    trainer.panel.detach()
    assert [id(one) for one in batches] == [id(one) for one in given[1:]]


@pytest.mark.parametrize(
    ("signal", "micro_batch", "alone", "batches", "expected"),
    [
        ("nonfinite_activation", 1, False, ["a", "b"], ("b", ("2",))),
        ("nonfinite_activation", 1, True, ["a", "b"], ("b", ("2",))),
        ("nonfinite_activation", 7, False, ["a", "b"], ("", ())),
        ("nonfinite_gradient", 0, False, ["a", "a"], ("", ())),
        ("nonfinite_gradient", 0, True, ["a", "b"], ("", ())),
        ("nonfinite_gradient", 0, True, ["a", "a"], ("a", ("1",))),
        ("nonfinite_gradient", 0, True, [], ("", ())),
    ],
)
def test_a_finding_names_a_batch_only_where_it_can_be_of_no_other(
    signal: str,
    micro_batch: int,
    alone: bool,
    batches: list[str],
    expected: tuple[str, tuple[str, ...]],
) -> None:
    sample = Sample(1, 0, 0.0)
    sample.batches, sample.samples = batches, [("1",), ("2",)][: len(batches)]
    sample.find(Finding(signal, "head", micro_batch))
    (found,) = sample.found(alone=alone)
    assert (found.batch, found.samples) == expected
    assert (found.module, found.micro_batch) == ("head", micro_batch)


def test_steps_of_very_many_micro_batches_keep_only_the_first(trainer: Trainer) -> None:
    for _ in range(2000):
        trainer.forward(None)
    assert len(trainer.step().batches) == 1024
