"""`lifemask demo` in a process of its own, as gradio leaves sockets open: a warning, an error."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A running demo.

    Attributes:
        url: of the page, with a slash at the end.
        files: folder in which it keeps its temporary tree.
    """

    url: str
    files: Path

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=120) as answer:
                return answer.status, _lower(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read()

    @property
    def results(self) -> list[Path]:
        """Folders of the heads that are kept now."""
        return [p for tree in self.files.glob("lifemask-demo-*") for p in tree.glob("results/*")]

    @property
    def uploads(self) -> list[Path]:
        """Photos that are kept now."""
        found = [
            p for tree in self.files.glob("lifemask-demo-*") for p in tree.rglob("uploads/**/*")
        ]
        return [path for path in found if path.is_file()]


@contextmanager
def running_demo(files: Path, *options: str) -> Iterator[Served]:
    """Start the command on a free port, its temporary files in a folder; end it like Ctrl-C."""
    words = [sys.executable, "-m", "lifemask.apps.cli", "demo", "--port", "0", *options]
    environment = os.environ | {"TMPDIR": str(files)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("lifemask demo: http"), line
        served = Served(line.split()[2], files)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _lower(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
