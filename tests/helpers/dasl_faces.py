"""Faces for the tests of 2DASL without a renderer: heads of any face model as coloured dots.

The cameras are scaled orthographic, so labels are exact. Every landmark set of a crop follows from
the same head.
"""

import json
from pathlib import Path

import numpy as np
import torch

from lifemask.data.base import CropSet, save_crops
from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import convert, flip_table
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.graphics.pose import project_with_jacobian
from lifemask.methods._coefficients import LABEL_SETS
from lifemask.training.dasl_data import DaslCorpus, DetectedMaps, FaceSet
from lifemask.training.dasl_labels import PoseLabels
from lifemask.types import Camera

SIZE = 64  # of stored images
EXPAND = 1.25
NOMINAL = SIZE / EXPAND


def mask_model(signed: bool = True, landmark_set: str = "ibug68-3d-bfm") -> LinearFaceModel:
    """A face mask shaped like BFM's: no regions, no gain, no symmetry told, signed expressions."""
    u, v = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 25))
    x, y = 75 * u.ravel(), -95 * v.ravel()
    nose = 25 * np.exp(-((x / 14) ** 2) - ((y + 5) / 25) ** 2)
    points = np.stack((x, y, 70 * np.cos(x / 60) * np.cos(y / 110) + nose), 1)
    ids = ((points[None, :, :2] - _template68()[:, None]) ** 2).sum(-1).argmin(1)
    corner = np.arange(24)[:, None] * 21 + np.arange(20)
    a, b = corner.ravel(), corner.ravel() + 21
    faces = torch.tensor(
        np.concatenate((np.stack((a, b, b + 1), 1), np.stack((a, b + 1, a + 1), 1)))
    )
    rng = np.random.default_rng(3)
    waves = [np.cos(k * np.pi * u) * np.cos(m * np.pi * v) for k in (0, 1, 2) for m in (1, 2)]
    modes = np.stack([w.ravel()[:, None] * rng.normal(0, 3, 3) for w in waves])
    jaw = np.exp(-(((y + 60) / 30) ** 2))[:, None] * np.array([0, -8.0, -2])
    smile = (np.exp(-(((y + 45) / 15) ** 2)) * x / 25)[:, None] * np.array([1.5, 0.5, -0.5])
    topology = Topology(
        faces=faces,
        uvs=torch.zeros(1, 2),
        faces_uv=torch.zeros(len(faces), 3, dtype=torch.int64),
        face_part=torch.zeros(len(faces), dtype=torch.int64),
        part_names=("skin",),
        mirror=torch.arange(len(points)),
        regions={},
    )
    embedding = LandmarkEmbedding(
        torch.tensor(ids)[:, None].expand(-1, 3).contiguous(),
        torch.tensor([1.0, 0, 0]).expand(68, 3).contiguous(),
        flip_table(landmark_set),
    )
    return LinearFaceModel(
        name="mask",
        mean=torch.tensor(points).float(),
        identity=torch.tensor(modes).float(),
        expression=torch.tensor(np.stack((jaw, smile))).float(),
        expression_names=("w0", "w1"),
        topology=topology,
        landmark_embeddings={landmark_set: embedding},
        expression_range=((-3.0, 3.0),) * 2 if signed else None,
    )


def _template68() -> np.ndarray:
    """Places (68, 2) in mm of the landmarks of a frontal face, image left first."""
    line = np.linspace
    jaw = np.stack((70 * np.sin(line(-1.5, 1.5, 17)), 10 - 90 * np.cos(line(-1.5, 1.5, 17))), 1)
    brows = np.array(
        [[s * x, 50] for s, xs in ((-1, line(55, 15, 5)), (1, line(15, 55, 5))) for x in xs]
    )
    ridge = np.stack((np.zeros(4), line(30, -5, 4)), 1)
    wings = np.stack((line(-15, 15, 5), np.full(5, -18.0)), 1)
    eye = np.array([[-12, 0], [-5, 6], [5, 6], [12, 0], [5, -6], [-5, -6]])
    turn = line(np.pi, -np.pi, 12, endpoint=False)
    outer = np.stack((25 * np.cos(turn), -45 + 12 * np.sin(turn)), 1)
    turn = line(np.pi, -np.pi, 8, endpoint=False)
    inner = np.stack((18 * np.cos(turn), -45 + 5 * np.sin(turn)), 1)
    eyes = (eye + [-32, 30], eye + [32, 30])
    return np.concatenate((jaw, brows, ridge, wings, *eyes, outer, inner))


def rotations(yaw_deg: np.ndarray, pitch_deg: np.ndarray, roll_deg: np.ndarray) -> torch.Tensor:
    """Roll after pitch after yaw, (n, 3, 3)."""
    yaw, pitch, roll = (torch.tensor(np.radians(x)) for x in (yaw_deg, pitch_deg, roll_deg))
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    about_y = matrix((yaw.cos(), zero, yaw.sin()), (zero, one, zero), (-yaw.sin(), zero, yaw.cos()))
    about_x = matrix(
        (one, zero, zero), (zero, pitch.cos(), -pitch.sin()), (zero, pitch.sin(), pitch.cos())
    )
    about_z = matrix(
        (roll.cos(), -roll.sin(), zero), (roll.sin(), roll.cos(), zero), (zero, zero, one)
    )
    return (about_z @ about_x @ about_y).float()


def scored68(model: FaceModel) -> str:
    """The set of 68 whose square is the crop."""
    known = model.landmark_embeddings
    return next(n for n in ("ibug68-3d-bfm", "ibug68", "ict68") if n in known)


def faces_of(
    model: FaceModel, count: int = 8, seed: int = 0, yaw_deg: float = 20.0, size: int = SIZE
) -> FaceSet:
    """Dotted heads with exact labels and slightly wrong detected points."""
    rng = np.random.default_rng(seed)
    identity = torch.tensor(rng.normal(0, 1, (count, model.identity_size)), dtype=torch.float32)
    names, ranges = model.expression_names, model.expression_range
    shape = (count, len(names))
    drawn = (
        rng.beta(1, 4, shape)
        if ranges is None
        else rng.normal(0, np.array(ranges)[:, 1] / 3, shape)
    )
    expression = torch.tensor(drawn, dtype=torch.float32)
    yaw = np.clip(rng.normal(0, yaw_deg, count), -80, 80)
    rotation = rotations(yaw, rng.normal(0, 8, count), rng.normal(0, 8, count))
    label_set = next(n for n in LABEL_SETS if n in model.landmark_embeddings)
    with torch.no_grad():
        vertices = model(identity, expression)
        points_mm = model.landmarks(vertices, label_set)
        square_mm = model.landmarks(vertices, scored68(model))
    turned = (square_mm @ rotation.transpose(1, 2))[..., :2] * torch.tensor([1.0, -1.0])
    low, high = turned.amin(1), turned.amax(1)
    scale = size / EXPAND / ((high - low).amax(1) * 2**0.5)
    shift = (size - 1) / 2 - scale[:, None] * (low + high) / 2
    camera = Camera(
        "orthographic",
        rotation,
        torch.cat((shift, torch.zeros(count, 1)), 1),
        scale,
        torch.zeros(count, 2),
    )
    points = project_with_jacobian(points_mm, camera)[0]
    square = project_with_jacobian(square_mm, camera)[0][..., :2]
    labels = PoseLabels(
        rotation.numpy(), scale.numpy(), shift.numpy(), identity.numpy(), expression.numpy(),
        np.zeros(count, np.float32),
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
    )
    noisy = square + torch.tensor(rng.normal(0, 0.5, square.shape), dtype=torch.float32)
    found = convert(noisy, scored68(model), "map18").numpy()
    maps = DetectedMaps(found, np.ones(found.shape[:2], bool), noisy.numpy())
    return FaceSet(crops, labels, maps)


def dotted(points: np.ndarray, size: int) -> np.ndarray:
    """Pictures (n, size, size, 3) with a coloured dot at each of some points (n, k, 2)."""
    line = np.arange(size)
    colours = np.random.default_rng(1).uniform(0.3, 1, (points.shape[1], 3))
    width = size / 64
    across = np.exp(-0.5 * ((line - points[..., :1]) / width) ** 2)
    down = np.exp(-0.5 * ((line - points[..., 1:2]) / width) ** 2)
    light = np.einsum("nkv,nku,kc->nvuc", down, across, colours)
    return (light.clip(0, 1) * 255).astype(np.uint8)


def corpus_of(model: FaceModel, count: int = 12, wild: int = 8) -> DaslCorpus:
    """A corpus of the open family: labelled heads, heads of which points were found, held out."""
    training = faces_of(model, count)
    unlabelled = {}
    if wild:
        unlabelled["renders"] = wild_faces(model, wild)
    return DaslCorpus([training], unlabelled, {"renders-open": faces_of(model, 6, seed=5)})


def wild_faces(model: FaceModel, count: int = 8) -> FaceSet:
    """Faces of which only found landmarks are known, in the model's set of 68."""
    from dataclasses import replace

    faces = faces_of(model, count, seed=9)
    assert faces.detected is not None
    crops = replace(
        faces.crops,
        name="wild-renders",
        convention=scored68(model),
        points=faces.detected.points68,
        visible=np.ones((count, 68), bool),
    )
    return FaceSet(crops, None, faces.detected)


def write_renders(
    folder: Path, model: FaceModel, shards: int = 3, count: int = 6, licence: str = "open"
) -> Path:
    """A cache in the layout of `lifemask.data.synthetic`, with dots in place of renders."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        faces = faces_of(model, count, seed=shard)
        labels = faces.labels
        assert labels is not None
        np.save(folder / f"images-{shard:04d}.npy", faces.crops.images[0])
        np.savez(
            folder / f"labels-{shard:04d}.npz",
            points=faces.crops.points,
            visible=faces.crops.visible,
            rotation=labels.rotation,
            scale_px_per_mm=labels.scale_px_per_mm,
            identity=labels.identity,
            expression=labels.expression,
            orthographic=np.ones(count, bool),
            nominal_side_px=np.float32(NOMINAL),
        )
    header = {
        "licence": licence,
        "seed": 0,
        "nominal_side_px": NOMINAL,
        "convention": faces.crops.convention,
        "face_model": model.name,
        "identity_size": model.identity_size,
        "expression_names": list(model.expression_names),
    }
    (folder / "header.json").write_text(json.dumps(header))
    return folder


def write_prepared(folder: Path, model: FaceModel, count: int = 8) -> Path:
    """`--prepared` with both sets of photos, training and held-out, made of dotted heads."""
    from dataclasses import replace

    for k, part in enumerate(("training", "held-out")):
        for name, convention in (("aflw21", "aflw21"), ("ytf68", "ict68")):
            crops = faces_of(model, count, seed=20 + k).crops
            points = torch.from_numpy(crops.points[..., :2])
            if name == "aflw21":
                own = convert(points, crops.convention, "ibug68-3d-bfm")
                points = convert(own, "ibug68-3d-bfm", "aflw21")
            else:
                points = convert(points, crops.convention, "ict68")
            real = replace(
                crops,
                name=name,
                convention=convention,
                points=points.numpy(),
                visible=np.ones(points.shape[:2], bool),
                yaw_deg=np.full(count, np.nan, np.float32),
                person=np.arange(count) + count * k,
            )
            save_crops(real, folder / f"{name}-{part}")
    return folder
