"""Checks of the machine: Python, processors, memory, folders to write, ffmpeg."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lifemask.apps.cores import CGROUP, allowed_cores, cpu_quota
from lifemask.apps.doctor.finding import Finding
from lifemask.assets import MODELS_ENV, WEIGHTS_ENV, models_folder

GROUP = "machine"
NEEDED_BYTES = 3 * 10**9 // 2
"""What a process that reconstructs a photo may take at most (benchmarks/speed.py's target)."""
UNLIMITED = 2**60
"""Limits of memory above this are none: cgroup v1 says so by a huge number."""


def system() -> Iterator[Finding]:
    """lifemask, Python and the operating system."""
    from lifemask import __version__

    place = str(Path(__file__).resolve().parents[2])
    yield Finding(GROUP, "lifemask", "ok", f"{__version__} in {place}",
                  values={"version": __version__, "folder": place})  # fmt: skip
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    venv = "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"
    yield Finding(
        GROUP, "Python", "broken" if old else "ok", f"{version}, {venv} {sys.prefix}",
        "install Python 3.11 or newer" if old else "", {"version": version, "prefix": sys.prefix},
    )  # fmt: skip
    text = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding(GROUP, "system", "ok", text, values={"platform": platform.platform()})
    names = (WEIGHTS_ENV, MODELS_ENV, "LIFEMASK_DATA", "OMP_NUM_THREADS", "NUMBA_CACHE_DIR")
    settings = {name: os.environ[name] for name in names if os.environ.get(name)}
    if settings:
        text = ", ".join(f"{name}={value}" for name, value in settings.items())
        yield Finding(GROUP, "environment", "ok", text, values=settings)


def processors() -> Iterator[Finding]:
    """Cores of the machine, and those that this process may use."""
    here = os.cpu_count() or 1
    allowed = allowed_cores()
    quota = cpu_quota(CGROUP)
    usable = min(allowed, here) if quota is None else min(allowed, here, quota)
    limits = [f"affinity {allowed}"] if allowed < here else []
    limits += [f"container limit {quota:g}"] if quota is not None and quota < here else []
    text = f"{usable:g} of {here} cores" + (f" ({', '.join(limits)})" if limits else "")
    yield Finding(
        GROUP, "processors", "ok", text,
        values={"cores": here, "affinity": allowed, "quota": quota, "usable": usable},
    )  # fmt: skip


def memory() -> Iterator[Finding]:
    """Memory of the machine, what is free, and a container's limit."""
    total, free = memory_bytes()
    limit = memory_limit(CGROUP)
    values = {"total_bytes": total, "available_bytes": free, "limit_bytes": limit}
    if total is None:
        yield Finding(GROUP, "memory", "note", "not known on this system", values=values)
        return
    text = f"{_giga(total)} GB" + ("" if free is None else f", {_giga(free)} GB free")
    if limit is not None and limit < total:
        text += f", container limit {_giga(limit)} GB"
    usable = min(total if free is None else free, limit or total)
    short = usable < NEEDED_BYTES
    remedy = f"free some: a photo takes up to {_giga(NEEDED_BYTES)} GB" if short else ""
    yield Finding(GROUP, "memory", "note" if short else "ok", text, remedy, values)


def folders() -> Iterator[Finding]:
    """Folders that must be writable: numba's cache of compiled code, temporary files."""
    import lifemask

    own = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(lifemask.__file__).parent / "graphics" / "__pycache__"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    places = [Path(own)] if own else [beside, home]
    place = next((p for p in places if writable(p)), None)
    if place is None:
        yield Finding(
            GROUP, "cache", "broken", f"no folder for compiled code: {places[-1]} is read-only",
            f"export NUMBA_CACHE_DIR={Path(tempfile.gettempdir()) / 'numba'}",
        )  # fmt: skip
    else:
        yield Finding(GROUP, "cache", "ok", f"{place} is writable", values={"folder": str(place)})
    folder = models_folder()
    found = sorted(p.stem for p in folder.glob("*.npz")) if folder.is_dir() else []
    text = f"{', '.join(found)} in {folder}" if found else f"none in {folder}; ours is built in"
    state = "ok" if found else "absent"
    remedy = "" if found else "lifemask assets fetch"
    yield Finding(GROUP, "other models", state, text, remedy,
                  {"folder": str(folder), "models": found})  # fmt: skip


def ffmpeg() -> Iterator[Finding]:
    """The program that writes and reads video, as `imageio-ffmpeg` finds it."""
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        version = imageio_ffmpeg.get_ffmpeg_version()
    except (ImportError, RuntimeError):
        other = shutil.which("ffmpeg")
        text = "not found" if other is None else f"{other}, but lifemask needs imageio-ffmpeg"
        yield Finding(GROUP, "ffmpeg", "absent", text, "pip install 'lifemask[video]'")
        return
    yield Finding(GROUP, "ffmpeg", "ok", f"{version}, {path}", values={"path": path})


def memory_limit(root: Path) -> int | None:
    """Bytes that a container may use, from cgroup v2 or v1 files; None for no limit."""
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):
            continue
        return limit if limit < UNLIMITED else None
    return None


def memory_bytes() -> tuple[int | None, int | None]:
    """(memory of the machine, what of it is free) in bytes; None where that is not told."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None, None
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = None
    return total, free


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _giga(size: int) -> str:
    return f"{size / 1e9:.1f}"
