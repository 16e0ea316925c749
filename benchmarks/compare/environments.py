"""A virtual environment for each group of peers, so that no peer decides the versions of another. The settings of pip
decide where packages come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "common": ("faiss-cpu", "hnswlib", "lancedb", "pylance", "pyarrow", "numpy"),
    "diskann": ("diskannpy", "numpy<2"),
}


def python(name: str | None, directory: Path) -> str:
    """The interpreter of the environment `name`, which is made if it does not exist. None means the running
    interpreter."""
    if name is None:
        return sys.executable
    home = directory / name
    interpreter = home / "bin" / "python"
    complete = home / "complete"
    if not complete.exists():
        _run(sys.executable, "-m", "venv", "--clear", str(home))
        _run(str(interpreter), "-m", "pip", "install", "--quiet", "--no-input", *PACKAGES[name])
        complete.write_text("\n".join(PACKAGES[name]) + "\n")
    return str(interpreter)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout.strip()[-500:]}")
