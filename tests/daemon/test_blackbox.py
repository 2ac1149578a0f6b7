"""Black boxes are handed over when an incident opens, also that of a rank which has died."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from sentinel import wire
from sentinel.blackbox import HEADER_SIZE, MAGIC, Header, pack, plan
from tests.daemon.fake_job import FakeJob, FakeRank
from tests.daemon.process import Daemon, eventually, sentinel
from tests.daemon.scenes import APPLIED_NAN, incidents

HEADER = plan(Header("run", 1, 2, "abc", "host", 7, 1.0), 1)
HEAD = pack(HEADER, HEADER_SIZE)
CONTENT = MAGIC + (HEAD or b"") + bytes(HEADER.size)


def hand_over(rank: FakeRank) -> str | None:
    """Answer as a rank does that is asked for its black box; the incident that asked."""
    rank.obey()
    asked = [order.incident for order in rank.orders if isinstance(order, wire.Capture)]
    if not asked:
        return None
    size = 1 << 20
    parts = [CONTENT[at : at + size] for at in range(0, len(CONTENT), size)]
    for number, data in enumerate(parts):
        rank.send(wire.BlackBoxPart(asked[0], number, len(parts), data))
    return asked[0]


def test_the_rank_an_alert_speaks_of_hands_over_its_black_box(
    daemon: Daemon, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    job = FakeJob(daemon.place).connect()
    job.train()
    for rank in job.ranks:
        rank.frame(**APPLIED_NAN.get(rank.rank, {}))
    culprit = job.ranks[1]
    culprit.send(wire.BlackBoxPart("nobody-asked", 0, 1, CONTENT[:100]))
    incident = eventually(lambda: hand_over(culprit), "the question for its black box")
    kept = state / "blackbox" / incident / "rank1.blackbox"
    eventually(kept.exists, "the black box in the state directory")
    assert kept.read_bytes() == CONTENT
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [one["id"] for one in incidents(daemon)] == [incident]
    assert [one.name for one in (state / "blackbox").iterdir()] == [incident]
    shown = sentinel("incidents", "--state", state)
    assert f"black boxes: {kept.parent}" in shown.stdout
    job.goodbye()


def test_the_black_box_of_a_rank_that_died_is_taken_from_its_host(
    daemon: Daemon, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    job = FakeJob(daemon.place)
    left, secret = tmp_path / "left.blackbox", tmp_path / "secret"
    left.write_bytes(CONTENT)
    secret.write_bytes(b"not for others")
    for rank, path in zip(job.ranks, (secret, left), strict=True):
        rank.host, rank.blackbox = socket.gethostname(), str(path)
    job.connect()
    job.train()
    job.vanish()
    kept = eventually(
        lambda: next((state / "blackbox").glob("*/rank1.blackbox"), None),
        "the black box",
        within=60,
    )
    assert kept.read_bytes() == CONTENT
    assert not kept.with_name("rank0.blackbox").exists()
