"""Speed and accuracy of the fitter on synthetic heads, one thread.

    python benchmarks/fit.py --json benchmarks/results/fit.json

Heads are drawn from the model's prior, seen by a scaled orthographic camera and rendered with a
random skin (prior sample plus 3 % noise per vertex) under an ambient and a directional light. Wall
times are medians; CPU times stand beside them because other work on the machine does not change
them much.
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import argparse  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from lifemask.facemodel import load_face_model  # noqa: E402
from lifemask.facemodel.base import FaceModel  # noqa: E402
from lifemask.graphics.camera import (  # noqa: E402
    orthographic_camera,
    project,
    rotation_from_euler_deg,
    screen_depth,
)
from lifemask.graphics.lighting import (  # noqa: E402
    ambient_light,
    directional_light,
    linear_to_srgb,
    shading,
)
from lifemask.graphics.mesh import vertex_normals  # noqa: E402
from lifemask.graphics.pose import similarity  # noqa: E402
from lifemask.graphics.rasterize import (  # noqa: E402
    barycentric_at_pixels,
    interpolate,
    rasterize,
)
from lifemask.methods._fitting_albedo import skin_albedo  # noqa: E402
from lifemask.methods.fitting import fit_landmarks  # noqa: E402
from lifemask.methods.photometric import refine_photometric  # noqa: E402
from lifemask.types import Camera, Geometry, Landmarks  # noqa: E402
from provenance import provenance, write_result  # noqa: E402

SIDE_PX = 400


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall and CPU milliseconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def photograph(
    model: FaceModel, vertices: torch.Tensor, camera: Camera, generator: torch.Generator
) -> np.ndarray:
    """A render (SIDE_PX, SIDE_PX, 3) uint8 with random skin and light."""
    prior = skin_albedo(model)
    albedo = prior.at(0.8 * torch.randn(prior.basis.shape[-1], generator=generator))
    albedo = albedo * (1 + 0.03 * torch.randn(len(albedo), 1, generator=generator))
    key = torch.tensor([1.0, 0.6, 1.0]) + 0.5 * torch.randn(3, generator=generator)
    sh = ambient_light(0.4).sh + directional_light(key, torch.tensor([0.9, 0.85, 0.8]), 20.0).sh
    faces = model.topology.faces
    screen = torch.cat(
        (project(vertices, camera)[:, :2], screen_depth(vertices, camera)[:, None]), 1
    )
    ids = rasterize(screen[None], faces, SIDE_PX, SIDE_PX).face_ids
    bary = barycentric_at_pixels(screen[None], faces, ids)
    normals = vertex_normals(vertices, faces) @ camera.rotation.T
    seen = interpolate(torch.cat((albedo, normals), -1)[None], faces, ids, bary)[0]
    normal = torch.nn.functional.normalize(seen[..., 3:], dim=-1)
    colour = linear_to_srgb((seen[..., :3] * shading(normal, sh)).clamp_min(0))
    image = torch.where((ids[0] >= 0)[..., None], colour, torch.tensor([0.2, 0.5, 0.3]))
    image = image + 0.008 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).byte().numpy()


def errors(found: Geometry, vertices: torch.Tensor, camera: Camera, model: FaceModel):
    """Shape error in mm after a similarity (face region) and landmark error in px."""
    mask = model.topology.regions["face"]
    a, b = found.vertices_mm[mask].double(), vertices[mask].double()
    rotation, scale, offset = similarity(a, b)
    shape_mm = float((scale * a @ rotation.T + offset - b).norm(dim=-1).mean())
    there = project(model.landmarks(found.vertices_mm, "ict68"), found.camera)
    here = project(model.landmarks(vertices, "ict68"), camera)
    return shape_mm, float((there - here)[:, :2].norm(dim=-1).mean())


def one_head(model: FaceModel, seed: int, noise_px: float) -> dict[str, float]:
    """Fits one head with and without photometric refinement."""
    generator = torch.Generator().manual_seed(seed)
    identity = 0.9 * torch.randn(model.identity_size, generator=generator)
    expression = torch.zeros(len(model.expression_names))
    expression[model.expression_names.index("jawOpen")] = 0.3
    vertices = model(identity, expression)
    angles = torch.randn(3, generator=generator) * torch.tensor([8.0, 25.0, 8.0])
    center = torch.tensor([SIDE_PX / 2, SIDE_PX / 2])
    camera = orthographic_camera(rotation_from_euler_deg(angles), 1.4, center)
    image = photograph(model, vertices, camera, generator)
    points = project(model.landmarks(vertices, "lifemask392"), camera)
    points = points + noise_px * torch.randn(points.shape, generator=generator)
    points[:, :2] += 0.3 * noise_px * torch.randn(2, generator=generator)
    landmarks = Landmarks(points, torch.full((len(points),), noise_px), "lifemask392")
    plain, wall, cpu = timed(lambda: fit_landmarks(landmarks, model))
    refined, photo_wall, photo_cpu = timed(
        lambda: refine_photometric(image, plain, landmarks, model)
    )
    shape, landmark = errors(plain, vertices, camera, model)
    shape_photo, landmark_photo = errors(refined.geometry, vertices, camera, model)
    return {
        "fit_ms": wall,
        "fit_cpu_ms": cpu,
        "photometric_ms": photo_wall,
        "photometric_cpu_ms": photo_cpu,
        "shape_mm": shape,
        "shape_photometric_mm": shape_photo,
        "landmarks_px": landmark,
        "landmarks_photometric_px": landmark_photo,
        "colour_before": refined.error_before,
        "colour_after": refined.error_after,
    }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--noise-px", type=float, default=1.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_face_model("lifemask")
    one_head(model, 999, options.noise_px)  # warm up
    rows = [one_head(model, seed, options.noise_px) for seed in range(options.heads)]
    result: dict[str, Any] = provenance(" ".join(["python", *sys.argv]))
    result |= {"load_average": os.getloadavg()[0], "heads": len(rows), "noise_px": options.noise_px}
    for key in rows[0]:
        kind = statistics.median if key.endswith("_ms") else statistics.mean
        result[key] = round(kind([row[key] for row in rows]), 4)
        print(f"{key:26s} {result[key]}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_result(options.json, result)


if __name__ == "__main__":
    main()
