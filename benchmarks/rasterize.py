"""Time of the rasteriser's kernels, one image on one thread, beside what is built on them.

    python benchmarks/rasterize.py --json benchmarks/results/rasterize.json

The mesh is a closed ellipsoid of 10,000 triangles that fills most of the picture, half of them seen
from behind, its vertices jittered. The kernels take turns, so that other load hits them alike; the
best and the median of all turns are stored, and the load average beside them.
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import argparse  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from lifemask.graphics.camera import orthographic_camera, project  # noqa: E402
from lifemask.graphics.lighting import studio_light  # noqa: E402
from lifemask.graphics.rasterize import rasterize  # noqa: E402
from lifemask.graphics.render import render  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

TARGET_MS = 2.0  # numba, 10,000 triangles, 224 x 224


def ellipsoid(rings: int = 50, spokes: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Vertices (1, v, 3) in mm, faces (2 * rings * spokes, 3) and uvs (v, 2)."""
    lat = torch.linspace(0.01, math.pi - 0.01, rings + 1)
    lon = torch.linspace(-math.pi, math.pi, spokes + 1)
    a, o = torch.meshgrid(lat, lon, indexing="ij")
    unit = torch.stack((a.sin() * o.sin(), a.cos(), a.sin() * o.cos()), -1).reshape(1, -1, 3)
    noise = torch.randn(unit.shape, generator=torch.Generator().manual_seed(0))
    vertices = unit * torch.tensor([75.0, 110.0, 90.0]) + 0.3 * noise
    index = torch.arange((rings + 1) * (spokes + 1)).view(rings + 1, -1)
    p, q, r, s = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.stack((torch.stack((p, q, r), -1), torch.stack((p, r, s), -1))).reshape(-1, 3)
    uvs = torch.stack((o / (2 * math.pi) + 0.5, 1 - a / math.pi), -1).reshape(-1, 2)
    return vertices, faces, uvs


def time_in_turns(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, dict[str, float]]:
    """Best and median wall time of each call in ms."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in calls:
        calls[name]()
    for _ in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {
        name: {"best_ms": round(min(t), 3), "median_ms": round(statistics.median(t), 3)}
        for name, t in times.items()
    }


def measure(size: int, turns: int) -> dict[str, Any]:
    """All calls at one picture size."""
    vertices, faces, uvs = ellipsoid()
    camera = orthographic_camera(torch.eye(3), size / 240, torch.tensor([size / 2, size / 2]))
    screen = project(vertices, camera)
    texture, light = torch.rand(1, 3, 512, 512), studio_light("key")

    def picture(antialias: bool) -> None:
        render(
            vertices,
            faces,
            camera,
            size,
            size,
            uvs=uvs,
            faces_uv=faces,
            albedo=texture,
            lighting=light,
            antialias=antialias,
        )

    times = time_in_turns(
        {
            "numba": lambda: rasterize(screen, faces, size, size, backend="numba"),
            "numba, culled": lambda: rasterize(
                screen, faces, size, size, backend="numba", cull_backfaces=True
            ),
            "torch": lambda: rasterize(screen, faces, size, size, backend="torch"),
            "whole render": lambda: picture(False),
            "whole render, antialiased": lambda: picture(True),
        },
        turns,
    )
    ratio = times["torch"]["best_ms"] / times["numba"]["best_ms"]
    covered = float(rasterize(screen, faces, size, size).mask.float().mean())
    return {
        "size_px": size,
        "triangles": len(faces),
        "covered": round(covered, 3),
        "times": times,
        "torch_over_numba": round(ratio, 1),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to store the numbers")
    parser.add_argument("--turns", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(size, options.turns) for size in (224, 512)]
    for result in results:
        print(f"{result['size_px']} px, torch / numba = {result['torch_over_numba']}")
        for name, value in result["times"].items():
            print(f"  {name:28s} best {value['best_ms']:8.2f} median {value['median_ms']:8.2f} ms")
    numba_ms = results[0]["times"]["numba"]["best_ms"]
    print(f"target {TARGET_MS} ms at 224 px: {'met' if numba_ms <= TARGET_MS else 'missed'}")
    if options.json:
        load = [round(value, 1) for value in os.getloadavg()]
        stored = {
            **provenance("python benchmarks/rasterize.py --json benchmarks/results/rasterize.json"),
            "benchmark": "rasterize",
            "threads": 1,
            "load_average": load,
            "target_ms": TARGET_MS,
            "results": results,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_result(options.json, stored)


if __name__ == "__main__":
    main()
