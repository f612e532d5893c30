"""What a batch costs: against a plain loop, by workers, by stage, on disk and in memory.

    python benchmarks/batch.py --json benchmarks/results/batch.json --page docs/scale.md
    python benchmarks/batch.py --long 10000 --json benchmarks/results/batch-long.json

The photos are crops and mirror images of scikit-image's astronaut. Speeds are ratios of runs that
follow each other; start-up is left out of them and stated by itself. `limit` is what the machine
itself gives: the same loop in two processes that know nothing of each other. The second command
does only the memory: many small photos through detector, landmarker and PGN, by one process that
is never replaced. Seconds of CPU are of one thread; other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lifemask.batch.job import BatchJob
from lifemask.batch.run import Status, run_batch
from lifemask.pipeline_config import PipelineConfig
from provenance import provenance, write_result

STAGES = {
    "find_faces": "detect", "find_landmarks": "landmarks", "find_geometry": "geometry",
    "find_regions": "regions", "refine": "refine", "read_eyes": "eyes", "dress": "texture",
}  # fmt: skip
FORMATS = ("glb", "json", "png", "ply", "obj")
DEFAULT_FORMATS = ("glb", "json", "png")
MILLION = 1_000_000
MARKS = ("<!-- numbers: begin (python benchmarks/batch.py) -->", "<!-- numbers: end -->")
LIGHT = {"config": PipelineConfig(texture="none", refine=False, regions=False)}


def make_photos(folder: Path, count: int, side: int = 512) -> Path:
    """Crops of the portrait about the face, every second one mirrored; `side` px."""
    from skimage.data import astronaut

    portrait = Image.fromarray(astronaut())
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        size = int(rng.integers(240, 400)) if side > 128 else int(rng.integers(150, 220))
        u, v = np.clip(np.array([224, 115]) - size / 2 + rng.uniform(-15, 15, 2), 0, 512 - size)
        photo = portrait.crop((int(u), int(v), int(u) + size, int(v) + size)).resize((side, side))
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else photo
        photo.save(folder / f"{i:05d}.jpg", quality=92)
    return folder


def stages(photos: Path, count: int) -> dict[str, Any]:
    """Seconds of CPU per photo by stage and file format, and bytes per format; means."""
    from lifemask.outputs import write_heads
    from lifemask.pipeline import read_photo

    pipeline, spent = one_thread(PipelineConfig()), defaultdict(float)
    for method, name in STAGES.items():
        setattr(pipeline, method, timed(getattr(pipeline, method), name, spent))
    sizes: dict[str, float] = defaultdict(float)
    for number, path in enumerate(sorted(photos.glob("*.jpg"))[: count + 1]):
        if number == 1:
            spent.clear()  # the first photo loads and compiles
        cpu = time.process_time()
        photo = read_photo(path)
        spent["read"] += time.process_time() - cpu
        heads = pipeline(photo)
        for form in FORMATS:
            with tempfile.TemporaryDirectory() as room:
                cpu = time.process_time()
                files = write_heads(heads, Path(room) / "x", photo=photo, formats=(form,))
                spent[f"write {form}"] += time.process_time() - cpu
                if number:
                    sizes[form] += sum(p.stat().st_size for p in files)
    return {
        "photos": count,
        "cpu_s": {name: round(value / count, 4) for name, value in spent.items()},
        "bytes": {form: round(value / count) for form, value in sizes.items()},
    }


def timed(function: Callable, name: str, spent: dict[str, float]) -> Callable:
    """The function, whose seconds of CPU are added up."""

    def called(*arguments: Any, **options: Any) -> Any:
        cpu = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] += time.process_time() - cpu

    return called


def one_thread(config: PipelineConfig) -> Any:
    """A pipeline as workers have it."""
    import torch

    from lifemask.batch.job import load_pipeline

    torch.set_num_threads(1)
    return load_pipeline(replace(config, threads=1))


def loop(photos: Path, count: int) -> dict[str, float]:
    """The pipeline called photo by photo and its heads written: photos per second, after one."""
    from lifemask.outputs import write_heads
    from lifemask.pipeline import read_photo

    pipeline = one_thread(PipelineConfig())
    marks = []
    with tempfile.TemporaryDirectory() as room:
        for path in sorted(photos.glob("*.jpg"))[: count + 1]:
            photo = read_photo(path)
            target = Path(room) / path.stem
            write_heads(
                pipeline(photo), target, photo=photo, photo_name=path.name,
                formats=DEFAULT_FORMATS,
            )  # fmt: skip
            marks.append((time.perf_counter(), time.process_time()))
    wall, cpu = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
    return {"photos_per_s": count / wall, "cpu_s_per_photo": cpu / count}


def batch(photos: Path, count: int, engine: str, workers: int, **options: Any) -> dict[str, float]:
    """A whole batch of some photos, start-up apart: photos per second after the first ones."""
    marks: list[tuple[float, int, float]] = []

    def mark(status: Status) -> None:
        marks.append((time.perf_counter(), status.done + status.failed, status.cpu_s))

    total = count + workers
    with tempfile.TemporaryDirectory() as room:
        job = BatchJob(PipelineConfig(), Path(room) / "out", **options)
        run_batch(job, [photos], engine=engine, workers=workers, limit=total, progress=mark)  # pyright: ignore
        ended = time.perf_counter()
    start = next(m for m in marks if m[1] >= workers)
    return {
        "photos_per_s": (marks[-1][1] - start[1]) / (marks[-1][0] - start[0]),
        "cpu_s_per_photo": (marks[-1][2] - start[2]) / (marks[-1][1] - start[1]),
        "start_up_s": start[0] - marks[0][0],
        "whole_s": ended - marks[0][0],
    }


def apart(photos: Path, count: int, processes: int) -> float:
    """Photos per second of processes that each run `loop` and know nothing of each other."""
    command = [sys.executable, __file__, "--loop", str(count), "--photos", str(photos)]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(processes)
    ]
    answers = [json.loads(run.communicate()[0].splitlines()[-1]) for run in runs]
    return sum(answer["photos_per_s"] for answer in answers)


def memory(photos: Path, names: int, count: int) -> dict[str, Any]:
    """Resident memory of a worker and of its parent over many small photos, in MB."""
    rows: list[tuple[int, float, float]] = []
    began = time.perf_counter()

    def look(status: Status) -> None:
        through = status.done + status.failed
        children = [resident_mb(p.pid) for p in multiprocessing.active_children() if p.pid]
        largest = max(children, default=np.nan)
        if through and through % max(1, count // 100) == 0 and np.isfinite(largest):
            rows.append((through, largest, resident_mb(os.getpid())))

    with tempfile.TemporaryDirectory() as room:
        links = Path(room) / "photos"
        links.mkdir()
        files = sorted(photos.glob("*.jpg"))[:names]
        for i in range(count):
            (links / f"{i:06d}.jpg").hardlink_to(files[i % len(files)])
        job = BatchJob(folder=Path(room) / "out", formats=("json",), recycle=0, **LIGHT)
        status = run_batch(job, [links], workers=1, progress=look)
    table = np.array(rows)
    late = table[table[:, 0] >= 0.2 * count]  # the first fifth fills caches
    slope = [float(np.polyfit(late[:, 0] / 1000, late[:, c], 1)[0]) for c in (1, 2)]
    return {
        "photos": count, "done": status.done, "failed": status.failed,
        "worker_mb": round(float(late[-1, 1]), 1), "parent_mb": round(float(late[-1, 2]), 1),
        "worker_mb_per_1000": round(slope[0], 3), "parent_mb_per_1000": round(slope[1], 3),
        "worker_mb_first_last": [round(float(late[i, 1]), 1) for i in (0, -1)],
        "cpu_s_per_photo": round(status.cpu_s / max(status.done, 1), 4),
        "photos_per_s": round(count / (time.perf_counter() - began), 3),
        "rows": [[int(n), round(w, 1), round(p, 1)] for n, w, p in rows],
    }  # fmt: skip


def resident_mb(pid: int) -> float:
    """Resident memory of a process now; NaN if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def speeds(photos: Path, count: int, with_ray: bool) -> dict[str, Any]:
    """Throughput of one and two workers beside the loop's and the machine's own limit."""
    before = loop(photos, count)
    runs = {"local 1": batch(photos, count, "local", 1)}
    after = loop(photos, count)
    plain = (before["photos_per_s"] + after["photos_per_s"]) / 2
    plain_cpu = (before["cpu_s_per_photo"] + after["cpu_s_per_photo"]) / 2
    runs["local 2"] = batch(photos, 2 * count, "local", 2)
    runs["local 2, shards"] = batch(photos, 2 * count, "local", 2, layout="shards", shard_size=8)
    limit = apart(photos, count, 2) / apart(photos, count, 1)
    if with_ray:
        runs |= {f"ray {n}": batch(photos, n * count, "ray", n) for n in (1, 2)}
    rate = {name: run["photos_per_s"] for name, run in runs.items()}
    ratios = {
        "one worker / loop": rate["local 1"] / plain,
        "one worker / loop, by CPU per photo": plain_cpu / runs["local 1"]["cpu_s_per_photo"],
        "two workers / one": rate["local 2"] / rate["local 1"],
        "two separate processes / one (limit of the machine)": limit,
    }
    if with_ray:
        ratios["two ray workers / one"] = rate["ray 2"] / rate["ray 1"]
    return {
        "photos": count,
        "loop": rounded(before | {"photos_per_s": plain, "cpu_s_per_photo": plain_cpu}),
        "runs": {name: rounded(run) for name, run in runs.items()},
        "ratios": rounded(ratios),
        "load_before_after": [round(os.getloadavg()[1], 1), round(os.getloadavg()[0], 1)],
    }


def page_text(found: dict[str, Any]) -> str:
    """The tables of `docs/scale.md`: cost by stage, on disk, and of a million photos."""
    cost, sizes, memory = found["stages"]["cpu_s"], found["stages"]["bytes"], found["memory"]
    names = [n for n in cost if not n.startswith("write ") or n[6:] in DEFAULT_FORMATS]
    total, disk = sum(cost[n] for n in names), sum(sizes[f] for f in DEFAULT_FORMATS)
    lines = ["| stage | seconds of one core per photo |", "|---|---|"]
    lines += [f"| {name} | {cost[name]:.3f} |" for name in names]
    lines += [f"| together | **{total:.2f}** |", "", "| format | MB per head |", "|---|---|"]
    lines += [f"| {form} | {size / 1e6:.3g} |" for form, size in sizes.items()]
    lines += [
        f"| glb, json, png (default) | **{disk / 1e6:.2f}** |", "",
        "| a million photos, one head each | |", "|---|---|",
        f"| core hours | {MILLION * total / 3600:,.0f} |",
        f"| with 64 cores | {MILLION * total / 3600 / 64:,.1f} h |",
        f"| disk, default formats | {MILLION * disk / 1e12:.2f} TB |",
        f"| disk, json alone | {MILLION * sizes['json'] / 1e9:,.0f} GB |", "",
    ]  # fmt: skip
    if "speed" in found:
        lines += ["| ratio, one run | |", "|---|---|"]
        lines += [f"| {k} | {v:.2f} |" for k, v in found["speed"]["ratios"].items()]
        lines += [""]
    lines += [
        f"Memory over {memory['photos']:,} small photos, one process, never replaced:"
        f" {memory['worker_mb_per_1000']:+.2f} MB per 1,000 photos in the worker"
        f" ({memory['worker_mb']:,.0f} MB at the end), {memory['parent_mb_per_1000']:+.2f} MB in"
        " its parent.", "",
        f"`{found['command']}`, commit {found['commit']}, {found['machine']}, one thread per"
        f" worker; {found['stages']['photos']} photos for the stages.",
    ]  # fmt: skip
    lines += ["", found["note"]] if "note" in found else []
    return "\n".join(lines)


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page = f"{before}{MARKS[0]}\n{page_text(found)}\n{MARKS[1]}{after}"
    path.write_text(page, encoding="utf-8")


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three decimals."""
    return {name: round(value, 3) for name, value in values.items()}


def save(found: dict[str, Any], path: Path | None) -> None:
    """Write what is known so far."""
    if path is not None:
        write_result(path, found)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="photos per speed run and worker")
    parser.add_argument("--small", type=int, default=1000, help="small photos for the memory")
    parser.add_argument("--long", type=int, default=0, help="only the memory, of so many photos")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--loop", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="page of the docs to put the tables into")
    arguments = parser.parse_args()
    if arguments.loop:
        print(json.dumps(loop(arguments.photos, arguments.loop)))
        return
    shown = [a if not a.startswith("/") else Path(a).name for a in sys.argv[1:]]
    found = {"benchmark": "batch", "threads_per_worker": 1}
    found |= provenance(" ".join(["python benchmarks/batch.py", *shown]))
    with tempfile.TemporaryDirectory() as room:
        small = make_photos(Path(room) / "small", 64, 128)
        found["memory"] = memory(small, 64, arguments.long or arguments.small)
        save(found, arguments.json)  # first, while this process is small
        if not arguments.long:
            photos = make_photos(Path(room) / "photos", 2 * arguments.count + 2)
            found["stages"] = stages(photos, min(arguments.count, 10))
            save(found, arguments.json)
            found["speed"] = speeds(photos, arguments.count, not arguments.no_ray)
    save(found, arguments.json)
    print(json.dumps(found, indent=1))
    if arguments.page is not None:
        write_page(arguments.page, found)


if __name__ == "__main__":
    main()
