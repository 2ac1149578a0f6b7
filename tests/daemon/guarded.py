"""A daemon that serves over TLS, and those who may come to it."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from sentinel.address import TlsAddress
from sentinel.store.journal import NO_RUN
from sentinel.store.store import Store
from sentinel.store.tokens import Tokens
from tests.daemon.process import Daemon, eventually

ROLES = ("viewer", "operator", "admin", "trainer")


class Authority:
    """Vouches for localhost and 127.0.0.1; `ca`, `certificate` and `key` are files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.certificate, self.key = (
            folder / name for name in ("ca.pem", "certificate.pem", "key.pem")
        )
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(self.certificate, append=number > 0)

    def options(self) -> tuple[str, ...]:
        """What a daemon is told of it."""
        return ("--tls-cert", str(self.certificate), "--tls-key", str(self.key))


@dataclass
class Guarded:
    """HTTP off loopback and training connections, both under TLS, on ports of their own.

    `tokens` has one of each role, named as the role, and those that were "expired" and "revoked".
    """

    folder: Path
    daemon: Daemon = field(init=False)
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "tls")
        state = self.folder / "state"
        state.mkdir(parents=True)
        self.store = Tokens(state)
        for role in ROLES:
            self.tokens[role] = self.add(role, role)
        self.tokens["expired"] = self.store.add("expired", "admin", by="user", now=1.0, expires=2.0)
        self.tokens["revoked"] = self.add("revoked", "admin")
        self.store.revoke("revoked", by="user", now=1.0)
        self.tokens["unknown"] = "sntl_" + "x" * 43
        listen = ("--listen", "tls://0.0.0.0:0", *self.authority.options())
        self.daemon = Daemon(state, options=listen, http="0.0.0.0:0").start()
        log = self.daemon.log()
        found = re.search(r"metrics on https://0\.0\.0\.0:(\d+)/", log)
        listens = re.search(r"training connections on tls://0\.0\.0\.0:(\d+)", log)
        assert found
        assert listens
        self.port, self.training = int(found[1]), int(listens[1])

    def add(self, name: str, role: Any) -> str:
        """A token more."""
        return self.store.add(name, role, by="user", now=1.0, expires=None)

    @property
    def place(self) -> TlsAddress:
        """Where ranks report."""
        return TlsAddress("localhost", self.training)

    @property
    def url(self) -> str:
        """Where people ask."""
        return f"https://localhost:{self.port}"

    def ask(
        self, method: str, path: str, token: str | None, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        """A request over TLS: status, and the answer decoded if it is JSON."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=30, context=context
        )
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(answer) if is_json else answer

    def refusals(self, run: str = NO_RUN) -> list[dict[str, Any]]:
        """Who was turned away, as the journal of this run or of none has it."""
        return refusals(self.daemon, run)


def refusals(daemon: Daemon, run: str = NO_RUN) -> list[dict[str, Any]]:
    """Who was turned away, as the journal of this run or of none has it."""
    store = Store.open(daemon.state, readonly=True)
    try:
        rows = [json.loads(str(link.content)) for link in store.journal(run)]
        return [row for row in rows if row["state"] == "refused"]
    finally:
        store.close()


def on_record(daemon: Daemon, run: str) -> None:
    """Wait until there is a row for this run, which is so a second after it has begun."""

    def known() -> bool:
        store = Store.open(daemon.state, readonly=True)
        try:
            return run in {row.name for row in store.runs()}
        finally:
            store.close()

    eventually(known)
