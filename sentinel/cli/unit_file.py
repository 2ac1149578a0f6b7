"""The text of a systemd unit for this installation, made from the one that ships."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sentinel
from sentinel.assets import asset_dir
from sentinel.errors import SentinelError

NAME = "sentinel.service"
STATE = Path("/var/lib/sentinel")  # where StateDirectory= puts it

_HOMES = ("/home", "/root", "/run/user")  # what ProtectHome= hides, and
_TEMPORARY = ("/tmp", "/var/tmp")  # PrivateTmp=
_MARK = "# As written: sha256 "


@dataclass(frozen=True)
class Unit:
    """What a unit is to say. `user` empty: one of a user's own service manager.

    `state` None: where the shipped unit has it. `credentials` are names and files; `arguments`
    are those of `sentinel daemon`, in which systemd's specifiers (`%d`) mean what they mean there;
    `written_by` is the command line that asks for it.
    """

    user: str
    state: Path | None = None
    credentials: tuple[tuple[str, Path], ...] = ()
    arguments: tuple[str, ...] = ()
    written_by: tuple[str, ...] = ()

    def text(self) -> str:
        """The unit file. Raises `SentinelError` for what no unit file can say."""
        shipped = asset_dir("systemd") / (NAME if self.user else f"user/{NAME}")
        body = shipped.read_text(encoding="utf-8")
        lines = self._lines(body[body.index("[Unit]") :].splitlines())
        text = "\n".join([f"# {shlex.join(self.written_by)}", *map(_single, lines), ""])
        digest = hashlib.sha256(text.encode()).hexdigest()
        scope = "" if self.user else " --user"
        return f"# To change it: `systemctl{scope} edit sentinel`.\n{_MARK}{digest}\n{text}"

    def _lines(self, shipped: Sequence[str]) -> list[str]:
        own = {
            "User": lambda: [f"User={self.user}"],
            "Environment=PATH": lambda: [_assigned("PATH", _path())],
            "Environment=SENTINEL_STATE": self._state_variable,
            "ExecStart": lambda: [*self._credentials(), self._command()],
            "StateDirectory": lambda: ["StateDirectory=sentinel"] if self.state is None else [],
            "StateDirectoryMode": lambda: self._state_folder(),
            "ProtectHome": self._sight,
        }
        lines: list[str] = []
        for line in shipped:
            key, _, value = line.partition("=")
            if key == "Environment":
                key = f"{key}={value.partition('=')[0]}"
            lines += own[key]() if key in own else [line]
        return lines

    def _state_variable(self) -> list[str]:
        where = "%S/sentinel" if self.state is None else _literal(str(self.state))
        return [f"Environment={_quoted(f'SENTINEL_STATE={where}')}"]

    def _state_folder(self) -> list[str]:
        if self.state is None:
            return ["StateDirectoryMode=0700"]
        kind = "BindPaths" if _under(self.state, _HOMES + _TEMPORARY) else "ReadWritePaths"
        return [f"{kind}={_quoted(_literal(str(self.state)))}"]

    def _credentials(self) -> list[str]:
        return [f"LoadCredential={name}:{_literal(str(file))}" for name, file in self.credentials]

    def _command(self) -> str:
        program = [*map(_literal, program_of_this()), "daemon", *self.arguments]
        return "ExecStart=" + " ".join(_quoted(word.replace("$", "$$")) for word in program)

    def _sight(self) -> list[str]:
        """What the unit hides, and of that what the daemon needs all the same."""
        needed = _outermost([*_installation(), *_files(self.arguments)])
        hidden = [path for path in needed if _under(path, _HOMES + _TEMPORARY)]
        homes = hidden if self.state is None else [*hidden, self.state]
        # Nothing can be shown within what `yes` makes inaccessible.
        value = "tmpfs" if any(_under(path, _HOMES) for path in homes) else "yes"
        shown = [f"BindReadOnlyPaths={_quoted(_literal(str(path)))}" for path in hidden]
        return [f"ProtectHome={value}", *shown]


def untouched(text: str) -> bool:
    """Whether a unit file is as `Unit.text` has made it: nobody has edited it since."""
    _, _, rest = text.partition("\n")
    first, _, body = rest.partition("\n")
    return first == _MARK + hashlib.sha256(body.encode()).hexdigest()


def program_of_this() -> list[str]:
    """What starts this very installation."""
    script = Path(sys.executable).with_name("sentinel")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "sentinel"]


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def _installation() -> list[Path]:
    """Where Python and this package are."""
    package = Path(sentinel.__file__).parents[1]
    return [Path(sys.prefix), Path(sys.base_prefix), package]


def _files(arguments: Sequence[str]) -> list[Path]:
    """The files that the daemon's options name."""
    found = [Path(word.rpartition("=")[2]) for word in arguments]
    return [path for path in found if path.is_absolute() and path.exists()]


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """These without those that are within another of them."""
    distinct = list(dict.fromkeys(paths))
    return [path for path in distinct if not any(other in path.parents for other in distinct)]


def _under(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _assigned(name: str, value: str) -> str:
    return f"Environment={_quoted(f'{name}={_literal(value)}')}"


def _literal(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One word of a unit file's line, as systemd.syntax(7) quotes it."""
    if word and not re.search(r"[\s\"'\\;]", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _single(line: str) -> str:
    if not line.isprintable():
        raise SentinelError(f"{line!r}: what is not printable cannot be in a unit file")
    return line
