"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from sentinel import address, wire
from sentinel.duration import in_words, seconds_of
from sentinel.engine.checkpoint import CLEAN_STEPS
from sentinel.signals.exposition import LAYERS, MOST_LAYERS

F = TypeVar("F", bound=Callable[..., object])


def hold_seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """How long a run is to be held, such as `30m` or `1h30m`, in seconds: a callback."""
    if value is None:
        return None
    seconds = seconds_of(value)
    if seconds is None:
        raise click.BadParameter(f"{value!r} is no duration such as 30m or 1h30m")
    if not wire.SHORTEST_HOLD <= seconds <= wire.LONGEST_HOLD:
        days = wire.LONGEST_HOLD / 86_400.0
        shortest = in_words(wire.SHORTEST_HOLD)
        raise click.BadParameter(
            f"{value!r} is out of bounds: at least {shortest} and at most {days:g} days"
        )
    return seconds


def _state_dir(_: click.Context, __: click.Parameter, value: Path | None) -> Path:
    return value.absolute() if value is not None else address.default_state_dir()


def state_option(function: F) -> F:
    """`--state DIR`, as an absolute path."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        callback=_state_dir,
        metavar="DIR",
        help="State directory [default: $SENTINEL_STATE, then ~/.local/state/sentinel].",
    )(function)


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def rules_option(function: F) -> F:
    """`--rules PACK`."""
    return click.option(
        "--rules",
        default="default",
        show_default=True,
        metavar="PACK",
        help="A shipped rule pack, or a rule file.",
    )(function)


def run_argument(function: F) -> F:
    """`[RUN]`."""
    return click.argument("run", required=False)(function)


def wait_option(function: F) -> F:
    """`--wait SECONDS`."""
    return click.option(
        "--wait",
        type=click.FloatRange(0),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait until it has happened; 0: only ask for it.",
    )(function)


def daemon_options(function: F) -> F:
    """What both kinds of daemon take: rules, what they may do, whom they tell."""
    observe = click.option("--observe", is_flag=True, help="Alert, but let no rule act on a run.")
    slack = click.option(
        "--slack-channel",
        metavar="CHANNEL",
        help="Where alerts go, with the token in $SLACK_BOT_TOKEN [default: $SLACK_CHANNEL].",
    )
    clean = click.option(
        "--clean-steps",
        type=click.IntRange(0, 1_000_000),
        default=CLEAN_STEPS,
        show_default=True,
        metavar="N",
        help="How many clean steps have to follow a checkpoint for it to be healthy.",
    )
    layers = click.option(
        "--metrics-layers",
        type=click.IntRange(0, MOST_LAYERS),
        default=LAYERS,
        show_default=True,
        metavar="K",
        help="Of each signal of layers, tensors and experts, /metrics has the K greatest.",
    )
    return rules_option(observe(clean(notify_option(slack(layers(function))))))


def notify_option(function: F) -> F:
    """`--notify FILE`."""
    return click.option(
        "--notify",
        envvar="SENTINEL_NOTIFY",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Who is told of what [default: $SENTINEL_NOTIFY, then Slack by its own variables].",
    )(function)
