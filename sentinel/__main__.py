"""`python -m sentinel`, and what the command `sentinel` starts.

The training half of the distribution comes without what the command line needs: say so.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, or say what to install for it."""
    try:
        from sentinel.cli.main import main as command_line
    except ModuleNotFoundError as error:
        if (error.name or "sentinel").startswith("sentinel"):
            raise
        sys.exit(
            f"sentinel: {error.name} is not installed here, which the command line needs: "
            "pip install 'sentinel-train[daemon]'"
        )
    command_line()


if __name__ == "__main__":
    main()
