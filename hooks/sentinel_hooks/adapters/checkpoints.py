"""The checkpoints of a DeepSpeed engine: where they are, whether they are whole; save and load.

Where they are is known from the calls that the script makes itself, and from what `attach` is
told. DeepSpeed writes a folder for each tag, with a file of the model's states and, under ZeRO,
one of the optimizer's for each rank.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sentinel.errors import ControlError
from sentinel_hooks.adapters.capability import Engine, ask
from sentinel_hooks.adapters.rate_scale import Rates

MAX_FOLDERS = 16
MAX_TAGS = 256  # saved by this process, whose place and rates are remembered
MAX_PRESENT = 1024  # what a message holds
_MAX_ENTRIES = 4096  # of a folder, that are looked at
_SHOWN = 10
_MAX_TAG = 200

_NO_FOLDER = (
    "no folder of checkpoints is known: nothing was saved or loaded since attach; "
    "attach(..., checkpoints=FOLDER) tells of one"
)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that this process has saved."""

    folder: str
    rates: Rates | None


def bad_tag(tag: str) -> str:
    """Why this cannot be the name of a checkpoint, or nothing."""
    if not tag.strip(".") or len(tag) > _MAX_TAG or not tag.isprintable():
        return f"{tag[:_MAX_TAG]!r} cannot name a checkpoint"
    if "/" in tag or "\\" in tag:
        return f"{tag!r} cannot name a checkpoint: expected the name of a folder, no path"
    return ""


def folder_of(given: object) -> str:
    """The folder that a call was given, as it can be found later; "" for what is none."""
    if not isinstance(given, str | os.PathLike):
        return ""
    folder: object = os.fspath(given)
    if not isinstance(folder, str) or not folder:
        return ""  # DeepSpeed refuses an empty one, and so do we
    return folder if "://" in folder else os.path.abspath(folder)


class Checkpoints:
    """What this process knows of the checkpoints of its engine."""

    def __init__(self, engine: Engine, folder: str = "") -> None:
        self._engine = engine
        self._folders = [folder] if folder else []  # that used last comes last
        self._saved: dict[str, Saved] = {}
        self._is_told = bool(folder)
        self._renames = False  # the trainer's tags are not those of the engine
        self._has_state: bool | None = None  # the script saves a state of its own with them
        self._omits_frozen = False

    @property
    def saves(self) -> bool:
        """Whether the engine can save."""
        return callable(getattr(self._engine, "save_checkpoint", None))

    @property
    def loads(self) -> bool:
        """Whether the engine can load."""
        return callable(getattr(self._engine, "load_checkpoint", None))

    # What calls tell.

    def used(self, folder: str) -> None:
        """Checkpoints were saved or loaded here."""
        if folder:
            others = [one for one in self._folders if one != folder]
            self._folders = [*others, folder][-MAX_FOLDERS:]

    def renamed(self) -> None:
        """The trainer's own methods call a checkpoint otherwise than the engine does."""
        self._renames = True

    def saved(self, tag: str, one: Saved) -> None:
        """This checkpoint is there now."""
        self.used(one.folder)
        self._saved.pop(tag, None)
        self._saved[tag] = one
        while len(self._saved) > MAX_TAGS:
            del self._saved[next(iter(self._saved))]

    def noted(self, options: Mapping[str, object]) -> None:
        """How the script itself saves: the arguments of its call."""
        own = bool(options.get("client_state")) or options.get("save_latest") is False
        self._has_state = bool(self._has_state) or own
        self._omits_frozen = options.get("exclude_frozen_parameters") is True

    def rates_of(self, tag: str) -> Rates | None:
        """The scaled rates it was saved with, if it is one of this process."""
        saved = self._saved.get(tag)
        return saved.rates if saved else None

    # Questions before anything is done.

    def cannot_save(self) -> str:
        """Why none can be saved, or nothing."""
        return "" if self._folders else _NO_FOLDER

    def cannot_load(self, tag: str) -> str:
        """Why this one cannot be loaded, or nothing."""
        if not self._folders:
            return _NO_FOLDER
        folder = self._find(tag)
        if not folder:
            places = " and ".join(reversed(self._folders[-2:]))
            return f"there is no checkpoint {tag!r} in {places}; there: {self._names()}"
        return self._incomplete(folder, tag)

    def trainer_cannot_load(self, tag: str) -> str:
        """The same where the trainer loads it: it may know of others than the engine does."""
        if self._find(tag) or self._is_told or (self._saved and not self._renames):
            return self.cannot_load(tag)
        return ""

    def _find(self, tag: str) -> str:
        """The folder that has this checkpoint, or nothing."""
        saved = self._saved.get(tag)
        places = [saved.folder] if saved and saved.folder else []
        for folder in [*places, *reversed(self._folders)]:
            if os.path.isdir(os.path.join(folder, tag)):
                return folder
        return ""

    def _names(self) -> str:
        names = present(self._folders[-1])
        shown = ", ".join(names[-_SHOWN:]) or "none"
        return f"..., {shown}" if len(names) > _SHOWN else shown

    def _incomplete(self, folder: str, tag: str) -> str:
        """What this rank would miss in it, or nothing."""
        if type(getattr(self._engine, "checkpoint_engine", None)).__name__.startswith("Nebula"):
            return ""  # keeps them in files of its own
        names = ["_get_ckpt_name"]
        if ask(self._engine, "zero_optimization") is True:
            names.append("_get_zero_ckpt_name")
        for name in names:
            file = self._file(name, folder, tag)
            if file is not None and (why := damage(file)):
                return f"checkpoint {tag!r} in {folder} cannot be loaded: {why}"
        return ""

    def _file(self, name: str, folder: str, tag: str) -> Path | None:
        """What DeepSpeed calls a file of this rank's; None where it does not say."""
        method: Callable[[str, str], object] | None = getattr(self._engine, name, None)
        try:
            found = method(folder, tag) if method is not None else None
        except Exception:  # noqa: BLE001 - DeepSpeed's own affair: it will say when it loads
            return None
        return Path(found) if isinstance(found, str) else None

    # Deeds, on all ranks together.

    def save(self, tag: str) -> None:
        """Save one beside the script's own. Raises whatever the engine raises."""
        if why := self.cannot_save():
            raise ControlError(why)
        # A script that saves a state of its own would miss it in ours when it starts from the
        # latest: that stays the script's own then.
        save: Callable[..., object] = getattr(self._engine, "save_checkpoint")  # noqa: B009 - no type has it
        frozen = {"exclude_frozen_parameters": True} if self._omits_frozen else {}
        save(self._folders[-1], tag=tag, save_latest=self._has_state is False, **frozen)

    def load(self, tag: str) -> None:
        """Load one, with the optimizer's and the schedule's state."""
        if why := self.cannot_load(tag):
            raise ControlError(why)
        load: Callable[..., object] = getattr(self._engine, "load_checkpoint")  # noqa: B009 - no type has it
        loose = {"load_module_strict": False} if self._omits_frozen else {}
        loaded = load(self._find(tag), tag=tag, **loose)
        if not isinstance(loaded, tuple) or not loaded or loaded[0] is None:
            raise ControlError(f"DeepSpeed found no checkpoint {tag!r} that it can load")


def damage(file: Path) -> str:
    """What is visibly wrong with a file of a checkpoint, without reading all of it; or nothing."""
    try:
        if file.stat().st_size == 0:
            return f"{file.name} is empty"
        with file.open("rb") as opened:
            begins = opened.read(2)
        if begins == b"PK" and not zipfile.is_zipfile(file):  # as torch saves; its index comes last
            return f"{file.name} is cut short"
    except FileNotFoundError:
        return f"{file.name} is not there"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror or error})"
    return ""


def present(folder: str) -> tuple[str, ...]:
    """The names of the folders in it, oldest first, the newest `MAX_PRESENT` of them."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MAX_ENTRIES):
                if entry.is_dir() and is_text(entry.name):
                    found.append((entry.stat().st_mtime_ns, entry.name))
    except OSError:
        return ()  # no folder on this host: then nobody can say
    return tuple(name for _, name in sorted(found)[-MAX_PRESENT:])


def is_text(name: str) -> bool:
    """Whether this can be sent: a path may have bytes that are no text."""
    try:
        return len(name.encode()) <= 512
    except UnicodeEncodeError:
        return False
