"""What a model needs, what a device could do, and the share of one in the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sentinel.errors import AttachError
from sentinel_hooks.probes.device_peak import known_peak, peak_of, stated_peak
from sentinel_hooks.probes.model_operations import Operations, operations_of
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.throughput import ThroughputProbe

CPU = torch.device("cpu")


class Model(nn.Module):
    """Embeds, multiplies, and has a head: 10 x 4, 4 x 4 and 4 x 10 weights."""

    def __init__(self, config: object = None, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.config = config


LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16, "hidden_size": 32}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32}


@pytest.mark.parametrize("tied", [False, True])
def test_tables_count_only_where_they_are_multiplied_with(tied: bool) -> None:
    operations = operations_of(Model(tied=tied))
    assert operations == Operations(by_parameter=6 * (16 + 40))
    assert operations.of(tokens=100, length=50) == 100 * 6 * 56


def test_what_is_not_trained_does_not_count() -> None:
    model = Model()
    model.body.requires_grad_(False)
    assert operations_of(model).by_parameter == 6 * 40
    model.head.requires_grad_(False)
    assert "no trained parameters" in operations_of(model).absent


def test_partitioned_parameters_count_in_full() -> None:
    model = Model()
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    assert operations_of(model).by_parameter == 6 * 56


@pytest.mark.parametrize(
    ("config", "by_length"),
    [
        (SimpleNamespace(**LLAMA), 12 * 2 * 4 * 16),
        (SimpleNamespace(**GPT2), 12 * 2 * 32),
        (GPT2, 12 * 2 * 32),
        (SimpleNamespace(num_layers=3, d_model=8), 12 * 3 * 8),
        (SimpleNamespace(num_layers=3, d_model=8, is_encoder_decoder=True), 0),
        (SimpleNamespace(n_layer=2), 0),
        (SimpleNamespace(n_layer="two", n_embd=4), 0),
        (None, 0),
    ],
)
def test_attention_counts_where_the_model_tells_its_shape(config: object, by_length: float) -> None:
    assert operations_of(Model(config)).by_length == by_length
    assert operations_of(Model(config), complete=False).by_length == 0


def test_experts_are_beyond_the_formula() -> None:
    assert "experts" in operations_of(Model(SimpleNamespace(num_local_experts=8))).absent
    model = Model()
    model.body.weight.allreduce = False  # type: ignore[attr-defined]
    assert "experts" in operations_of(model).absent


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("Tesla V100-PCIE-16GB", 112e12),
        ("Tesla T4", 65e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("", None),
    ],
)
def test_devices_are_known_by_the_names_their_drivers_give_them(
    name: str, peak: float | None
) -> None:
    assert known_peak(name) == peak


def test_the_environment_may_state_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stated_peak(None) is None
    monkeypatch.setenv("SENTINEL_PEAK_FLOPS", "312e12")
    assert (stated_peak(None), stated_peak(5.0)) == (312e12, 5.0)
    for nonsense in ("fast", "nan", "0", "inf"):
        monkeypatch.setenv("SENTINEL_PEAK_FLOPS", nonsense)
        with pytest.raises(AttachError, match="SENTINEL_PEAK_FLOPS is"):
            stated_peak(None)


def test_what_was_given_comes_before_the_table_and_a_cpu_is_in_none() -> None:
    assert peak_of(CPU, 5e9) == (5e9, "")
    peak, reason = peak_of(CPU, None)
    assert peak == 0
    assert "SENTINEL_PEAK_FLOPS" in reason


def measure(probe: ThroughputProbe, *inputs: object) -> dict[str, float]:
    panel = Panel([probe], CPU)
    panel.start(0)
    panel.resumed()
    panel.forward_began(inputs, {}, True)
    panel.forward_began(inputs, {}, True)
    panel.read(1)
    sample = panel.settled()[0]
    return {
        one.signal: sample.values[index]
        for index, one in enumerate(panel.series)
        if not sample.is_missing(index)
    }


def test_utilization_is_what_the_tokens_need_over_what_the_device_could_do() -> None:
    tokens = torch.zeros(2, 8, dtype=torch.long)
    values = measure(ThroughputProbe(Operations(6.0, 12.0), peak=1e6), tokens)
    needed_by_token = 6 + 12 * 8
    assert values["model_flops_utilization"] == pytest.approx(
        values["tokens_per_second"] * needed_by_token / 1e6
    )


@pytest.mark.parametrize(
    ("operations", "no_peak"), [(Operations(1.0), "a CPU"), (Operations(absent="experts"), "")]
)
def test_utilization_is_missing_with_its_reason(operations: Operations, no_peak: str) -> None:
    probe = ThroughputProbe(operations, 1.0, no_peak)
    assert set(measure(probe, torch.zeros(2, 8, dtype=torch.long))) == {"tokens_per_second"}
    assert probe.missing() == {"model_flops_utilization": no_peak or "experts"}
    assert measure(ThroughputProbe(Operations(1.0), 1.0), torch.zeros(3)) == {}
