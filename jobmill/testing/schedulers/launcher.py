"""Starts a fake command: ``launcher.py qstat …``. Makes the folder above importable, not the package around it."""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    name = sys.argv.pop(1)
    importlib.import_module(f"schedulers.{name}").main()
