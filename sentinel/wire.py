"""Messages between a rank and the daemon: their types, framing and limits.

A message is a msgpack array whose first element is its tag, behind a length of four bytes, big
endian. Arrays grow at the end only: a newer peer may append fields, which an older one passes
over, and fields that an older peer does not send take their defaults. A message with a tag that
this side does not know is returned as `Unknown`, to be counted and ignored. What may not change
within a major version is the meaning of what is there.

A rank opens with `Hello` and the daemon answers with `Welcome`, or with `Refusal` and closes. Over
TLS `Credentials` come before all else, and are not answered.
"""

from __future__ import annotations

import struct
from typing import Annotated, get_args

import msgspec
from msgspec import Meta, Struct

from sentinel.errors import OrderError, VersionError, WireError
from sentinel.remedies import Remedies as Remedies
from sentinel.splitter import MAX_MESSAGE as MAX_MESSAGE
from sentinel.splitter import Splitter as Splitter

VERSION = (1, 3)  # major: must be equal; minor: additions only
MAX_CREDENTIALS = 1024  # bytes of a message of somebody who has not shown yet who they are
MAX_RANKS = 1 << 20
MAX_SERIES = 65_536
MAX_SAMPLES = 32  # ids in a finding
MAX_STACK = 8192  # characters of the stacks of a process
HOLD_FOR = 7200.0  # s that a run is held without an answer, unless said otherwise; at least
SHORTEST_HOLD = 1.0  # s and at most
LONGEST_HOLD = 30 * 86_400.0  # s

_LENGTH = struct.Struct(">I")
HEADER = _LENGTH.size  # bytes of a message before its body

Text = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(max_length=512)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Rank = Annotated[int, Meta(ge=0, lt=MAX_RANKS)]
WorldSize = Annotated[int, Meta(ge=1, le=MAX_RANKS)]


class Series(Struct, frozen=True, array_like=True):
    """One series of a rank: a signal of the catalog and the value of its one label, if any."""

    signal: Name
    label: Name = ""


class Finding(Struct, frozen=True, array_like=True):
    """Where a rank first met something that is wrong in this step.

    `parameter` is the full name of the parameter whose gradient it was, if it was one. `batch` is
    the fingerprint of the micro-batch in which it was met, `samples` the ids of its samples where
    the dataset gives them, `detail` what else a person should read.
    """

    signal: Name
    module: Name
    micro_batch: Count = 0
    parameter: Name = ""
    batch: Name = ""
    samples: Annotated[tuple[Name, ...], Meta(max_length=MAX_SAMPLES)] = ()
    detail: Text = ""


class Group(Struct, frozen=True, array_like=True):
    """Which ranks a quantity is spread over, and which hold the same part of it.

    `shards` are the ranks that hold a part each, this one among them; `replicas` those that hold
    the same part as this one, of which the first reports it. Both as ranges: "0-3,8", and "0-12/4"
    for every fourth. `spans` are the places in `Hello.series` that this is said of: (first, count).
    """

    shards: Text
    replicas: Text
    spans: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=4096)]


# From a rank to the daemon.


class Credentials(Struct, frozen=True, array_like=True, tag="credentials"):
    """The rank's token (see `bearer`): the first message of a connection over TLS."""

    token: Annotated[str, Meta(max_length=256)]


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """Opens a connection: who this rank is and which series its frames will carry, in order.

    `incarnation` is drawn anew by each process, so that frames of a dead one can be told apart.
    `step` is the last optimizer step done, `offers` the remedies that the trainer can carry out.
    `deadline` is when the scheduler ends the job, in seconds since 1970, `group_timeout` the
    shortest of any process group in seconds; 0 where it is not known. `guard`: no step is applied
    whose gradients are not finite on every rank.
    """

    version: tuple[int, int]
    run: Name
    rank: Rank
    world_size: WorldSize
    incarnation: Name
    host: Name
    pid: Count
    device: Name
    trainer: Name
    step: Count
    series: Annotated[tuple[Series, ...], Meta(max_length=MAX_SERIES)]
    offers: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    missing: Annotated[dict[Name, Text], Meta(max_length=1024)] = {}  # signal -> why
    lease_limit: float = 60.0  # s; a quarter of the shortest collective timeout, or less
    every: Annotated[dict[Name, Count], Meta(max_length=1024)] = {}  # signal -> steps, if not 1
    groups: Annotated[tuple[Group, ...], Meta(max_length=1024)] = ()
    blackbox: Text = ""  # the file, on the rank's host
    deadline: float = 0.0
    group_timeout: float = 0.0
    guard: bool = False


class Coverage(Struct, frozen=True, array_like=True, tag="coverage"):
    """From `step` on, `signal` is measured every `every` steps, or not any more if that is 0."""

    step: Count
    signal: Name
    reason: Text
    every: Count = 0


class Extension(Struct, frozen=True, array_like=True, tag="extension"):
    """What follows the series announced so far, in frames that have more values than those."""

    series: Annotated[tuple[Series, ...], Meta(max_length=MAX_SERIES)]


class Frame(Struct, frozen=True, array_like=True, tag="frame"):
    """All values of one rank at one optimizer step.

    `values` is float64, little endian, in the order of `Hello.series` and of the `Extension`s that
    followed it; a frame from before one of them has as many values as there were series then. A
    NaN there was measured.
    Bit i of `missing` (least significant bit first) says that value i was not measured.
    `sequence` counts the frames of this incarnation, so that a gap shows a loss at once.
    A `partial` frame tells at once of something that cannot wait, such as an error, in a step that
    is not over; if the step ends after all, its own frame follows.
    """

    step: Count
    sequence: Count
    time: float
    values: bytes
    missing: bytes = b""
    findings: Annotated[tuple[Finding, ...], Meta(max_length=16)] = ()
    partial: bool = False


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Sent every few seconds by a thread of its own, also when training itself stands still.

    `phase` is data, forward, backward, optimizer, checkpoint or held. `dropped` counts frames
    that never left, by reason. `outcome` is the run's control state as this rank last read it.
    `collectives` has, for each process group, the sequence numbers of the last collective that
    was enqueued and of the last that was completed, or None where that is not known. `alarms`
    has, by signal, what cannot wait for the end of a step that may never end.
    """

    step: Count
    phase: Name
    time: float
    dropped: Annotated[dict[Name, Count], Meta(max_length=64)] = {}
    outcome: bytes = b""
    collectives: Annotated[dict[Name, tuple[Count, Count | None]], Meta(max_length=256)] = {}
    alarms: Annotated[dict[Name, float], Meta(max_length=16)] = {}


class Standing(Struct, frozen=True, array_like=True, tag="standing"):
    """This rank stands after `step`; `bad_weights` names its first non-finite parameter, if any."""

    epoch: Count
    step: Count
    bad_weights: Name = ""


class Report(Struct, frozen=True, array_like=True, tag="report"):
    """The run's control state, as this rank has just read or written it (see control.outcome)."""

    outcome: bytes


class Checkpoint(Struct, frozen=True, array_like=True, tag="checkpoint"):
    """This rank has done its part of saving a checkpoint, in `seconds`.

    `step` is the last optimizer step that is in it, `folder` what holds the folder named `tag`.
    `bad_weights` names the first parameter of this rank's that was not finite, `present` the tags
    that are in `folder` now, oldest first (rank 0 says so).
    """

    step: Count
    tag: Name
    folder: Text
    seconds: float
    bad_weights: Text = ""
    present: Annotated[tuple[Name, ...], Meta(max_length=1024)] = ()


class BlackBoxPart(Struct, frozen=True, array_like=True, tag="blackbox"):
    """A part of the rank's black box, asked for by a `Capture`; `part` counts from 0 to `parts`."""

    incident: Name
    part: Annotated[int, Meta(ge=0, lt=64)]
    parts: Annotated[int, Meta(ge=1, le=64)]
    data: Annotated[bytes, Meta(max_length=1 << 20)]


class Stack(Struct, frozen=True, array_like=True, tag="stack"):
    """Where this process stands, asked for by a `StackRequest`.

    `place` is the innermost frame of the thread that trains, in one line. `text` has the frames of
    all threads, that one first, innermost frames first: files, lines and functions, no values.
    """

    incident: Name
    place: Name
    text: Annotated[str, Meta(max_length=MAX_STACK)]


class Goodbye(Struct, frozen=True, array_like=True, tag="goodbye"):
    """The rank leaves: "finished", "detached", "stopped", "interrupted" (from the keyboard) or
    "exception", and then `detail` is the error; "taken down" is what a daemon says for a rank that
    its launcher ended because another had failed.
    """

    reason: Name
    detail: Text = ""


# From the daemon to a rank.


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    """The daemon takes this rank's frames."""

    version: tuple[int, int]
    heartbeat_seconds: float = 2.0


class Refusal(Struct, frozen=True, array_like=True, tag="refusal"):
    """The daemon closes this connection, and why. `final`: coming back will not help."""

    reason: Text
    final: bool = False


class HoldOrder(Struct, frozen=True, array_like=True, tag="hold"):
    """Stand after a step that is `lead` steps or more ahead of any rank, and at least `step`.

    `epoch` is the one this order opens: a rank that knows of a later one ignores it; `asked` the
    one in which the hold was first asked for. `then` is "hold", "stop" or "checkpoint": save one
    and go on. `lease` bounds, in seconds, how long a rank stands before all do; `hold_for` how
    long the run is held before `unattended` ("resume", "stop" or "hold") happens.
    """

    epoch: Count
    asked: Count
    step: Count
    lead: Count
    lease: float
    by: Name
    reason: Text
    then: Name = "hold"
    hold_for: float = HOLD_FOR
    unattended: Name = "resume"


class ResumeOrder(Struct, frozen=True, array_like=True, tag="resume"):
    """Leave the hold of `epoch`, after these remedies.

    `attempt` counts the resumes of this hold from 1: an order that comes twice, or after the next
    one, is ignored.
    """

    epoch: Count
    by: Name
    remedies: Remedies = Remedies()
    attempt: Count = 1


class StopOrder(Struct, frozen=True, array_like=True, tag="stop"):
    """End the held run of `epoch`: every rank leaves its training loop with exit status 0."""

    epoch: Count
    by: Name


class Capture(Struct, frozen=True, array_like=True, tag="capture"):
    """An incident has opened: hand over the black box."""

    incident: Name


class StackRequest(Struct, frozen=True, array_like=True, tag="stack_request"):
    """An incident is about a rank that does not come further: say where this process stands."""

    incident: Name


class Unknown(Struct, frozen=True, array_like=True):
    """A message with a tag that only a newer peer knows."""

    tag: str


FromRank = (
    Credentials
    | Hello
    | Coverage
    | Extension
    | Frame
    | Heartbeat
    | Standing
    | Report
    | Checkpoint
    | BlackBoxPart
    | Stack
    | Goodbye
)
FromDaemon = Welcome | Refusal | HoldOrder | ResumeOrder | StopOrder | Capture | StackRequest

_encoder = msgspec.msgpack.Encoder()
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)
_from_daemon: msgspec.msgpack.Decoder[FromDaemon] = msgspec.msgpack.Decoder(FromDaemon)
_any_tag = msgspec.msgpack.Decoder(Unknown)  # passes over what follows the tag
_OF_RANKS = {str(kind.__struct_config__.tag) for kind in get_args(FromRank)}
_OF_DAEMON = {str(kind.__struct_config__.tag) for kind in get_args(FromDaemon)}


def encode(message: FromRank | FromDaemon) -> bytes:
    """A message with its length in front, ready to be sent.

    Raises `WireError` when it is too large or has text that is not Unicode.
    """
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise WireError(f"{type(message).__name__} has text that is not Unicode") from error
    if len(body) > MAX_MESSAGE:
        raise WireError(f"{type(message).__name__} of {len(body)} bytes exceeds {MAX_MESSAGE}")
    return _LENGTH.pack(len(body)) + body


def decode_from_rank(body: bytes | memoryview) -> FromRank | Unknown:
    """What a rank sent. Raises `WireError` when it is malformed.

    It is an `OrderError` when only the daemon may say such a thing.
    """
    try:
        return _from_rank.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        unknown = _unknown(body, error, _OF_RANKS)
        if unknown.tag in _OF_DAEMON:
            raise OrderError(unknown.tag) from error
        return unknown


def decode_from_daemon(body: bytes | memoryview) -> FromDaemon | Unknown:
    """What the daemon sent. Raises `WireError` when it is malformed."""
    try:
        return _from_daemon.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _unknown(body, error, _OF_RANKS | _OF_DAEMON)


def _unknown(body: bytes | memoryview, error: Exception, known: set[str]) -> Unknown:
    """A message of a newer peer, if its tag is not a known one; otherwise `WireError`."""
    try:
        tag = _any_tag.decode(body).tag
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise WireError(f"malformed message: {error}") from error
    if tag in known:
        raise WireError(f"malformed {tag} message: {error}") from error
    return Unknown(tag[:64])


def check_version(theirs: tuple[int, int]) -> None:
    """Raises `VersionError` when the peer's major version is not ours."""
    if theirs[0] != VERSION[0]:
        raise VersionError(
            f"peer speaks protocol {theirs[0]}.{theirs[1]}, this side {VERSION[0]}.{VERSION[1]}: "
            "install the same sentinel-train on both sides"
        )
