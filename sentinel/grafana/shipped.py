"""The dashboards, and the files that bring them to Grafana.

What lies in dashboards/ of the repository is what `write` makes of the catalog as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sentinel.assets import asset_dir
from sentinel.grafana.daemon_dashboard import daemon_dashboard
from sentinel.grafana.dashboard import PAGE_URL, Dashboard, Datasource
from sentinel.grafana.fleet_dashboard import fleet_dashboard
from sentinel.grafana.run_dashboard import run_dashboard

# By the name of the file.
DASHBOARDS: Mapping[str, Callable[[], Dashboard]] = {
    "run": run_dashboard,
    "fleet": fleet_dashboard,
    "sentinel": daemon_dashboard,
}

_PROVISIONING = ("provisioning/dashboards/sentinel.yaml", "provisioning/datasources/sentinel.yaml")


def files(page_url: str = PAGE_URL) -> dict[str, bytes]:
    """All files, by their path: dashboards, and what makes Grafana read them."""
    found: dict[str, bytes] = {}
    for name, dashboard in DASHBOARDS.items():
        text = json.dumps(dashboard().json(Datasource(), page_url), indent=1, ensure_ascii=False)
        found[f"{name}.json"] = f"{text}\n".encode()
    for path in _PROVISIONING:
        found[path] = (asset_dir("dashboards") / path).read_bytes()
    return found


def write(folder: Path, page_url: str = PAGE_URL) -> list[Path]:
    """Write them into a folder, which is made; each file is there whole or as it was before.

    Raises `OSError`.
    """
    written: list[Path] = []
    for path, content in files(page_url).items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        # Grafana looks into the folder every few seconds, and takes *.json.
        new = place.with_name(f".{place.name}.{os.getpid()}.new")
        try:
            new.write_bytes(content)
            new.replace(place)
        finally:
            new.unlink(missing_ok=True)
        written.append(place)
    return written
