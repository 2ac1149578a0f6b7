"""Anything that may happen to a simulated run, at random."""

from __future__ import annotations

from random import Random

from sentinel.wire import Remedies
from tests.control.promises import LEASE
from tests.control.simulated_rank import Worker
from tests.control.simulation import World


def wander(world: World, turns: int) -> None:
    """Let anything happen, this many times."""
    draw = world.draw
    for _ in range(turns):
        happen(world, draw.choice(world.workers), draw.random(), draw)


def happen(world: World, worker: Worker, chance: float, draw: Random) -> None:
    """One thing: most often a rank does what it does next."""
    if chance < 0.06:
        world.rounds(3)
    elif chance < 0.62:
        world.act(worker)
    elif chance < 0.72:
        world.refresh(worker)
    elif chance < 0.88:
        world.deliver(lose=draw.random() < 0.1, twice=draw.random() < 0.1)
    elif chance < 0.90:
        world.now += draw.choice([0.01, 0.01, 1.0, 1.0, LEASE + 1, LEASE + 1, 61.0, 301.0])
        world.office.tick()
    elif chance < 0.94:
        ask(world, draw)
    elif chance < 0.96:
        world.resume(any_remedies(draw), dies=draw.random() < 0.1)
    elif chance < 0.985:
        worker.refuses = draw.choice(["", "", "no such tag"])
        worker.fails = draw.choice(["", "", "disk full"])
    else:
        misfortune(world, worker, draw)
    world.check()


def ask(world: World, draw: Random) -> bool:
    """Somebody asks for a hold of any kind."""
    then = draw.choice([*["hold"] * 6, *["checkpoint"] * 3, "stop"])
    dies = draw.random() < 0.1
    if then != "hold":
        return world.hold(then, dies=dies)
    return world.hold(
        dies=dies,
        hold_for=draw.choice([30.0, 7200.0]),
        unattended=draw.choice(["resume", "resume", "stop", "hold"]),
    )


def any_remedies(draw: Random) -> Remedies:
    """What a person might choose."""
    return draw.choice(
        [
            Remedies(),
            Remedies(lr_scale=0.5, skip_batches=3),
            Remedies(checkpoint=True),
            Remedies(rollback="1"),
            Remedies(rollback="1", rewind=True),
            Remedies(rollback="2", lr_scale=0.1),
        ]
    )


def misfortune(world: World, worker: Worker, draw: Random) -> None:
    """A connection breaks or comes back, the daemon or a rank dies, the job is started anew."""
    chance = draw.random()
    if all(one.over for one in world.workers):
        world.launch()
    elif chance < 0.5:
        worker.connect() if draw.random() < 0.7 else worker.disconnect()
        worker.attach()
    elif chance < 0.8:
        if world.office.control is None:
            world.office.open()
            for one in world.workers:
                one.connect()
        else:
            world.office.kill()
    elif chance < 0.9:
        worker.die()
    else:
        world.launch(late=draw.choice([0, 0, 1]))
