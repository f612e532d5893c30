"""Predict a data set with MediaPipe's face mesh, from the benchmark's own boxes, as a peer.

    python tools/predict_mediapipe.py aflw2000 --data DIR --models DIR -o OUT.npz
    lifemask score aflw2000 --data DIR --predictions OUT.npz

Only MediaPipe's networks run (Apache-2.0; `pip install ai-edge-litert`; DIR holds
`face_detector.tflite` and `face_landmarks_detector.tflite`); what surrounds them follows its graph:
a square region 1.5 times the face's box, turned so that the eyes are level, and a second look at
the region of the points of the first. The detector only tells how the head leans; place and size of
the face are the benchmark's. A face whose score is below 0.5 is a miss, as it would be there. All
478 points are stored; `score` takes 68 of them by our table.
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
DETECTOR_PX = 128
DETECTOR_EXPAND = 2.0  # region over face box: the detector wants some surroundings
GRIDS = ((16, 2), (8, 6))  # cells per side and anchors per cell

Network = Callable[[ndarray], tuple[ndarray, float]]
"""Region (256, 256, 3) float32 in [0, 1] to points (478, 3) in region px and the face score."""

Detector = Callable[[ndarray], float]
"""Region (128, 128, 3) float32 in [0, 1] to the angle of the line through the eyes; 0 if unseen."""


@dataclass(frozen=True)
class Region:
    """A turned square in the photo: centre and side in px, angle clockwise in the image."""

    center: tuple[float, float]
    side: float
    angle: float = 0.0

    def axes(self, size: int = INPUT_PX) -> ndarray:
        """Photo px per region px along the region's u and v, (2, 2) columns."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.array([[c, -s], [s, c]]) * self.side / size

    def cut(self, photo: ndarray, size: int = INPUT_PX) -> ndarray:
        """The region's pixels, (size, size, 3) float32 in [0, 1], the border continued."""
        pad = math.ceil(self.side)
        padded = Image.fromarray(np.pad(photo, ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
        axes = self.axes(size)
        corner = np.array(self.center) + 0.5 + pad - axes @ [size / 2, size / 2]
        affine = (axes[0, 0], axes[0, 1], corner[0], axes[1, 0], axes[1, 1], corner[1])
        pixels = (size, size)
        cut = padded.transform(pixels, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        return np.asarray(cut, dtype=np.float32) / 255

    def to_photo(self, points: ndarray) -> ndarray:
        """Region points (n, 3), edges at 0 and 256, to photo px; w is larger when nearer."""
        flat = (points[:, :2] - INPUT_PX / 2) @ self.axes().T + self.center
        depth = -points[:, 2:] * self.side / INPUT_PX
        return np.concatenate([flat, depth], axis=1)


def region_of_box(box: ndarray, expand: float = EXPAND, angle: float = 0.0) -> Region:
    """A region of the face in the benchmark's square (x0, y0, x1, y1)."""
    side = float(max(box[2] - box[0], box[3] - box[1])) * expand / BENCHMARK_EXPAND
    return Region(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), side, angle)


def region_of_points(points: ndarray) -> Region:
    """Second region, from the points of the first look, with the eyes level."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    u, v = points[RIGHT_EYE, :2] - points[LEFT_EYE, :2]
    center = (low + high) / 2
    return Region((center[0], center[1]), EXPAND * float((high - low).max()), math.atan2(v, u))


def look_twice(
    detector: Detector, network: Network, photo: ndarray, box: ndarray
) -> ndarray | None:
    """478 points (478, 3) in photo px, or None where the network sees no face."""
    lean = detector(region_of_box(box, DETECTOR_EXPAND).cut(photo, DETECTOR_PX))
    region, points = region_of_box(box, EXPAND, lean), np.zeros((COUNT, 3))
    for _ in range(2):
        found, score = network(region.cut(photo))
        if score < MIN_SCORE:
            return None
        points = region.to_photo(found)
        region = region_of_points(points)
    return points


def anchors() -> ndarray:
    """Centres (896, 2) of the detector's anchors, as shares of its input."""
    rows = []
    for cells, count in GRIDS:
        place = (np.arange(cells) + 0.5) / cells
        v, u = np.meshgrid(place, place, indexing="ij")
        rows.append(np.repeat(np.stack([u, v], axis=-1).reshape(-1, 2), count, axis=0))
    return np.concatenate(rows)


def load_detector(folder: Path) -> Detector:
    """MediaPipe's `face_detector.tflite`, of which only the eyes are used."""
    interpreter = _interpreter(folder / "face_detector.tflite")
    entry = interpreter.get_input_details()[0]["index"]
    outputs = {d["name"]: d["index"] for d in interpreter.get_output_details()}
    centres = anchors()

    def run(region: ndarray) -> float:
        interpreter.set_tensor(entry, 2 * region[None] - 1)
        interpreter.invoke()
        logits = interpreter.get_tensor(outputs["classificators"]).reshape(-1)
        best = int(logits.argmax())
        if logits[best] < 0:  # a score below 0.5
            return 0.0
        values = interpreter.get_tensor(outputs["regressors"]).reshape(-1, 8, 2)[best]
        left, right = values[2:4] / DETECTOR_PX + centres[best]  # the person's right eye is first
        return math.atan2(right[1] - left[1], right[0] - left[0])

    return run


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def load_network(folder: Path) -> Network:
    """MediaPipe's `face_landmarks_detector.tflite` (478 points)."""
    interpreter = _interpreter(folder / "face_landmarks_detector.tflite")
    entry = interpreter.get_input_details()[0]["index"]
    outputs = {d["name"]: d["index"] for d in interpreter.get_output_details()}

    def run(region: ndarray) -> tuple[ndarray, float]:
        interpreter.set_tensor(entry, region[None])
        interpreter.invoke()
        points = interpreter.get_tensor(outputs["Identity"]).reshape(COUNT, 3)
        logit = float(interpreter.get_tensor(outputs["Identity_1"]).reshape(-1)[0])
        return points.astype(np.float64), 1.0 / (1.0 + math.exp(-logit))

    return run


def predict(photos: Any, detector: Detector, network: Network, out: Path) -> int:
    """Write the predictions of a data set; returns the number of misses."""
    points = np.full((len(photos.names), COUNT, 3), np.nan, np.float32)
    for row in range(len(points)):
        found = look_twice(detector, network, photos.image(row), photos.boxes[row])
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
    parser.add_argument("--models", type=Path, required=True, help="folder of the .tflite files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="npz to write")
    options = parser.parse_args()
    photos = load_entry(lookup(DATASETS, options.dataset, "data set"))(options.data)
    detector, network = load_detector(options.models), load_network(options.models)
    missed = predict(photos, detector, network, options.out)
    print(f"{options.out}: {len(photos.names)} photos, {missed} missed")


if __name__ == "__main__":
    main()
