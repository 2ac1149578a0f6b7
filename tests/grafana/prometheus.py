"""A real Prometheus that scrapes one daemon."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import cast

import pytest

from tests.package.tools import tool, until

SCRAPE = 0.5  # s


class Prometheus:
    """Started at once; `wait` before asking, `end` when done."""

    def __init__(self, folder: Path, scraped: str) -> None:
        configuration = folder / "prometheus.yml"
        job = {"job_name": "sentinel", "static_configs": [{"targets": [scraped]}]}
        interval = {"scrape_interval": f"{int(SCRAPE * 1000)}ms"}
        # JSON is YAML.
        configuration.write_text(json.dumps({"global": interval, "scrape_configs": [job]}))
        self._log = folder / "prometheus.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def wait(self) -> None:
        """Until it listens; the system chooses the port, the log says which."""
        found = until(
            lambda: re.search(r'"Listening on" address=(\S+)', self._log.read_text()),
            "Prometheus",
            seconds=120,
        )
        self._base = f"http://{found[1]}/api/v1/"

    def end(self) -> None:
        """Without ceremony."""
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **parameters: str) -> object:
        """The answer of its API; the test fails with its words if it does not understand."""
        url = f"{self._base}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{parameters}: {error.read().decode()}")

    def series(self, expression: str) -> list[dict[str, str]]:
        """The labels of every series that the expression gives now."""
        answer = cast(
            dict[str, list[dict[str, dict[str, str]]]], self.ask("query", query=expression)
        )
        return [series["metric"] for series in answer["result"]]

    def names(self) -> set[str]:
        """What all metrics are called that it has ever seen."""
        return set(cast(list[str], self.ask("label/__name__/values")))
