"""A tiny copy of FaceScape's benchmark in its official layout, with sheets for faces."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from lifemask.graphics.camera import rotation_from_euler_deg
from lifemask.graphics.meshio import MeshPrimitive, MeshScene, write_mesh

UNIT_MM = 120.0  # of the wild meshes: half an image side
CENTER_MM = np.array([6.0, -12.0, -30.0])  # of the head in the wild camera frame
WILD_ITEMS = (0, 150, 399)
LAB_ITEMS = ((0, 0, 0), (0, 2, 9), (3, 1, 4))
PUPIL_MM = 62.85
FLIP = np.diag([1.0, -1.0, -1.0])


def rotation(yaw_deg: float, pitch_deg: float = 0.0, roll_deg: float = 0.0) -> np.ndarray:
    angles = torch.tensor([pitch_deg, yaw_deg, roll_deg], dtype=torch.float64)
    return rotation_from_euler_deg(angles).numpy()


def sheet(z=None, half_x: float = 50.0, y_range: tuple[float, float] = (-60.0, 60.0), n: int = 25):
    """Height field z(x, y) in the head frame, mm; faces counter-clockwise from the front."""
    x, y = np.meshgrid(np.linspace(-half_x, half_x, n), np.linspace(y_range[0], y_range[1], n))
    height = np.full_like(x, 80.0) if z is None else z(x, y)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + n], 1), np.stack([a + 1, a + n + 1, a + n], 1)])
    return np.stack([x, y, height], -1).reshape(-1, 3), faces


def face(x, y):
    """A lopsided relief: brow, nose, cheeks."""
    nose = 22 * np.exp(-((x / 12) ** 2) - ((y + 5) / 22) ** 2)
    return 75 + nose - 0.006 * x**2 - 0.002 * y**2 + 3 * np.sin(x / 17 + y / 23)


def put(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    primitive = MeshPrimitive("face", faces.astype(np.int32))
    write_mesh(MeshScene(vertices.astype(np.float32), (primitive,)), path)


@cache
def wild_rotations() -> np.ndarray:
    return np.stack([rotation(0.2 * k, 5, -3) for k in range(400)])


def wild_camera_mm(head: np.ndarray, index: int) -> np.ndarray:
    """Head frame to the photo's camera frame."""
    return head @ wild_rotations()[index].T + CENTER_MM


def write_wild(root: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """The benchmark with the same head frame mesh in every wild photo."""
    predef = root / "code" / "predef"
    predef.mkdir(parents=True, exist_ok=True)
    np.save(predef / "wild_pupil_scales.npy", np.full(400, UNIT_MM))
    np.save(predef / "wild_head_centers.npy", np.tile(CENTER_MM / UNIT_MM, (400, 1)))
    np.save(predef / "wild_rotations.npy", wild_rotations())
    for k in WILD_ITEMS:
        path = root / "data" / "wild_gt_mesh" / f"{k:03d}.obj"
        put(path, wild_camera_mm(vertices, k) / UNIT_MM, faces)
    return root


def lab_focal_px(focal: int) -> float:
    return (1200.0, 600.0, 300.0)[focal]


def lab_center_mm(focal: int) -> np.ndarray:
    """OpenCV camera frame: the nearer the wider the lens."""
    return np.array([4.0, -7.0, 1.1 * lab_focal_px(focal)])


def lab_rotation(view: int) -> np.ndarray:
    """Head frame to OpenCV camera frame."""
    return FLIP @ rotation(6.0 * view - 20, -4, 5)


def lab_camera_mm(head: np.ndarray, focal: int, view: int) -> np.ndarray:
    """Head frame to lifemask's camera frame."""
    return (head @ lab_rotation(view).T + lab_center_mm(focal)) @ FLIP


def write_lab(root: Path, vertices: np.ndarray, faces: np.ndarray) -> Path:
    """The benchmark with the same head frame mesh for every lab subject."""
    predef = root / "code" / "predef"
    predef.mkdir(parents=True, exist_ok=True)
    np.save(predef / "lab_head_centers.npy", np.stack([lab_center_mm(f) for f in range(3)]))
    np.save(predef / "lab_rotations.npy", np.stack([lab_rotation(v) for v in range(11)]))
    for subject, focal, view in LAB_ITEMS:
        put(root / "data" / "lab_gt_mesh" / f"{subject:02d}.obj", vertices / PUPIL_MM, faces)
        intrinsics = np.diag([lab_focal_px(focal), lab_focal_px(focal), 1.0])
        intrinsics[:2, 2] = 128
        center = lab_center_mm(focal)[:, None] / PUPIL_MM
        extrinsics = np.concatenate([lab_rotation(view), center], 1)
        path = root / "data" / "lab_cam" / f"{subject:02d}_{focal}_{view:02d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([intrinsics.tolist(), extrinsics.tolist()]))
    return root


def lab_name(item: tuple[int, int, int]) -> str:
    return f"{item[0]:02d}_{item[1]}_{item[2]:02d}"
