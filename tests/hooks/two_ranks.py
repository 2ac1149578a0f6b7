"""One of the scripts beside, on two ranks, to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Nothing is compiled here, but DeepSpeed would load PyTorch's compiler all the same: over a second.
NO_COMPILER = {"TORCHDYNAMO_DISABLE": "1"}


def two_ranks(script: str, out: Path, *before: str, **env: str) -> list[dict[str, Any]]:
    """Run it with the arguments `before` and then `out`; what each rank wrote into that folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", f"tests.hooks.scripts.{script}", *before, str(out)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
