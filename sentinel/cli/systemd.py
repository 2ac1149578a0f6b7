"""`sentinel systemd`."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

import click

from sentinel import address
from sentinel.cli.examples import examples
from sentinel.cli.service_manager import ServiceManager
from sentinel.cli.unit_file import NAME, STATE, Unit, untouched
from sentinel.cli.written import diff, reads, write
from sentinel.errors import SentinelError

_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_ENVIRONMENT = """\
# What the daemon finds in its environment, for those who may read this file alone. Lines that begin
# with # say nothing. In force from `systemctl{user} restart sentinel` on.
#
# SLACK_CHANNEL=training
# SLACK_ALLOWED_USERS=U012AB3CD
# SENTINEL_NOTIFY=/etc/sentinel/notify.yaml
#
# Secrets are better kept as credentials, which no process inherits:
#   sentinel systemd install --credential SLACK_BOT_TOKEN=FILE
"""


@dataclass(frozen=True)
class _Layout:
    """Where everything goes. `root`: the machine's own files, or an image's."""

    per_user: bool
    root: Path = Path("/")

    @property
    def _folder(self) -> Path:
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(home) if self.per_user else self.root / "etc"

    @property
    def unit(self) -> Path:
        return self._folder / "systemd" / ("user" if self.per_user else "system") / NAME

    @property
    def environment(self) -> Path:
        return self._folder / "sentinel" / "environment"

    @property
    def manager(self) -> ServiceManager | None:
        """Who is to be told, if these are the files of this machine."""
        return ServiceManager(self.per_user) if self.root == Path("/") else None


@click.group(
    "systemd",
    epilog=examples(
        "sentinel systemd install --user-name alice --enable  # as root",
        "sentinel systemd install --user --enable  # without root",
        "sentinel systemd show",
    ),
)
def command() -> None:
    """Have systemd run the daemon: started with the machine, watched, brought back."""


def _credential(
    _: click.Context, __: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, Path], ...]:
    found = []
    for text in given:
        name, separator, file = text.partition("=")
        if not (separator and file and _CREDENTIAL.fullmatch(name)):
            raise click.BadParameter(
                f"{text!r}: expected NAME=FILE, such as SLACK_BOT_TOKEN=/etc/sentinel/slack-token"
            )
        found.append((name, Path(file).absolute()))
    return tuple(found)


_per_user = click.option(
    "--user", "per_user", is_flag=True, help="A unit of your own service manager, without root."
)
_force = click.option("--force", is_flag=True, help="Also where somebody has changed the unit.")
_root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/"),
    metavar="DIR",
    help="The files of a system that is not running, such as an image's.",
)


@command.command(
    "install",
    epilog=examples(
        "sentinel systemd install --user-name alice --enable  # as root",
        "sentinel systemd install --user --enable",
        "sentinel systemd install --user --dry-run -- --rules strict",
        "sentinel systemd install --credential SLACK_BOT_TOKEN=/etc/slack-token",
    ),
)
@_per_user
@click.option("--user-name", metavar="NAME", help="Who trains [default: who has used sudo].")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"State directory [default: {STATE}; with --user ~/.local/state/sentinel].",
)
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    callback=_credential,
    metavar="NAME=FILE",
    help="A secret that systemd hands over, under the name of its variable; may be repeated.",
)
@click.option("--enable", is_flag=True, help="Start it now, and with the machine.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@_force
@_root
@click.argument("arguments", nargs=-1, metavar="[-- DAEMON OPTIONS]")
def install(
    per_user: bool,
    user_name: str | None,
    state: Path | None,
    credentials: tuple[tuple[str, Path], ...],
    enable: bool,
    dry_run: bool,
    force: bool,
    root: Path,
    arguments: tuple[str, ...],
) -> None:
    """Write the unit for this installation, and let systemd read it.

    What is given after -- goes to `sentinel daemon`; files there need absolute paths. Doing the
    same twice changes nothing.
    """
    layout = _layout(per_user, root)
    if per_user and user_name is not None:
        raise click.UsageError("--user is for yourself: give it without --user-name")
    if enable and layout.manager is None:
        raise click.UsageError("--enable starts what runs here: give it without --root")
    _check_arguments(arguments)
    manager = None if dry_run else _permitted(layout)
    state = state.absolute() if state else None
    if per_user and state is None:
        state = _unusual_state()
    given = _command_line(per_user, user_name, state, credentials, arguments)
    unit = Unit("" if per_user else _user(user_name), state, credentials, arguments, given)
    text = unit.text()
    if dry_run:
        click.echo(diff(layout.unit, reads(layout.unit), text) or text, nl=False)
        return
    _check_credentials(credentials, root)
    changed = _write_unit(layout.unit, text, force=force)
    environment = layout.environment
    if reads(environment) is None:
        write(environment, _ENVIRONMENT.format(user=" --user" if per_user else ""), mode=0o600)
        click.echo(f"{environment}: written; for settings, readable by its owner alone")
    else:
        click.echo(f"{environment}: left as it is")
    if state is not None and not per_user:
        _make_state(root / state.relative_to("/"), unit.user)
    if manager is not None:
        manager.call("daemon-reload")
        click.echo("systemd has read it")
    _next(layout, unit, manager, enable=enable, changed=changed)


@command.command(
    "uninstall",
    epilog=examples(
        "sentinel systemd uninstall  # as root",
        "sentinel systemd uninstall --user",
    ),
)
@_per_user
@_force
@_root
def uninstall(per_user: bool, force: bool, root: Path) -> None:
    """Stop the daemon and take the unit away. What it has recorded stays, and so do its settings.

    Ranks that train go on without it.
    """
    layout = _layout(per_user, root)
    manager = _permitted(layout)
    text = reads(layout.unit)
    if text is None:
        click.echo(f"{layout.unit}: is not there, nothing to do")
        return
    if not untouched(text) and not force:
        raise SentinelError(
            f"{layout.unit} is not as `sentinel systemd install` writes it: somebody has changed "
            "it; --force takes it away all the same"
        )
    if manager is not None:
        manager.call("disable", "--now", NAME)
    layout.unit.unlink()
    click.echo(f"{layout.unit}: taken away")
    if manager is not None:
        manager.call("daemon-reload")
    click.echo(f"{layout.environment.parent} and the state directory are left as they are")


@command.command(
    "show",
    epilog=examples(
        "sentinel systemd show",
        "sentinel systemd show --user",
    ),
)
@_per_user
@_root
def show(per_user: bool, root: Path) -> None:
    """Show what is installed, and how it is. Needs no root."""
    layout = _layout(per_user, root)
    text = reads(layout.unit)
    if text is None:
        how = "is not there: `sentinel systemd install` writes it"
    else:
        how = "as written" if untouched(text) else "changed since it was written, or not by this"
    click.echo(f"unit: {layout.unit} ({how})")
    if text is not None and text.startswith("#"):
        said = next((line for line in text.splitlines() if line.startswith("# sentinel ")), "")
        click.echo(f"written by: {said[2:] or 'something else'}")
    if layout.manager is None or text is None:
        return
    found = layout.manager.properties(NAME)
    click.echo(f"state: {found['ActiveState']} ({found['SubState']}), {found['UnitFileState']}")
    if found["ActiveState"] == "active":
        click.echo(f"says: {found['StatusText']}")
        click.echo(f"process: {found['MainPID']}; restarted {found['NRestarts']} times by itself")
    if found["DropInPaths"]:
        click.echo(f"changed by: {found['DropInPaths']}")
    if found["NeedDaemonReload"] == "yes":
        click.echo("systemd has not read the newest of this: `systemctl daemon-reload`")


def _layout(per_user: bool, root: Path) -> _Layout:
    if per_user and root != Path("/"):
        raise click.UsageError("--user writes into your own home: give it without --root")
    return _Layout(per_user, root.absolute())


def _user(name: str | None) -> str:
    """Who is to run the daemon."""
    chosen = name or os.environ.get("SUDO_USER", "")
    if not chosen:
        raise SentinelError(
            "who trains? The daemon has to run as that user: say it with --user-name NAME"
        )
    try:
        return pwd.getpwnam(chosen).pw_name
    except KeyError:
        raise SentinelError(
            f"there is no user {chosen!r} on this machine: --user-name names the one who trains"
        ) from None


def _unusual_state() -> Path | None:
    """The state directory of this shell, if it is not the one that the unit would have anyway."""
    here = address.default_state_dir()
    return here if os.environ.get("SENTINEL_STATE") else None


def _check_arguments(arguments: tuple[str, ...]) -> None:
    """Raises `click.UsageError` for what `sentinel daemon` would refuse."""
    from sentinel.cli.daemon import command as daemon

    context = daemon.make_context("sentinel daemon", [*arguments])
    source = context.get_parameter_source("state")
    if source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--state is for the unit too: give it before the --")
    for word in arguments:
        path = Path(word.rpartition("=")[2])
        if not path.is_absolute() and path.suffix and path.is_file():
            raise click.UsageError(f"{path}: systemd starts the daemon in /: say {path.absolute()}")


def _check_credentials(credentials: tuple[tuple[str, Path], ...], root: Path) -> None:
    for name, file in credentials:
        try:
            status = os.stat(root / file.relative_to("/"))
        except OSError as error:
            raise SentinelError(
                f"{file}: the credential {name} cannot be read ({error.strerror}): put the secret "
                "there first, and nothing else"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise SentinelError(f"{file}: the credential {name} is to be a file")
        if status.st_mode & 0o077:
            raise SentinelError(
                f"{file}: others can read the credential {name} (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): chmod 600 {file}"
            )


def _permitted(layout: _Layout) -> ServiceManager | None:
    """Who is to be told. Raises `SentinelError` when this cannot be done here."""
    manager = layout.manager
    if manager is not None:
        manager.check()
        if not layout.per_user and os.geteuid() != 0:
            raise SentinelError(
                "the system's units are root's: run this with sudo, or with --user for a unit of "
                "your own"
            )
    return manager


def _command_line(
    per_user: bool,
    user_name: str | None,
    state: Path | None,
    credentials: tuple[tuple[str, Path], ...],
    arguments: tuple[str, ...],
) -> tuple[str, ...]:
    """What to say for the same unit again."""
    words = ["sentinel", "systemd", "install"]
    words += ["--user"] if per_user else ["--user-name", _user(user_name)]
    words += [] if state is None else ["--state", str(state)]
    for name, file in credentials:
        words += ["--credential", f"{name}={file}"]
    return (*words, *(["--", *arguments] if arguments else []))


def _write_unit(path: Path, text: str, *, force: bool) -> bool:
    """Whether the file has changed. Raises `SentinelError` when it is another's."""
    before = reads(path)
    if before == text:
        click.echo(f"{path}: as it should be already")
        return False
    if before is not None and not untouched(before) and not force:
        raise SentinelError(
            f"{path} is not as `sentinel systemd install` has written it: somebody has changed it. "
            "See what would become of it with --dry-run; --force writes over it. What is put into "
            "a drop-in (`systemctl edit sentinel`) stays in any case"
        )
    if changes := diff(path, before, text):
        click.echo(changes, nl=False)
    write(path, text, mode=0o644)
    click.echo(f"{path}: written")
    return True


def _make_state(folder: Path, user: str) -> None:
    """The folder for this user alone; what is missing above it within their home is theirs too."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    found = pwd.getpwnam(user)
    for one in reversed(missing):
        one.mkdir(mode=0o700 if one == folder else 0o755)
        if one == folder or one.parent.stat().st_uid == found.pw_uid:
            os.chown(one, found.pw_uid, found.pw_gid)
    if missing:
        click.echo(f"{folder}: made, for {user} alone")


def _next(
    layout: _Layout, unit: Unit, manager: ServiceManager | None, *, enable: bool, changed: bool
) -> None:
    """Start it if that was asked for, and say what is left to do."""
    systemctl = "systemctl --user" if layout.per_user else "systemctl"
    if manager is None:
        click.echo(f"next, in that system: {systemctl} enable sentinel")
    elif enable:
        ran = manager.properties(NAME)["ActiveState"] == "active"
        manager.call("enable", "--now", NAME)
        found = manager.properties(NAME)
        click.echo(f"{NAME}: {found['ActiveState']} ({found['SubState']}), {found['StatusText']}")
        if ran and changed:
            click.echo(f"next, for what has changed to be in force: {systemctl} restart sentinel")
    else:
        click.echo(f"next: {systemctl} enable --now sentinel")
    if layout.per_user:
        click.echo("so that it goes on when you log out: loginctl enable-linger")
    if not layout.per_user or unit.state is not None:
        who = unit.user or "you"
        where = shlex.quote(str(unit.state or STATE))
        click.echo(f"where {who} trains and asks: export SENTINEL_STATE={where}")
