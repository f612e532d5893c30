"""Predict a data set with MediaPipe's face mesh, from the benchmark's own boxes, as a peer.

    python tools/predict_mediapipe.py aflw2000 --data DIR --model MODEL.tflite -o OUT.npz
    lifemask score aflw2000 --data DIR --predictions OUT.npz

Only the network of MediaPipe runs (Apache-2.0; `pip install ai-edge-litert`); what surrounds it
follows its graph: a square region 1.5 times the face's box, a second look at the region of the
points of the first, turned so that the eyes are level. A face whose score is below 0.5 is a miss,
as it would be there. The 478 points are stored; `score` takes 68 of them by our table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image

from lifemask.evaluation.predict import DATASETS
from lifemask.evaluation.score import load_entry, lookup

INPUT_PX = 256
COUNT = 478
EXPAND = 1.5  # region over face box, in MediaPipe's graph
BENCHMARK_EXPAND = math.sqrt(2)  # the benchmark's square over the landmarks' box (3DDFA)
MIN_SCORE = 0.5
LEFT_EYE, RIGHT_EYE = 33, 263  # outer corners; index 33 is at image left

Network = Callable[[ndarray], tuple[ndarray, float]]
"""Region (256, 256, 3) float32 in [0, 1] to points (478, 3) in region px and the face score."""


@dataclass(frozen=True)
class Region:
    """A turned square in the photo: centre and side in px, angle clockwise in the image."""

    center: tuple[float, float]
    side: float
    angle: float = 0.0

    def axes(self) -> ndarray:
        """Photo px per region px along the region's u and v, (2, 2) columns."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.array([[c, -s], [s, c]]) * self.side / INPUT_PX

    def cut(self, photo: ndarray) -> ndarray:
        """The region's pixels, (256, 256, 3) float32 in [0, 1], the border continued."""
        pad = math.ceil(self.side)
        padded = Image.fromarray(np.pad(photo, ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
        axes = self.axes()
        corner = np.array(self.center) + 0.5 + pad - axes @ [INPUT_PX / 2, INPUT_PX / 2]
        affine = (axes[0, 0], axes[0, 1], corner[0], axes[1, 0], axes[1, 1], corner[1])
        size = (INPUT_PX, INPUT_PX)
        cut = padded.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        return np.asarray(cut, dtype=np.float32) / 255

    def to_photo(self, points: ndarray) -> ndarray:
        """Region points (n, 3), edges at 0 and 256, to photo px; w is larger when nearer."""
        flat = (points[:, :2] - INPUT_PX / 2) @ self.axes().T + self.center
        depth = -points[:, 2:] * self.side / INPUT_PX
        return np.concatenate([flat, depth], axis=1)


def region_of_box(box: ndarray) -> Region:
    """First region, from the benchmark's square (x0, y0, x1, y1)."""
    side = float(max(box[2] - box[0], box[3] - box[1])) * EXPAND / BENCHMARK_EXPAND
    return Region(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), side)


def region_of_points(points: ndarray) -> Region:
    """Second region, from the points of the first look, with the eyes level."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    u, v = points[RIGHT_EYE, :2] - points[LEFT_EYE, :2]
    center = (low + high) / 2
    return Region((center[0], center[1]), EXPAND * float((high - low).max()), math.atan2(v, u))


def look_twice(network: Network, photo: ndarray, box: ndarray) -> ndarray | None:
    """478 points (478, 3) in photo px, or None where the network sees no face."""
    region, points = region_of_box(box), np.zeros((COUNT, 3))
    for _ in range(2):
        found, score = network(region.cut(photo))
        if score < MIN_SCORE:
            return None
        points = region.to_photo(found)
        region = region_of_points(points)
    return points


def load_network(path: Path) -> Network:
    """MediaPipe's `face_landmarks_detector.tflite` (478 points)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]["index"]
    outputs = {d["name"]: d["index"] for d in interpreter.get_output_details()}

    def run(region: ndarray) -> tuple[ndarray, float]:
        interpreter.set_tensor(entry, region[None])
        interpreter.invoke()
        points = interpreter.get_tensor(outputs["Identity"]).reshape(COUNT, 3)
        logit = float(interpreter.get_tensor(outputs["Identity_1"]).reshape(-1)[0])
        return points.astype(np.float64), 1.0 / (1.0 + math.exp(-logit))

    return run


def predict(photos: Any, network: Network, out: Path) -> int:
    """Write the predictions of a data set; returns the number of misses."""
    points = np.full((len(photos.names), COUNT, 3), np.nan, np.float32)
    for row in range(len(points)):
        found = look_twice(network, photos.image(row), photos.boxes[row])
        if found is not None:
            points[row] = found
    found = ~np.isnan(points[:, 0, 0])
    meta = {"system": "MediaPipe face mesh", "method": "landmarks, two looks", "box": "official"}
    part = out.with_name(out.name + ".part")
    with part.open("wb") as stream:
        np.savez_compressed(
            stream,
            names=np.array(photos.names),
            landmarks=points,
            found=found,
            meta=np.array(json.dumps(meta)),
        )
    part.replace(out)
    return int((~found).sum())


def main() -> None:
    """Predict one data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", choices=sorted(DATASETS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--model", type=Path, required=True, help="the .tflite file")
    parser.add_argument("-o", "--out", type=Path, required=True, help="npz to write")
    options = parser.parse_args()
    photos = load_entry(lookup(DATASETS, options.dataset, "data set"))(options.data)
    missed = predict(photos, load_network(options.model), options.out)
    print(f"{options.out}: {len(photos.names)} photos, {missed} missed")


if __name__ == "__main__":
    main()
