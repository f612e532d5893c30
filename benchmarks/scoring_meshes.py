"""How long one mesh pair takes: FaceScape's comparison and the fit to a scan; made-up heads.

    python benchmarks/scoring.py --json benchmarks/results/scoring.json

Imported by `scoring.py`, which writes the file. The truth has the size of a scan, the prediction
that of a dense reconstruction; their shapes do not change the times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.data.facescape import FaceScapeItem
from lifemask.evaluation._scan_fit import prepare
from lifemask.evaluation._scan_report import Target, fit
from lifemask.evaluation.facescape import score_pair
from lifemask.evaluation.meshes import Triangles, read_triangles
from lifemask.facemodel import load_face_model
from lifemask.graphics.meshio import MeshPrimitive, MeshScene, write_mesh

UNIT_MM = 120.0
TARGET_S = 3.0


def head(seed: int, levels: int) -> Triangles:
    """The skin of a random head, each triangle cut into four `levels` times."""
    model = load_face_model()
    generator = torch.Generator().manual_seed(seed)
    identity = 0.7 * torch.randn(1, model.identity_size, generator=generator)
    vertices = model(identity, torch.zeros(1, len(model.expression_names)))[0].double().numpy()
    faces = model.topology.faces[model.topology.face_part == 0].long().numpy()
    for _ in range(levels):
        vertices, faces = _quartered(vertices, faces)
    return vertices, faces


def _quartered(vertices: np.ndarray, faces: np.ndarray) -> Triangles:
    """Each triangle in four, by the middles of its edges."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    unique, index = np.unique(edges, axis=0, return_inverse=True)
    middle = len(vertices) + index.reshape(-1, 3)
    (a, b, c), (ab, bc, ca) = faces.T, middle.T
    corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    table = np.concatenate([np.stack(part, 1) for part in corners])
    return np.concatenate([vertices, vertices[unique].mean(1)]), table


def mesh_rows(timed: Callable[[Callable[[], Any], int], dict[str, float]], repeats: int) -> list:
    """Times per pair, reading the prediction from OBJ included.

    Args:
        timed: runs something and returns its best times.
        repeats: how often.
    """
    truth, guess = head(0, 1), head(1, 2)
    item = FaceScapeItem("000", Path(), {}, UNIT_MM, np.eye(3), np.zeros(3))
    near = np.linalg.norm(truth[0] - [0, 0, 120.0], axis=1) < 95
    target = Target(truth, near, np.array([0, 0, 120.0]), np.eye(3), truth[0][:4])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "000.obj"
        primitive = MeshPrimitive("skin", guess[1].astype(np.int32))
        write_mesh(MeshScene((guess[0] / UNIT_MM).astype(np.float32), (primitive,)), path)

        def facescape() -> Any:
            return score_pair(item, truth, read_triangles(path))

        def scan() -> Any:
            vertices, faces = read_triangles(path)
            prediction = prepare((vertices * UNIT_MM, faces), guess[0][:4])
            return fit(prediction, target, scale=True)

        sizes = f"{len(truth[1]):,} and {len(guess[1]):,} triangles"
        for what, run in (("FaceScape pair", facescape), ("scan fit with ICP (MICC)", scan)):
            rows.append({"what": f"{what}, {sizes}", "target_s": TARGET_S} | timed(run, repeats))
    return rows
