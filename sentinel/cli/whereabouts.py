"""Where something went wrong, in words."""

from __future__ import annotations

from sentinel.engine.transition import Cause
from sentinel.notify.message import plain


def whereabouts(cause: Cause) -> str:
    """As `in layers.2.mlp, layers.2.mlp.weight on rank 1 (node-a, cuda:1) at step 30`, and on."""
    parts = []
    if inside := [plain(part) for part in (cause.module, cause.parameter) if part]:
        parts.append(f"in {', '.join(inside)}")
    if cause.rank is not None:
        at = ", ".join(plain(part) for part in (cause.host, cause.device) if part)
        parts.append(f"on rank {cause.rank}" + (f" ({at})" if at else ""))
    micro_batch = "" if cause.micro_batch is None else f", micro-batch {cause.micro_batch}"
    parts.append(f"at step {cause.step}{micro_batch}")
    if cause.batch:
        parts.append(f"of batch {plain(cause.batch)}")
    if cause.samples:
        parts.append(f"with samples {plain(', '.join(cause.samples))}")
    return " ".join(parts)
