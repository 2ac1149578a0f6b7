"""Skipping batches, and going back to the data that came after a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from sentinel.errors import ControlError
from sentinel_hooks.batches import MAX_PASSES, Batches
from sentinel_hooks.loaders import MAX_MARKS, Loaders
from tests.hooks.test_batches import Trainer, tensors

SIZE = 8


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")


class Job(Trainer):
    """A trainer whose loaders may be meddled with."""

    def __init__(self) -> None:
        super().__init__()
        self.loaders = Loaders()

    def watch(
        self, loader: object, ids: Callable[[object], object] | None = None
    ) -> Batches[object]:
        batches = super().watch(loader, ids)
        self.loaders.add(batches)
        return batches

    def go_through(self, batches: Iterable[object], count: int = 1000) -> list[int]:
        """Train on the next ones, and say which they were."""
        seen = []
        for batch in islice(batches, count):
            self.train(batch)
            seen.append(number(batch))
        return seen


def number(batch: object) -> int:
    """The number in it, however it is wrapped."""
    tensor = batch[0] if isinstance(batch, list) else batch
    assert isinstance(tensor, Tensor)
    return int(tensor.flatten()[0])


@pytest.fixture
def job() -> Job:
    return Job()


def test_the_next_batches_are_taken_and_thrown_away(job: Job) -> None:
    batches = job.watch(tensors(8))
    loop = iter(batches)
    assert job.go_through(loop, 2) == [0, 1]
    job.loaders.skip(3)
    assert job.go_through(loop, 1) == [5]
    assert (batches.position, batches.passes) == (6, 1)
    assert job.go_through(loop) == [6, 7]


def test_what_a_pass_has_no_more_is_skipped_from_the_next(job: Job) -> None:
    batches = job.watch(tensors(4))
    for epoch, expected in enumerate([[0, 1], [3], [0, 1, 2, 3]]):
        seen = []
        for batch in batches:
            job.train(batch)
            seen.append(number(batch))
            if (epoch, len(seen)) == (0, 2):
                job.loaders.skip(5)
        assert seen == expected


def test_what_a_loop_does_not_take_any_more_is_skipped_from_the_next_pass(job: Job) -> None:
    batches = job.watch(tensors(4))
    for batch in batches:
        job.train(batch)
        job.loaders.skip(2)
        break
    assert job.go_through(batches) == [2, 3]


def test_another_pass_over_the_same_loader_does_not_take_the_skips(job: Job) -> None:
    batches = job.watch(tensors(4))
    loop = iter(batches)
    job.go_through(loop, 1)
    job.loaders.skip(2)
    assert [number(batch) for batch in batches] == [0, 1, 2, 3]
    assert job.go_through(loop) == [3]


def test_what_is_only_evaluated_on_is_not_skipped(job: Job) -> None:
    training, held_out = job.watch(tensors(6)), job.watch(tensors(3, first=50))
    loop = iter(training)
    job.go_through(loop, 1)
    for batch in held_out:
        job.forward(batch, training=False)
    job.loaders.skip(2)
    assert [number(batch) for batch in held_out] == [50, 51, 52]
    assert job.go_through(loop, 1) == [3]


def test_loaders_that_are_read_side_by_side_stay_side_by_side(job: Job) -> None:
    text, images = job.watch(tensors(6)), job.watch(tensors(6, first=100))
    pairs = iter(zip(text, images, strict=True))
    for expected in ((0, 100), (3, 103)):
        one, other = next(pairs)
        job.forward(one, other)
        job.step()
        assert (number(one), number(other)) == expected
        job.loaders.skip(2)


def test_a_skip_that_nothing_was_taken_for_yet_can_be_taken_back(job: Job) -> None:
    loop = iter(job.watch(tensors(8)))
    job.go_through(loop, 1)
    job.loaders.skip(2)
    job.loaders.skip(3)
    job.loaders.take_back(3)
    assert job.go_through(loop, 2) == [3, 4]
    job.loaders.skip(100)
    job.loaders.take_back(100)
    assert job.go_through(loop) == [5, 6, 7]


def test_where_no_loop_is_known_nothing_can_be_skipped(job: Job) -> None:
    batches = job.watch(tensors(3))
    for batch in batches:
        job.forward(batch, training=False)
    assert "watch.batches" in job.loaders.cannot_skip()
    with pytest.raises(ControlError, match=r"watch\.batches"):
        job.loaders.skip(1)
    assert len(list(batches)) == 3


def test_an_error_of_the_loader_while_skipping_passes_and_skipping_goes_on(job: Job) -> None:
    class Shaky:
        def __init__(self) -> None:
            self.asked = 0

        def __iter__(self) -> Shaky:
            return self

        def __next__(self) -> Tensor:
            self.asked += 1
            if self.asked == 3:
                raise OSError("a shard is gone")
            return torch.tensor([self.asked])

    loop = iter(job.watch(Shaky()))
    job.go_through(loop, 1)
    job.loaders.skip(2)
    with pytest.raises(OSError, match="a shard is gone"):
        next(loop)
    assert job.go_through(loop, 1) == [5]  # 2 and 4 were thrown away


class Stream:
    """Shuffles by itself, as many scripts do."""

    def __init__(self, shuffle: Callable[[list[int]], object]) -> None:
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[Tensor]:
        order = list(range(SIZE))
        self.shuffle(order)
        return (torch.tensor([one]) for one in order)


class Restarting:
    """Like DeepSpeed's loader: `iter` gives itself, from the start; it has a length too."""

    def __init__(self) -> None:
        self.data_sampler = RandomSampler(range(SIZE))
        self.data: Iterator[int] = iter(())

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Restarting:
        self.data = (one for one in self.data_sampler)
        return self

    def __next__(self) -> Tensor:
        return torch.tensor([next(self.data)])


DATA = TensorDataset(torch.arange(SIZE))

LOADERS: dict[str, Callable[[], object]] = {
    "a list": lambda: tensors(SIZE),
    "a shuffling loader": lambda: DataLoader(DATA, shuffle=True),
    "one with a generator": lambda: DataLoader(
        DATA, shuffle=True, generator=torch.Generator().manual_seed(3)
    ),
    "one with workers": lambda: DataLoader(DATA, shuffle=True, num_workers=1),
    "one with workers that stay": lambda: DataLoader(
        DATA, shuffle=True, num_workers=1, persistent_workers=True
    ),
    "with replacement": lambda: DataLoader(
        DATA,
        sampler=RandomSampler(DATA, replacement=True, generator=torch.Generator().manual_seed(3)),
    ),
    "a subset": lambda: DataLoader(DATA, sampler=SubsetRandomSampler(range(SIZE))),
    "weighted": lambda: DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * SIZE, SIZE)),
    "shuffled by random": lambda: Stream(random.shuffle),
    "shuffled by its own": lambda: Stream(random.Random(5).shuffle),
    "shuffled by NumPy": lambda: Stream(np.random.shuffle),
    "one that restarts itself": Restarting,
}
OWN = {"shuffled by its own"}  # by something that no loader can be asked for


@pytest.mark.parametrize("kind", [name for name in LOADERS if name not in OWN])
def test_after_going_back_the_same_batches_come_in_the_same_order(job: Job, kind: str) -> None:
    batches = job.watch(LOADERS[kind]())
    seen: list[int] = []
    again: list[int] = []
    for epoch in range(3):
        for batch in batches:
            job.train(batch)
            (again if job.steps > SIZE + 5 else seen).append(number(batch))
            if (epoch, len(seen)) == (0, 3):
                job.loaders.mark("three")
            if job.steps == SIZE + 5:  # in the second pass
                before = torch.get_rng_state(), random.getstate()
                assert job.loaders.cannot_rewind("three") == ""
                job.loaders.rewind("three")
                assert (batches.passes, batches.position) == (1, 3)
                assert torch.equal(before[0], torch.get_rng_state())
                assert before[1] == random.getstate()
        assert batches.passes == epoch + 1
    # What was left of the first pass, the whole second one, and then the third.
    assert again[: SIZE + 2] == seen[3:]
    assert len(again) == (SIZE - 3) + SIZE + SIZE
    assert sorted(again[-SIZE:]) == list(range(SIZE)) or kind in ("with replacement", "weighted")


def test_the_epoch_that_a_sampler_was_told_is_that_of_the_pass_gone_back_to(job: Job) -> None:
    sampler: DistributedSampler[object] = DistributedSampler(DATA, num_replicas=1, rank=0, seed=4)
    batches = job.watch(DataLoader(DATA, sampler=sampler))
    seen: list[int] = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for batch in batches:
            job.train(batch)
            seen.append(number(batch))
            if len(seen) == 2:
                job.loaders.mark("two")
            if len(seen) == SIZE + 1:
                job.loaders.rewind("two")
                assert sampler.epoch == 1
    assert seen[SIZE + 1 : 2 * SIZE - 1] == seen[2:SIZE]  # the first pass
    assert seen[2 * SIZE - 1] == seen[SIZE]  # and the second, from its start
    assert len(seen) == SIZE + 1 + (SIZE - 2) + SIZE


def test_passes_that_were_left_early_are_left_there_again(job: Job) -> None:
    batches = job.watch(tensors(SIZE))
    assert job.go_through(batches, 3) == [0, 1, 2]
    job.loaders.mark("three")  # in a loop that is over
    job.go_through(batches, 4)
    loop = iter(batches)
    job.go_through(loop, 2)
    job.loaders.rewind("three")
    assert job.go_through(loop) == [0, 1, 2, 3, *range(SIZE)]


def test_one_can_go_back_again_and_again_and_skip_then(job: Job) -> None:
    loop = iter(job.watch(DataLoader(DATA, shuffle=True)))
    first = job.go_through(loop, 1)
    job.loaders.mark("one")
    rest = job.go_through(loop, 6)
    for _ in range(2):
        job.loaders.skip(4)
        job.loaders.rewind("one")  # which is not changed by what was to be skipped
        assert job.go_through(loop, 3) == rest[:3]
    job.loaders.rewind("one")
    job.loaders.skip(2)
    assert job.go_through(loop, 4) == rest[2:]
    job.loaders.mark("later")
    last = job.go_through(loop)
    assert sorted([*first, *rest, *last]) == list(range(SIZE))


def test_the_loop_goes_on_where_the_loader_gives_another_order(job: Job) -> None:
    shuffle = random.Random(5).shuffle
    loop = iter(job.watch(Stream(lambda order: shuffle(order))))
    first = job.go_through(loop, 3)
    job.loaders.mark("three")
    second = job.go_through(loop, 2)
    assert job.loaders.cannot_rewind("three") == ""
    with pytest.raises(ControlError, match="gives other batches than before"):
        job.loaders.rewind("three")
    assert sorted([*first, *second, *job.go_through(loop)]) == list(range(SIZE))


def test_a_way_back_that_fails_leaves_the_loaders_own_generator_alone(job: Job) -> None:
    data = torch.arange(SIZE)
    own = torch.Generator().manual_seed(3)
    batches = job.watch(DataLoader(TensorDataset(data), shuffle=True, generator=own))
    for count, batch in enumerate(batches, 1):
        job.train(batch)
        if count == 3:
            job.loaders.mark("three")
    loop = iter(batches)
    job.go_through(loop, 3)
    before = own.get_state()
    data += 100  # a stream that has changed
    with pytest.raises(ControlError, match="gives other batches than before"):
        job.loaders.rewind("three")
    assert torch.equal(own.get_state(), before)
    assert len(job.go_through(loop)) == SIZE - 3


def test_what_cannot_be_gone_back_to_is_refused_with_the_reason(job: Job) -> None:
    loop = iter(job.watch(tensors(SIZE)))
    job.go_through(loop, 2)
    assert "not known to this process" in job.loaders.cannot_rewind("never saved")
    for tag in range(MAX_MARKS + 1):
        job.loaders.mark(str(tag))
    assert "not known" in job.loaders.cannot_rewind("0")
    assert job.loaders.cannot_rewind("1") == ""

    once = iter(job.watch(iter(tensors(SIZE, first=50))))
    other = Job()
    stream = other.watch(iter(tensors(SIZE)))
    other.go_through(stream, 2)
    other.loaders.mark("two")
    assert "cannot be gone through again" in other.loaders.cannot_rewind("two")
    with pytest.raises(ControlError, match="gone through again"):
        other.loaders.rewind("two")
    assert other.go_through(stream, 1) == [2]
    del once


def test_a_pass_too_long_ago_cannot_be_gone_back_to(job: Job) -> None:
    batches = job.watch(tensors(2))
    for epoch in range(MAX_PASSES + 1):
        for batch in batches:
            job.train(batch)
            if epoch == 0:
                job.loaders.mark("first")
    loop = iter(batches)
    job.go_through(loop, 1)
    assert "too long ago" in job.loaders.cannot_rewind("first")


def test_a_loader_that_was_done_with_since_cannot_be_gone_back_to(job: Job) -> None:
    early = job.watch(tensors(4))
    loop = iter(early)
    job.go_through(loop, 2)
    job.loaders.mark("early")
    job.go_through(loop)
    late = iter(job.watch(tensors(4, first=50)))
    job.go_through(late, 1)
    assert "is so no more" in job.loaders.cannot_rewind("early")


def test_a_loader_that_restarts_itself_gives_every_epoch(job: Job) -> None:
    batches = job.watch(Restarting())
    for epoch in (1, 2):
        assert sorted(job.go_through(batches)) == list(range(SIZE))
        assert batches.passes == epoch
    assert len(batches) == SIZE  # type: ignore[arg-type]
