"""A message names the culprit, stays within Slack's limits, and does what no name wants."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sentinel.held import HoldTerms
from sentinel.notify.blocks import blocks, escape, fallback
from sentinel.notify.loopback_limits import refusal
from sentinel.notify.loopback_message import Message
from sentinel.notify.message import Station, as_text, compose, compose_reply, plain
from sentinel.notify.notice import Action, Cause, Hold, LastGood, Notice
from tests.notify.notices import HELD, REQUESTED, STATION, notice

KINDS = (
    *("opened", "updated", "held", "resumed", "stopped", "action", "resolved"),
    *("reminder", "ending"),
)
HOSTILE = (
    "<!channel>",
    "<@U0123456>",
    "<!here|here>",
    "<https://evil.example|click>",
    "&lt;!channel&gt;",
    "*_~`",
    "```",
    "x\n<!everyone>\u202e\x00",
)


def sent(shown: Notice, kind: str = "opened", *, reply: bool = False) -> Message:
    """What Slack gets."""
    text = compose_reply(kind, shown, STATION) if reply else compose(shown, STATION)
    fields: dict[str, object] = {"text": fallback(text), "blocks": blocks(text)}
    return Message.made_of(fields, "C1", "training", "1.0")


def test_the_message_names_the_culprit_and_says_how_to_go_on() -> None:
    assert as_text(compose(notice(actions=(HELD,)), STATION)).split("\n") == [
        "CRITICAL: NonFiniteUpdate in run gpt at step 37 on rank 1, module transformer.h.3.mlp",
        "a non-finite gradient was applied to the weights",
        "Step: 37",
        "Rank: 1",
        "Host: node-a",
        "Device: cuda:1",
        "Module: transformer.h.3.mlp",
        "Signal: nonfinite_update",
        "Rule: NonFiniteUpdate",
        "All ranks are held at step 41; nothing is torn down.",
        "- NonFiniteUpdate (warning, firing) at step 37: layer=layer.0",
        "go back to a checkpoint from before step 37",
        "On head-node:",
        "  sentinel resume gpt --state /var/lib/sentinel   "
        "# go on (refused if weights are not finite)",
        "  sentinel resume gpt --lr-scale 0.5 --state /var/lib/sentinel   "
        "# go on, learning rate halved",
        "  sentinel stop gpt --state /var/lib/sentinel   # end the run cleanly",
        "incident i1, opened at step 37, 2026-05-28T20:26:40.000Z",
    ]


GOOD = LastGood("step20<!channel>", 20, 17)


def test_the_last_good_checkpoint_is_named_where_there_is_one_and_how_to_go_back() -> None:
    shown = notice(actions=(HELD,), last_good=GOOD)
    replies = [compose_reply(kind, shown, STATION) for kind in ("held", "reminder", "ending")]
    for text in (compose(shown, STATION), *replies):
        assert text.way_back == "Last good checkpoint: step20<!channel>, 17 steps back."
        commands = [command.line for command in text.commands]
        back = "sentinel resume gpt --rollback last-good --state /var/lib/sentinel"
        assert back in commands
        assert text.way_back in as_text(text)
    assert "step20&lt;!channel&gt;, 17 steps back." in str(blocks(compose(shown, STATION)))
    assert compose(notice(state="resolved", last_good=GOOD), STATION).way_back == ""
    without = compose(notice(actions=(HELD,)), STATION)
    assert without.way_back == ""
    assert "--rollback" not in as_text(without)


LOCATED = Cause(
    *("NonFiniteLocalGradient", "nonfinite_local_gradient", 37, 1, "node-a", "cuda:1"),
    *("h.3.mlp", "h.3.mlp.weight", 2, "9f86d081884c7d65", ("a/1", "a/2")),
)


def test_parameter_micro_batch_batch_and_samples_are_named_where_they_are_known() -> None:
    facts = compose(notice(cause=LOCATED), STATION).facts
    assert facts == (
        ("Step", "37, micro-batch 2"),
        ("Rank", "1"),
        ("Host", "node-a"),
        ("Device", "cuda:1"),
        ("Module", "h.3.mlp"),
        ("Parameter", "h.3.mlp.weight"),
        ("Batch", "9f86d081884c7d65"),
        ("Samples", "a/1, a/2"),
        ("Signal", "nonfinite_local_gradient"),
        ("Rule", "NonFiniteLocalGradient"),
    )
    shown = sent(notice(cause=LOCATED))
    assert all(value in str(shown) for _, value in facts), "Slack shows ten fields"


@pytest.mark.parametrize(
    ("actions", "done"),
    [
        ((), "Sentinel only warns: it has not touched the run."),
        ((REQUESTED,), "Sentinel is bringing all ranks to a stand at the same step."),
        ((HELD, REQUESTED), "All ranks are held at step 41; nothing is torn down."),
        (
            (REQUESTED, Action("pause", "refused", detail="it is being paused already")),
            "Sentinel is bringing all ranks to a stand at the same step.",
        ),
        (
            (Action("pause", "refused", detail="--observe acts on no rule"),),
            "Sentinel did not pause the run: --observe acts on no rule",
        ),
        (
            (Action("pause", "lapsed", detail="rank 1 did not come"),),
            "The pause lapsed and all ranks went on: rank 1 did not come",
        ),
        (
            (HELD, Action("resume", "done", 41, "ann", detail="learning rate times 0.5")),
            "The run goes on from step 41, by ann: learning rate times 0.5",
        ),
        ((HELD, Action("stop", "done", 41, "ann")), "The run was stopped at step 41, by ann."),
        (
            (Action("checkpoint", "failed", 41, "ann", "", "disk full"),),
            "checkpoint (by ann): failed: disk full",
        ),
    ],
)
def test_it_says_what_was_done(actions: tuple[Action, ...], done: str) -> None:
    assert compose(notice(actions=actions), STATION).done == done


def test_the_latest_action_is_the_one_the_message_is_about() -> None:
    shown = notice(actions=(HELD,), about=Action("resume", "failed", 41, "ann", detail="rank 1"))

    assert compose_reply("action", shown, STATION).headline == "resume (by ann): failed: rank 1"


TERMS = HoldTerms("stop", 7200.0, 8, "GPU", 1_780_000_600.0, 600.0)
STANDS = Hold(41, 1_779_998_200.0, TERMS)


def test_a_reminder_says_what_it_costs_and_what_comes_if_nobody_answers() -> None:
    shown = replace(notice(actions=(HELD,), about=HELD), hold=STANDS)

    lines = as_text(compose_reply("reminder", shown, STATION)).split("\n")
    assert lines[:6] == [
        "Run gpt is still held after step 41; nobody has answered.",
        "The scheduler ends the job at 2026-05-28T20:36:40.000Z, 1 h 20 min before it would be "
        "stopped by itself: answer before that.",
        "Held since: 2026-05-28T19:56:40.000Z, for 30 min",
        "Cost so far: 4.00 GPU-hours (8 GPUs)",
        "If nobody answers: the run is stopped at 2026-05-28T21:56:40.000Z, in 1 h 30 min",
        "Job ends: by its scheduler at 2026-05-28T20:36:40.000Z, in 10 min",
    ]
    assert any(line.startswith("  sentinel resume gpt") for line in lines)
    ending = compose_reply("ending", shown, STATION).headline
    assert ending == "Run gpt is held after step 41 for ten more minutes; nobody has answered."
    held = compose_reply("held", shown, STATION)
    assert held.facts == TERMS.facts(STANDS.since, shown.at)
    assert held.summary == TERMS.warning(STANDS.since)
    assert compose_reply("resumed", shown, STATION).facts == ()


def test_the_newest_hash_of_the_record_is_shown_in_short() -> None:
    shown = notice()
    shown = replace(shown, incident=replace(shown.incident, head="0123456789abcdef" * 4))
    for text in (compose(shown, STATION), compose_reply("resolved", shown, STATION)):
        assert text.footer.endswith(", 2026-05-28T20:26:40.000Z, record 0123456789ab")


@pytest.mark.parametrize(
    ("shown", "commands"),
    [
        (notice(), ["status", "pause"]),
        (notice(actions=(HELD,)), ["resume", "resume", "stop"]),
        (notice(state="resolved"), ["incidents"]),
        (notice(actions=(Action("stop", "done"),)), ["incidents"]),
    ],
)
def test_it_offers_what_can_be_done_now(shown: Notice, commands: list[str]) -> None:
    offered = compose(shown, STATION).commands

    assert [shlex.split(command.line)[1] for command in offered] == commands


@pytest.mark.parametrize("run", ["gpt", "my run", "it's", "a;rm -rf /", "$(id)", "-x", "<b>&"])
def test_commands_can_be_typed_as_they_stand(run: str) -> None:
    station = Station("h", Path("/tmp/a dir"))
    message = Message.made_of(
        {"blocks": blocks(compose(notice(run=run), station)), "text": "x"}, "C1", "t", "1.0"
    )

    (line,) = [line for line in message.as_text().split("\n") if line.startswith("sentinel status")]
    words = shlex.split(line, comments=True)
    assert words == ["sentinel", "status", run, "--state", "/tmp/a dir"]


@pytest.mark.parametrize("run", ["a\nb", "a\x07b", "```", "a  b"])
def test_a_name_that_cannot_be_shown_makes_no_command(run: str) -> None:
    assert compose(notice(run=run), STATION).commands == ()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reply", [False, True])
def test_no_name_can_call_people_or_make_links(name: str, kind: str, reply: bool) -> None:
    hostile = Action("pause", "done", 1, name, name, name)
    shown = notice(run=name, module=name, summary=name, actions=(hostile,), severity=name)
    message = sent(shown, kind, reply=reply)

    assert message.mentions() == []
    assert refusal(message) is None


def test_slack_shows_names_as_they_are() -> None:
    message = sent(notice(module="block<3>&norm"))

    assert "Module: block<3>&norm" in message.as_text()


ANY_TEXT = st.text(max_size=6000) | st.sampled_from(HOSTILE).map(lambda text: text * 200)


@given(
    run=ANY_TEXT,
    module=ANY_TEXT,
    summary=ANY_TEXT,
    detail=ANY_TEXT,
    alerts=st.integers(0, 3000),
    kind=st.sampled_from(KINDS),
    reply=st.booleans(),
)
def test_every_message_is_one_that_slack_takes(
    run: str, module: str, summary: str, detail: str, alerts: int, kind: str, reply: bool
) -> None:
    action = Action("pause", "failed", 1, detail, detail, detail)
    shown = notice(run=run, module=module, summary=summary, actions=(action,), alerts=alerts)
    message = sent(shown, kind, reply=reply)

    assert refusal(message) is None
    assert message.mentions() == []
    assert len(message.blocks) <= 10
    assert message.text.encode()


def test_many_alerts_are_counted_and_not_listed() -> None:
    text = compose(notice(alerts=500), STATION)

    assert (len(text.alerts), text.more_alerts) == (10, 490)
    assert "and 490 more" in sent(notice(alerts=500)).as_text()


@given(st.text(max_size=400), st.integers(2, 300))
def test_plain_text_is_one_printable_line(text: str, limit: int) -> None:
    line = plain(text, limit)

    assert len(line) <= limit
    assert "\n" not in line
    assert line == plain(line, limit)


@given(st.text(max_size=200))
def test_escaping_can_be_undone_by_slack(text: str) -> None:
    undone = escape(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    assert undone == text
