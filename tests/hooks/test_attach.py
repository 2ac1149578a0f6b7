"""`sentinel.attach` on a plain loop, with a real daemon beside it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sentinel
from sentinel import wire
from sentinel.errors import AddressError, AttachError
from sentinel_hooks.probes.fingerprint import fingerprint
from tests.daemon.process import Daemon, environment, eventually
from tests.daemon.process import sentinel as command
from tests.hooks.fake_nvml.library import FakeNvml, build
from tests.hooks.scripts.gpt import Gpt, batch


class Loop:
    """A plain loop over a small GPT, on a thread of its own so that it can be held."""

    def __init__(self, steps: int = 1_000_000) -> None:
        torch.manual_seed(3)
        self.model = Gpt()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.steps = steps
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.ended: BaseException | None = None
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            while len(self.losses) < self.steps and not self.enough.is_set():
                rows = batch(len(self.losses))
                loss = self.model(rows[:, :-1], rows[:, 1:])
                loss.backward()
                self.rates.append(self.optimizer.param_groups[0]["lr"])
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.losses.append(loss.item())
        except SystemExit as end:
            self.ended = end


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("daemon")).start()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def status(daemon: Daemon, run: str) -> dict[str, Any]:
    done = command("status", run, "--json", "--state", daemon.state)
    found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found[0] if found else {}


def wait_for_state(daemon: Daemon, run: str, state: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = status(daemon, run)
        return found if found.get("state") == state else None

    return eventually(look, f"{run} {state}")


def test_a_run_is_paused_resumed_with_a_smaller_rate_and_stopped(daemon: Daemon) -> None:
    loop = Loop()
    sentinel.attach(model=loop.model, optimizer=loop.optimizer, run="ctl", daemon=str(daemon.place))
    loop.thread.start()
    wait_for_state(daemon, "ctl", "running")
    assert command("pause", "ctl", "--state", daemon.state).returncode == 0
    held = wait_for_state(daemon, "ctl", "held")
    stood = len(loop.losses)
    assert held["hold"]["step"] == held["ranks"][0]["step"]
    assert held["ranks"][0]["phase"] == "held"
    again = command("pause", "ctl", "--state", daemon.state)
    assert again.returncode == 1
    assert "already held" in again.stderr
    assert len(loop.losses) == stood
    resumed = command("resume", "ctl", "--lr-scale", "0.5", "--state", daemon.state)
    assert resumed.returncode == 0, resumed.stderr
    eventually(lambda: len(loop.losses) > stood + 5)
    assert (loop.rates[0], loop.rates[-1]) == (1e-3, 5e-4)
    refused = command("resume", "ctl", "--state", daemon.state)
    assert refused.returncode == 1
    assert "not held" in refused.stderr
    assert command("stop", "ctl", "--state", daemon.state).returncode == 0
    loop.thread.join(30)
    assert isinstance(loop.ended, SystemExit)
    assert loop.ended.code == 0
    wait_for_state(daemon, "ctl", "finished")


def test_losses_are_bit_equal_with_and_without_and_detach_leaves_no_trace(daemon: Daemon) -> None:
    plain, watched = Loop(steps=30), Loop(steps=30)
    plain.run()
    before = _trace(watched)
    watch = sentinel.attach(
        model=watched.model, optimizer=watched.optimizer, run="eq", daemon=str(daemon.place)
    )
    watched.run()
    assert watched.losses == plain.losses
    watch.detach()
    assert _trace(watched) == before
    wait_for_state(daemon, "eq", "finished")
    assert status(daemon, "eq")["step"] == 30


def test_a_rank_introduces_itself_with_the_groups_of_its_parameters(tmp_path: Path) -> None:
    loop = Loop(steps=10)
    place = str(tmp_path / "sentinel.sock")  # where no daemon listens
    with sentinel.attach(
        model=loop.model, optimizer=loop.optimizer, run="g", daemon=place, exact_updates=True
    ) as watch:
        loop.run()
        hello = watch.greeting()[0]
    assert isinstance(hello, wire.Hello)
    (group,) = hello.groups
    assert (group.shards, group.replicas) == ("0", "0")
    covered = [hello.series[i] for first, n in group.spans for i in range(first, first + n)]
    kinds = {one.signal for one in covered}
    assert {"summed_grad_norm", "tensor_grad_norm", "layer_adam_rms"} < kinds
    assert hello.every["layer_update_norm"] == 20


def _trace(loop: Loop) -> list[object]:
    hooks = [
        (name, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in loop.model.named_modules()
    ]
    optimizer = loop.optimizer
    steps = len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)
    return [hooks, sorted(vars(optimizer)), steps]


def test_the_incident_names_the_batch_and_its_samples(daemon: Daemon) -> None:
    loop = Loop()
    given: list[dict[str, Any]] = [
        {"tokens": batch(number), "ids": [f"doc-{number}", number]} for number in range(40)
    ]
    place = str(daemon.place)
    watch = sentinel.attach(model=loop.model, optimizer=loop.optimizer, run="bad", daemon=place)
    step = [0]
    loop.model.head.register_forward_hook(
        lambda module, args, output: output * float("nan") if step[0] == 3 else output
    )

    def train() -> None:
        with contextlib.suppress(SystemExit):
            for rows in watch.batches(itertools.cycle(given)):
                step[0] += 1
                loop.model(rows["tokens"][:, :-1], rows["tokens"][:, 1:]).backward()
                watch.log(val_loss=step[0], nonsense="text")  # type: ignore[arg-type]
                loop.optimizer.step()
                loop.optimizer.zero_grad()

    thread = threading.Thread(target=train)
    thread.start()
    wait_for_state(daemon, "bad", "held")
    (incident,) = json.loads(command("incidents", "bad", "--json", "--state", daemon.state).stdout)
    cause = incident["cause"]
    assert (cause["signal"], cause["step"]) == ("nonfinite_activation", 3)
    assert (cause["module"], cause["parameter"], cause["micro_batch"]) == ("head", None, 0)
    assert (cause["batch"], cause["samples"]) == (fingerprint(given[2]), ["doc-2", "2"])
    shown = command("incidents", "bad", "--state", daemon.state).stdout
    assert f"micro-batch 0 of batch {cause['batch']} with samples doc-2, 2" in shown
    assert command("stop", "bad", "--state", daemon.state).returncode == 0
    thread.join(30)
    assert not thread.is_alive()
    watch.log(val_loss=1.0)
    assert list(watch.batches([1, 2])) == [1, 2]
    assert wire.Series("logged", "val_loss") in watch.series()


def test_two_attached_one_after_the_other_are_two_runs(daemon: Daemon) -> None:
    for name in ("first", "second"):
        loop = Loop(steps=5)
        watch = sentinel.attach(
            model=loop.model, optimizer=loop.optimizer, run=name, daemon=str(daemon.place)
        )
        loop.run()
        watch.close()
    assert wait_for_state(daemon, "first", "finished")["step"] == 5
    assert wait_for_state(daemon, "second", "finished")["step"] == 5


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"trainer": object()}, AttachError, "object"),
        ({}, AttachError, "model"),
        ({"model": Gpt()}, AttachError, "optimizer"),
        ({"trainer": "engine"}, AttachError, "str"),
        ({"daemon": "tcp://somewhere"}, AddressError, "tcp://somewhere"),
        ({"run": "a/b"}, AttachError, "a/b"),
        ({"run": " "}, AttachError, "name a run"),
        ({"peak_flops": -1.0}, AttachError, "peak_flops is -1.0"),
    ],
)
def test_what_attach_is_given_wrongly_raises_at_once_and_says_what(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        sentinel.attach(**given)


def test_a_launcher_whose_processes_have_not_met_is_told_to_attach_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    loop = Loop()
    with pytest.raises(AttachError, match="not initialized yet"):
        sentinel.attach(model=loop.model, optimizer=loop.optimizer)


SCRIPT = """
import os, sys, torch, sentinel
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sentinel.attach(model=model, optimizer=optimizer)
for step in range(int(os.environ["STEPS"])):
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    if step == int(os.environ.get("RAISE", "-1")):
        raise ValueError("the user's own mistake")
print("end of script", flush=True)
"""


def _script(daemon: Daemon, **env: str) -> subprocess.CompletedProcess[str]:
    settings = environment(SENTINEL_DAEMON=str(daemon.place), **env)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=settings,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_script_that_ends_by_itself_has_finished(daemon: Daemon) -> None:
    done = _script(daemon, STEPS="20", SENTINEL_RUN="ends")
    assert (done.returncode, done.stdout) == (0, "end of script\n"), done.stderr
    assert wait_for_state(daemon, "ends", "finished")["step"] == 20


def test_a_script_that_raises_keeps_its_traceback_and_the_run_is_lost(daemon: Daemon) -> None:
    done = _script(daemon, STEPS="20", RAISE="7", SENTINEL_RUN="raises")
    assert done.returncode == 1
    assert "ValueError: the user's own mistake" in done.stderr
    assert wait_for_state(daemon, "raises", "lost")["step"] == 8


def test_a_stopped_daemon_does_not_hold_up_the_end_of_a_script(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path).start()
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGSTOP)
    done = _script(daemon, STEPS="3000", SENTINEL_RUN="deaf")
    assert (done.returncode, done.stdout) == (0, "end of script\n"), done.stderr
    daemon.kill()


def test_without_a_daemon_there_is_one_warning_and_nothing_else(tmp_path: Path) -> None:
    settings = environment(SENTINEL_DAEMON=str(tmp_path / "none.sock"), STEPS="3000")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=settings,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "end of script\n"), done.stderr
    said = [line for line in done.stderr.splitlines() if "sentinel" in line]
    assert len(said) <= 1, done.stderr


def _with_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.setenv("SENTINEL_GPU", "0")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "library").mkdir()
    return FakeNvml(build(tmp_path / "library"), tmp_path, monkeypatch)


def _cause(daemon: Daemon, run: str) -> dict[str, Any] | None:
    done = command("incidents", run, "--json", "--state", daemon.state)
    found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found[0]["cause"] if found else None


@pytest.mark.parametrize("ends", ["standing still", "in an exception"])
def test_an_xid_is_told_of_although_the_step_that_it_broke_never_ends(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    nvml, loop = _with_a_gpu(tmp_path, monkeypatch), Loop(steps=3)
    run = f"xid {ends}"
    watch = sentinel.attach(
        model=loop.model, optimizer=loop.optimizer, run=run, daemon=str(daemon.place)
    )
    loop.run()
    panel = watch._adapter.panel
    eventually(lambda: list((tmp_path / "sentinel").glob("*.report")), "the sampler")
    wait_for_state(daemon, run, "running")
    nvml.say({"0.xids": 1, "0.xid": 79})
    if ends == "in an exception":
        eventually(lambda: panel.alarms() == {"gpu_xid": 79.0}, "the alarm")
        with pytest.raises(RuntimeError), watch:
            raise RuntimeError("CUDA error: unspecified launch failure")
    cause = eventually(lambda: _cause(daemon, run), "the incident")
    assert (cause["rule"], cause["rank"], cause["step"]) == ("GpuXidFatal", 0, 4)
    watch.detach()
