"""A daemon on TCP with a held run, its incident with a black box, and a token of each role."""

from __future__ import annotations

import http.client
import json
import re
import struct
from pathlib import Path
from typing import Any

from sentinel import blackbox, clock
from sentinel.store.tokens import Role, Tokens
from sentinel.wire import Finding, Frame, Series
from tests.daemon.fake_job import FakeJob
from tests.daemon.process import PATIENCE, Daemon
from tests.daemon.scenes import broken, incidents

ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")


class Served:
    """The daemon, its `port`, its `tokens` by role, and the run's `incident`."""

    def __init__(self, folder: Path) -> None:
        self.daemon = Daemon(folder / "state", http="127.0.0.1:0")
        self.daemon.state.mkdir()
        now = clock.wall()
        made = Tokens(self.daemon.state)
        self.tokens = {
            role: made.add(role, role, by="user test", now=now, expires=None) for role in ROLES
        }
        self.daemon.start()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.daemon.log())
        assert found
        self.port = int(found[1])
        self.job: FakeJob = broken(self.daemon)
        (incident,) = incidents(self.daemon)
        self.incident = str(incident["id"])
        box = self.daemon.state / "blackbox" / self.incident / "rank1.blackbox"
        box.parent.mkdir(parents=True)
        box.write_bytes(black_box())

    @property
    def url(self) -> str:
        """What a browser asks for."""
        return f"http://127.0.0.1:{self.port}"

    def send(
        self, method: str, path: str, role: Role | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Ask over TCP: the answer's head and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        given = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        try:
            connection.request(method, path, headers={**given, **headers})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def get(self, path: str, role: Role = "viewer") -> Any:
        """What the JSON interface answers."""
        response, body = self.send("GET", f"/api/v1{path}", role)
        assert response.status == 200, body
        return json.loads(body)


def black_box() -> bytes:
    """A file such as rank 1 would have handed over: two steps, of the second no loss."""
    series = (Series("loss"), Series("layer_grad_norm", "layers.1"))
    header = blackbox.Header("run", 1, 2, "incarnation", "node-1", 4243, 1_780_000_000.0)
    header = blackbox.plan(header, len(series))
    content = bytearray(header.size)

    def put(place: int, part: bytes | None) -> None:
        assert part is not None
        content[place : place + len(part)] = part

    content[: len(blackbox.MAGIC)] = blackbox.MAGIC
    put(len(blackbox.MAGIC), blackbox.pack(header, blackbox.HEADER_SIZE - len(blackbox.MAGIC)))
    put(blackbox.HEADER_SIZE, blackbox.pack(series, header.table_size))
    for number, (missing, loss) in enumerate(((b"", float("nan")), (b"\x01", 0.0))):
        values = struct.pack("<2d", loss, 0.5)
        findings = (Finding("loss", "lm_head"),) if not missing else ()
        frame = Frame(5 + number, number, 1_780_000_001.5, values, missing, findings)
        record = blackbox.Record(number, frame, ("f00d",))
        put(header.slot_place(number), blackbox.pack(record, header.slot_size))
    return bytes(content)
