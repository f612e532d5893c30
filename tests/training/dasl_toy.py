"""Caches of renders that are noise, with exact labels of the head model, and a fixed landmarker."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.training.dasl_labels import landmark_function

SIZE, NOMINAL, PER_SHARD = 32, 25.6, 12


def draw_heads(rng: np.random.Generator, count: int):
    """Coefficients as a cache stores them, and rotations (count, 3, 3)."""
    model = load_face_model()
    identity = rng.normal(0, 1, (count, model.identity_size)).astype(np.float16)
    expression = rng.uniform(0, 1, (count, len(model.expression_names))) ** 3
    angles = torch.from_numpy(rng.uniform(-60, 60, (count, 3)).astype(np.float32))
    return identity, expression.astype(np.float16), rotation_from_euler_deg(angles).numpy()


def label_rows(rng: np.random.Generator, count: int, distance_mm: float = 0.0) -> dict:
    """Arrays of a label file; perspective from that distance, orthographic for 0."""
    identity, expression, rotation = draw_heads(rng, count)
    points_of = landmark_function(load_face_model(), "lifemask392")
    points = points_of(*(torch.from_numpy(x.astype(np.float32)) for x in (identity, expression)))
    turned = points.numpy() @ rotation.swapaxes(1, 2)
    scale = rng.uniform(0.08, 0.12, count).astype(np.float32)
    near = distance_mm / (distance_mm - turned[..., 2]) if distance_mm else np.ones((count, 392))
    origin = rng.uniform(SIZE / 2 - 2, SIZE / 2 + 2, (count, 2))
    image = scale[:, None, None] * turned * [1.0, -1.0, 1.0]
    image[..., :2] = image[..., :2] * near[..., None] + origin[:, None]
    return {
        "points": image.astype(np.float32),
        "visible": rng.random((count, 392)) < 0.8,
        "rotation": rotation,
        "scale_px_per_mm": scale,
        "identity": identity,
        "expression": expression,
        "nominal_side_px": np.array(NOMINAL, np.float32),
    }


def make_cache(
    folder: Path, shards: int = 3, seed: int = 1, licence: str = "open", distance_mm: float = 0.0
) -> Path:
    """A folder that reads like one of `lifemask.data.synthetic`."""
    model = load_face_model()
    folder.mkdir(parents=True)
    for shard in range(shards):
        rng = np.random.default_rng([seed, shard])
        images = rng.integers(0, 255, (PER_SHARD, SIZE, SIZE, 3)).astype(np.uint8)
        np.save(folder / f"images-{shard:04d}.npy", images)
        np.savez(folder / f"labels-{shard:04d}.npz", **label_rows(rng, PER_SHARD, distance_mm))
    header = {
        "licence": licence,
        "seed": seed,
        "nominal_side_px": NOMINAL,
        "convention": "lifemask392",
        "face_model": model.name,
        "identity_size": model.identity_size,
        "expression_names": list(model.expression_names),
    }
    (folder / "header.json").write_text(json.dumps(header))
    return folder


@dataclass
class FixedLandmarker:
    """Finds the mean head at a yaw in every crop; counts the crops it was shown."""

    yaw_deg: float = 0.0
    size: int = 48
    seen: int = 0

    def points(self) -> torch.Tensor:
        """The (392, 3) points in crop px."""
        model = load_face_model()
        zeros = torch.zeros(1, model.identity_size), torch.zeros(1, len(model.expression_names))
        mean = landmark_function(model, "lifemask392")(*zeros)[0]
        rotation = rotation_from_euler_deg(torch.tensor([0.0, self.yaw_deg, 0.0]))
        return (mean @ rotation.T) * torch.tensor([0.2, -0.2, 0.2]) + torch.tensor([20.0, 25.0, 0])

    def predict_crops(self, crops: torch.Tensor) -> torch.Tensor:
        """(b, 392, 4) in crop px."""
        assert crops.shape[1:] == (3, self.size, self.size) and 0 <= crops.min() < crops.max() <= 1
        self.seen += len(crops)
        found = torch.cat((self.points(), torch.ones(392, 1)), 1)
        return found.expand(len(crops), -1, -1).clone()
