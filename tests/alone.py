"""Runs what has just failed beside others once more, alone: `make test` passes only when all of it passes then.

Tests that kill, cut and wait share two cores with two other processes of tests; some miss their moment there. More than
a few failures are no matter of load. What failed the first time stands above, and is worth a look all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FEW = 4
FAILED = Path(__file__).resolve().parent.parent / ".pytest_cache" / "v" / "cache" / "lastfailed"


def main() -> int:
    """Return 0 when everything that failed passes alone, else 1."""
    try:
        names = sorted(json.loads(FAILED.read_text()))
    except (OSError, ValueError):
        return 1
    if not 0 < len(names) <= FEW or not all("::" in name for name in names):  # a file alone: it cannot be imported
        return 1
    print("\nfailed beside others, once more alone:", *names, sep="\n  ", flush=True)
    return 1 if subprocess.run([sys.executable, "-m", "pytest", *names], check=False).returncode else 0


if __name__ == "__main__":
    raise SystemExit(main())
