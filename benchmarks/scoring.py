"""How long scoring takes: 2,000 made-up photos, bootstrap included, and one pair of meshes.

    python benchmarks/scoring.py --json benchmarks/results/scoring.json

The data set has the real one's size and layouts; its faces are made up, which changes no time. Both
wall time and processor time are given: on a busy machine only the second says what the code needs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lifemask.evaluation.compare import compare
from lifemask.evaluation.predictions import Predictions, save_predictions
from lifemask.evaluation.score import score
from provenance import provenance, write_result
from scoring_meshes import mesh_rows

PHOTOS = 2000
YAWS = ((1312, 0, 30), (383, 30, 60), (305, 60, 90))
"""Photos per yaw bin of AFLW2000-3D, and the bin's ends in degrees."""


def made_up_labels(seed: int = 0) -> dict[str, ndarray]:
    """Labels of 2,000 made-up faces with the real files' names, shapes and yaw bins."""
    rng = np.random.default_rng(seed)
    yaw = np.concatenate([rng.uniform(low, high, n) for n, low, high in YAWS])
    points = rng.uniform(-1, 1, (PHOTOS, 3, 68)) * [[60.0], [75.0], [50.0]]
    points += np.array([[225.0], [230.0], [0.0]])
    pose = rng.normal(0, 0.2, (PHOTOS, 7))
    pose[:, 1] = np.radians(yaw)
    low = points[:, :2].min(axis=2)
    return {
        "names": np.array([f"image{2 + 2 * i:05d}" for i in range(PHOTOS)]),
        "pt3d_68": points.astype(np.float32),
        "pt2d_21": rng.uniform(150, 300, (PHOTOS, 2, 21)).astype(np.float32),
        "pose_para": pose.astype(np.float32),
        "crop_roi_box": np.concatenate([low - 20, low + 180], axis=1).astype(np.float32),
        "reannotated_pts68": np.round(points[:, :2] + 1).astype(np.float32),
        "shape_para": rng.normal(0, 1, (PHOTOS, 199)).astype(np.float32),
        "exp_para": rng.normal(0, 1, (PHOTOS, 29)).astype(np.float32),
    }


def write_data(folder: Path, labels: dict[str, ndarray]) -> tuple[Path, Path]:
    """The set in the packed and in the official layout; photos are empty files, none is read."""
    from scipy.io import savemat

    packed, official = folder / "packed", folder / "official"
    for place in (packed, official):
        place.mkdir()
        for name in labels["names"]:
            (place / f"{name}.jpg").touch()
    np.savez(packed / "labels.npz", **labels)  # pyright: ignore[reportArgumentType]
    for row, name in enumerate(labels["names"]):
        record = {
            "pt3d_68": labels["pt3d_68"][row],
            "pt2d": labels["pt2d_21"][row],
            "Pose_Para": labels["pose_para"][row][None],
            "Shape_Para": labels["shape_para"][row][:, None],
            "Exp_Para": labels["exp_para"][row][:, None],
            "Tex_Para": np.zeros((199, 1), np.float32),
            "roi": np.zeros((1, 4), np.int16),
        }
        savemat(official / f"{name}.mat", record)
    return packed, official


def write_predictions(path: Path, labels: dict[str, ndarray], seed: int) -> Path:
    """Predictions 4 px beside the truth, one face in a hundred missed."""
    rng = np.random.default_rng(seed)
    points = labels["pt3d_68"].swapaxes(1, 2) + rng.normal(0, 3, (PHOTOS, 68, 3))
    found = rng.uniform(size=PHOTOS) > 0.01
    names = tuple(str(name) for name in labels["names"])
    pose = rng.normal(0, 20, (PHOTOS, 3))
    save_predictions(path, Predictions(names, found, points, pose, {"system": "made up"}))
    return path


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Best wall and processor seconds of some runs."""
    wall, processor = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    return {"wall_s": round(min(wall), 3), "processor_s": round(min(processor), 3)}


def point_rows(repeats: int) -> list[dict[str, Any]]:
    """Times of scoring and comparing 2,000 photos."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = made_up_labels()
        packed, official = write_data(folder, labels)
        first = write_predictions(folder / "a.npz", labels, 1)
        second = write_predictions(folder / "b.npz", labels, 2)
        cases: tuple[tuple[str, float | None, Callable[[], Any]], ...] = (
            ("score 2,000 photos, packed labels", 5.0, lambda: score("aflw2000", packed, first)),
            ("score 2,000 photos, .mat labels", 5.0, lambda: score("aflw2000", official, first)),
            (
                "compare two systems, 2,000 photos",
                None,
                lambda: compare("aflw2000", packed, first, second),
            ),
        )
        return [{"what": w, "target_s": t} | timed(run, repeats) for w, t, run in cases]


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the times are written")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    rows = point_rows(options.repeats) + mesh_rows(timed, options.repeats)
    for row in rows:
        print(f"{row['what']}: {row['wall_s']} s, processor {row['processor_s']} s")
    command = "python benchmarks/scoring.py --json FILE"
    load = {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)}
    content = {"timings": rows, "load_average": load} | provenance(command)
    write_result(options.json, content)


if __name__ == "__main__":
    main()
