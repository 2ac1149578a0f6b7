"""A message names the culprit, stays within Slack's limits, and does what no name wants."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from sentinel.held import HoldTerms
from sentinel.notify import event
from sentinel.notify.blocks import blocks, without_blocks
from sentinel.notify.loopback_message import Message
from sentinel.notify.message import Station, as_text, compose, compose_reply
from sentinel.notify.notice import (
    Acknowledged,
    Action,
    Cause,
    Evidence,
    Hold,
    LastGood,
    Leading,
    Notice,
    Other,
)
from sentinel.notify.telemetry import Course, Measured, Normal
from tests.notify.notices import HELD, REQUESTED, STATION, letter, notice, sent

STACK = Evidence("stack", "stands in all_reduce", "File train.py, line 3\n  all_reduce(x)", 1)
COURSE = Course("nonfinite_update", "", "1", (36, 37), (0.0, 1.0), (0.0, 0.0), (0.0, 1.0))
MEASURED = Measured((COURSE,), Normal(0.0, 0.0, 0.0, 200), 1, 7)


def test_the_message_says_first_what_broke_where_since_when_what_was_done_and_what_to_do() -> None:
    shown = notice(actions=(HELD,), certainty="sure: no other rank had it", evidence=(STACK,))
    shown = replace(shown, hold=Hold(41, 1_779_999_410.0, HoldTerms("stop", 7200.0)))
    message = sent(shown, measured=MEASURED)

    lines = message.as_text().split("\n")
    assert lines == [
        "\N{OCTAGONAL SIGN} CRITICAL: NonFiniteUpdate in run gpt on rank 1",
        "a non-finite gradient was applied to the weights",
        "Where: rank 1, host node-a, cuda:1, module transformer.h.3.mlp",
        "Since: step 37, noticed 2026-05-28 20:16:40 UTC",
        "Measured: nonfinite_update is 1 at step 37; the other 7 ranks had 0 to 1; "
        "it was 0 in the 200 steps before",
        "How sure: sure: no other rank had it",
        "Now: All ranks are held at step 41; nothing is torn down.",
        "If nobody answers: the run is stopped, in 1 h 50 min, at 2026-05-28 22:16:50 UTC",
        "What to do: go back to a checkpoint from before step 37",
        "Evidence",
        "• rank 1: stands in all_reduce",
        "Rule: NonFiniteUpdate",
        "Alerts",
        "• NonFiniteUpdate (warning, firing) at step 37: layer=layer.0",
        "By hand, on head-node:",
        "sentinel resume gpt --state /var/lib/sentinel                 "
        "# go on (refused if weights are not finite)",
        "sentinel resume gpt --lr-scale 0.5 --state /var/lib/sentinel  "
        "# go on, learning rate halved",
        "sentinel stop gpt --state /var/lib/sentinel                   # end the run cleanly",
        "incident i1, opened at step 37, 2026-05-28T20:26:40.000Z",
    ]
    told = as_text(compose(shown, STATION, MEASURED)).split("\n")
    assert told[:6] == lines[:6]
    assert told[6:9] == [lines[6].removeprefix("Now: "), lines[7], lines[8]]


def test_a_locked_screen_shows_all_of_it_in_two_sentences() -> None:
    shown = notice(actions=(HELD,))
    assert sent(shown).text == (
        "\N{OCTAGONAL SIGN} CRITICAL: a non-finite gradient was applied to the weights (run gpt, "
        "step 37, rank 1 on node-a). All ranks are held at step 41; nothing is torn down."
    )
    assert sent(notice(), "resumed", reply=True).text.startswith("Run gpt: ")


@pytest.mark.parametrize(
    ("severity", "state", "mark"),
    [
        ("critical", "open", "\N{OCTAGONAL SIGN} CRITICAL"),
        ("warning", "open", "\N{WARNING SIGN}\N{VARIATION SELECTOR-16} WARNING"),
        ("info", "open", "\N{INFORMATION SOURCE}\N{VARIATION SELECTOR-16} INFO"),
        ("critical", "resolved", "\N{WHITE HEAVY CHECK MARK} RESOLVED after 5 min"),
    ],
)
def test_severity_is_told_by_shape_and_word_and_not_by_color(
    severity: str, state: str, mark: str
) -> None:
    shown = replace(notice(severity=severity, state=state), resolved_at=1_779_999_700.0)
    assert compose(shown, STATION).headline.startswith(f"{mark}: NonFiniteUpdate in run gpt")


LOSS = Cause("LossSpike", "loss", 37)


@pytest.mark.parametrize(
    ("value", "normal", "said"),
    [
        (7.3123, None, "loss is 7.312"),
        ("NaN", Normal(2.05, 1.98, 2.12, 150), "loss is NaN at step 37; normal is 2.05: 98% of"),
        (7.3123, Normal(2.05, 1.98, 2.12, 150), "150 steps before were between 1.98 and 2.12"),
        ("Infinity", None, "loss is infinite"),
        (None, None, ""),
    ],
)
def test_what_was_measured_is_said_with_what_is_normal(
    value: float | str | None, normal: Normal | None, said: str
) -> None:
    measured = Measured((Course("loss"),), normal)
    shown = replace(notice(cause=LOSS), leading=Leading(value))
    points = [str(point) for point in compose(shown, STATION, measured).points]
    assert said in "\n".join(points)
    assert bool(said) == any(point.startswith("Measured") for point in points)


def test_what_is_normal_for_another_signal_is_not_said() -> None:
    measured = Measured((Course("step_seconds", unit="s"),), Normal(0.5, 0.4, 0.6, 200))
    shown = replace(notice(cause=Cause("Stall", "stall", 37, 1)), leading=Leading(60.0))
    assert "Measured: stall is 60 s" in map(str, compose(shown, STATION, measured).points)


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
    assert "step20<!channel>, 17 steps back." in sent(shown).as_text()
    assert "step20&lt;!channel&gt;, 17 steps back." in without_blocks(compose(shown, STATION))
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
        ("Parameter", "h.3.mlp.weight"),
        ("Micro-batch", "2"),
        ("Batch", "9f86d081884c7d65"),
        ("Samples", "a/1, a/2"),
        ("Rule", "NonFiniteLocalGradient"),
    )
    shown = sent(notice(cause=LOCATED)).as_text()
    assert all(f"{label}: {value}" in shown for label, value in facts)


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


def test_what_is_tried_in_vain_leaves_the_message_saying_that_the_run_is_held() -> None:
    failed = Action("resume", "failed", 41, "ann", detail="rank 1 has weights that are not finite")
    shown = replace(notice(actions=(HELD, failed), about=failed), hold=STANDS)
    text = compose(shown, STATION)
    assert text.done.startswith(
        "All ranks are held at step 41; nothing is torn down. resume (by ann)"
    )
    assert any("resume" in command.line for command in text.commands)
    assert text.ends is not None


def test_many_alerts_are_counted_and_not_listed() -> None:
    text = compose(notice(alerts=500), STATION)

    assert (len(text.alerts), text.more_alerts) == (1, 490)
    assert text.alerts[0].startswith(
        "NonFiniteUpdate (warning, firing) at step 37: layer=layer.0; layer=layer.1; layer=layer.2"
    )
    assert "and 490 more" in sent(notice(alerts=500)).as_text()


def test_a_first_message_tells_of_those_that_share_it() -> None:
    others = (
        Other("i2", "gpt-2", "open", "warning", "RankLost", 12, 3, "node-a"),
        Other("i3", "<!channel>", "resolved", "critical", "RankLost", 14),
    )
    lines = as_text(compose(replace(notice(), others=others), STATION)).split("\n")
    assert lines[0].startswith("3 runs: ")
    assert "CRITICAL: NonFiniteUpdate in run gpt on rank 1" in lines[0]
    assert "- also run gpt-2: RankLost (warning, open) at step 12, rank 3 on node-a" in lines
    assert "- also run <!channel>: RankLost (critical, resolved) at step 14" in lines
    assert sent(replace(notice(), others=others * 30)).as_text().count("also run") == 20


def test_who_looks_after_it_is_said_and_shown() -> None:
    incident = replace(notice().incident, acknowledged=Acknowledged("user ann", "today"))
    owned = replace(notice(), incident=incident)
    said = compose_reply("acknowledged", owned, STATION).headline
    assert said == "user ann looks after NonFiniteUpdate in run gpt."
    assert ", acknowledged by user ann" in compose(owned, STATION).footer
    assert "acknowledged" not in compose(notice(), STATION).footer


def test_what_nobody_has_answered_to_is_told_again_with_what_to_do() -> None:
    text = compose_reply("repeated", notice(actions=(HELD,)), STATION)
    assert text.headline.startswith("STILL OPEN: ")
    assert "CRITICAL: NonFiniteUpdate in run gpt" in text.headline
    assert text.commands == compose(notice(actions=(HELD,)), STATION).commands


def test_a_message_leads_to_the_page_of_its_incident_where_there_is_one() -> None:
    shown = notice().with_pages("https://watch.example.org")
    url = "https://watch.example.org/incidents/i1"
    for kind, text in (
        ("opened", compose(shown, STATION)),
        ("held", compose_reply("held", shown, STATION)),
        ("reminder", compose_reply("reminder", shown, STATION)),
    ):
        assert f"Page: {url}" in as_text(text), kind
        assert f'"url": "{url}"' in json.dumps(blocks(text)), kind
    assert "Page" not in as_text(compose(notice(), STATION))
    whole = json.loads(event.encode(letter(about=shown)))
    assert (whole["data"]["page"], "pages" in whole["data"]) == (url, False)
    odd = replace(shown, incident=replace(shown.incident, id="a/ü"))
    assert odd.page == "https://watch.example.org/incidents/a%2F%C3%BC"
