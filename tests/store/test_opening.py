"""A state directory is opened, or refused with what a person can do about it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel.engine.transition import Cause
from sentinel.errors import StateError, StateTakenError
from sentinel.store import Recording, Store
from sentinel.store.database import Database, Schema
from sentinel.store.location import file_system_of, why_unsafe
from sentinel.store.schema import FILE_NAME, SCHEMA
from tests.store import jobs
from tests.store.changes import CAUSE, incident


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def make(state_dir: Path) -> None:
    """A state directory with one incident and one recorded message, closed again."""
    store = Store.open(state_dir)
    store.commit([incident()])
    store.close()
    recording = Recording.open(state_dir)
    recording.append("gpt", 0, 1.0, b"message")
    recording.flush()
    recording.close()


def test_a_new_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "new" / "state")

    assert stat.S_IMODE((tmp_path / "new" / "state").stat().st_mode) == 0o700
    for name in ("sentinel.db", "daemon.lock"):
        assert stat.S_IMODE((tmp_path / "new" / "state" / name).stat().st_mode) == 0o600
    store.close()


def test_commits_are_on_the_disk_before_they_return(tmp_path: Path) -> None:
    store = Store.open(tmp_path)

    settings = [
        store._database.rows(f"PRAGMA {name}")[0] for name in ("journal_mode", "synchronous")
    ]
    assert settings == [{"journal_mode": "wal"}, {"synchronous": 2}]  # 2 is FULL
    assert store._database.rows("PRAGMA foreign_keys") == [{"foreign_keys": 1}]
    store.close()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a directory")

    with pytest.raises(StateError, match=r"state is no directory.*--state"):
        Store.open(tmp_path / "state")
    with pytest.raises(StateError, match="is no directory"):
        Store.open(tmp_path / "state" / "below")


def test_a_directory_that_cannot_be_written_is_refused(shared_dir: Path) -> None:
    shared_dir.chmod(0o555)

    assert "cannot be written (Permission denied)" in jobs.run(
        "opening_job.py", shared_dir, "write"
    )
    below = jobs.run("opening_job.py", shared_dir / "below", "write")
    assert below.startswith(f"StateError {shared_dir}/below cannot be written (Permission denied)")
    assert "--state or $SENTINEL_STATE" in below


def test_a_directory_of_another_user_can_be_read_but_not_used(shared_dir: Path) -> None:
    make(shared_dir)
    for path in shared_dir.iterdir():
        path.chmod(0o644)

    assert jobs.run("opening_job.py", shared_dir, "read") == "opened 1\nrecorded ['gpt']\n"
    assert "StateError" in jobs.run("opening_job.py", shared_dir, "write")


def test_a_record_that_may_not_be_read_is_refused(shared_dir: Path) -> None:
    make(shared_dir)
    if os.getuid():
        (shared_dir / "sentinel.db").chmod(0)

    assert "make it and its directory readable" in jobs.run("opening_job.py", shared_dir, "read")


def test_a_second_daemon_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    with jobs.started("holding_job.py", tmp_path) as holder:
        assert jobs.line(holder) == "held"

        with pytest.raises(StateTakenError, match=rf"process {holder.pid}\b.*--state"):
            Store.open(tmp_path)
        readonly = Store.open(tmp_path, readonly=True)
        assert len(readonly.incidents()) == 1
        readonly.close()


def test_a_killed_daemon_leaves_the_directory_free_and_readable(tmp_path: Path) -> None:
    with jobs.started("holding_job.py", tmp_path) as holder:
        assert jobs.line(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()

        readonly = Store.open(tmp_path, readonly=True)
        assert len(readonly.incidents()) == 1
        readonly.close()
        recording = Recording.open(tmp_path, readonly=True)
        assert [entry.body for entry in recording.messages("gpt")] == [b"message"]
        recording.close()
        store = Store.open(tmp_path)
        assert len(store.incidents()) == 1
        store.close()


def test_a_closed_store_lets_another_have_the_directory(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    Store.open(tmp_path).close()


def test_a_directory_that_fails_to_open_stays_free(tmp_path: Path) -> None:
    (tmp_path / "sentinel.db").write_text("x" * 5000)
    with pytest.raises(StateError):
        Store.open(tmp_path)
    (tmp_path / "sentinel.db").unlink()

    Store.open(tmp_path).close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("sentinel.db", "telemetry.db"):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute("PRAGMA user_version = 99")
        connection.close()

    newer = r"written by a newer Sentinel \(schema 99, this one knows \d+\): upgrade sentinel-train"
    for readonly in (False, True):
        with pytest.raises(StateError, match=newer):
            Store.open(tmp_path, readonly=readonly)
        with pytest.raises(StateError, match=newer):
            Recording.open(tmp_path, readonly=readonly)


FIRST_INCIDENT = """
INSERT INTO runs (name, state, step, world_size, started, command)
VALUES ('gpt', 'running', 37, 2, 1000.0, '');
INSERT INTO incidents (id, run, state, severity, opened_step, rule, signal, step, rank, host,
                       device, module, opened_at, changed_at)
VALUES ('i0', 'gpt', 'open', 'critical', 37, 'NonFiniteUpdate', 'nonfinite_update', 37, 1,
        'node-a', 'cuda:1', 'h.3', 1000.0, 1000.0);
"""


def test_a_record_of_the_first_schema_is_read_and_gone_on_with(tmp_path: Path) -> None:
    older(tmp_path, 1, FIRST_INCIDENT)
    with pytest.raises(StateError, match=r"has the older schema 1: start `sentinel daemon`"):
        Store.open(tmp_path, readonly=True)

    store = Store.open(tmp_path)
    (shown,) = store.incidents()
    assert shown["cause"]["module"] == "h.3"
    assert (shown["cause"]["parameter"], shown["cause"]["batch"]) == (None, None)
    assert (shown["cause"]["micro_batch"], shown["cause"]["samples"]) == (None, [])
    cause = Cause("NonFiniteUpdate", "nonfinite_update", 37, 1, "node-a", "cuda:1", "h.3")
    adopted = store.open_incident("gpt")
    assert adopted is not None
    assert adopted.cause == cause
    store.commit([incident("updated", id="i0")])
    assert store.incidents()[0]["cause"]["batch"] == CAUSE.batch
    store.close()


@pytest.mark.parametrize("name", ["sentinel.db", "telemetry.db"])
@pytest.mark.parametrize("readonly", [False, True])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, name: str, readonly: bool) -> None:
    (tmp_path / name).write_bytes(b"this is certainly not SQLite" * 100)

    opened = Store.open if name == "sentinel.db" else Recording.open
    with pytest.raises(StateError, match=rf"{name}.*move it away"):
        opened(tmp_path, readonly=readonly)


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "sentinel.db"
    content = bytearray(path.read_bytes())
    content[4096:12288] = os.urandom(8192)
    path.write_bytes(content)

    with pytest.raises(StateError, match="damaged"):
        Store.open(tmp_path)


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "sentinel.db")
    connection.execute("CREATE TABLE theirs (id)")
    connection.close()

    with pytest.raises(StateError, match="not Sentinel's"):
        Store.open(tmp_path)
    connection = sqlite3.connect(tmp_path / "sentinel.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


def test_reading_what_is_not_there_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"holds no record.*no sentinel\.db"):
        Store.open(tmp_path / "absent", readonly=True)
    assert not (tmp_path / "absent").exists()


def test_the_state_directory_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "a #?% directory\n'ü"
    make(odd)

    store = Store.open(odd, readonly=True)
    assert len(store.incidents()) == 1
    store.close()


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:30 / /home rw,relatime shared:5 master:2 - nfs4 server:/home rw,vers=4.2
31 30 0:31 / /home/ann/local\\040disk rw,relatime - xfs /dev/vdb rw
32 27 0:32 / /scratch rw - lustre 10.0.0.1@o2ib:/scratch rw
33 27 0:33 / /gpfs rw - gpfs fs0 rw
34 27 0:34 / /mnt/share rw - cifs //server/share rw
35 27 0:35 / /sshfs rw - fuse.sshfs me@host:/ rw
36 27 0:36 / /ntfs rw - fuseblk /dev/sda1 rw
37 27 0:37 / /overlay rw - fuse.fuse-overlayfs fuse-overlayfs rw
38 27 0:38 / /shadowed rw - ext4 /dev/vdc rw
39 38 0:39 / /shadowed rw - nfs server:/ rw
a line that makes no sense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/sentinel", None),
        ("/home/ann/state", "nfs4"),
        ("/homeless", None),
        ("/home/ann/local disk/state", None),
        ("/scratch/ann", "lustre"),
        ("/gpfs/fs0", "gpfs"),
        ("/mnt/share", "cifs"),
        ("/sshfs/x", "fuse.sshfs"),
        ("/ntfs/x", None),
        ("/overlay/x", None),
        ("/shadowed/x", "nfs"),
    ],
)
def test_file_systems_without_safe_logs_are_known(path: str, kind: str | None) -> None:
    assert why_unsafe(Path(path), MOUNTS) == kind


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    assert file_system_of(Path("/home/ann/local disk/x"), MOUNTS) == "xfs"
    assert file_system_of(Path("/x"), "") == ""
    assert why_unsafe(Path("/x"), "") is None


def test_ranks_recorded_before_their_collectives_were_kept_are_still_known(tmp_path: Path) -> None:
    older(tmp_path, 3, OLD_RUN + "INSERT INTO ranks VALUES ('old',0,'node',1,'cpu',4,'data',9.0);")

    store = Store.open(tmp_path)
    (entry,) = store.status(10.0)
    assert (entry["ranks"][0]["step"], entry["ranks"][0]["collectives"]) == (4, {})
    store.close()


OLD_ACTIONS = """
INSERT INTO actions VALUES (1, 'old', NULL, 'pause', 'done', 4, 'rule:R', 'NaN', '', 11.0);
INSERT INTO actions VALUES (2, 'old', NULL, 'resume', 'refused', 4, 'user ann', '', 'no', 12.0);
INSERT INTO action_changes VALUES (1, 1, 'requested', 3, '', 10.0);
INSERT INTO action_changes VALUES (2, 1, 'done', 4, '', 11.0);
INSERT INTO action_changes VALUES (3, 2, 'refused', 4, 'no', 12.0);
"""


def test_what_was_done_before_there_was_a_chain_enters_it_as_such(tmp_path: Path) -> None:
    older(tmp_path, 4, OLD_RUN + OLD_ACTIONS)

    store = Store.open(tmp_path)
    store.update_action(1, "failed", at=13.0)
    links, broken = store.verify("old")
    assert broken is None
    said = [json.loads(str(link.content)) for link in links]
    assert [(one["action"], one["state"], one["step"], one["imported"]) for one in said] == [
        ("pause", "requested", 3, True),
        ("pause", "done", 4, True),
        ("resume", "refused", 4, True),
        ("pause", "failed", 4, False),
    ]
    assert [(one["by"], one["reason"], one["detail"]) for one in said[1:3]] == [
        ("rule:R", "NaN", ""),
        ("user ann", "", "no"),
    ]
    store.close()


OLD_RUN = "INSERT INTO runs VALUES ('old','lost',4,1,0,NULL,'',NULL,NULL,NULL);"


def older(state_dir: Path, version: int, script: str) -> None:
    """A record of this schema version with these rows."""
    schema = Schema(SCHEMA.application_id, SCHEMA.migrations[:version])
    path = state_dir / FILE_NAME
    Database.open(path, schema, readonly=False, synchronous="FULL").close()
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
