"""Memory that runs out: told at once with what memory is like, and the error goes on as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.adapters.interception import Interception
from sentinel_hooks.adapters.plain import PlainAdapter
from sentinel_hooks.probes.out_of_memory import describe, is_out_of_memory
from sentinel_hooks.probes.panel import Panel
from tests.daemon.process import Daemon, environment, eventually
from tests.daemon.process import sentinel as command
from tests.hooks.engines import Engine
from tests.hooks.scripts.gpt import batch

HUGE = 1 << 50
CUDA_ERROR = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


@pytest.fixture(autouse=True)
def _strict_and_single(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_RAISE", "1")
    torch.set_num_threads(1)


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


ERRORS: dict[str, tuple[Callable[[], object], bool]] = {
    "torch's allocator on the host": (lambda: torch.empty(HUGE, dtype=torch.uint8), True),
    "Python": (lambda: bytearray(HUGE), True),
    "torch's allocator on a device": (lambda: _raise(torch.cuda.OutOfMemoryError("CUDA")), True),
    "the CUDA driver": (lambda: _raise(RuntimeError("CUDA error: out of memory")), True),
    "a wrong shape": (lambda: torch.ones(2) + torch.ones(3), False),
    "a mistake that only says so": (lambda: _raise(ValueError("out of memory")), False),
}


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_memory_are_told_from_others(kind: str) -> None:
    cause, expected = ERRORS[kind]
    assert is_out_of_memory(raised_by(cause)) is expected


def test_an_error_is_described_by_its_first_lines_and_the_sizes() -> None:
    error = torch.cuda.OutOfMemoryError("One.\n\n Two.\nThree.\nFour.\udcff")
    assert describe(error, {}) == "OutOfMemoryError: One. Two. Three."
    sizes = {"host_memory_process_bytes": 3 * 2.0**30, "host_memory_used_bytes": 2.0**29}
    assert describe(MemoryError(), sizes) == "MemoryError: (process 3.00 GiB, host used 0.50 GiB)"


class Model(nn.Module):
    """Raises what it is told to, at the forward pass in which it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.error: Exception | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        loss: Tensor = self.layer(x).sum()
        return loss


class Loop:
    """A plain loop under watch that goes on after any error."""

    def __init__(self) -> None:
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.adapter = PlainAdapter(self.model, self.optimizer)
        self.seen: list[tuple[int, bool, float]] = []  # step, partial, out_of_memory
        self.said: list[str] = []
        self.phase = ""
        self.adapter.install(lambda _: self.collect(), self._on_phase, self._on_failure)

    def _on_phase(self, phase: str) -> None:
        self.phase = phase

    def _on_failure(self, error: BaseException) -> None:
        self.adapter.panel.failed(error, self.phase)
        self.collect()

    def collect(self) -> None:
        panel = self.adapter.panel
        at = [one.signal for one in panel.series].index("out_of_memory")
        for sample in panel.settled():
            self.seen.append((sample.step, sample.partial, sample.values[at]))
            self.said += [f"{one.module}: {one.detail}" for one in sample.findings]

    def forward(self, error: Exception | None = None) -> None:
        self.model.error = error
        self.model(torch.ones(2, 4)).backward()

    def step(self) -> None:
        self.forward()
        self.optimizer.step()


def test_a_forward_pass_that_runs_out_is_told_at_once_and_the_error_goes_on_as_it_was() -> None:
    loop = Loop()
    loop.step()
    error = torch.cuda.OutOfMemoryError(CUDA_ERROR)
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        loop.forward(error)
    assert raised.value is error
    assert loop.seen == [(1, False, 0.0), (2, True, 1.0)]
    (said,) = loop.said
    assert said.startswith(f"forward: OutOfMemoryError: {CUDA_ERROR} (process ")
    loop.adapter.detach()


def test_training_that_goes_on_has_the_whole_step_after_the_part_of_it() -> None:
    loop = Loop()
    for _ in range(3):  # in one step it is told once
        with pytest.raises(MemoryError):
            loop.forward(MemoryError())
    loop.step()
    loop.step()
    assert loop.seen == [(1, True, 1.0), (1, False, 1.0), (2, False, 0.0)]
    with pytest.raises(MemoryError):
        loop.forward(MemoryError())
    assert loop.seen[-1] == (3, True, 1.0)
    loop.adapter.detach()


def test_other_errors_and_passes_within_their_handling_are_not_told() -> None:
    loop = Loop()
    with pytest.raises(ValueError, match="mine"):
        loop.forward(ValueError("mine"))
    try:
        raise MemoryError
    except MemoryError:
        loop.step()
    assert loop.seen == [(1, False, 0.0)]
    loop.adapter.detach()


def test_nothing_is_left_on_the_model_and_after_it_nothing_is_told() -> None:
    loop = Loop()
    loop.adapter.detach()
    assert not loop.model._forward_hooks
    assert not loop.model._forward_hooks_always_called
    with pytest.raises(MemoryError):
        loop.forward(MemoryError())
    assert loop.seen == []


class Grown(torch.autograd.Function):
    """Passes a value on, and takes more memory for its gradient than there is."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * torch.empty(HUGE, dtype=torch.uint8)


def grown(x: Tensor) -> Tensor:
    result: Tensor = Grown.apply(x)  # type: ignore[no-untyped-call]
    return result


@pytest.mark.parametrize("method", ["backward", "step", "forward"])
def test_an_engine_s_call_that_runs_out_is_told_with_its_phase(method: str) -> None:
    engine = Engine()
    adapter = DeepSpeedAdapter(engine)
    failures: list[BaseException] = []
    phases: list[str] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        adapter.panel.failed(error, phases[-1])

    def grow(*_: object) -> None:
        torch.empty(HUGE, dtype=torch.uint8)

    tokens = batch(0)
    if method == "step":
        engine.optimizer.register_step_pre_hook(grow)
    adapter.install(lambda _: None, phases.append, failed)
    if method == "forward":
        engine.module.head.register_forward_pre_hook(grow)
    with pytest.raises(RuntimeError, match="can't allocate memory"):  # noqa: PT012 - which one?
        loss = engine(tokens[:, :-1], tokens[:, 1:])
        engine.backward(grown(loss) if method == "backward" else loss)
        engine.step()
    assert len({id(error) for error in failures}) == 1, "the optimizer's and the engine's are one"
    (sample,) = adapter.panel.settled()
    (finding,) = sample.findings
    assert (sample.step, sample.partial) == (1, True)
    assert finding.module == {"step": "optimizer"}.get(method, method)
    assert "can't allocate memory" in finding.detail
    adapter.detach()


def test_what_we_do_with_an_error_never_takes_its_place() -> None:
    class Target:
        def act(self) -> None:
            raise MemoryError("theirs")

    def ours(error: BaseException) -> None:
        raise ValueError("ours")

    panel = Panel([], torch.device("cpu"))
    panel.fence.raises = False
    target = Target()
    Interception(target, "act", lambda call: panel.fence.run("test", call), failed=ours)
    with pytest.raises(MemoryError, match="theirs"):
        target.act()


SCRIPT = """
import torch, sentinel
from tests.hooks.test_out_of_memory import Grown
class Model(torch.nn.Linear):
    def forward(self, x, grown=False):
        y = super().forward(x)
        return (Grown.apply(y) if grown else y).sum()
model = Model(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sentinel.attach(model=model, optimizer=optimizer, run="grown")
for step in range(4):
    model(torch.ones(2, 4), step == 3).backward()
    optimizer.step()
"""


def test_a_script_that_dies_of_a_backward_pass_is_one_incident_with_its_sizes(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path).start()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment(SENTINEL_DAEMON=str(daemon.place), PYTHONPATH=f"{root}:{root}/hooks"),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert "can't allocate memory" in done.stderr

    def look() -> list[dict[str, object]]:
        told = command("incidents", "grown", "--json", "--state", daemon.state)
        found = json.loads(told.stdout) if told.returncode == 0 else []
        return found if found and len(found[0]["alerts"]) == 2 else []

    (incident,) = eventually(look, "both alerts")
    daemon.kill()
    cause, alerts = incident["cause"], incident["alerts"]
    assert isinstance(cause, dict)
    assert isinstance(alerts, list)
    assert (cause["rule"], cause["step"], cause["module"]) == ("OutOfMemory", 4, "backward")
    assert [one["rule"] for one in alerts] == ["OutOfMemory", "RankFailed"]
    assert "you tried to allocate" in alerts[0]["summary"]
    assert "process " in alerts[0]["summary"]
    assert "ended with RuntimeError" in alerts[1]["summary"]
