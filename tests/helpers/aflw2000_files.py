"""Tiny AFLW2000-3D sets in both real layouts, with made-up faces."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

COUNT = 9


def face_labels(seed: int = 0) -> dict[str, np.ndarray]:
    """Labels of `COUNT` made-up faces, three per yaw bin, with the real files' shapes."""
    rng = np.random.default_rng(seed)
    yaw = np.array([0.0, 10.0, -29.9, 31.0, -45.0, 59.9, 60.5, -75.0, 88.0])
    points = rng.uniform(-1, 1, (COUNT, 3, 68)) * [[60.0], [75.0], [50.0]]
    points = points + np.array([[225.0], [230.0], [0.0]])
    clicks = rng.uniform(150, 300, (COUNT, 2, 21))
    clicks[:, 0, 12], clicks[:, 1, 12] = -1, 452  # the ear, not visible
    pose = rng.normal(0, 0.2, (COUNT, 7))
    pose[:, 1] = np.radians(yaw)
    low = points[:, :2].min(axis=2)
    boxes = np.concatenate([low - 20, low + 180], axis=1).round()
    return {
        "names": np.array([f"image{i:05d}" for i in range(2, 2 + 4 * COUNT, 4)]),
        "pt3d_68": points.astype(np.float32),
        "pt2d_21": clicks.astype(np.float32),
        "pose_para": pose.astype(np.float32),
        "crop_roi_box": boxes.astype(np.float32),
        "reannotated_pts68": np.round(points[:, :2] + 1).astype(np.float32),
        "shape_para": (1e5 * rng.normal(0, 1, (COUNT, 199))).astype(np.float32),
        "exp_para": rng.normal(0, 1, (COUNT, 29)).astype(np.float32),
        "tex_para": rng.normal(0, 1, (COUNT, 199)).astype(np.float32),
        "roi": rng.integers(-30, 400, (COUNT, 4)).astype(np.int16),
    }


def _write_images(folder: Path, names: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        Image.new("RGB", (450, 450), (40 + k, 90, 120)).save(folder / f"{name}.jpg")


def write_packed(folder: Path, labels: dict[str, np.ndarray]) -> None:
    """Images beside labels.npz."""
    _write_images(folder, labels["names"])
    np.savez(folder / "labels.npz", **labels)


def write_official(folder: Path, labels: dict[str, np.ndarray], *, configs: bool) -> None:
    """Images beside .mat files in `folder`/AFLW2000, as the zip unpacks; 3DDFA's arrays beside."""
    inner = folder / "AFLW2000"
    _write_images(inner, labels["names"])
    (inner / "Code").mkdir()
    for k, name in enumerate(labels["names"]):
        record = {
            "pt3d_68": labels["pt3d_68"][k],
            "pt2d": labels["pt2d_21"][k],
            "Pose_Para": labels["pose_para"][k][None],
            "roi": labels["roi"][k][None],
            "Shape_Para": labels["shape_para"][k][:, None],
            "Exp_Para": labels["exp_para"][k][:, None],
            "Tex_Para": labels["tex_para"][k][:, None],
            "Illum_Para": np.zeros((1, 10)),
            "Color_Para": np.ones((1, 7)),
        }
        savemat(inner / f"{name}.mat", record)
    if configs:
        np.save(folder / "AFLW2000-3D_crop.roi_box.npy", labels["crop_roi_box"])
        np.save(folder / "AFLW2000-3D-Reannotated.pts68.npy", labels["reannotated_pts68"])
