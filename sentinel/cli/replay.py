"""`sentinel replay`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import msgspec

from sentinel.cli import replay_text
from sentinel.cli.examples import examples
from sentinel.cli.options import json_option, rules_option
from sentinel.cli.progress import Progress
from sentinel.engine import rulefile
from sentinel.engine.rule import Rule
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import AlertChanged
from sentinel.errors import SentinelError
from sentinel.replay.backtest import Backtest, Look
from sentinel.replay.log import FORMATS
from sentinel.replay.past import Past, open_past
from sentinel.replay.plot import Picture, Plot
from sentinel.store.shapes import number_json


def _columns(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    columns = {}
    for one in given:
        signal, _sign, name = one.partition("=")
        if not (signal and name):
            raise click.BadParameter(f"{one!r} is not SIGNAL=NAME, such as loss=train/total_loss")
        columns[signal] = name
    return columns


def _png(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path} does not end in .png, the one format there is")
    return path


@click.command(
    "replay",
    epilog=examples(
        "sentinel replay trainer.jsonl",
        "sentinel replay ~/.local/state/sentinel --rules strict --compare default",
        "sentinel replay log.csv --column loss=train/total_loss --plot log.png",
    ),
)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@rules_option
@click.option("--compare", metavar="PACK", help="A second pack, to be set beside the first.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    callback=_png,
    metavar="FILE.png",
    help="Draw the signals and mark the alerts; of several runs, FILE-RUN.png for each.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["auto", *FORMATS]),
    default="auto",
    show_default=True,
    metavar="FORMAT",
    help=f"Of logs: {', '.join(FORMATS)}.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    metavar="SIGNAL=NAME",
    help="The column of a log that has a signal, such as loss=train/total_loss; may be repeated.",
)
@json_option
def command(
    files: tuple[Path, ...],
    rules: str,
    compare: str | None,
    picture: Path | None,
    format_: str,
    columns: Mapping[str, str],
    as_json: bool,
) -> int:
    """Show which alerts rules would have raised, when, and what they would have done.

    FILE is a state directory, all of whose recorded runs are replayed, or another tool's log; - is
    standard input. With --json, one line for each alert as soon as it begins to fire.
    """
    if compare == rules:
        raise click.UsageError(f"--compare {compare}: that is the pack it would be compared with")
    names = [rules] if compare is None else [rules, compare]
    packs = {name: rulefile.load(rulefile.resolve_pack(name)) for name in names}
    plot = Plot(picture, several=len(files) > 1) if picture is not None else None
    return _Replaying(packs, plot, as_json).all(files, format_, columns)


@dataclass
class _Replaying:
    """One run after another; what goes wrong with one file does not keep the others from it."""

    packs: Mapping[str, Sequence[Rule]]
    plot: Plot | None
    as_json: bool
    done: list[Backtest] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        self._progress = Progress(wanted=not self.as_json)
        self._status = 0

    def all(self, files: Sequence[Path], format_: str, columns: Mapping[str, str]) -> int:
        """Returns the exit status."""
        try:
            for file in files:
                try:
                    for past in open_past(file, format=format_, columns=columns):
                        self._one(past)
                except BrokenPipeError:  # nobody reads any more
                    raise
                except (SentinelError, OSError) as error:
                    self._complain(error)
        except KeyboardInterrupt:
            self._status = 130
            self._progress.clear()
            click.echo("sentinel: interrupted; this is what was found until then", err=True)
        if self.done and not self.as_json:
            self._print(replay_text.total_lines(self.done))
        return self._status

    def _one(self, past: Past) -> None:
        """Replay a run, and show it, as far as it could be read."""
        test = Backtest(past, self.packs)
        picture = self.plot.begin(test, alone=past.alone) if self.plot is not None else None
        try:
            for pack, alert in test.go(self._look(test, picture.look if picture else None)):
                if self.as_json:
                    self._echo(_line(alert, pack if len(self.packs) > 1 else None))
        except KeyboardInterrupt:
            self._show(test)
            raise
        except SentinelError:
            self._show(test, picture)
            raise
        self._show(test, picture)

    def _show(self, test: Backtest, picture: Picture | None = None) -> None:
        """A run that has been replayed, as far as it could be."""
        self._progress.clear()
        self.rows += test.rows
        if not (test.rows or test.found):
            return
        self.done.append(test)
        if not self.as_json:
            alone = len(self.packs) == 1
            self._print(replay_text.run_lines(test) if alone else replay_text.compared_lines(test))
        for note in test.notes:
            click.echo(f"sentinel: {test.run}: {note}", err=True)
        if picture is not None:
            click.echo(f"sentinel: {picture.draw()} shows {test.run}", err=True)

    def _look(self, test: Backtest, also: Look | None) -> Look:
        """What is done after every moment: to say how far it has come now and then."""
        progress, before = self._progress, self.rows
        count = 0

        def look(engine: RunEngine) -> None:
            nonlocal count
            count += 1
            if also is not None:
                also(engine)
            if not count % 256:
                progress.tell(test.run, test.progress(), before + test.rows)

        return look

    def _print(self, lines: Iterator[str]) -> None:
        self._progress.clear()
        for line in lines:
            click.echo(line)

    def _echo(self, line: str) -> None:
        self._progress.clear()
        click.echo(line)

    def _complain(self, error: SentinelError | OSError) -> None:
        self._status = 1
        self._progress.clear()
        reason = str(error)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            reason = f"{where}{error.strerror or error}"
        click.echo(f"sentinel: {reason}", err=True)


def _line(alert: AlertChanged, pack: str | None) -> str:
    line: dict[str, object] = {
        "run": alert.run,
        "step": alert.fired_step,
        "rule": alert.rule,
        "severity": alert.severity,
        "actions": list(alert.actions),
        "value": number_json(alert.value),
    }
    if pack is not None:
        line["pack"] = pack
    return msgspec.json.encode(line).decode()
