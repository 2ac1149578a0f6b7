"""A run in which every signal of the catalog occurs, and everything that a daemon can count."""

from __future__ import annotations

import struct
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from sentinel import clock, wire
from sentinel.control.barrier import Verdict
from sentinel.grafana.unit import is_flag
from sentinel.signals import CATALOG
from tests.daemon.fake_job import FakeJob, FakeRank
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import in_state

RUN = "dash.board+1"  # a name with what means something else in a regular expression
TENSORS = 1700  # more than one rule may remember, so that it is switched off

RULES = """
groups:
  - name: scene
    rules:
      - {alert: Applied, expr: nonfinite_update > 0, labels: {severity: critical}, actions: [pause]}
      - {alert: EveryTensor, expr: tensor_grad_norm > 0, labels: {severity: warning}}
      - {alert: Broken, expr: "tensor_grad_norm > mean(tensor_grad_norm[10000])"}
      - {alert: Unseen, expr: "logged > 9", labels: {severity: info}}
"""


def usual() -> dict[wire.Series, float]:
    """Everything that a rank can measure, on a good day."""
    values: dict[wire.Series, float] = {}
    for signal in CATALOG.values():
        if signal.made_by != "rank":
            continue
        labels = ("embed", "head") if signal.label else ("",)
        if signal.name == "tensor_grad_norm":
            labels = (*labels, *(f"layers.{at}.weight" for at in range(TENSORS)))
        well = 0.0 if is_flag(signal) or signal.name.startswith("nonfinite_") else 1.5
        values |= dict.fromkeys((wire.Series(signal.name, label) for label in labels), well)
    return values


class EveryRank(FakeRank):
    """A rank that reports every signal."""

    def hello(self) -> wire.Hello:
        """See `FakeRank`."""
        self._values = usual()
        whole = wire.Group("0-1", str(self.rank), ((0, len(self._values)),))
        said = super().hello()
        return msgspec.structs.replace(said, series=tuple(self._values), groups=(whole,))

    def frame(self, **values: float) -> None:
        """See `FakeRank`."""
        self.step += 1
        self._sequence += 1
        changed = {wire.Series(name): value for name, value in values.items()}
        row = [*(self._values | changed).values()]
        packed = struct.pack(f"<{len(row)}d", *row)
        self.send(wire.Frame(self.step, self._sequence, clock.steady(), packed))

    def heartbeat(self, phase: str = "forward") -> None:
        """In a collective that is not completed, after frames were dropped."""
        self.send(
            wire.Heartbeat(
                self.step,
                phase,
                clock.steady(),
                dropped={"queue full": 2},
                collectives={"world": (5, 4)},
            )
        )


class EveryJob(FakeJob):
    """Two such ranks."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon.place, run=RUN)
        first, second = self.ranks
        self.ranks = [
            EveryRank(daemon.place, self.register, run=RUN, rank=one.rank, world_size=2)
            for one in (first, second)
        ]


def daemon_of(folder: Path) -> Daemon:
    """A daemon for it, not started yet."""
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    options = ("--rules", str(rules), "--clean-steps", "1")
    return Daemon(folder / "state", options, http="127.0.0.1:0")


def play(daemon: Daemon, metrics: str) -> EveryJob:
    """It trains, saves, is refused, stumbles over a NaN that was applied, and is held."""
    job = EveryJob(daemon)
    job.connect()
    for kept in (("a",), ("a", "b"), ("b", "c"), ("c", "d")):  # of which two stay
        train(job, 2)
        for rank in job.ranks:
            rank.send(wire.Checkpoint(job.step, kept[-1], "/ckpt", 0.5, "", kept))
            rank.heartbeat()
    train(job, 2)
    be_refused(daemon, metrics)
    job.train({1: {"nonfinite_update": 1.0, "loss": float("nan")}})
    job.await_hold_order()
    job.train_until_stand()
    in_state(daemon, job, "held", RUN.replace("+", "%2B"))
    return job


def train(job: FakeJob, steps: int) -> None:
    """So many good steps."""
    for _ in range(steps):
        assert job.train() is Verdict.GO


def be_refused(daemon: Daemon, metrics: str) -> None:
    """A stranger on the training socket, and one without a token on HTTP."""
    with daemon.connect() as stranger:
        stranger.sendall(b"\0\0\0\1\xc1")
        while stranger.recv(4096):
            pass
    try:
        urllib.request.urlopen(f"http://{metrics}/api/v1/status", timeout=10)
    except urllib.error.HTTPError as error:
        assert error.code == 401  # noqa: PT017  # it has to be refused, and says so below if not
        return
    raise AssertionError("nobody was refused")


def metrics_of(daemon: Daemon) -> str:
    """Where it serves its metrics, as HOST:PORT."""

    def look() -> str:
        _, found, rest = daemon.log().partition("metrics on http://")
        return rest.partition("/")[0] if found else ""

    return eventually(look, "the address of the metrics")
