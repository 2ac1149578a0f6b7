"""A systemd of our own, booted in namespaces beside whatever runs this machine.

It has its own processes, mounts, control groups and `/run`, and writes on `/etc` and `/var` of its
own, laid over the machine's. It knows no units but the few that are made for it here: none of the
machine's services, and nothing that cleans or sets up the machine, may start in it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.daemon.process import eventually

SYSTEMD = Path("/lib/systemd/systemd")
_UNITS = {
    "sysinit.target": "[Unit]\nDefaultDependencies=no\n",
    "basic.target": "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n",
    "multi-user.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\n",
    "network.target": "[Unit]\n",
    "shutdown.target": "[Unit]\nDefaultDependencies=no\n",
}

_BEGIN = """
set -e
mount -t cgroup2 none {work}/cgroup
mkdir {work}/cgroup/{name}
echo 0 > {work}/cgroup/{name}/cgroup.procs
exec unshare --mount --pid --fork --uts --ipc --cgroup --kill-child sh -c {boot}
"""
_BOOT = """
set -e
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
umount -R /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs {work}/layers
for folder in etc var; do
  mkdir -p {work}/layers/$folder/upper {work}/layers/$folder/work
  layers=lowerdir=/$folder,upperdir={work}/layers/$folder/upper,workdir={work}/layers/$folder/work
  mount -t overlay overlay -o $layers /$folder
done
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:{work}/units \
  SYSTEMD_GENERATOR_PATH={work}/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH={work}/none \
  {systemd} --system --unit=multi-user.target --show-status=no --log-target=null
"""


class NoSystemError(Exception):
    """No systemd can be booted on this machine, for what its text says."""


class Booted:
    """A system that is up. Paths in it are reached under `root`, by root."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")
        self._enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--cgroup", "--uts"]

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        return subprocess.run(
            [*self._enter, *map(str, command)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **more},
        )

    def systemctl(self, *words: str) -> str:
        """What `systemctl` prints; it must go well."""
        ran = self.run("systemctl", "--no-pager", *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", unit, f"--property={name}", "--value").strip()


@contextlib.contextmanager
def booted(work: Path) -> Iterator[Booted]:
    """A system that lives while in the block. Raises `NoSystemError` where none can be booted."""
    for folder in ("cgroup", "layers", "none", "units"):
        (work / folder).mkdir()
    for name, text in _UNITS.items():
        (work / "units" / name).write_text(text)
    group = f"sentinel-test-{uuid.uuid4().hex}"
    boot = _BOOT.format(work=work, systemd=SYSTEMD)
    begin = _BEGIN.format(work=work, name=group, boot=shlex.quote(boot))
    log = work / "systemd.log"
    with log.open("w") as said:
        started = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", begin],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield _up(started, log)
    finally:
        started.kill()  # and with it, by --kill-child, all that is in the system
        started.wait()
        _sweep(work, group)


def _up(started: subprocess.Popen[bytes], log: Path) -> Booted:
    def first() -> Booted | None:
        if started.poll() is not None:
            raise NoSystemError(f"no systemd can be booted here: {log.read_text()}")
        try:
            return _found(started.pid)
        except OSError:  # one of those that set it up, which has just ended
            return None

    return eventually(first, "the system's start")


def _found(parent: int) -> Booted | None:
    """The system whose first process this one is the parent of, once it is up. Raises `OSError`."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    if not children or os.readlink(f"/proc/{children[0]}/exe") != os.fspath(SYSTEMD.resolve()):
        return None
    system = Booted(int(children[0]))
    ran = system.run("systemctl", "is-system-running")
    return system if ran.stdout.strip() in ("running", "degraded") else None


def _sweep(work: Path, group: str) -> None:
    """Take away the control groups that the system has left."""
    gone = f"""
    mount -t cgroup2 none {work}/cgroup
    find {work}/cgroup/{group} -depth -type d -exec rmdir {{}} +
    """

    def swept() -> bool:
        done = subprocess.run(["unshare", "--mount", "sh", "-c", gone], capture_output=True)
        return done.returncode == 0

    eventually(swept, "the end of the system")


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    """For the kernel, this process is that user's while in the block."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
