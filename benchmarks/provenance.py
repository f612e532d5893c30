"""Where a number comes from (command, commit, machine, versions), and the file it goes to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def provenance(command: str) -> dict[str, object]:
    """What to store beside measured numbers.

    Args:
        command: the command, run from the repository's root, that repeats the measurement.
    """
    packages = ("torch", "numba", "onnxruntime", "numpy")
    return {
        "command": command,
        "commit": _git("rev-parse", "--short=10", "HEAD") + _dirty(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result's json, whole or not at all."""
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def _dirty() -> str:
    """A plus sign when the package differs from the commit."""
    state = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", "src"], cwd=ROOT, check=False, capture_output=True
    )
    return "+" if state.returncode == 1 else ""


def _cpu() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or sys.platform
