"""Faces for the tests of PGN without a renderer: several frames of each person as coloured dots.

Cameras are scaled orthographic or pinholes, and the labels are what `data.synthetic` would write.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers.dasl_faces import EXPAND, NOMINAL, SIZE, dotted, rotations, scored68
from lifemask.data.base import CropSet, save_crops
from lifemask.data.sight import along_sight, toward_camera
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import convert
from lifemask.graphics.camera import orthographic_camera, pinhole_camera, project
from lifemask.methods._coefficients import LABEL_SETS
from lifemask.training.dasl_data import FaceSet
from lifemask.training.dasl_labels import PoseLabels, fit_orthographic
from lifemask.training.pgn_data import PgnCorpus, PgnFaces, load_photos
from lifemask.training.pgn_labels import RenderCameras
from lifemask.types import Camera

FOCAL_WIDTHS = 3.0  # of the pinholes


def heads(model: FaceModel, people: int, frames: int, rng: np.random.Generator):
    """Coefficients of frames, (n, i) and (n, e), a person's beside each other; half precision."""
    identity = rng.normal(0, 1, (people, model.identity_size)).repeat(frames, 0)
    ranges, shape = model.expression_range, (len(identity), len(model.expression_names))
    drawn = rng.beta(1, 4, shape)
    if ranges is not None:
        drawn = rng.normal(0, np.array(ranges)[:, 1] / 3, shape)
    return tuple(torch.tensor(x.astype(np.float16).astype(np.float32)) for x in (identity, drawn))


def camera_to(square_mm: torch.Tensor, rotation: torch.Tensor, size: int, pinhole: bool) -> Camera:
    """A camera that shows points (n, k, 3) in the middle of an image, as large as a crop wants."""
    turned = square_mm @ rotation.transpose(1, 2)
    flat = turned[..., :2] * torch.tensor([1.0, -1.0])
    low, high = flat.amin(1), flat.amax(1)
    side = (high - low).amax(1) * 2**0.5 * EXPAND
    scale = size / side
    origin = (size - 1) / 2 - scale[:, None] * (low + high) / 2
    if not pinhole:
        return orthographic_camera(rotation, scale, origin)
    focal = torch.full_like(scale, FOCAL_WIDTHS * size)
    away = torch.stack((scale * 0 + 20.0, scale * 0 - 30.0, -focal / scale), 1)
    center = origin - (focal / -away[:, 2])[:, None] * away[:, :2] * torch.tensor([1.0, -1.0])
    return pinhole_camera(rotation, away, focal, center)


def faces_of(
    model: FaceModel,
    people: int = 4,
    frames: int = 2,
    seed: int = 0,
    yaw_deg: float = 20.0,
    size: int = SIZE,
    pinhole: bool = False,
) -> PgnFaces:
    """Renders: dotted heads with exact cameras, a person's frames beside each other."""
    return rendered(model, people, frames, seed, yaw_deg, size, pinhole)[0]


def rendered(
    model: FaceModel,
    people: int = 4,
    frames: int = 2,
    seed: int = 0,
    yaw_deg: float = 20.0,
    size: int = SIZE,
    pinhole: bool = False,
) -> tuple[PgnFaces, dict[str, np.ndarray]]:
    """`faces_of`, and what a cache tells of their points and cameras."""
    rng = np.random.default_rng(seed)
    count = people * frames
    identity, expression = heads(model, people, frames, rng)
    yaw = np.clip(rng.normal(0, yaw_deg, count), -80, 80)
    rotation = rotations(yaw, rng.normal(0, 8, count), rng.normal(0, 8, count))
    label_set = next(n for n in LABEL_SETS if n in model.landmark_embeddings)
    with torch.no_grad():
        vertices = model(identity, expression)
        points_mm = model.landmarks(vertices, label_set)
        square_mm = model.landmarks(vertices, scored68(model))
    camera = camera_to(square_mm, rotation, size, pinhole)
    told = camera_labels(camera)
    points, square = project(points_mm, camera), project(square_mm, camera)[..., :2]
    told["points"] = points.numpy()
    points = torch.from_numpy(along_sight(told))
    fitted = fit_orthographic(points_mm, points)
    labels = PoseLabels(
        fitted.rotation.numpy(), fitted.scale.numpy(), fitted.translation[:, :2].numpy(),
        identity.numpy(), expression.numpy(), np.zeros(count, np.float32),
    )  # fmt: skip
    crops = CropSet(
        "renders",
        label_set,
        (dotted(square.numpy(), size),),
        points.numpy(),
        np.ones(points.shape[:2], bool),
        size / EXPAND,
        yaw.astype(np.float32),
        np.ones(count, np.float32),
        np.arange(people).repeat(frames),
    )
    usable = np.ones(count, bool)
    return PgnFaces(FaceSet(crops, labels), _cameras(told), crops.yaw_deg, usable), told


def _cameras(told: dict[str, np.ndarray]) -> RenderCameras:
    pinhole = ~told["orthographic"]
    return RenderCameras(
        told["rotation"],
        told["translation_mm"],
        np.where(pinhole, told["f_px"], told["scale_px_per_mm"]),
        pinhole,
        told["center_px"],
        told["scale_px_per_mm"],
        toward_camera(told).astype(np.float32),
    )


def camera_labels(camera: Camera) -> dict[str, np.ndarray]:
    """What a cache tells of cameras."""
    away = camera.model == "pinhole"
    translation, zoom = camera.translation.numpy(), camera.scale.numpy()
    return {
        "rotation": camera.rotation.numpy(),
        "translation_mm": translation if away else np.zeros_like(translation),
        "f_px": zoom if away else np.zeros_like(zoom),
        "center_px": camera.center.numpy() if away else translation[:, :2],
        "scale_px_per_mm": zoom / -translation[:, 2] if away else zoom,
        "orthographic": np.full(len(zoom), not away),
    }


def photos_of(
    model: FaceModel, name: str, people: int = 4, frames: int = 3, seed: int = 9, clips: int = 2
) -> CropSet:
    """Photos "aflw21", of people unknown, or "ytf68", several frames of each from some clips."""
    crops = faces_of(model, people, frames, seed).crops
    marks = torch.from_numpy(crops.points[..., :2])
    convention = {"aflw21": "aflw21", "ytf68": "ict68"}[name]
    points = marks[:, :68] if name == "ytf68" else convert(marks, crops.convention, "aflw21")
    within = np.tile(np.arange(frames), people)
    of_video = name == "ytf68"
    return replace(
        crops,
        name=name,
        convention=convention,
        points=points.numpy(),
        visible=np.ones(points.shape[:2], bool),
        yaw_deg=np.full(len(crops), np.nan, np.float32),
        person=crops.person if of_video else None,
        frame=within % clips * 10 + within // clips if of_video else None,
    )


def corpus_of(model: FaceModel, people: int = 6, photos: bool = False) -> PgnCorpus:
    """A corpus: labelled people under both kinds of camera, held-out people, photos if wanted."""
    labelled = [faces_of(model, people, 2, 1), faces_of(model, people, 3, 2, pinhole=True)]
    held = {"renders-open": faces_of(model, 3, 2, 5)}
    real = {n: load_photos(photos_of(model, n), model) for n in ("aflw21", "ytf68")}
    return PgnCorpus(labelled, real if photos else {}, held)


def write_renders(
    folder: Path, model: FaceModel, shards: int = 2, people: int = 3, frames: int = 2
) -> Path:
    """A cache in the layout of `lifemask.data.synthetic`; the camera changes with the shard."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        faces, told = rendered(model, people, frames, seed=shard, pinhole=bool(shard % 2))
        labels = faces.faces.labels
        assert labels is not None and faces.crops.person is not None
        np.save(folder / f"images-{shard:04d}.npy", faces.crops.images[0])
        np.savez(
            folder / f"labels-{shard:04d}.npz",
            **told,
            visible=faces.crops.visible,
            identity=labels.identity,
            expression=labels.expression,
            person=faces.crops.person + shard * people,
            nominal_side_px=np.float32(NOMINAL),
        )
    header = {
        "licence": "open",
        "seed": 0,
        "nominal_side_px": NOMINAL,
        "convention": faces.crops.convention,
        "face_model": model.name,
        "identity_size": model.identity_size,
        "expression_names": list(model.expression_names),
    }
    (folder / "header.json").write_text(json.dumps(header))
    return folder


def write_prepared(folder: Path, model: FaceModel) -> Path:
    """`--prepared` with both sets of photos, training and held-out, made of dotted heads."""
    for k, part in enumerate(("training", "held-out")):
        for name in ("aflw21", "ytf68"):
            save_crops(photos_of(model, name, seed=20 + k), folder / f"{name}-{part}")
    return folder
