from __future__ import annotations

import math

from sentinel.engine.event import Began, take
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import Transition
from sentinel.replay.messages import Moment, begins_to_fire, replay_messages
from sentinel.wire import Goodbye, Heartbeat
from tests.engine import world

NAMES = ["loss", "nonfinite_update"]


def _recorded() -> list[Moment]:
    """Two ranks; a NaN is applied on one of them, the other dies later on."""
    moments = [Moment(50.0, rank, world.hello(rank, 2, NAMES)) for rank in (0, 1)]
    for step in range(1, 6):
        for rank in (0, 1):
            bad = {"loss": math.nan, "nonfinite_update": 1.0} if (step, rank) == (4, 1) else {}
            measured = {"loss": 1.0, "nonfinite_update": 0.0, **bad}
            message = world.frame(step, step, NAMES, measured)
            moments.append(Moment(50.25 + step, rank, message))
    moments.append(Moment(56.5, 0, None))
    moments += [Moment(56.5 + at, 1, Heartbeat(5, "forward", 0.0)) for at in range(1, 15)]
    return [*moments, Moment(80.25, 1, Goodbye("exception"))]


def test_a_recorded_run_gives_what_happened_live() -> None:
    rules = load(resolve_pack("default"))
    engine = RunEngine("run", rules)
    live: list[Transition] = []
    ticked = 50.0
    for now, rank, message in _recorded():
        while ticked + 1 <= now:
            ticked += 1
            live += engine.tick(ticked)
        assert not isinstance(message, Began)
        live += take(engine, rank, message, now)
    told = list(replay_messages("run", _recorded(), rules))
    assert repr(told) == repr(live)
    assert [one.rule for one in begins_to_fire(told)] == [
        "NonFiniteLoss",
        "NonFiniteUpdate",
        "RankSilent",
        "RankFailed",
    ]


def test_without_a_clock_nobody_is_ever_silent() -> None:
    rules = load(resolve_pack("default"))
    told = begins_to_fire(replay_messages("run", _recorded(), rules, clock=False))
    assert [one.rule for one in told] == ["NonFiniteLoss", "NonFiniteUpdate"]


def test_a_long_pause_in_a_recording_is_not_ticked_through_for_ever() -> None:
    moments = [
        Moment(0.0, 0, world.hello(0, 1, NAMES)),
        Moment(1e12, 0, Heartbeat(1, "data", 0.0)),
    ]
    told = replay_messages("run", moments, load(resolve_pack("default")))
    assert [one.rule for one in begins_to_fire(told)] == ["RankSilent"]
