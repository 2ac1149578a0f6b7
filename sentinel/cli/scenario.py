"""The faults of `sentinel drill`: how each is made, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    """One fault of the reference trainer.

    `rules` are those of which one must notice it; `rank` and `module` are what must be named.
    `paused`: all ranks must come to stand, and the run go on after a resume. `survives`: training
    must come to its end.
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
    paused: bool = False
    survives: bool = True

    def skip(self, held: int) -> int:
        """How many batches to leave out after a hold after this step to get past the fault."""
        return max(0, self.at + self.batches - 1 - held)


def _nan() -> Scenario:
    module, at, batches = "layers.2.mlp.down", 30, 24
    return Scenario(
        name="nan",
        story=f"From step {at} on, {batches} batches put a NaN into the output of {module} on "
        "rank 1. ZeRO skips such steps without a word; training would stand still unseen.",
        fault=f"nan:module={module},rank=1,step={at},batches={batches}",
        steps=75,
        at=at,
        rules=frozenset({"NonFiniteActivation"}),
        rank=1,
        module=module,
        batches=batches,
        paused=True,
    )


def _lr_jump() -> Scenario:
    at = 70
    return Scenario(
        name="lr-jump",
        story=f"From step {at} on, the learning rate is 100 times what it should be.",
        fault=f"lr-jump:step={at},factor=100",
        steps=95,
        at=at,
        rules=frozenset({"LossSpike", "GradNormExplosion"}),
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


SCENARIOS = {scenario.name: scenario for scenario in (_nan(), _lr_jump(), _kill_rank())}
