"""Time and memory of every stage on one thread, each beside its yardstick.

    python benchmarks/speed.py --json benchmarks/results/speed.json

The photo is scikit-image's astronaut (public domain) enlarged to one megapixel. Every stage is
warmed up, then repeated; the median wall time counts. Memory and start-up times come from fresh
processes. Run it on an idle machine: the load average is stored with the numbers.
"""

from __future__ import annotations

import os

ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.update(ONE_THREAD)  # before numpy, torch and numba are imported

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from provenance import provenance  # noqa: E402

if TYPE_CHECKING:
    from lifemask.types import Geometry

SIDE_PX = 1000  # one megapixel

RECONSTRUCT = """
import resource, sys, torch
torch.set_num_threads(1)
import numpy as np
import lifemask
photo = np.load(sys.argv[1])
lifemask.reconstruct(photo, lifemask.PipelineConfig(weights=sys.argv[2], threads=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def sample_photo() -> np.ndarray:
    """The sample portrait, (1000, 1000, 3) uint8 RGB."""
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(data.astronaut()).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(photo)


def median_ms(call: Callable[[], Any], repeats: int, warm_up: int = 2) -> float:
    """Median wall time of a call in ms."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def entry(
    stage: str, ms: float, target_ms: float | None, yardstick: str, yardstick_ms: float | None
) -> dict[str, Any]:
    """One row: a stage, its target, and another way to do the same, timed in this run."""
    return {
        "stage": stage,
        "ms": round(ms, 3),
        "target_ms": target_ms,
        "yardstick": yardstick,
        "yardstick_ms": None if yardstick_ms is None else round(yardstick_ms, 3),
    }


def time_rasteriser() -> list[dict[str, Any]]:
    """The numba kernel beside the torch reference, the head model filling the picture."""
    from lifemask.facemodel import load_face_model
    from lifemask.graphics.camera import project, screen_depth
    from lifemask.graphics.rasterize import rasterize
    from lifemask.head import view_camera

    model = load_face_model()
    head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    faces, rows = model.topology.faces, []
    for size, target in ((224, 2.0), (512, None)):
        camera = view_camera(head, size, yaw_deg=30)
        points = project(head[None], camera).clone()
        points[..., 2] = screen_depth(head[None], camera)
        times = {
            name: median_ms(
                lambda p=points, n=size, b=name: rasterize(p, faces, n, n, backend=b), 30
            )
            for name in ("numba", "torch")
        }
        stage = f"rasterise {len(faces):,} triangles, {size} x {size}"
        rows.append(entry(stage, times["numba"], target, "torch reference", times["torch"]))
    return rows


def time_stages(weights: str, photo: np.ndarray) -> list[dict[str, Any]]:
    """Detector, landmarker, fit, refinement, texture, the whole, and writing the files."""
    import tempfile

    from lifemask import Pipeline, PipelineConfig, write_heads
    from lifemask.faces.landmarker import load_landmarker

    pipeline = Pipeline(PipelineConfig(weights=weights, threads=1))  # pyright: ignore
    face = pipeline.find_faces(photo)[0]
    seen = pipeline.look(photo, face)
    coarse = pipeline.find_geometry(seen)
    fine = pipeline.refine(photo, coarse, seen.landmarks)
    by_torch = load_landmarker(weights, engine="torch", threads=1)  # pyright: ignore
    by_onnx = load_landmarker(weights, engine="onnx", threads=1)  # pyright: ignore
    crop = torch.rand(1, 3, 112, 112)
    fit_ms = median_ms(lambda: pipeline.find_geometry(seen), 15)
    refine_ms = median_ms(lambda: pipeline.refine(photo, coarse, seen.landmarks), 3, 1)
    rows = [
        entry(
            "detect faces, 1 megapixel",
            median_ms(lambda: pipeline.find_faces(photo), 7),
            None,
            "",
            None,
        ),
        entry(
            "landmark network, one crop, onnxruntime",
            median_ms(lambda: by_onnx.predict_crops(crop), 50),
            5.0,
            "the same network in torch",
            median_ms(lambda: by_torch.predict_crops(crop), 20),
        ),
        entry(
            "landmarks of one face (two passes of crop and network), onnxruntime",
            median_ms(lambda: by_onnx(photo, face), 30),
            None,
            "the same network in torch",
            median_ms(lambda: by_torch(photo, face), 15),
        ),
        entry("fit to landmarks", fit_ms, 60.0, "", None),
        entry("fit and photometric refinement", fit_ms + refine_ms, 2000.0, "", None),
        entry("lips", median_ms(lambda: pipeline.read_mouth(photo, fine), 15), None, "", None),
        entry(
            "lids and gaze of both eyes",
            median_ms(lambda: pipeline.read_eyes(photo, fine), 15),
            None,
            "",
            None,
        ),
        entry(
            "texture and light",
            median_ms(lambda: pipeline.dress(photo, fine), 3, 1),
            None,
            "",
            None,
        ),
        *time_retexture(weights, photo, fine),
        entry(
            "reconstruct a 1-megapixel photo, warm",
            median_ms(lambda: pipeline(photo), 3, 1),
            4000.0,
            "",
            None,
        ),
    ]
    heads = pipeline(photo)
    with tempfile.TemporaryDirectory() as folder:
        write = lambda: write_heads(heads, Path(folder) / "o", photo=photo, overwrite=True)  # noqa: E731
        rows.append(
            entry("write glb, obj, json and preview", median_ms(write, 3, 1), None, "", None)
        )
    return rows


def time_retexture(weights: str, photo: np.ndarray, geometry: Geometry) -> list[dict[str, Any]]:
    """The learned texture at several sizes, beside the first one at the same size."""
    from lifemask import Pipeline, PipelineConfig
    from lifemask.methods._retexture_finish import FinishConfig
    from lifemask.methods.retexture import RetexturePredictConfig
    from lifemask.methods.texture import TextureConfig

    rows = []
    for size, target in ((256, 1000.0), (512, 3000.0), (1024, None)):
        settings = {
            "retexture": RetexturePredictConfig(FinishConfig(size=size)),
            "appearance": TextureConfig(size=size),
        }
        ways = [
            Pipeline(PipelineConfig(weights=weights, texture=name, threads=1, **settings))  # pyright: ignore
            for name in ("retexture", "photo")
        ]
        times = [median_ms(lambda w=way: w.dress(photo, geometry), 3, 1) for way in ways]
        name = f"re-renderable texture of {size} x {size}"
        rows.append(entry(name, times[0], target, "texture by inversion, same size", times[1]))
    return rows


def time_start_up() -> list[dict[str, Any]]:
    """Importing and asking for help, in fresh processes."""

    def wall_ms(*command: str) -> float:
        call = lambda: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
        return median_ms(call, 5, 1)

    def python(code: str) -> float:
        return wall_ms(sys.executable, "-c", code)

    def inside_ms(code: str) -> float:
        """Median time of `code` in fresh processes that have imported torch before."""
        timed = (
            "import time, torch; start = time.perf_counter(); "
            f"{code}; print(1000 * (time.perf_counter() - start))"
        )
        call = (sys.executable, "-c", timed)
        runs = [subprocess.run(call, check=True, capture_output=True) for _ in range(5)]
        return statistics.median(float(run.stdout) for run in runs)

    torch_ms = python("import torch")
    import_ms = inside_ms("import lifemask")
    first_use_ms = inside_ms("import lifemask; lifemask.reconstruct")
    help_ms = wall_ms(str(Path(sys.executable).parent / "lifemask"), "--help")
    return [
        entry("import lifemask, beyond torch", import_ms, 300.0, "import torch", torch_ms),
        entry("first use of lifemask.reconstruct (loading the code)", first_use_ms, None, "", None),
        entry("lifemask --help", help_ms, 500.0, "python -c pass", python("pass")),
    ]


def peak_memory_mb(weights: str, photo: np.ndarray) -> float:
    """Peak resident memory in MB of a process that reconstructs the photo once."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.npy"
        np.save(path, photo)
        run = subprocess.run(
            [sys.executable, "-c", RECONSTRUCT, str(path), weights],
            check=True,
            capture_output=True,
            text=True,
        )
    return float(run.stdout.split()[-1])


def main() -> None:
    """Measure everything and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", default="open", choices=("open", "research"))
    parser.add_argument("--json", type=Path, help="where to write; default: print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    photo = sample_photo()
    rows = [*time_rasteriser(), *time_stages(options.weights, photo), *time_start_up()]
    result = {
        "threads": 1,
        "weights": options.weights,
        "stages": rows,
        "peak_memory_mb": {"value": round(peak_memory_mb(options.weights, photo)), "target": 1500},
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
    } | provenance(f"python benchmarks/speed.py --weights {options.weights} --json FILE")
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
