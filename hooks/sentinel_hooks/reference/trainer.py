"""Train the decoder under DeepSpeed, in a way that can be stopped, changed and gone back on.

The five methods after `step` are the remedies that a person may choose at a hold. Sentinel calls
them on every rank at the same step, from within `engine.step()`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Before its import, which has things to say already: only DeepSpeed's errors are worth a line.
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")

import deepspeed  # noqa: E402
from deepspeed.ops import __compatible_ops__ as compatible_ops  # noqa: E402

from sentinel_hooks.reference.config import Settings, deepspeed_config  # noqa: E402
from sentinel_hooks.reference.data import Text  # noqa: E402
from sentinel_hooks.reference.model import Decoder  # noqa: E402

# Else `init_distributed` on a CPU compiles this operation, which takes a C++ compiler and a minute.
compatible_ops["deepspeed_shm_comm"] = False


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. Its tensors stay on the device: reading them waits for it.

    `loss` is this rank's own, mean over its micro-batches; `grad_norm` is of all ranks, before
    clipping, and None where DeepSpeed does not tell (stage 0 in fp32).
    """

    number: int
    loss: Tensor
    lr: float
    grad_norm: Tensor | float | None
    applied: bool
    tokens: int


class Trainer:
    """A DeepSpeed engine, its place in the data, and what can be done to both.

    `engine.global_steps` is the number of steps done; `batch` the number of the last batch read,
    which is the same until some are skipped. Both count from 1, so 0 is before the first.
    """

    def __init__(self, model: Decoder, text: Text, settings: Settings) -> None:
        # Not the config's own AdamW, nor DeepSpeedCPUAdam for `offload`: it would compile them.
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay(step=1)},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=(0.9, 0.95),
        )
        self.parameters = sum(p.numel() for p in model.parameters())
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=deepspeed_config(settings)
        )
        self.text = text
        self.settings = settings
        self.batch = 0
        self.lr_scale = 1.0
        self._batch_of: dict[str, int] = {}  # checkpoints that were loaded, by tag
        self.before_step: list[Callable[[], None]] = []
        self._extend_schedule()

    def step(self) -> Step:
        """One optimizer step over the next batch, in `accumulation` micro-batches."""
        self.batch += 1
        for act in tuple(self.before_step):
            act()
        number = self.engine.global_steps + 1  # taken now: a rollback happens inside engine.step()
        lr = float(self.engine.get_lr()[0])
        rows = self.text.batch(self.batch).to(self.engine.device)
        losses = []
        for micro in rows.chunk(self.settings.accumulation):
            loss = self.engine(micro[:, :-1], micro[:, 1:])
            self.engine.backward(loss)
            self.engine.step()
            losses.append(loss.detach())
        return Step(
            number=number,
            loss=torch.stack(losses).mean(),
            lr=lr,
            grad_norm=self.engine.get_global_grad_norm(),
            applied=self.engine.was_step_applied(),
            tokens=rows[:, 1:].numel(),
        )

    def save_checkpoint(self, tag: str) -> None:
        """Write all that an exact resume needs to `save_dir`/`tag`. Every rank must call it."""
        place = {"batch": self.batch, "lr_scale": self.lr_scale}
        self.engine.save_checkpoint(self.settings.save_dir, tag=tag, client_state=place)

    def load_checkpoint(self, tag: str) -> None:
        """Go to where `save_checkpoint(tag)` was called: weights, optimizer, schedule.

        The data go on from where they are; `rewind_data(tag)` takes them back too. Every rank
        must call it. Raises FileNotFoundError if there is no such checkpoint.
        """
        folder = self.settings.checkpoint(tag)
        _, place = self.engine.load_checkpoint(folder.parent, tag=tag)
        self._batch_of[tag] = place["batch"]
        self.lr_scale = place["lr_scale"]
        self._follow_schedule()

    def rewind_data(self, tag: str) -> None:
        """Read again the batches that came after this checkpoint, the last one that was loaded."""
        self.batch = self._batch_of[tag]

    def skip_batches(self, count: int) -> None:
        """Leave out the next `count` batches; a negative count takes so many of those back."""
        if self.batch + count < 0:
            raise ValueError(f"cannot skip {count} batches after batch {self.batch}")
        self.batch += count

    def scale_lr(self, factor: float) -> None:
        """Multiply the learning rate by `factor` from here on, over the rest of the schedule."""
        if not 0 < factor < float("inf"):
            raise ValueError(f"a learning rate cannot be scaled by {factor}")
        self.lr_scale *= factor
        self._follow_schedule()

    def _extend_schedule(self) -> None:
        """The schedule writes its own learning rate at every step: let ours follow each time."""
        scheduler, end = self.engine.lr_scheduler, self.settings.phases[1]
        scheduled = scheduler.step

        def step() -> None:
            # Beyond its end, a cosine of DeepSpeed's older versions would rise again.
            scheduled(min(scheduler.last_batch_iteration + 1, end - 1))
            self._follow_schedule()

        scheduler.step = step

    def _follow_schedule(self) -> None:
        """Set what the next step needs: the scaled learning rate, the matrices' weight decay."""
        scheduler = self.engine.lr_scheduler
        if scheduler.last_batch_iteration < 0:
            return  # step 1: the rate is 0, and asking the scheduler for it makes it complain
        groups = self.engine.optimizer.param_groups
        for group, lr in zip(groups, scheduler.get_lr(), strict=True):
            group["lr"] = lr * self.lr_scale
        # 0 after the schedule's first step, which came after step 1.
        groups[0]["weight_decay"] = self.settings.weight_decay(scheduler.last_batch_iteration + 2)
