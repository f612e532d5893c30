"""What may be in the repository: small files, and no path of anybody's machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST_MB = 50
MACHINE_PATH = re.compile(r"(?:^|[\s='\"(])(/(?:home|root|tmp|work|mnt|Users|data)/\S*)")


def tracked() -> list[Path]:
    """Files under version control; skips where there is none."""
    run = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if run.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.split("\0") if name]


def test_no_file_is_large():
    sizes = {path.name: path.stat().st_size / 2**20 for path in tracked() if path.is_file()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > LARGEST_MB} == {}


def test_results_can_be_repeated_anywhere():
    results = sorted((ROOT / "benchmarks/results").glob("*.json"))
    assert results
    commands = {p.name: json.loads(p.read_text(encoding="utf-8"))["command"] for p in results}
    assert {name: MACHINE_PATH.findall(text) for name, text in commands.items()
            if MACHINE_PATH.search(text)} == {}  # fmt: skip
    assert MACHINE_PATH.search("python x.py --json /tmp/x.json")  # the pattern finds one
