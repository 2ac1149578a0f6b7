"""What `attach` returns: one rank's side of a watched run."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType

import torch

from sentinel import address, clock, wire
from sentinel.blackbox import Header
from sentinel.control import outcome as control
from sentinel.control.barrier import Barrier, Verdict
from sentinel.errors import ControlError
from sentinel_hooks import blackbox
from sentinel_hooks import job as jobs
from sentinel_hooks.adapters.adapter import Adapter
from sentinel_hooks.batches import B, Batches, watched
from sentinel_hooks.blackbox import BlackBoxFile
from sentinel_hooks.budget import Budget
from sentinel_hooks.economy import Economy
from sentinel_hooks.emitter import HEARTBEAT, Emitter, Order
from sentinel_hooks.gate import Gate
from sentinel_hooks.notes import Notes
from sentinel_hooks.probes.mark import Marker
from sentinel_hooks.stacks import stack

log = logging.getLogger("sentinel")

WAIT_FOR_RANK_0 = 60.0  # s for rank 0 to publish the daemon's address before a rank uses its own
REFRESH_PER_RANK = 1e-3  # s: all ranks together read the control state 1,000 times a second


class Watch:
    """What `attach` returns: one rank's side of a watched run."""

    def __init__(
        self,
        adapter: Adapter,
        job: jobs.Job,
        run: str,
        place: address.Address,
        budget: float,
    ) -> None:
        self.run = run
        self._adapter = adapter
        self._job = job
        self._place = place
        self._placed = job.rank == 0
        self._waiting_since = clock.monotonic()
        self._incarnation = uuid.uuid4().hex
        self._sequence = 0
        self._step = adapter.step()
        self._phase = "data"
        self._thread = threading.get_ident()  # the one that trains
        self._next_refresh = 0.0
        self._closed = False
        self._pid = os.getpid()
        self._box: BlackBoxFile | None = None
        self._barrier = Barrier(
            job.board,
            job.rank,
            job.world_size,
            accept=self._accept,
            apply=self._apply,
            undo=self._undo,
            position=adapter.step,
            lease_limit=job.lease_limit,
            on_outcome=self._on_outcome,
            left=self._step,
        )
        self._refresh_every = max(HEARTBEAT, job.world_size * REFRESH_PER_RANK)
        self._economy = Economy(
            adapter.panel, job.board, Budget(budget) if job.rank == 0 else None, self._refresh_every
        )
        self._emitter = Emitter(self)
        adapter.panel.sender = self._emitter
        self._gate = Gate(self._barrier, self)
        self._notes = Notes(adapter.panel, Marker(adapter.device), self._on_phase)

    def _start(self) -> None:
        if self._job.rank == 0:
            self._job.board.publish("run", self.run)
            self._job.board.publish("daemon", str(self._place))
        self._adapter.install(
            self._on_boundary, self._on_phase, self._on_failure, self._emitter.say
        )
        self._box = self._open_box()
        self._emitter.start()
        _last_words(self)

    def batches(
        self, loader: Iterable[B], *, ids: Callable[[B], object] | None = None
    ) -> Batches[B]:
        """The loader, with the wait for each batch and its fingerprint noted as it is iterated.

        Any iterable: it is iterated as often as before, has a length or a `next` if it had one, and
        raises what it raised. `ids(batch)` gives the ids of a batch's samples (a sequence or a
        tensor of them) where the batch is no mapping with a key such as "ids" or "index".
        """
        batches = watched(loader, self._notes, ids)
        self._adapter.loaders.add(batches)
        return batches

    def log(self, /, **values: float | torch.Tensor) -> None:
        """Report these numbers with the next step, as the signal `logged`, labeled by their names.

        At any time. Tensors must have one element; on a device they are read later, and nothing
        waits. Of a name logged again before the next step the last value counts. What is no number,
        and names beyond the first 256, are dropped with a warning.
        """
        if os.getpid() == self._pid:
            self._adapter.panel.logged(values)

    def _open_box(self) -> BlackBoxFile | None:
        job, started = self._job, clock.steady()
        header = Header(
            run=self.run,
            rank=job.rank,
            world_size=job.world_size,
            incarnation=self._incarnation,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=started,
        )
        try:
            place = blackbox.folder()
            blackbox.clear_old(place)
            return BlackBoxFile(place, header, self._adapter.panel.series)
        except Exception as error:  # noqa: BLE001 - a full disk is no reason not to train
            log.warning("sentinel: no black box is kept: %s", error)
            return None

    def detach(self) -> None:
        """Leave the trainer as it was before `attach`."""
        self._leave("detached")

    def close(self) -> None:
        """Say that this rank has finished, send what is queued (a second at most), and detach.

        Called at exit; call it where a script ends by `os._exit`.
        """
        self._leave("finished")

    def __enter__(self) -> Watch:
        """For scripts that end by `os._exit`: leaving the block is `close`, or says what failed."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception | KeyboardInterrupt):
            self._fail(error)
        else:
            self.close()

    def _fail(self, error: BaseException) -> None:
        """The script ends with this error: say what it was, and if memory ran out, how it is."""
        if self._closed or os.getpid() != self._pid:
            return
        self._adapter.panel.fence.run("looking at an error", partial(self._on_failure, error))
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "exception"
        self._leave(reason, f"{type(error).__name__}: {error}")

    def _leave(self, reason: str, detail: str = "") -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        if reason == "exception":  # its cause may be known, in a step that has no frame
            self._emitter.say(self.heartbeat(dict(self._emitter.dropped)))
        self._adapter.detach()
        self._report(settle=reason not in ("exception", "interrupted"))
        if self._job.world_size > 1:
            self._quietly_depart()
        words = detail[:4000].encode("utf-8", "replace").decode()  # all that can be sent
        self._emitter.close(wire.Goodbye(reason, words))
        if self._box is not None:
            self._box.close(keep=reason in ("exception", "interrupted"))

    def _quietly_depart(self) -> None:
        try:
            self._barrier.depart()
        except Exception as error:  # noqa: BLE001 - the store may be gone, and so are we
            log.debug("sentinel: the job's store is gone: %s", error)

    # The training thread.

    def _on_phase(self, phase: str) -> None:
        if self._gate.standing is None:  # else held, whatever remedies do
            self._phase = phase

    def _on_boundary(self, step: int) -> None:
        """One optimizer step is over: report it, and stand if the job has agreed to."""
        began = time.perf_counter()
        self._step, self._thread = step, threading.get_ident()
        self._economy.reached(step)
        self._report()
        self._adapter.panel.cost.add(time.perf_counter() - began)
        if self._gate.boundary(step, self._on_stand) is Verdict.STOP:
            self._leave("stopped")
            jobs.dissolve_at_exit()
            raise SystemExit(0)
        self._economy.resumed()

    def _on_failure(self, error: BaseException) -> None:
        """A call of the trainer's has raised this."""
        self._adapter.panel.failed(error, self._phase)
        self._report()

    def _on_stand(self) -> None:
        self._phase = "held"

    def _report(self, *, settle: bool = False) -> None:
        """Queue the frames of all steps whose values are known by now."""
        panel = self._adapter.panel
        for sample in panel.settled(wait=settle):
            self._sequence += 1
            frame = wire.Frame(
                sample.step,
                self._sequence,
                sample.time,
                sample.value_bytes(),
                sample.missing_bytes(),
                sample.found(alone=self._job.world_size == 1),
                sample.partial,
            )
            self._emitter.put(frame)
            self._keep(frame, sample.batches)
        for coverage in panel.changes():
            self._emitter.say(coverage)

    def _keep(self, frame: wire.Frame, batches: Sequence[str]) -> None:
        began = time.perf_counter()
        if self._box is not None and os.getpid() == self._pid:
            self._box.write(frame, self._adapter.panel.series, batches)
        self._adapter.panel.cost.add(time.perf_counter() - began)

    # The gate's attendant.

    def settle(self) -> None:
        """Wait for the device and report what it measured. Only while standing."""
        self._report(settle=True)

    def first_bad_weight(self) -> str:
        """The first parameter of this rank with NaN or Inf, or nothing."""
        try:
            return self._adapter.first_bad_weight()[:500]
        except Exception as error:  # noqa: BLE001 - what cannot be read is said, not raised
            return f"weights could not be read: {error}"[:500]

    def say(self, message: wire.FromRank) -> None:
        """Queue a message to the daemon."""
        self._emitter.say(message)

    def absent(self) -> float:
        """Seconds without a daemon."""
        return self._emitter.absent()

    # The barrier's hands.

    def _accept(self, remedies: wire.Remedies) -> str:
        return self._adapter.refuses(remedies)

    def _apply(self, remedies: wire.Remedies) -> str:
        try:
            self._adapter.apply(remedies)
        except Exception as error:  # noqa: BLE001 - said to all ranks; the run stays held
            log.error("sentinel: a remedy failed on rank %d: %s", self._job.rank, error)
            return str(error) if isinstance(error, ControlError) else repr(error)
        self._step = self._adapter.step()  # an earlier one after a rollback
        return ""

    def _undo(self, remedies: wire.Remedies) -> None:
        try:  # another rank could not do these
            self._adapter.undo(remedies)
        except Exception as error:  # noqa: BLE001 - the run stays held, and a person looks at it
            log.error("sentinel: not taken back on rank %d: %s", self._job.rank, error)

    def _on_outcome(self, outcome: control.Outcome) -> None:
        self._emitter.say(wire.Report(control.encode(outcome)))

    # The emitter's correspondent: its thread.

    def locate(self) -> address.Address | None:
        """Where rank 0 says the daemon is; this rank's own idea when it says nothing for long."""
        if not self._placed:
            board = self._job.board
            run, place = board.look_up("run"), board.look_up("daemon")
            if run is not None and place is not None:
                self.run, self._place, self._placed = run, address.parse(place), True
            elif clock.monotonic() - self._waiting_since > WAIT_FOR_RANK_0:
                self._placed = True
        return self._place if self._placed else None

    def greeting(self) -> list[wire.FromRank]:
        """`Hello`, and what a daemon that was away has missed, so that it goes on from there."""
        self._barrier.refresh()
        panel = self._adapter.panel
        hello = wire.Hello(
            version=wire.VERSION,
            run=self.run,
            rank=self._job.rank,
            world_size=self._job.world_size,
            incarnation=self._incarnation,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=str(self._adapter.device),
            trainer=self._adapter.trainer,
            step=self._step,
            series=panel.series,
            offers=self._adapter.offers,
            missing=dict(panel.missing),
            lease_limit=self._job.lease_limit,
            every=panel.every,
            groups=self._adapter.groups(),
            blackbox=str(self._box.path) if self._box else "",
            deadline=jobs.deadline(),
            group_timeout=self._job.group_timeout,
            guard=self._adapter.guarded,
        )
        messages: list[wire.FromRank] = [hello, *panel.rescheduled.values()]
        seen, standing = self._barrier.seen, self._gate.standing
        if seen is not None:
            messages.append(wire.Report(control.encode(seen)))
        if standing is not None:
            messages.append(standing)
        return messages

    def series(self) -> tuple[wire.Series, ...]:
        """All series announced or to be announced; the list only grows."""
        return self._adapter.panel.series

    def heartbeat(self, dropped: dict[str, int]) -> wire.Heartbeat:
        """How this rank is now."""
        seen = self._barrier.seen
        return wire.Heartbeat(
            self._step,
            self._phase,
            clock.steady(),
            dropped,
            control.encode(seen) if seen is not None else b"",
            self._adapter.sequences.read(),
            self._adapter.panel.alarms(),
        )

    def refresh(self) -> None:
        """Read the control state, so that an order reaches ranks whose daemon died on the way,
        and what rank 0 says of the budget."""
        now = clock.monotonic()
        if now >= self._next_refresh and not self._closed:
            self._next_refresh = now + self._refresh_every
            if self._job.world_size > 1:
                self._barrier.refresh()
            self._economy.refresh(self._step)

    def capture(self, incident: str) -> None:
        """Hand over the black box, as it is now."""
        if self._box is not None and not self._closed:
            for part in self._box.parts(incident):
                self._emitter.say(part)

    def stand(self, incident: str) -> wire.Stack:
        """Where this process stands."""
        return stack(incident, self._thread, f"phase {self._phase}, step {self._step} is done")

    def hear(self, order: Order) -> None:
        """Carry out an order of the daemon's."""
        if not self._closed:
            self._barrier.hear(order)


def _last_words(watch: Watch) -> None:
    """Say goodbye when the interpreter ends, and how it came to that."""
    reference = weakref.ref(watch)

    def leave() -> None:
        living = reference()
        if living is None:
            return
        error = getattr(sys, "last_value", None)  # set when an exception ended the script
        if error is None:
            living.close()
        else:
            living._fail(error)

    atexit.register(leave)
