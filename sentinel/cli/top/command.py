"""`sentinel top`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click
from rich.console import Console

from sentinel.cli.client import Client
from sentinel.cli.examples import examples
from sentinel.cli.options import run_argument
from sentinel.cli.place import Place, place_option
from sentinel.cli.top import ranks
from sentinel.cli.top.asking import Asking
from sentinel.cli.top.frame import View, frame
from sentinel.cli.top.letters import Letters
from sentinel.cli.top.screen import Screen
from sentinel.cli.top.snapshot import Snapshot, take
from sentinel.clock import wall
from sentinel.duration import in_words
from sentinel.errors import SentinelError
from sentinel.signals import did_you_mean


@click.command(
    "top",
    epilog=examples(
        "sentinel top",
        "sentinel top gpt-7b --sort wait",
        "sentinel top --once",
        "sentinel top --daemon https://node-1:9475 --token-file ~/.sentinel-token",
    ),
)
@run_argument
@place_option
@click.option(
    "--every",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to ask the daemon.",
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(ranks.ORDERS),
    default="worst",
    show_default=True,
    help="Which ranks come first.",
)
@click.option(
    "--once", is_flag=True, help="Show it once, and end; so it does where no terminal is."
)
def command(run: str | None, place: Place, every: float, order: ranks.Order, once: bool) -> None:
    """Watch all runs, and the ranks and open incidents of one, live in the terminal.

    RUN, or the run that needs a person most, is shown in full. Keys: up and down choose another
    run, s sorts its ranks in another way, p pauses, r asks at once, q quits.
    """
    console, client = Console(), Client(place)
    snapshot = take(client, run)
    if run not in (None, snapshot.chosen):
        known = [line.run for line in snapshot.runs]
        raise SentinelError(f"there is no run {run!r}{did_you_mean(str(run), known)}")
    view = View(str(place), snapshot, order)
    if once or not sys.stdin.isatty() or not console.is_terminal or console.is_dumb_terminal:
        console.print(frame(view, console.width, None, Letters.of(console)))
        return
    _watch(view, Asking(client, every, snapshot), console)


def _watch(view: View, asking: Asking, console: Console) -> None:
    """Until it is quit."""
    with Screen(console) as screen:
        asking.start(screen.wake)
        while asking.fault is None:
            view = _renewed(view, asking)
            width, height = console.size
            screen.draw(frame(view, width, height, Letters.of(console)))
            for key in screen.wait():
                if key == "quit":
                    return
                view = _obey(key, view, asking)
    raise asking.fault


def _renewed(view: View, asking: Asking) -> View:
    """With the newest that is known, and what keeps it from being newer."""
    snapshot, trouble = asking.newest, asking.trouble
    if snapshot.chosen != view.snapshot.chosen and asking.wanted == view.snapshot.chosen:
        snapshot = view.snapshot  # the answer about the run that was chosen is still to come
    if trouble:
        age = in_words(max(0.0, wall() - snapshot.at))
        trouble = f"{age} old, asking again: {trouble}"
    return replace(view, snapshot=snapshot, trouble=trouble, paused=asking.paused, keys=True)


def _obey(key: str, view: View, asking: Asking) -> View:
    if key == "sort":
        following = ranks.ORDERS[(ranks.ORDERS.index(view.order) + 1) % len(ranks.ORDERS)]
        return replace(view, order=following)
    if key in ("up", "down"):
        chosen = _beside(view.snapshot, 1 if key == "down" else -1)
        view = replace(view, snapshot=replace(_bare(view.snapshot), chosen=chosen))
    if key == "pause":
        asking.paused = not asking.paused
    if key != "pause" or not asking.paused:
        asking.ask(view.snapshot.chosen)
    return view


def _beside(snapshot: Snapshot, by: int) -> str | None:
    """The next run in the list, or the one before."""
    names = [line.run for line in snapshot.runs]
    if snapshot.chosen not in names:
        return snapshot.chosen
    return names[min(len(names) - 1, max(0, names.index(snapshot.chosen) + by))]


def _bare(snapshot: Snapshot) -> Snapshot:
    """Without what is known of one run only."""
    return replace(snapshot, ranks=(), hold=None, incidents=(), by_rank={})
