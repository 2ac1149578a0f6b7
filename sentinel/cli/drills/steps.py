"""What happens in a drill after its fault, step by step; scenarios put them together."""

from __future__ import annotations

import shlex

import msgspec

from sentinel.cli.drills.stage import DrillError, Stage
from sentinel.cli.terminal import BAD, FAINT, GOOD
from sentinel.store.shapes import StatusJSON

LR_SCALE = 0.5


async def noticed(stage: Stage) -> None:
    """A rule that must notice the fault has fired."""
    rules = " or ".join(sorted(stage.rules))
    await stage.until(lambda: bool(stage.rules & stage.daemon.firing()), f"{rules} noticed it")


async def held(stage: Stage) -> None:
    """All ranks stand."""
    await stage.until(
        lambda: "held" in stage.chronicle.moments and stage.daemon.stands(), "the run was held"
    )


async def told(stage: Stage) -> None:
    """Slack has every message that was due."""
    await stage.until(stage.daemon.drained, "Slack received all messages")
    stage.chronicle.note("message", "Slack has it")


async def look(stage: Stage) -> None:
    """A person looks from outside: both ranks stand after the same step."""
    stage.terminal.heading("as a person sees it from outside")
    step = stage.chronicle.moments["held"].step
    (run,) = msgspec.json.decode(await stage.sentinel("status", "--json"), type=list[StatusJSON])
    ranks = ", ".join(f"rank {rank['rank']} after step {rank['step']}" for rank in run["ranks"])
    stage.terminal.line(f"{run['state']}: {ranks}")
    places = [(rank["step"], rank["phase"]) for rank in run["ranks"]]
    stage.chronicle.check(
        f"both ranks were held after the same step, {step}",
        run["state"] == "held" and places == [(step, "held")] * 2,
    )


async def resume(stage: Stage) -> None:
    """A person lets the run go on, past the batches that the fault spoils."""
    stage.terminal.heading("a person decides")
    held_at = stage.chronicle.moments["held"].step
    past = max(0, stage.spoiled - (held_at or 0))
    answer = await stage.sentinel("resume", "--skip", str(past), "--lr-scale", str(LR_SCALE))
    said = answer.decode().strip()
    stage.terminal.line(said, GOOD)
    stage.chronicle.note("resumed", f"by hand: {said.partition(', ')[2]}", held_at)
    stage.terminal.heading("training goes on")


async def end_job(stage: Stage) -> None:
    """A person ends a job that cannot be helped any more, by its launcher."""
    stage.terminal.heading("a person ends the job, which no order can reach")
    if not stage.children or stage.children[0].returncode is not None:
        raise DrillError("the launcher could be ended")
    launcher = stage.children[0]
    stage.terminal.line(f"$ {shlex.join(['kill', str(launcher.pid)])}", FAINT)
    launcher.terminate()
    stage.chronicle.note("killed", "by a person, through its launcher")


async def daemon_killed(stage: Stage) -> None:
    """The daemon dies over a hold, while Slack takes a message, before it could know of that."""

    def strike() -> None:
        moments = stage.chronicle.moments
        if "hold asked for" in moments and "daemon killed" not in moments:
            stage.daemon.kill()
            stage.chronicle.note("daemon killed", "before Slack had answered its message")

    stage.on_message = strike
    await stage.until(
        lambda: "daemon killed" in stage.chronicle.moments, "the daemon was killed over a message"
    )
    stage.terminal.line(
        "the daemon is killed (kill -9), before Slack has answered its message", BAD
    )


async def daemon_back(stage: Stage) -> None:
    """It is started again in the same directory."""
    stage.terminal.heading("the daemon is started again")
    await stage.daemon.start()
    stage.chronicle.note("daemon back")
