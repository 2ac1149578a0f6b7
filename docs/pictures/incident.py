"""Makes the picture and the text in slack.md: `python docs/pictures/incident.py`.

Eight ranks train for 97 steps; then a layer of rank 5 puts out NaN. The engine judges what they
say by the default rules, and the run is held: all of it as the daemon does it, without sockets.
"""

from __future__ import annotations

import math
import random
import struct
import tempfile
from pathlib import Path

from sentinel import wire
from sentinel.daemon.looking_back import look_back
from sentinel.daemon.telemetry import question_about
from sentinel.engine import rulefile
from sentinel.engine.run import RunEngine
from sentinel.held import HoldTerms
from sentinel.notify.appendix import scene_of
from sentinel.notify.blocks import blocks, fallback
from sentinel.notify.chart import draw
from sentinel.notify.loopback_message import Message
from sentinel.notify.message import Station, compose
from sentinel.notify.notice import Notice, read
from sentinel.store.outbox import to_all
from sentinel.store.recording import Recording
from sentinel.store.shapes import HoldRow
from sentinel.store.store import Store

RANKS, BLAMED, BREAKS, LAST = 8, 5, 98, 101
BEGAN = 1_790_000_000.0
SIGNALS = ("loss", "grad_norm", "nonfinite_activation", "nonfinite_update")
SERIES = tuple(wire.Series(signal) for signal in SIGNALS)
HERE = Path(__file__).parent


class Run:
    """A run whose ranks say what this script makes up."""

    def __init__(self, state: Path) -> None:
        self.store = Store.open(state, route=to_all(["slack"]))
        self.recording = Recording.open(state)
        self.engine = RunEngine("pretrain-7b", rulefile.load(rulefile.resolve_pack("default")))
        self._pauses: list[int] = []
        for rank in range(RANKS):
            host, device = f"node-{rank // 4}", f"cuda:{rank % 4}"
            self.say(
                rank,
                wire.Hello(
                    wire.VERSION, "pretrain-7b", rank, RANKS, "a", host, 1, device, "", 0, SERIES
                ),
                BEGAN,
            )

    def say(self, rank: int, message: wire.FromRank, now: float) -> None:
        body = wire.encode(message)[wire.HEADER :]
        self.recording.append("pretrain-7b", rank, now, body)
        self._pauses += self.store.commit(self.engine.feed(rank, message, now))

    def step(self, step: int) -> None:
        now, shared = BEGAN + 2.0 * step, 2.1 + 1.5 * math.exp(-step / 15)
        norm = math.nan if step >= BREAKS else 0.8 + random.gauss(0, 0.05)
        for rank in range(RANKS):
            broken = step >= BREAKS and rank == BLAMED
            loss = math.nan if broken else shared + random.gauss(0, 0.06)
            values = (loss, norm, 14.0 * broken, float(step >= BREAKS))
            finding = wire.Finding(
                "nonfinite_activation", "layers.11.mlp.down", 2, batch="9f86d081884c7d65"
            )
            packed = struct.pack(f"<{len(values)}d", *values)
            found = (finding,) if broken else ()
            self.say(rank, wire.Frame(step, step, now, packed, findings=found), now)

    def hold(self) -> Notice:
        """All ranks stand; returns what is told of it."""
        at = BEGAN + 2.0 * LAST + 1.0
        terms = HoldTerms("stop", 7200.0, RANKS, "GPU")
        held = HoldRow(LAST, "rule:NonFiniteUpdate", at, terms)
        self.store.update_action(self._pauses[0], "done", at=at, step=LAST, hold=held)
        self.recording.flush()
        last: Notice | None = None
        while row := self.store.outbox.claim("slack", at):
            self.store.outbox.sent(row.event_id, "C1", "1.0")
            last = read(row)
        assert last is not None
        return last


def main() -> None:
    random.seed(7)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        for step in range(1, LAST + 1):
            run.step(step)
        notice = run.hold()
        measured = look_back(run.recording, question_about(notice, run.engine, Path(folder)))
    (HERE / "incident.png").write_bytes(draw(scene_of(notice, measured)))
    text = compose(notice, Station("head-node", Path("/var/lib/sentinel")), measured)
    shown = {"text": fallback(text), "blocks": blocks(text)}
    print(f"{shown['text']}\n")
    print(Message.made_of(shown, "C1", "training", "1.0").as_text())


if __name__ == "__main__":
    main()
