"""`sentinel systemd`, as far as no systemd is needed: what it writes, and what it refuses."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sentinel.cli.systemd import command
from sentinel.cli.unit_file import Unit, untouched
from sentinel.errors import SentinelError

ME = getpass.getuser()


def invoke(*words: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command, [*map(str, words)])


def refused(*words: str | Path) -> str:
    """Why it was refused."""
    done = invoke(*words)
    assert done.exit_code != 0
    return done.output + str(done.exception)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a system that does not run."""
    (tmp_path / "image").mkdir()
    return tmp_path / "image"


def written(root: Path) -> Path:
    return root / "etc/systemd/system/sentinel.service"


def test_an_image_gets_a_unit_that_systemd_takes_and_a_second_time_changes_nothing(
    root: Path, tmp_path: Path
) -> None:
    state = tmp_path / 'a "state" of 100%'
    words: list[str | Path] = ["install", "--root", root, "--user-name", ME, "--state", state]
    words += ["--", "--slack-channel", "c $HOME", "--http", "off"]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    text = written(root).read_text()
    assert f"User={ME}\n" in text
    assert '--slack-channel "c $$HOME" --http off\n' in text
    assert "StateDirectory" not in text
    assert (root / "etc/sentinel/environment").stat().st_mode & 0o777 == 0o600
    assert (root / state.relative_to("/")).stat().st_mode & 0o777 == 0o700
    if shutil.which("systemd-analyze"):
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(written(root))],
            capture_output=True,
            text=True,
        )
        assert ran.stdout + ran.stderr == ""
    (root / "etc/sentinel/environment").write_text("MINE=1\n")
    again = invoke(*words)
    assert "as it should be already" in again.output
    assert "environment: left as it is" in again.output
    assert (root / "etc/sentinel/environment").read_text() == "MINE=1\n"
    assert written(root).read_text() == text


def test_a_new_version_of_the_unit_goes_over_one_that_nobody_has_edited(root: Path) -> None:
    words: list[str | Path] = ["install", "--root", root, "--user-name", ME, "--"]
    assert invoke(*words, "--http", "off").exit_code == 0
    shown = invoke("install", "--dry-run", *words[1:])
    assert "-ExecStart=" in shown.output
    done = invoke(*words)
    assert done.exit_code == 0
    assert "+ExecStart=" in done.output
    assert "--http" not in written(root).read_text()
    written(root).write_text(written(root).read_text() + "# mine\n")
    assert "somebody has changed it" in refused(*words, "--observe")
    assert "somebody has changed it" in refused("uninstall", "--root", root)
    shown = invoke("show", "--root", root)
    assert "changed since it was written" in shown.output
    assert invoke("uninstall", "--root", root, "--force").exit_code == 0
    assert not written(root).exists()


def test_what_a_hidden_home_holds_of_the_installation_is_shown_to_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/ann/venv")
    monkeypatch.setattr(sys, "base_prefix", "/home/ann/venv/python")
    text = Unit("ann", Path("/home/ann/state")).text()
    assert "ProtectHome=tmpfs\n" in text
    assert "BindReadOnlyPaths=/home/ann/venv\n" in text
    assert "/home/ann/venv/python" not in text
    assert "BindPaths=/home/ann/state\n" in text


def test_a_unit_of_ones_own_has_no_user_and_no_state_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SENTINEL_STATE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = invoke("install", "--user", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "User=" not in done.output
    assert "SENTINEL_STATE" not in done.output
    assert "WantedBy=default.target" in done.output
    assert [*tmp_path.iterdir()] == []


def test_a_line_cannot_be_smuggled_into_the_unit() -> None:
    with pytest.raises(SentinelError, match="printable"):
        Unit(ME, Path("/var/x\nExecStartPre=/bin/rm")).text()


def test_a_mark_is_good_for_the_text_that_it_was_made_for_alone() -> None:
    text = Unit(ME).text()
    assert untouched(text)
    assert not untouched(text.replace("Restart=", "#Restart="))
    assert not untouched("")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--user-name", "no-such-user"], "there is no user 'no-such-user'"),
        (["--user-name", ME, "--", "--bogus"], "No such option"),
        (["--user-name", ME, "--", "--state", "/x"], "before the --"),
        (["--user-name", ME, "--credential", "A"], "expected NAME=FILE"),
        (["--user-name", ME, "--credential", "../A=/x"], "expected NAME=FILE"),
        (["--user-name", ME, "--credential", "A=/nowhere/at/all"], "put the secret there first"),
        (["--user-name", ME, "--enable"], "without --root"),
        (["--user"], "without --root"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    root: Path, words: list[str], reason: str
) -> None:
    assert reason in refused("install", "--root", root, *words)
    assert [*root.iterdir()] == []


def test_a_credential_that_others_can_read_is_refused(root: Path) -> None:
    (root / "secret").write_text("x")
    (root / "secret").chmod(0o640)
    words: list[str | Path] = [
        "install",
        "--root",
        root,
        "--user-name",
        ME,
        "--credential",
        "A=/secret",
    ]
    assert "chmod 600 /secret" in refused(*words)
    (root / "secret").chmod(0o600)
    assert invoke(*words).exit_code == 0
    assert "LoadCredential=A:/secret\n" in written(root).read_text()


def test_a_masked_unit_is_not_written_through(root: Path) -> None:
    written(root).parent.mkdir(parents=True)
    written(root).symlink_to("/dev/null")
    assert "masked" in refused("install", "--root", root, "--user-name", ME)


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs this machine")
def test_without_systemd_it_says_what_else_can_be_done() -> None:
    assert "start `sentinel daemon`" in refused("install", "--user-name", ME)
    assert "start `sentinel daemon`" in refused("uninstall")
