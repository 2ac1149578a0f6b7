"""The faults of `sentinel drill`: how each is made, and what must come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sentinel.cli.drills import steps
from sentinel.cli.drills.stage import Stage

Step = Callable[[Stage], Awaitable[None]]
GOES_ON: tuple[Step, ...] = ()  # nobody has to do anything
HELD_AND_RESUMED: tuple[Step, ...] = (steps.held, steps.told, steps.look, steps.resume)


@dataclass(frozen=True)
class Scenario:
    """One fault of the reference trainer on so many `ranks`, at this ZeRO `stage` and `precision`.

    `fault` is as the trainer takes it, `at` the step (for faults that sit in the data: the batch)
    that it comes with, and `batches` how many batches it spoils. `rules` are those of which one
    must notice it; `rank` and `module` are what must be named, `names_batch` whether the batch
    must be, `evidence` the kind of evidence that must speak for it. `course` is what must happen,
    one after the other, before the run comes to its end; `paused` says that this includes a hold.
    `survives`: training must come to its end. `own_process`: the daemon is a process of its own,
    which can be killed. `sooner` replaces a piece of the named rule's expression, so that nobody
    has to wait for it. `stands_in` is the function that the stack of `rank` must name, and the
    other rank must stand in a collective.
    """

    name: str
    story: str
    fault: str
    steps: int
    at: int
    rules: frozenset[str]
    rank: int | None = None
    module: str | None = None
    batches: int = 0
    names_batch: bool = False
    evidence: str = ""
    course: tuple[Step, ...] = GOES_ON
    paused: bool = False
    survives: bool = True
    own_process: bool = False
    sooner: tuple[str, str, str] | None = None
    stands_in: str | None = None
    ranks: int = 2
    stage: int = 2
    precision: str = "bf16"


_MODULE = "layers.2.mlp.down"


def _nan() -> Scenario:
    at, batches = 30, 24
    return Scenario(
        name="nan",
        story=f"From step {at} on, {batches} batches put a NaN into the output of {_MODULE} on "
        "rank 1. ZeRO skips such steps without a word; training would stand still unseen.",
        fault=f"nan:module={_MODULE},rank=1,step={at},batches={batches}",
        steps=75,
        at=at,
        rules=frozenset({"NonFiniteActivation"}),
        rank=1,
        module=_MODULE,
        batches=batches,
        names_batch=True,
        course=HELD_AND_RESUMED,
        paused=True,
    )


def _poison() -> Scenario:
    at, batches = 85, 8
    return Scenario(
        name="poison",
        story=f"From step {at} on, {batches} batches of rank 1 are random bytes, as from a "
        "corrupted shard. Its loss jumps; no number is wrong, and training goes on.",
        fault=f"poison:rank=1,step={at},batches={batches}",
        steps=105,
        at=at,
        rules=frozenset({"RankLossSpike"}),
        rank=1,
        batches=batches,
        names_batch=True,
    )


def _lr_jump() -> Scenario:
    at = 70
    return Scenario(
        name="lr-jump",
        story=f"From step {at} on, the learning rate is 100 times what it should be.",
        fault=f"lr-jump:step={at},factor=100",
        steps=95,
        at=at,
        rules=frozenset({"LossSpike", "GradientExplosion"}),
    )


def _leak() -> Scenario:
    at = 20
    return Scenario(
        name="leak",
        story=f"From step {at} on, the process of rank 1 keeps 0.025% of the memory that was free "
        "more at every step: a leak that would fill this machine, or this container, in 4,000 "
        "steps. It ends with the run, after less than 2%.",
        fault=f"leak:rank=1,step={at},percent=0.025",
        steps=80,
        at=at,
        rules=frozenset({"HostMemoryGrowth"}),
        rank=1,
    )


def _slow_rank() -> Scenario:
    at = 20
    return Scenario(
        name="slow-rank",
        story=f"From step {at} on, each forward pass of rank 1 takes 0.4 s longer. All ranks take "
        "equally long for a step then: the slow one is the one that waits least, and less than "
        "it once did.",
        fault=f"slow-rank:rank=1,step={at},seconds=0.4",
        steps=84,
        at=at,
        rules=frozenset({"Straggler"}),
        rank=1,
        evidence="comparison",
    )


def _disagree() -> Scenario:
    at = 25
    return Scenario(
        name="disagree",
        story=f"Before step {at}, bits flip in 1% of the weights of {_MODULE} on rank 2, as by "
        "failing memory. No number is wrong, and no loss shows it; but its gradients, which are "
        "made with other weights than those of ranks 0 and 1, go into everybody's update.",
        fault=f"corrupt:module={_MODULE},rank=2,step={at}",
        steps=55,
        at=at,
        rules=frozenset({"ReplicaDiffers"}),
        rank=2,
        evidence="comparison",
        ranks=3,  # of two that differ nobody could say which is right
        stage=0,  # where weights are not gathered anew at each step
        precision="fp32",
    )


def _hang() -> Scenario:
    at, default, here = 20, 180, 15
    return Scenario(
        name="hang",
        story=f"Within step {at}, rank 1 stands still for ever; rank 0 waits for it in a "
        f"collective. The default rules call a rank stuck after {default} s, this drill after "
        f"{here} s.",
        fault=f"hang:rank=1,step={at}",
        steps=60,
        at=at,
        rules=frozenset({"CollectiveStuck"}),
        rank=1,
        course=(steps.noticed, steps.told, steps.end_job),
        survives=False,
        sooner=("CollectiveStuck", f"> {default}", f"> {here}"),
        stands_in="hang",
    )


def _kill_rank() -> Scenario:
    at = 20
    return Scenario(
        name="kill-rank",
        story=f"Before step {at}, the process of rank 1 is killed, as the kernel does when memory "
        "runs out. The launcher then takes down the rest.",
        fault=f"kill-rank:rank=1,step={at}",
        steps=60,
        at=at,
        rules=frozenset({"RankSilent"}),
        rank=1,
        survives=False,
    )


def _daemon_kill() -> Scenario:
    at, batches = 20, 40
    return Scenario(
        name="daemon-kill",
        story=f"From step {at} on, {batches} batches put a NaN into the output of {_MODULE} on "
        "rank 1. Once a hold has been asked for, the daemon, here a process of its own, is killed "
        "(kill -9) while Slack takes its message, and then started again.",
        fault=f"nan:module={_MODULE},rank=1,step={at},batches={batches}",
        steps=75,
        at=at,
        rules=frozenset({"NonFiniteActivation"}),
        rank=1,
        module=_MODULE,
        batches=batches,
        names_batch=True,
        course=(steps.daemon_killed, steps.daemon_back, *HELD_AND_RESUMED),
        paused=True,
        own_process=True,
    )


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        *(_nan(), _poison(), _lr_jump(), _leak()),
        *(_slow_rank(), _disagree(), _hang(), _kill_rank(), _daemon_kill()),
    )
}
