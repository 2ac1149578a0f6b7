"""What is behind a dead man's URL: a real HTTP server in a thread, which notes who pings."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

SECRET = "5f7e1c9a-secret-of-a-check"


class LoopbackPing:
    """`with LoopbackPing() as server:`; `pings` are pairs of event ("" is all well) and text.

    `status`: what it answers. Nothing is answered while `open` is not set.
    """

    def __init__(self) -> None:
        self.pings: list[tuple[str, str]] = []
        self.methods: set[str] = set()
        self.status = 200
        self.open = threading.Event()
        self.open.set()
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ours._take(self)

            do_POST = do_HEAD = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Whoever has not waited for an answer is no matter."""

        self._server = Server(("127.0.0.1", 0), Handler)

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        text = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        base, _, event = handler.path.partition(f"/ping/{SECRET}")
        assert base == "", handler.path
        self.methods.add(handler.command)
        self.pings.append((event.lstrip("/"), text))
        self.open.wait(60)
        handler.send_response(self.status)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"OK")

    @property
    def url(self) -> str:
        """Where to ping."""
        return f"http://127.0.0.1:{self._server.server_port}/ping/{SECRET}"

    @property
    def events(self) -> list[str]:
        """What has been told."""
        return [event for event, _ in self.pings]

    def __enter__(self) -> LoopbackPing:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
