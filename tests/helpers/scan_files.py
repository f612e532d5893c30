"""Tiny copies of MICC Florence and FaceWarehouse in their official layouts."""

import json
from pathlib import Path

import numpy as np

from helpers.facescape_files import put, rotation, sheet

LJSON_OF = "MICC_landmarks"


def relief(x, y):
    """A face of a function: a long nose on an egg, chin and brows, nothing symmetric."""
    nose = 24 * np.exp(-((x / 9) ** 2) - (y / 13) ** 2)
    egg = 95 * np.sqrt(np.maximum(1 - (x / 95) ** 2 - (y / 130) ** 2, 0.02))
    chin = 8 * np.exp(-((x / 16) ** 2) - ((y + 65) / 12) ** 2)
    return egg - 95 + nose + chin + 2.5 * np.sin(x / 15 + y / 19)


N = 35


def head(n: int = N):
    """The scan, nose tip near the origin's column, mm."""
    return sheet(relief, half_x=75.0, y_range=(-95.0, 95.0), n=n)


def landmarks68() -> np.ndarray:
    """68 points on the relief where a face has them, roughly; the jaw lies anywhere."""
    flat = np.zeros((68, 2))
    flat[:17] = np.stack([np.linspace(-70, 70, 17), np.full(17, -60.0)], 1)
    flat[17:27] = np.stack([np.linspace(-50, 50, 10), np.full(10, 45.0)], 1)
    flat[27:31] = np.stack([np.zeros(4), np.linspace(30, 0, 4)], 1)
    flat[31:36] = np.stack([np.linspace(-14, 14, 5), np.full(5, -12.0)], 1)
    for start, center in ((36, -32.0), (42, 32.0)):
        angle = np.linspace(np.pi, -np.pi, 7)[:6]
        flat[start : start + 6] = np.stack([center + 13 * np.cos(angle), 28 + 5 * np.sin(angle)], 1)
    for start, count, width, height in ((48, 12, 24, 9), (60, 8, 18, 3)):
        angle = np.linspace(np.pi, -np.pi, count + 1)[:count]
        points = [width * np.cos(angle), -38 + height * np.sin(angle)]
        flat[start : start + count] = np.stack(points, 1)
    return np.concatenate([flat, relief(flat[:, :1], flat[:, 1:])], 1)


def write_ljson(path: Path, points: np.ndarray) -> None:
    """menpo's LJSON, version 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    group = {"labels": [], "landmarks": {"connectivity": [], "points": points.tolist()}}
    path.write_text(json.dumps({"groups": {"LJSON": group}, "version": 2}))


SUBJECTS = ("subject_01", "subject_02")


def scan_pose(subject: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and translation of a subject's scan: heads are never upright in a scanner."""
    k = SUBJECTS.index(subject)
    return rotation(12.0 * k - 5, 10 - 6 * k, 4), np.array([10.0, -30 * k, 15])


def write_micc(root: Path, *, videos=("Indoor-Cooperative.mjpg",), landmarks=True) -> Path:
    vertices, faces = head(N)
    for subject in SUBJECTS:
        turn, shift = scan_pose(subject)
        stem = f"{subject}/Model/frontal1/obj/110920150452"
        put(root / f"{stem}.obj", vertices @ turn.T + shift, faces)
        if landmarks:
            points = landmarks68() @ turn.T + shift
            write_ljson(root / LJSON_OF / f"{stem}.ljson", points)
        for video in videos:
            path = root / subject / "Video" / video
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    return root


def put_prediction(folder: Path, name: str, vertices, faces, points=None) -> None:
    put(folder / f"{name}.ply", vertices, faces)
    if points is not None:
        content = {"ibug68": np.asarray(points).tolist()}
        (folder / f"{name}.landmarks.json").write_text(json.dumps(content))


def write_facewarehouse(root: Path, people=("Tester_2", "Tester_10"), poses=(0, 7), n=N) -> Path:
    """Meshes in decimetres, another topology than the official one."""
    vertices, faces = head(n)
    for person in people:
        for pose in poses:
            mouth = np.exp(-((vertices[:, :1] / 25) ** 2) - ((vertices[:, 1:2] + 40) / 12) ** 2)
            moved = vertices + mouth * [0, -0.6 * pose, 0]
            put(root / person / "TrainingPose" / f"pose_{pose}.obj", moved / 100, faces)
    return root
