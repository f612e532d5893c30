"""Fit the head model to landmarks of your own, from any detector, without the landmark network.

    python examples/own_landmarks.py points.json head.glb

`points.json` is a list of 68 [u, v] pairs in photo pixels (0-based, integer = pixel centre);
.npz and iBUG's .pts work as well.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from lifemask import load_face_model
from lifemask.graphics.camera import euler_deg_from_rotation
from lifemask.graphics.meshio import MeshPrimitive, MeshScene, write_mesh
from lifemask.methods.fitting import fit_landmarks, load_landmarks


def main(points_file: str, out: str) -> None:
    """Fit, tell what was found, and write the mesh."""
    model = load_face_model()
    geometry = fit_landmarks(load_landmarks(points_file), model)
    pitch, yaw, roll = euler_deg_from_rotation(geometry.camera.rotation).tolist()
    print(f"pitch {pitch:.1f}, yaw {yaw:.1f}, roll {roll:.1f} degrees")
    assert geometry.params is not None
    strongest = torch.topk(geometry.params.expression, 3)
    for value, index in zip(strongest.values.tolist(), strongest.indices.tolist(), strict=True):
        print(f"{model.expression_names[index]}: {value:.2f}")
    skin = MeshPrimitive("head", geometry.faces.numpy().astype(np.int32))
    write_mesh(MeshScene(geometry.vertices_mm.numpy(), (skin,)), out)
    print(f"residual {geometry.residual_px:.2f} px; {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
