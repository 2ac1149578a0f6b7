"""An address that cannot be is a problem of whoever gave it, and none of the doctor's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinel.cli.doctor.check import Setup
from sentinel.cli.doctor.servers import grafana, prometheus


@pytest.mark.parametrize("token", ["", "glsa_token"])
def test_the_address_of_a_server_that_is_none_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", token)
    wrong = "http://here:99999"
    for look, option in ((grafana, "--grafana"), (prometheus, "--prometheus")):
        (found,) = look(Setup(tmp_path, prometheus=wrong, grafana=wrong))
        assert (found.level, f"{option} has no usable URL" in found.text) == ("problem", True)
