"""A receiver that is down for an hour gets everything when it is back, and nothing of it as news.

The record, the dispatcher and Slack's own client are real; only the clock is simulated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest

from sentinel.errors import DeliveryError, StateError
from sentinel.held import HoldTerms
from sentinel.notify.dispatcher import Backoff, Dispatcher
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import Fault, LoopbackSlack
from sentinel.notify.receiver import Letter, Posted, Receiver
from sentinel.notify.slack import SlackReceiver
from sentinel.store import HoldRow, Store
from sentinel.store.outbox import to_all
from sentinel.store.writing import Reminder
from tests.store.changes import alert, incident, pause

TWO = datetime(2026, 3, 1, 2, 0, tzinfo=timezone.utc).timestamp()
MINUTE = 60.0
# As Slack looks while it is down, without the waits of its client that a lost connection brings.
DOWN = [Fault("error", "service_unavailable")] * 10_000


@dataclass
class Night:
    """A record and its dispatcher on a clock that the test moves; it is two o'clock."""

    store: Store
    receiver: Receiver
    now: float = TWO
    dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(
            self.store.outbox,
            self.receiver,
            clock=lambda: self.now,
            chance=random.Random(7).random,
        )

    async def until(self, minutes: float) -> None:
        """Let time pass until so many minutes past two."""
        while self.now < TWO + minutes * MINUTE:
            self.now += 5.0
            await self.dispatcher.work_off()

    def open(self, id: str) -> None:
        """An incident of a run of its own opens now."""
        self.store.commit([incident(id=id, run=id, at=self.now), alert(incident=id, run=id)])

    def resolve(self, id: str) -> None:
        """It is over."""
        self.store.commit([incident("resolved", id=id, run=id, at=self.now)])

    def hold(self, id: str) -> None:
        """Its run is held from now on."""
        (action,) = self.store.commit([pause(incident=id, run=id, at=self.now)])
        hold = HoldRow(41, "rule:NonFiniteUpdate", self.now, HoldTerms())
        self.store.update_action(action, "done", at=self.now, step=41, hold=hold)

    def remind(self, id: str, offset: float) -> None:
        """People are owed a reminder of that."""
        self.store.remind(Reminder(id, offset, self.now))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, route=to_all(["slack"]))
    yield store
    store.close()


async def an_hour_of_storm(night: Night) -> None:
    """Twenty incidents open while nobody can be told, one every two minutes from 02:10 on.

    Every second one is over after 15 minutes; three others have their runs held, with reminders.
    """
    for number in range(20):
        await night.until(10 + 2 * number)
        night.open(f"i{number:02}")
        if number in (1, 3, 5):
            night.hold(f"i{number:02}")
        if number >= 8 and number % 2 == 0:
            night.resolve(f"i{number - 8:02}")
    for number in (1, 3, 5):
        night.remind(f"i{number:02}", 900.0)
    for number in range(12, 20, 2):
        night.resolve(f"i{number:02}")
    await night.until(60)
    for number in (1, 3):
        night.remind(f"i{number:02}", 1800.0)
    await night.until(70)


def kinds(messages: list[Message]) -> list[tuple[str, str]]:
    """Incident and kind of each."""
    payloads = [
        message.metadata["event_payload"]
        for message in messages
        if isinstance(message.metadata, dict)
    ]
    return [(payload["incident"], payload["kind"]) for payload in payloads]


def letters(slack: LoopbackSlack) -> list[Message]:
    """What came from the outbox, without the evidence that follows such a message."""
    metadata = [msgspec.convert(message.metadata, dict) for message in slack.messages]
    ids = [one["event_payload"]["event_id"] for one in metadata]
    return [one for one, event_id in zip(slack.messages, ids, strict=True) if "/" not in event_id]


async def test_after_an_hour_of_silence_a_person_reads_one_message_of_each_incident(
    store: Store, tmp_path: Path
) -> None:
    async with LoopbackSlack() as slack:
        receiver = SlackReceiver(
            slack.token, "#training", state_dir=tmp_path, base_url=slack.url, timeout=5
        )
        night = Night(store, receiver)
        for id in ("before", "held before"):
            night.open(id)
        await night.until(5)
        before = len(letters(slack))
        slack.fail_next(*DOWN)
        night.hold("held before")
        night.resolve("before")
        await an_hour_of_storm(night)
        asked = len(slack.requests)
        assert len(letters(slack)) == before == 2
        slack._faults.clear()
        await night.until(72)
        night.open("after")
        await night.until(73)

        late, news = letters(slack)[before:-1], letters(slack)[-1]
        heads = [message for message in late if message.thread_ts is None]
        replies = [message for message in late if message.thread_ts is not None]
        # In their order, each once, with what it has come to.
        over = [f"i{n:02}" for n in range(0, 20, 2)]
        assert [id for id, _ in kinds(heads)] == [f"i{n:02}" for n in range(20)]
        assert [id for id, kind in kinds(heads) if kind == "resolved"] == over
        assert {id for id, kind in kinds(heads) if kind == "reminder"} == {"i01", "i03", "i05"}
        assert sorted(kinds(replies)) == [("before", "resolved"), ("held before", "held")]
        # What is over is not shouted, what still stands is.
        assert {id for id, _ in kinds([m for m in late if m.broadcast])} == {"held before"}
        texts = {id: m.as_text() for (id, _), m in zip(kinds(heads), heads, strict=True)}
        assert "RESOLVED" in texts["i00"].splitlines()[0]
        assert "open from 02:10 UTC to 02:26 UTC" in texts["i00"]
        assert "open since 02:12 UTC" in texts["i01"]
        assert all("Told late" in text or "This is over" in text for text in texts.values())
        assert "Told late" not in news.as_text()
        assert "This is over" not in news.as_text()
        assert set(store.outbox.counts()) == {"sent", "folded"}
        # Being down, it was asked now and then whether it is well, and sent hardly anything.
        assert 60 < asked < 400
        assert slack.requests[:asked].count("chat.postMessage") < 10


async def test_how_a_night_was_can_be_told_from_the_messages_that_no_person_reads(
    store: Store,
) -> None:
    receiver = Machine()
    night = Night(store, receiver)
    receiver.down = True
    await an_hour_of_storm(night)
    receiver.down = False
    await night.until(72)

    seen: dict[str, list[Letter]] = {}
    for letter in receiver.letters:
        seen.setdefault(letter.notice.incident.id, []).append(letter)
    assert len(seen) == 20
    assert [letter.kind for letter in seen["i00"]] == ["opened", "resolved"]
    assert [letter.kind for letter in seen["i01"]] == ["opened", "held", "reminder"]
    states = {id: letters[-1].notice.incident.state for id, letters in seen.items()}
    assert states == {entry["id"]: entry["state"] for entry in store.incidents()}
    assert all(letters[0].late for letters in seen.values())


class Machine:
    """A receiver that has to see every event."""

    name = "slack"
    folds = False

    def __init__(self) -> None:
        self.letters: list[Letter] = []
        self.down = False
        self.fails = False
        self.asked: list[str] = []

    async def check(self) -> str:
        self.asked.append("check")
        if self.down:
            raise DeliveryError("it is down")
        return "machine"

    async def deliver(self, letter: Letter) -> Posted:
        self.asked.append(letter.notice.incident.id)
        if self.down or self.fails:
            raise DeliveryError("it is down")
        self.letters.append(letter)
        return Posted("C1", str(len(self.letters)))

    async def find(self, letter: Letter, since: float) -> Posted | None:
        raise AssertionError("nothing is doubtful")

    async def refresh(self, letter: Letter) -> None:
        pass

    async def close(self) -> None:
        pass


async def test_a_receiver_that_is_down_is_left_alone_for_ever_longer_at_random(
    store: Store,
) -> None:
    receiver = Machine()
    receiver.down = True
    night = Night(store, receiver)
    night.open("a")
    waits = []
    night.now += 2.0
    await night.dispatcher.work_off()
    for _ in range(8):
        asked, since = len(receiver.asked), night.now
        while len(receiver.asked) == asked:
            night.now += 0.25
            await night.dispatcher.work_off()
        waits.append(night.now - since)

    drawn = random.Random(7)
    expected = [drawn.random() * Backoff().pause(failures) for failures in range(1, 9)]
    assert waits == [pytest.approx(wait, abs=0.25) for wait in expected]
    assert receiver.asked == ["a", *["check"] * 8]


async def test_one_message_that_never_gets_through_does_not_hold_up_the_others(
    store: Store,
) -> None:
    receiver = Machine()
    night = Night(store, receiver)
    receiver.fails = True
    night.open("poison")
    await night.until(1)
    for number in range(10):
        night.open(f"i{number}")

    deliver = receiver.deliver

    async def all_but_one(letter: Letter) -> Posted:
        receiver.fails = letter.notice.incident.id == "poison"
        return await deliver(letter)

    receiver.deliver = all_but_one  # type: ignore[method-assign]
    await night.until(6)
    assert len({letter.notice.incident.id for letter in receiver.letters}) == 10
    assert store.outbox.counts() == {"pending": 1, "sent": 10}


async def test_what_a_receiver_that_is_well_does_not_take_is_given_up_after_a_day(
    store: Store,
) -> None:
    receiver = Machine()
    receiver.fails = True
    night = Night(store, receiver)
    night.open("a")
    for _ in range(110):
        night.now += 900.0
        await night.dispatcher.work_off()

    (row,) = store.outbox.unsettled()
    assert (row.state, row.error) == ("failed", "it is down")
    assert 60 < row.attempts < 110


async def test_what_a_receiver_did_not_take_for_a_day_is_given_up_and_can_be_seen(
    store: Store,
) -> None:
    receiver = Machine()
    receiver.down = True
    night = Night(store, receiver)
    night.open("a")
    night.open("b")
    await night.until(10)
    night.now += 86_400.0
    await night.dispatcher.work_off()

    rows = store.outbox.unsettled()
    assert [(row.incident, row.state, row.error) for row in rows] == [
        ("a", "failed", "it is down"),
        ("b", "failed", "it is down"),
    ]
    assert night.dispatcher.failed == 2
    assert store.resend(lambda row: row.incident == "a", night.now)[0].event_id == rows[0].event_id
    receiver.down = False
    night.now += 60.0
    await night.dispatcher.work_off()
    assert [letter.event_id for letter in receiver.letters] == [rows[0].event_id]
    assert "open since 01 Mar 02:00 UTC" in receiver.letters[0].late


async def test_a_disk_that_is_full_for_as_long_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Machine()
    night = Night(store, receiver)
    night.open("before")
    receiver.down = True
    await night.until(10)
    with monkeypatch.context() as disk:
        disk.setattr(store._database, "transaction", refuse)
        for number in range(20):
            with pytest.raises(StateError):
                night.open(f"i{number:02}")
            await night.until(10 + 2 * number)
        receiver.down = False
        await night.until(60)
        assert len(receiver.letters) == 21
        with pytest.raises(StateError):
            night.resolve("i00")
        await night.until(62)
    store.commit([])
    await night.until(70)

    told = [(letter.notice.incident.id, letter.kind) for letter in receiver.letters]
    opened = [(id, "opened") for id in ("before", *(f"i{n:02}" for n in range(20)))]
    assert told == [*opened, ("i00", "resolved")]
    assert store.outbox.counts() == {"sent": 22}
    assert len(store.incidents()) == 21


def refuse() -> object:
    """As a disk does that is full."""
    raise StateError("full")


async def test_a_look_into_the_history_reaches_back_over_a_clock_that_was_set(
    store: Store, tmp_path: Path
) -> None:
    """The clock was an hour ahead when the message went out, and has been set right since."""
    async with LoopbackSlack() as slack:
        receiver = SlackReceiver(
            slack.token, "#training", state_dir=tmp_path, base_url=slack.url, timeout=5
        )
        night = Night(store, receiver)
        night.now = datetime.now(timezone.utc).timestamp() + 3600.0
        night.open("a")
        slack.fail_next(Fault("drop_after"))
        night.now += 2.0
        await night.dispatcher.work_off()
        store.close()

        again = Store.open(tmp_path, route=to_all(["slack"]))
        after = Night(again, receiver)
        after.now = night.now - 3600.0
        await after.dispatcher.work_off()
        assert again.outbox.counts() == {"sent": 1}
        assert len(slack.messages) == 1
        again.close()
