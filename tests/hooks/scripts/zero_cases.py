"""Train under DeepSpeed, one case after the other, and write down what was seen.

Started by `torchrun -m` from the repository's root with two arguments: a JSON list of cases, and
a folder that gets one file of results per rank. A case is a dict; `DEFAULTS` lists its keys.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from sentinel.wire import Remedies
from sentinel_hooks.adapters.adapter import Adapter
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.guard import Guard, Look
from tests.hooks.scripts import half
from tests.hooks.scripts.counted import Counter
from tests.hooks.scripts.fault import Fault
from tests.hooks.scripts.gpt import Gpt, adapted, batch
from tests.hooks.scripts.gpt import digest as bits
from tests.hooks.scripts.internals import watch_lacking

DEFAULTS: dict[str, Any] = {
    "name": "",
    "stage": 0,
    "dtype": "fp32",
    "steps": 4,
    "accumulate": 1,
    "clip": 0.0,
    "watch": True,
    "direct": False,  # loss.backward() instead of engine.backward(loss)
    "past": False,  # and engine.module(...) instead of engine(...): DeepSpeed sees nothing of it
    "lacking": [],  # for each step, internals of the engine that are not to be found
    "overflows": [],  # for each step, whether fp16 overflows: trains without an engine of its own
    "checkpointing": False,
    "fault": None,  # module, rank, step, micro_batch, how; "value" nan or inf
    "broken": "",  # the name of a probe that raises at step 2
    "remedy": None,  # after this step, scale the learning rate by a half
    "schedule": False,  # a scheduler of the engine's that sets the rate at each step
    "config": {},  # more DeepSpeed configuration
    "model": "plain",  # adapted: adapters, frozen and tied weights, two groups; experts: with MoE
    "often": False,  # measure updates at every step
    "exact": False,  # and on whole tensors
    "guard": False,
    "dropped": 0,  # this step's batch is never trained on
    "digest": False,  # of the weights and of the optimizer's state, at the end
    "reference": False,  # no engine: one process does the work of both ranks
}


def engine_of(case: dict[str, Any]) -> Any:
    model, groups = model_of(case)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": case["accumulate"],
        "gradient_clipping": case["clip"],
        "zero_optimization": {"stage": case["stage"]},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }
    if case["dtype"] == "bf16":
        config["bf16"] = {"enabled": True}
    config.update(case["config"])
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    if case["schedule"]:
        warmup = {"warmup_num_steps": 10, "warmup_max_lr": 1e-3, "warmup_type": "linear"}
        config["scheduler"] = {"type": "WarmupLR", "params": warmup}
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what would wait for a device: elements read one by one, and copies between devices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        copies = function is torch.ops.aten._to_copy.default and "device" in (kwargs or {})
        self.count += copies or function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Applied:
    """The norm of the gradients that this rank's base optimizer is given, at each step."""

    def __init__(self, engine: Any) -> None:
        self.norms: list[float] = []
        engine.basic_optimizer.register_step_pre_hook(self.look)

    def look(self, optimizer: Any, args: object, options: object) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        squares = [float(one.double().square().sum()) for one in grads if one is not None]
        self.norms.append(sum(squares) ** 0.5)


def model_of(case: dict[str, Any]) -> tuple[Gpt, list[Any]]:
    """The model of a case, and its parameters in groups."""
    torch.manual_seed(7)
    model = Gpt()
    if case["model"] == "adapted":
        return model, adapted(model)
    if case["model"] == "experts":
        return model, with_experts(model)
    return model, [{"params": list(model.parameters())}]


def with_experts(model: Gpt) -> list[Any]:
    """Put four experts, two on each rank, in the place of one block's MLP."""
    from deepspeed.moe.layer import MoE
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    class Experts(torch.nn.Module):
        def __init__(self, expert: torch.nn.Module) -> None:
            super().__init__()
            self.moe = MoE(32, expert, num_experts=4, ep_size=2, use_residual=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.moe(x)[0]
            return output

    block = model.get_submodule("blocks.1")
    block.mlp = Experts(block.get_submodule("mlp"))
    # Copies of one expert would have equal norms: tell them apart.
    for number, expert in enumerate(block.mlp.moe.deepspeed_moe.experts.deepspeed_experts):
        with torch.no_grad():
            expert[0].weight.mul_(1 + 0.1 * (2 * dist.get_rank() + number))
    every = {"params": list(model.parameters()), "name": "all"}
    groups: list[Any] = split_params_into_different_moe_groups_for_optimizer(every)
    return groups


def reference(case: dict[str, Any]) -> dict[str, Any]:
    """What the steps of a case do, worked out in one process: sums of squares by tensor."""
    model, groups = model_of(case)
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    samples = []
    for step in range(1, case["steps"] + 1):
        optimizer.zero_grad()
        for micro_batch in range(case["accumulate"]):
            for rank in range(dist.get_world_size()):
                rows = batch(1000 * step + 10 * micro_batch + rank)
                loss = model(rows[:, :-1], rows[:, 1:])
                (loss / case["accumulate"] / dist.get_world_size()).backward()
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        values = {f"tensor_grad_norm|{name}": square(p.grad) for name, p in named}
        if case["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case["clip"])
        before = [p.detach().clone() for _, p in named]
        optimizer.step()
        for old, (name, p) in zip(before, named, strict=True):
            values[f"tensor_update_norm|{name}"] = square(p.detach() - old)
            values[f"tensor_weight_norm|{name}"] = square(old)
        samples.append({"step": step, "values": values, "findings": []})
    return {"samples": samples}


def square(tensor: Any) -> float:
    return float(tensor.double().square().sum())


def describe(adapter: Adapter, sample: Any) -> dict[str, Any]:
    values = {
        f"{one.signal}|{one.label}" if one.label else one.signal: sample.values[index]
        for index, one in enumerate(adapter.panel.series)
        if not sample.is_missing(index)
    }
    findings = [[one.signal, one.module, one.micro_batch] for one in sample.findings]
    bad = [one.parameter for one in sample.findings if one.parameter]
    return {
        "step": sample.step,
        "values": values,
        "findings": findings,
        "parameters": bad,
        "batches": list(sample.batches),
    }


def digest(engine: Any) -> str:
    """Of every bit of the weights, the masters and the optimizer's state on this rank."""
    held = [getattr(one, "ds_tensor", one) for one in engine.module.parameters()]
    for master, state in engine.basic_optimizer.state.items():
        held += [master, *(torch.as_tensor(one) for _, one in sorted(state.items()))]
    return bits(held)


def fingerprint(engine: Any) -> dict[str, Any]:
    """What detaching must put back: attributes of the engine and hooks of every module."""
    hooks = {
        name: [
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._forward_hooks_with_kwargs),
            len(module._forward_pre_hooks_with_kwargs),
            *sorted(vars(module)),
        ]
        for name, module in engine.module.named_modules()
    }
    gradients = {name: str(one._backward_hooks) for name, one in engine.module.named_parameters()}
    methods = (engine.step, engine.backward, engine.save_checkpoint, engine.optimizer.step)
    groups = (*vars(dist.ProcessGroup).values(), *vars(dist.Work).values())
    return {
        "gradients": gradients,
        "engine": sorted(vars(engine)),
        "optimizer": sorted(vars(engine.optimizer)),
        "methods": [method.__qualname__ for method in methods],
        "hooks": hooks,
        "groups": [type(one).__name__ for one in groups],
    }


def run(case: dict[str, Any]) -> dict[str, Any]:
    if case["reference"]:
        return reference(case)
    engine = engine_of(case)
    if case["checkpointing"]:
        checkpointed(engine.module)
    fault = Fault(case["fault"], engine) if case["fault"] else None
    if fault and not fault.spec.get("after"):
        fault.place()
    result: dict[str, Any] = {"losses": [], "norms": [], "samples": [], "phases": [], "rates": []}
    result["was_applied"], result["forbidden"] = [], []
    adapter: Adapter | None = None
    boundaries: list[int] = []
    if case["watch"]:
        os.environ["SENTINEL_RAISE"] = "0" if case["broken"] else "1"
        options = Options(case["exact"], peak_flops=1e12, guard=case["guard"])
        adapter = choose(engine, options=options)
        for probe in adapter.panel.probes if case["often"] else ():
            probe.every = 1
        if case["broken"]:
            break_probe(adapter, case["broken"])
        if case["guard"]:
            listen_to_guard(result["forbidden"])
        adapter.install(boundaries.append, result["phases"].append)
        result["series"] = [[one.signal, one.label] for one in adapter.panel.series]
        result["groups"] = [[one.shards, one.replicas, one.spans] for one in adapter.groups()]
        result["missing"] = dict(adapter.panel.missing)
    if fault and fault.spec.get("after"):
        fault.place()
    counted = Counter()
    applied = Applied(engine)
    waits = Waits()
    for step in range(1, case["steps"] + 1):
        if step == case["dropped"]:
            continue
        for micro_batch in range(case["accumulate"]):
            disarm = fault.around(step, micro_batch) if fault else lambda: None
            with waits if step == 2 else nullcontext():
                result["losses"].append(train(engine, case, step, micro_batch, disarm).hex())
        norm = engine.get_global_grad_norm()
        result["norms"].append(None if norm is None else float(norm))
        if adapter is not None:
            result["samples"] += [describe(adapter, one) for one in adapter.panel.settled()]
            if step == case["remedy"]:
                adapter.apply(Remedies(lr_scale=0.5))
        result["rates"].append(engine.get_lr()[0])
        result["was_applied"].append(engine.was_step_applied())
    result["collectives"] = counted.count
    result["waits"] = waits.count
    result["skipped_steps"] = engine.skipped_steps
    result["global_steps"] = engine.global_steps
    result["global_samples"] = engine.global_samples
    result["kind"] = type(engine.optimizer).__name__
    result["schedule"] = engine.lr_scheduler.state_dict() if case["schedule"] else {}
    result["digest"] = digest(engine) if case["digest"] else ""
    result["applied"] = applied.norms
    result["boundaries"] = boundaries
    if adapter is not None:
        result["bad_weight"] = adapter.first_bad_weight()
        result["lost"] = [[one.step, one.signal, one.reason] for one in adapter.panel.changes()]
        adapter.detach()
    result["fingerprint"] = fingerprint(engine)
    engine.destroy()
    return result


def train(
    engine: Any,
    case: dict[str, Any],
    step: int,
    micro_batch: int = 0,
    disarm: Callable[[], None] = lambda: None,
) -> float:
    """One micro-batch, and whatever step follows it; the loss."""
    rows = batch(1000 * step + 10 * micro_batch + dist.get_rank())
    model = engine.module if case["past"] else engine
    loss = model(rows[:, :-1], rows[:, 1:])
    disarm()
    if case["direct"] or case["past"]:
        loss.backward()
    else:
        engine.backward(loss)
    engine.step()
    return float(loss)


def run_lacking(case: dict[str, Any]) -> dict[str, Any]:
    """Attach anew for each step, to an engine that lacks something else."""
    engine = engine_of(case)
    losses: list[str] = []
    seen = []
    for step, names in enumerate(case["lacking"], 1):
        once = partial(lambda step: losses.append(train(engine, case, step).hex()), step)
        seen.append(watch_lacking(engine, names.split(), once, describe))
    engine.destroy()
    return {"losses": losses, "seen": seen}


def result_of(case: dict[str, Any]) -> dict[str, Any]:
    if case["overflows"]:
        return half.run(case["overflows"], describe)
    return run_lacking(case) if case["lacking"] else run(case)


def checkpointed(model: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    for block in model.blocks:
        original = block.forward
        block.forward = lambda x, original=original: checkpoint(original, x, use_reentrant=True)


def listen_to_guard(heard: list[bool]) -> None:
    """Have the guard's decisions written down, from now on."""

    def forbids(guard: Guard, doubt: Look, proof: Look) -> bool:
        heard.append(decide(guard, doubt, proof))
        return heard[-1]

    Guard.forbids = forbids  # type: ignore[method-assign, assignment]


decide = Guard.forbids


def break_probe(adapter: Adapter, name: str) -> None:
    probe = next(one for one in adapter.panel.probes if one.name == name)
    original = probe.read
    steps = iter(range(1, 1000))

    def read(sample: Any) -> None:
        if next(steps) == 2:
            raise RuntimeError("broken on purpose")
        original(sample)

    probe.read = read  # type: ignore[method-assign]


def main() -> None:
    cases = [{**DEFAULTS, **case} for case in json.loads(sys.argv[1])]
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # needs no compiler
    deepspeed.init_distributed("gloo")
    results = {case["name"]: result_of(case) for case in cases}
    out = Path(sys.argv[2]) / f"rank{dist.get_rank()}.json"
    out.write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
