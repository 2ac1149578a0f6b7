from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.replay.reading import found

MEGATRON = (
    "using world size: 8, data-parallel size: 8\n"
    " > number of parameters on (tensor, pipeline) model parallel rank (0, 0): 345000000\n"
    "time (ms) | forward-compute: 152.33 | backward-compute: 157.91 | optimizer: 129.43\n"
    " iteration       10/    5000 | consumed samples:          320 |"
    " elapsed time per iteration (ms): 500.0 | learning rate: 1.500E-04 |"
    " global batch size:    32 | lm loss: 6.125000E+00 | loss scale: 1.0 | grad norm: 1.250 |"
    " number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    "[default3]: [2025-09-07 23:58:47] iteration 20/ 5000 | consumed samples: 640 |"
    " elapsed time per iteration (s): 0.25 | throughput per GPU (TFLOP/s/GPU): 91.0 |"
    " learning rate: 3.0E-04 | lm loss: 6.0E+00 | load_balancing_loss: 1.3E+00 |"
    " loss scale: 1.0 | grad norm: 1.0 | num zeros: 7.0 |"
    " number of skipped iterations:   1 | number of nan iterations:   0 |Number of layers: 6\n"
    "------------------------------------------------\n"
    " validation loss at iteration 20 | lm loss value: 6.500000E+00 | lm loss PPL: 6.6E+02 |\n"
    " validation loss at iteration 20 on test set | lm loss value: 9.0E+00 | lm loss PPL: 6 |\n"
    " iteration       30/    5000 | consumed samples: 960 | learning rate: 3.0E-04 |"
    " loss scale: 1.0 | number of skipped iterations:   1 | number of nan iterations:   1 |\n"
)


def test_megatron_lines_are_read_among_all_else(tmp_path: Path) -> None:
    read = found(tmp_path / "a.log", MEGATRON)
    *first, (step, last) = read.rows
    assert read.format == "text"
    assert first == [
        (
            10,
            {
                "step_seconds": 0.5,
                "lr": 1.5e-4,
                "loss": 6.125,
                "loss_scale": 1.0,
                "grad_norm": 1.25,
                "skipped": 0.0,
            },
        ),
        (
            20,
            {
                "step_seconds": 0.25,
                "lr": 3e-4,
                "loss": 6.0,
                "loss_scale": 1.0,
                "grad_norm": 1.0,
                "skipped": 1.0,
                "logged.val_loss": 6.5,
            },
        ),
    ]
    assert step == 30
    assert math.isnan(last.pop("loss"))
    assert last == {"lr": 3e-4, "loss_scale": 1.0, "skipped": 1.0}
    assert found(tmp_path / "a", MEGATRON, format="megatron").rows[:2] == first


def test_what_a_loss_scaler_skips_is_an_overflow(tmp_path: Path) -> None:
    line = (
        " samples/sec: 400.1 | iteration {}/ 320000 | elapsed time per iteration (ms): 823.5 |"
        " learning rate: 1.5E-05 | lm_loss: 9.0E+00 | loss scale: {} |"
        " number of skipped iterations: {} | number of nan iterations: 0 |\n"
    )
    data = line.format(1, "65536.0", 1) + line.format(2, "32768.0", 0)
    read = found(tmp_path / "a", data).rows
    assert [(row["loss"], row["overflow"]) for _, row in read] == [(9.0, 1.0), (9.0, 0.0)]
    assert not any("skipped" in row for _, row in read)


_HEAD = "[2023-11-07 01:55:23,711] [INFO] [logging.py:96:log_dist] [Rank 0] "
DEEPSPEED = (
    f"{_HEAD}DeepSpeed info: version=0.12.2, git-hash=unknown, git-branch=unknown\n"
    "[2023-11-07 01:55:01,001] [INFO] [loss_scaler.py:183:update_scale] [deepspeed] OVERFLOW!"
    " Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768\n"
    f"{_HEAD}step=10, skipped=1, lr=[4.5e-05, 5e-05], mom=[(0.9, 0.95), (0.9, 0.95)]\n"
    "[2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10,"
    " RunningAvgSamplesPerSec=25.0, CurrSamplesPerSec=25.7, MemAllocated=4.32GB\n"
    "2023-11-07 01:55:23.936 | INFO     | __main__:log_dist:54 - [Rank 0] Loss: 10.5\n"
    f"{_HEAD}step=20, skipped=1, lr=[4.5e-05], mom=[(0.9, 0.95)]\n"
)


def test_deepspeed_lines_are_read_with_what_the_script_prints(tmp_path: Path) -> None:
    assert found(tmp_path / "a", DEEPSPEED).rows == [
        (10, {"lr": 4.5e-5, "skipped": 0.0, "overflow": 1.0, "loss_scale": 32768.0, "loss": 10.5}),
        (20, {"lr": 4.5e-5, "skipped": 0.0, "overflow": 0.0, "loss_scale": 32768.0}),
    ]


def test_a_step_that_was_skipped_without_a_loss_scaler_is_a_skipped_step(tmp_path: Path) -> None:
    data = "".join(
        f"[Rank 0] step={step}, skipped={skipped}, lr=[0.001], mom=[0.9]\n"
        for step, skipped in ((1, 0), (2, 1), (3, 1))
    )
    read = found(tmp_path / "a", data, format="deepspeed").rows
    assert [row["skipped"] for _, row in read] == [0.0, 1.0, 0.0]


def test_the_pipeline_engine_names_its_loss(tmp_path: Path) -> None:
    data = "steps: 10 loss: 2.5000 iter time (s): 0.500 samples/sec: 64.000\n"
    assert found(tmp_path / "a", data).rows == [(10, {"loss": 2.5, "step_seconds": 0.5})]


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (
            "step:10/1000 train_loss:6.9 train_time:1234ms step_avg:96.5ms\n"
            "step:20/1000 val_loss:6.5 train_time:2234ms step_avg:96.5ms\n",
            [(10, {"loss": 6.9, "step_seconds": 0.0965}),
             (20, {"logged.val_loss": 6.5, "step_seconds": 0.0965})],
        ),
        (
            "number of parameters: 123.59M\nstep 0: train loss 10.9, val loss 10.8\n"
            "iter 0: loss 10.875, time 5000.00ms, mfu -100.00%\n"
            "iter 10: loss nan, time 140.00ms, mfu 31.5%\n",
            [(0, {"loss": 10.9, "logged.val_loss": 10.8}), (0, {"loss": 10.875, "step_seconds": 5}),
             (10, {"loss": "nan", "step_seconds": 0.14})],
        ),
        (
            "step   10/18865 | loss 9.5 (+1.2z)| norm 3.25 (-0.1z)| lr 1.00e-04 | 312.5 ms |"
            " 40.1% bf16 MFU | 1671000 tok/s\n",
            [(10, {"loss": 9.5, "grad_norm": 3.25, "lr": 1e-4})],
        ),
        (
            "step 3 | loss: 9.811574 | lr: 2.4000e-04 | norm: 8.2231 | time: 4435.86ms |"
            " tokens/sec: 118193.09\n",
            [(3, {"loss": 9.811574, "lr": 2.4e-4, "grad_norm": 8.2231,
                  "step_seconds": 4.43586, "tokens_per_second": 118193.09})],
        ),
        (
            "\x1b[32m[titan] step: 10  loss: 8.25  grad_norm: 1.5  memory: 9.1GiB(9.6%)"
            "  tps: 7,345  mfu: 1.0%\x1b[39m\n",
            [(10, {"loss": 8.25, "grad_norm": 1.5, "tokens_per_second": 7345.0})],
        ),
        (
            "  5%|5    | 10/200 [00:10<03:10]\r  6%|6    | 11/200 [00:11<03:09]\r\n"
            "{'loss': 2.5, 'grad_norm': 1.5, 'learning_rate': 5e-05, 'epoch': 0.1}\n"
            "{'loss': '2.25', 'grad_norm': 'nan', 'learning_rate': '4e-05', 'epoch': '0.2'}\n"
            "{'eval_loss': 2.4, 'eval_runtime': 1.0, 'epoch': 0.2}\n"
            "{'train_runtime': 60.0, 'train_loss': 2.375, 'epoch': 0.2}\n",
            [(1, {"loss": 2.5, "grad_norm": 1.5, "lr": 5e-5}),
             (2, {"loss": 2.25, "grad_norm": "nan", "lr": 4e-5, "logged.val_loss": 2.4})],
        ),
        (
            "Step 100/5000, Loss: 2.5, LR: 0.001\nEpoch 1, step=200, train_loss=2.25, lr=1e-3\n",
            [(100, {"loss": 2.5, "lr": 1e-3}), (200, {"lr": 1e-3})],
        ),
        ("[2024-01-02 10:00:00] INFO trainer - step 7 - loss 2.5\n", [(7, {"loss": 2.5})]),
        ("step=1 loss=2.5\rstep=2 loss=2.25\rstep=3 loss=2.0\n",
         [(1, {"loss": 2.5}), (2, {"loss": 2.25}), (3, {"loss": 2.0})]),
    ],
)  # fmt: skip
def test_printed_lines_of_known_scripts_are_read(
    tmp_path: Path, lines: str, rows: list[tuple[int, dict[str, object]]]
) -> None:
    read = [
        (step, {name: "nan" if math.isnan(value) else value for name, value in row.items()})
        for step, row in found(tmp_path / "train.log", lines).rows
    ]
    assert read == rows


@pytest.mark.parametrize(
    "line",
    [
        "loss" + "a" * 60_000,
        "loss " * 12_000,
        "loss a" + " " * 60_000,
        "loss " + "1" * 60_000 + "a",
        "loss " + "1," * 30_000 + "a",
        "loss" + "\x1b[0" * 20_000,
        "iteration " * 6_000,
        "iteration" + " " * 60_000,
        "validation loss at iteration 1 " * 2_000 + "test set",
        "step=1, skipped=1, lr=[" * 2_500,
        "OVERFLOW! Attempted loss scale: " * 1_500,
    ],
    ids=range(11),
)
def test_a_line_that_is_made_to_take_long_takes_no_time(tmp_path: Path, line: str) -> None:
    """A pattern that looks at a line more than once for each character would never end here."""
    lines = "step 1: loss 2.5\n" + f"{line}\n" * 5 + "step 2: loss 2.25\n"
    read = found(tmp_path / "a", lines).rows
    assert read[0][1]["loss"] == 2.5


@pytest.mark.parametrize(
    "line",
    [
        "loss of signal at step 3",
        "norm layer 12 initialized",
        "Saving at step 100, best loss so far: checkpoint-3",
        "loss_fn: CrossEntropyLoss, seed 1337",
        "step 100: loss file v2.5rc1",
    ],
)
def test_talk_of_losses_is_no_value(tmp_path: Path, line: str) -> None:
    read = found(tmp_path / "a", f"{line}\nstep 1: loss 2.5\n{line}\n")
    assert read.rows == [(1, {"loss": 2.5})]
