"""Where the threads of this process stand, for a person who looks at a hang.

Taken by the sender's thread, which lives while the one that trains stands in Python or in C.

1. Nothing is read from files: source lines may lie on the very file system that hangs.
2. No values are told, which may be secret or huge, and no lock is taken.
3. Frames are let go of at once: one that is kept keeps its tensors.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType

from sentinel.wire import MAX_STACK, Stack

MAX_FRAMES = 64  # innermost ones of the thread that trains, and
OTHER_FRAMES = 8  # of each other
MAX_THREADS = 16  # that are shown; all are counted
_FILE, _FUNCTION, _THREAD = 160, 100, 60  # characters; of a file its last ones
_DEPTH = 512  # frames that are looked through for one of the script's own
_OURS = __file__.rpartition("/")[0] + "/"
_TRAINER = _OURS + "reference/"  # ours too, but trained with
_STDLIB = str(threading.__file__).rpartition("/")[0] + "/"
_INSTALLED = ("/site-packages/", "/dist-packages/")


def stack(incident: str, training: int, heading: str) -> Stack:
    """The answer to a request: `training` is the thread that trains. Never raises."""
    try:
        place, text = _take(training, heading)
    except Exception as error:  # noqa: BLE001 - no fault of ours reaches training
        place, text = "a place that could not be read", f"{type(error).__name__}: {error}"
    return Stack(incident, _sendable(place)[:512], _sendable(text)[:MAX_STACK])


def _take(training: int, heading: str) -> tuple[str, str]:
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)  # which would hold this very dict
    # `threading.enumerate` takes a lock, which a thread that stands may hold.
    names = {number: one.name for number, one in dict(getattr(threading, "_active", {})).items()}
    place = "no Python code"
    blocks: list[str] = []
    if training in frames:
        place = _place(frames[training])
        name = _name(names, training)
        blocks.append(_block(f"{name}, which trains", frames.pop(training), MAX_FRAMES))
    for number in [*frames][: MAX_THREADS - len(blocks)]:
        blocks.append(_block(_name(names, number), frames.pop(number), OTHER_FRAMES))
    if frames:
        blocks.append(f"and {len(frames)} more threads\n")
    return place, _joined([f"{heading}\n", *blocks])


def _joined(blocks: list[str]) -> str:
    """As many whole blocks as there is room for, at least the first two."""
    text = ""
    for number, block in enumerate(blocks):
        if number > 1 and len(text) + len(block) > MAX_STACK:
            break
        text += block
    return text.rstrip("\n")


def _block(title: str, frame: FrameType, limit: int) -> str:
    lines = [f"{title}:\n"]
    at: FrameType | None = frame
    while at is not None and len(lines) <= limit:
        lines.append(f"  {_file(at)[-_FILE:]}:{at.f_lineno} {_function(at)}\n")
        at = at.f_back
    if at is not None:
        lines.append("  and frames further out\n")
    return "".join(lines)


def _place(frame: FrameType) -> str:
    """The innermost frame, and the innermost of the script's own that led there."""
    inner: FrameType | None = None
    at: FrameType | None = frame
    for _ in range(_DEPTH):
        if at is None:
            break
        file = _file(at)
        if not file.startswith(_OURS) or file.startswith(_TRAINER):
            inner = inner or at
            if not _is_library(file):
                here = _short(inner)
                return here if at is inner else f"{here}, from {_short(at)}"
        at = at.f_back
    return _short(inner or frame)


def _is_library(file: str) -> bool:
    if file.startswith(_TRAINER):
        return False
    return file.startswith((_STDLIB, "<")) or any(part in file for part in _INSTALLED)


def _short(frame: FrameType) -> str:
    name = _file(frame).rpartition("/")[2]
    return f"{name[-_FUNCTION:]}:{frame.f_lineno} {_function(frame)}"


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _function(frame: FrameType) -> str:
    code = frame.f_code
    name: str = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
    return name[-_FUNCTION:]


def _name(names: dict[int, str], number: int) -> str:
    return str(names.get(number, "a thread that Python did not start"))[:_THREAD]


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
