"""The OpenAPI document says what is served, and what is served is as the document says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from schemathesis.core.result import Ok

from sentinel.daemon.access import may
from sentinel.daemon.api import application
from sentinel.daemon.service import Service, Settings
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.store.tokens import Role
from tests.daemon.process import PATIENCE
from tests.daemon.served import ROLES, Served

EXAMPLES = 3  # of each endpoint, besides those of its bounds
STREAM = "/api/v1/events"  # which does not end; test_events.py has it
REVOKE = "DELETE /api/v1/tokens/{name}"  # which would take the tokens away; test_access.py has it
# What is right for a matcher, or for several parameters together, takes more than a schema can say.
CONFIGURATION = """
[[operations]]
include-path-regex = "/(series|heatmap|marks)$"
[operations.checks.positive_data_acceptance]
expected-statuses = ["200", "400", "404"]

[[operations]]
include-name = "POST /api/v1/silences"
[operations.checks.positive_data_acceptance]
expected-statuses = ["200", "400", "409"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon for all tests of this file."""
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    made.daemon.kill()


@pytest.fixture(scope="module")
def document(served: Served) -> dict[str, Any]:
    """What is promised."""
    found: dict[str, Any] = served.get("/openapi.json")
    return found


@pytest.mark.parametrize("role", ROLES)
def test_what_is_there_is_answered_as_the_document_says_to_those_who_may(
    served: Served, document: dict[str, Any], role: Role
) -> None:
    known = {
        "run": "run",
        "incident": served.incident,
        "rank": "1",
        "id": "1",
    }
    queries: dict[str, dict[str, Any]] = {
        "/api/v1/runs/{run}/series": {"signal": ["loss", "grad_norm"], "band": "true"},
        "/api/v1/runs/{run}/heatmap": {"signal": "loss", "rows": "rank"},
    }
    interface = schemathesis.openapi.from_dict(document)
    answered = 0
    with requests.Session() as session:
        for found in interface.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            if operation.method != "get" or operation.path == STREAM:
                continue
            names = re.findall(r"\{(\w+)\}", operation.path)
            case = operation.Case(
                path_parameters={name: known[name] for name in names},
                query=queries.get(operation.path, {}),
            )
            headers = {"Authorization": f"Bearer {served.tokens[role]}"}
            answer = case.call_and_validate(served.url, session, headers)
            wanted: Role = "admin" if operation.path == "/api/v1/tokens" else "viewer"
            assert answer.status_code == (200 if may(role, wanted) else 403), operation.path
            answered += 1
    assert answered > 12


async def test_every_route_is_in_the_document_and_the_other_way_round(
    document: dict[str, Any], tmp_path: Path
) -> None:
    service = Service(Settings(tmp_path / "state", load(resolve_pack("default"))))
    await service.open()
    try:
        routes = {
            (route.method, route.resource.canonical)
            for route in application(service).router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
    finally:
        await service.close()
    told = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert told == routes


def test_the_document_names_every_parameter_with_its_bounds(document: dict[str, Any]) -> None:
    (limit,) = document["paths"]["/api/v1/runs"]["get"]["parameters"]
    assert limit == {
        "name": "limit",
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 200},
    }
    resume = document["components"]["schemas"]["ResumeBody"]["properties"]
    assert resume["lr_scale"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1000,
        "default": 1.0,
    }
    assert all(re.fullmatch(r"\w+", name) for name in document["components"]["schemas"])


def test_whatever_is_asked_is_answered_as_the_document_says(served: Served, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/api/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {served.tokens['admin']}"),
            *("--checks", "all", "--phases", "examples,coverage,fuzzing"),
            *("--exclude-path", STREAM, "--exclude-name", REVOKE),
            *("--max-examples", str(EXAMPLES), "--generation-deterministic"),
            *("--request-timeout", "20", "--no-color"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert served.get("/whoami")["by"] == "token viewer"  # so that it was not refused all along
