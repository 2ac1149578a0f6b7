"""The same messages at the same times give the same transitions, whatever the messages are."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sentinel.engine.incident import precedence
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import Cause, Transition
from sentinel.wire import FromRank, Goodbye, Heartbeat, Splitter, decode_from_rank, encode
from tests.engine import world
from tests.engine.world import actions, alerts, incidents, seconds, steps

NAN = math.nan
NAMES = ["loss", "nonfinite_activation", "nonfinite_update"]
_SOURCE = st.tuples(
    st.integers(0, 2),  # rank
    st.sampled_from(["frame"] * 8 + ["heartbeat", "goodbye", "hello", "cut", "tick", "restart"]),
    st.sampled_from([0, 0, 0, 1, 2, -4]),  # steps further than the next
    st.sampled_from([0.5, 1.0, 1.0, 2.0, 9.0, NAN, math.inf, None]),
    st.sampled_from([0.0, 0.1, 0.5, 4.0, 40.0]),  # seconds later
)
_RULES = [
    world.rule("nonfinite(by_rank(loss))", "Loss", keeps=steps(2)),
    world.rule("by_rank(nonfinite_update) > 0", "Applied", actions=("pause",)),
    world.rule("by_rank(silence) > 30", "Silent", severity="critical"),
    world.rule("by_rank(lost) > 0", "Gone", severity="critical"),
    world.rule("robust_z(loss, window=8) > 3 and loss > mean(loss[3])", "Z", keeps=steps(3)),
    world.rule("by_rank(loss) > 1.5 * loss", "Out", holds=seconds(0.3), keeps=seconds(0.5)),
]
Told = list[tuple[float, int, FromRank | str]]


def _stream(drawn: list[tuple[int, str, int, float | None, float]]) -> Told:
    """Whatever three ranks may say, in a plausible order and in an implausible one."""
    now, at, sequence, life = 100.0, [0, 0, 0], [0, 0, 0], [0, 0, 0]
    told: Told = [(now, rank, world.hello(rank, 3, NAMES)) for rank in range(3)]
    for rank, kind, further, loss, pause in drawn:
        now += pause
        if kind == "frame":
            at[rank] = max(1, at[rank] + 1 + further)
            sequence[rank] += 1 + max(0, further)
            bad = 0.0 if loss != 9.0 else 1.0
            own = {"nonfinite_activation": 0.0, "nonfinite_update": bad}
            measured = own if loss is None else {**own, "loss": loss}
            message = world.frame(at[rank], sequence[rank], NAMES, measured)
            told.append((now, rank, message))
        elif kind in ("hello", "restart"):
            life[rank] += kind == "restart"
            hello = world.hello(rank, 3, NAMES, incarnation=str(life[rank]), step=at[rank])
            told.append((now, rank, hello))
        elif kind == "heartbeat":
            told.append((now, rank, Heartbeat(at[rank], "data", now)))
        else:
            told.append((now, rank, Goodbye("finished") if kind == "goodbye" else kind))
    return told


def _play(stream: Told, *, serialized: bool = False) -> list[Transition]:
    engine = RunEngine("run", _RULES, patience=5.0)
    transitions: list[Transition] = []
    for now, rank, message in stream:
        if message == "tick":
            transitions += engine.tick(now)
        elif message == "cut":
            transitions += engine.disconnected(rank, now)
        elif not isinstance(message, str):
            if serialized:
                (body,) = Splitter().feed(encode(message))
                decoded = decode_from_rank(body)
                assert decoded == message
                message = decoded
            transitions += engine.feed(rank, message, now)
    return transitions + engine.ended(stream[-1][0] + 1)


@given(st.lists(_SOURCE, max_size=60))
def test_replay_gives_exactly_what_happened_live(
    drawn: list[tuple[int, str, int, float | None, float]],
) -> None:
    stream = _stream(drawn)
    live = _play(stream)
    assert repr(_play(stream, serialized=True)) == repr(live)  # repr, since NaN is not NaN


@given(st.lists(_SOURCE, max_size=60))
def test_what_is_told_is_consistent_whatever_the_ranks_say(
    drawn: list[tuple[int, str, int, float | None, float]],
) -> None:
    open_incident: str | None = None
    firing: set[tuple[str, str]] = set()
    cause: Cause | None = None
    for one in _play(_stream(drawn)):
        name = type(one).__name__
        if name == "IncidentChanged":
            (change,) = incidents([one])
            assert (change.change == "opened") is (open_incident is None)
            if change.change == "updated":
                assert cause is not None
                assert precedence(change.cause) <= precedence(cause)
            open_incident = None if change.change == "resolved" else change.id
            cause = change.cause
            assert not (change.change == "resolved" and firing)
        elif name == "AlertChanged":
            (alert,) = alerts([one])
            identity = (alert.rule, repr(alert.labels))
            assert alert.incident == open_incident
            assert (identity in firing) is (alert.state == "resolved")
            assert alert.step <= alert.fired_step
            firing ^= {identity}
        else:
            (wanted,) = actions([one])
            assert (wanted.incident, wanted.rule) == (open_incident, "Applied")
