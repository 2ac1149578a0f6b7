"""The wheel as a user gets it: built, installed where nothing else is, and put to use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package.tools import ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run to its end, away from the sources, and check the exit status."""
    hidden = ("PYTHONPATH", "SENTINEL_STATE", "SENTINEL_DAEMON")
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key not in hidden},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == code, f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that this one is complete too."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def environment(folder: Path, requirement: str) -> Path:
    """A new virtual environment with this alone; returns its folder of programs."""
    venv.create(folder)
    programs = folder / "bin"
    constraints = ROOT / "constraints.txt"
    into = ("--python", programs / "python", "--disable-pip-version-check")
    how = ("--quiet", "--no-compile", "--constraint", constraints)
    run(sys.executable, "-m", "pip", *into, "install", *how, requirement, cwd=folder)
    return programs


@pytest.fixture(scope="module")
def training(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install sentinel-train` gives."""
    return environment(tmp_path_factory.mktemp("training"), str(wheel))


@pytest.fixture(scope="module")
def operating(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install 'sentinel-train[daemon]'` gives."""
    return environment(tmp_path_factory.mktemp("operating"), f"{wheel}[daemon]")


@pytest.fixture
def state(operating: Path, tmp_path: Path) -> Iterator[Path]:
    """A state directory in which the installed daemon runs; it must end well when told to."""
    folder = tmp_path / "state"
    log = tmp_path / "daemon.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            [operating / "sentinel", "daemon", "--state", folder, "--http", "off"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            until(
                lambda: (folder / "api.sock").is_socket() or daemon.poll() is not None,
                "the daemon's socket",
            )
            assert daemon.poll() is None, log.read_text()
            yield folder
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(timeout=30) == 0, log.read_text()
        finally:
            daemon.kill()
            daemon.wait()


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    (info,) = {name.partition("/")[0] for name in names} - {"sentinel", "sentinel_hooks"}
    expected = {
        str(path.relative_to(base))
        for base, package in ((ROOT, "sentinel"), (ROOT / "hooks", "sentinel_hooks"))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {
        f"sentinel/_data/{path.relative_to(ROOT)}"
        for kind in ("rules", "dashboards", "systemd")
        for path in (ROOT / kind).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if not name.startswith(info)} == expected
    assert {"sentinel/py.typed", "sentinel_hooks/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert "sentinel/_data/rules/default.yaml" in names


def test_a_training_environment_gets_msgspec_alone(training: Path, tmp_path: Path) -> None:
    of = ("--python", training / "python")
    listed = run(sys.executable, "-m", "pip", *of, "list", "--format", "json", cwd=tmp_path).stdout
    names = {package["name"].lower() for package in json.loads(listed)}
    assert names == {"msgspec", "sentinel-train"}


def test_without_torch_attach_says_so_and_the_rest_works(training: Path, tmp_path: Path) -> None:
    program = "import sentinel; print(sentinel.__version__); sentinel.attach"
    ran = run(training / "python", "-c", program, cwd=tmp_path, code=1)
    assert ran.stdout.strip()
    assert "this environment has no PyTorch" in ran.stderr.splitlines()[-1]


def test_without_the_daemon_extra_the_command_says_what_to_install(
    training: Path, tmp_path: Path
) -> None:
    ran = run(training / "sentinel", "--help", cwd=tmp_path, code=1)
    assert "sentinel-train[daemon]" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_help_names_the_commands(operating: Path, tmp_path: Path) -> None:
    shown = run(operating / "sentinel", "--help", cwd=tmp_path).stdout
    for command in ("daemon", "run", "status", "incidents", "pause", "resume", "stop", "replay"):
        assert command in shown
    run(operating / "sentinel", "no-such-command", cwd=tmp_path, code=2)


def test_shipped_rules_are_found_and_right(operating: Path, tmp_path: Path) -> None:
    run(operating / "sentinel", "rules", "check", "default", cwd=tmp_path)
    run(operating / "sentinel", "rules", "check", "no-such-pack", cwd=tmp_path, code=1)


@pytest.mark.parametrize(
    "file", ["rules/default.yaml", "dashboards/sentinel.json", "systemd/sentinel.service"]
)
def test_shipped_files_are_found_inside_the_package_as_they_are_here(
    file: str, operating: Path, tmp_path: Path
) -> None:
    kind, _, name = file.partition("/")
    program = f"from sentinel.assets import asset_dir; print(asset_dir({kind!r}) / {name!r})"
    found = Path(run(operating / "python", "-c", program, cwd=tmp_path).stdout.strip())
    assert found.is_relative_to(operating.parent)
    assert found.read_bytes() == (ROOT / file).read_bytes()


def test_an_idle_daemon_has_no_runs_and_no_incidents(operating: Path, state: Path) -> None:
    for command in ("status", "incidents"):
        ran = run(operating / "sentinel", command, "--json", "--state", state, cwd=state)
        assert json.loads(ran.stdout) == []


def test_the_drill_says_what_it_lacks(operating: Path, tmp_path: Path) -> None:
    ran = run(operating / "sentinel", "drill", "nan", cwd=tmp_path, code=1)
    assert "sentinel-train[daemon,trainer]" in ran.stderr
    assert "Traceback" not in ran.stderr
