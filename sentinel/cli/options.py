"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from sentinel import address

F = TypeVar("F", bound=Callable[..., object])


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
    """What both kinds of daemon take: `--rules`, `--observe`, `--slack-channel`."""
    observe = click.option("--observe", is_flag=True, help="Alert, but let no rule act on a run.")
    slack = click.option(
        "--slack-channel",
        metavar="CHANNEL",
        help="Where alerts go, with the token in $SLACK_BOT_TOKEN [default: $SLACK_CHANNEL].",
    )
    return rules_option(observe(slack(function)))
