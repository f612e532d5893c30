"""Surrey Face Model (University of Surrey; research only) as a linear face model, from eos's files.

Huber et al., "A multiresolution 3D morphable face model and fitting framework", VISAPP 2016. The
shape-only model of 3,448 vertices comes with the library eos (folder `share`); models with colour
and more vertices come from Surrey in the same format. Millimetres, y up, z out of the face.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lifemask.assets import AssetError, external
from lifemask.facemodel import _geometry as geometry
from lifemask.facemodel._cereal import EosModel, Pca, read_blendshapes, read_eos_model
from lifemask.facemodel._container import (
    ACTIVATION,
    SIGNED,
    Embedding,
    ModelArrays,
    at_vertices,
    linear_model,
    read_model,
)
from lifemask.facemodel._readers import json_of, read_bytes, source_files
from lifemask.facemodel.landmarks import SFM_50
from lifemask.facemodel.linear import LinearFaceModel

NOSE_TIP = SFM_50.index(30)
VERTICES_50 = (
    *(33, 225, 229, 233, 2086, 157, 590, 2091, 666, 662, 658, 2842, 379, 272, 114),
    *(100, 2794, 270, 2797, 537, 177, 172, 191, 181, 173, 174, 614, 624, 605, 610, 607, 606),
    *(398, 315, 413, 329, 825, 736, 812, 841, 693, 411, 264, 431),
    *(416, 423, 828, 817, 442, 404),
)
"""Vertices of the set "sfm50", in its order (eos, `share/ibug_to_sfm.txt`)."""


def load(path: Path | None = None) -> LinearFaceModel:
    """The Surrey Face Model from a converted npz, in mm; expressions are activations in [0, 1].

    Raises:
        AssetError: the file is missing or damaged; the message says how to make it.
    """
    asset = external("sfm")
    return linear_model(read_model(asset.place(path), asset.remedy)[0], "sfm")


def read_files(sources: Sequence[Path]) -> tuple[ModelArrays, str]:
    """The Surrey model from `sfm_*.bin` and, where given, what lies beside it in eos's `share`.

    `expression_blendshapes_*.bin` adds the expressions, `sfm_model_contours.json` the regions
    "contour_right" and "contour_left", and `ibug_to_sfm.txt` replaces the built-in landmark table.
    The origin, which eos puts at the nose tip, moves back by half of the depth, into the head.

    Returns:
        The arrays and the model file's stem.

    Raises:
        AssetError: there is not exactly one model, or a file is damaged.
    """
    files = source_files(sources)
    bins = [p for p in files if p.suffix == ".bin"]
    faces = [p for p in bins if "blendshapes" in p.name]
    models = [p for p in bins if p not in faces and p.name.startswith("sfm")]
    if len(models) != 1 or len(faces) > 1:
        found = ", ".join(p.name for p in bins) or "none"
        raise AssetError(
            f"one sfm_*.bin and at most one expression_blendshapes_*.bin are needed, found: {found}"
        )
    model = read_eos_model(read_bytes(models[0]), models[0].name)
    shapes = model.expression
    if faces:
        shapes = read_blendshapes(read_bytes(faces[0]), faces[0].name)
    by_name = {p.name: p for p in files}
    ids = VERTICES_50
    if "ibug_to_sfm.txt" in by_name:
        ids = _mapping(by_name["ibug_to_sfm.txt"])
    contours = _contours(by_name.get("sfm_model_contours.json"), len(model.shape.mean) // 3)
    return _arrays(model, shapes, ids, contours), models[0].stem


def _arrays(
    model: EosModel,
    shapes: Pca | dict[str, np.ndarray] | None,
    ids: Sequence[int],
    contours: dict[str, np.ndarray],
) -> ModelArrays:
    mean = model.shape.mean.astype(np.float64).reshape(-1, 3)
    names, expression, limits, offset = _expressions(shapes, mean.size)
    mean = mean + offset
    shift = (mean[:, 2].min() + mean[:, 2].max()) / 2
    mean = mean - np.array([0.0, 0.0, shift])
    faces = geometry.outward_faces(mean, model.shape.triangles)
    uvs, faces_uv = _uvs(model, mean, faces)
    landmarks: dict[str, Embedding] = {}
    nose = mean[mean[:, 2].argmax()]
    if max(ids) < len(mean):
        landmarks["sfm50"] = at_vertices(ids)
        nose = mean[ids[NOSE_TIP]]
    colour = None
    if model.colour.mean.size == mean.size:
        colour = model.colour
    return ModelArrays(
        mean=mean,
        identity=_rows(model.shape.scaled),
        expression=expression,
        expression_names=names,
        expression_range=np.tile(limits, (len(names), 1)),
        faces=faces,
        uvs=uvs,
        faces_uv=faces_uv,
        face_part=np.zeros(len(faces), dtype=np.int64),
        part_names=("skin",),
        mirror=geometry.mirror_table(mean),
        regions={"face": geometry.near(mean, nose), **contours},
        landmarks=landmarks,
        albedo_mean=None if colour is None else colour.mean.reshape(-1, 3),
        albedo_basis=None if colour is None else _rows(colour.scaled),
        header={"origin_moved_mm": [0.0, 0.0, -float(shift)]},
    )


def _rows(columns: np.ndarray) -> np.ndarray:
    """Modes (k, v, 3) from columns (3v, k)."""
    return columns.T.reshape(columns.shape[1], -1, 3)


def _expressions(
    shapes: Pca | dict[str, np.ndarray] | None, size: int
) -> tuple[tuple[str, ...], np.ndarray, tuple[float, float], np.ndarray]:
    """Names, shapes (e, v, 3), the range of the coefficients, and what to add to the mean."""
    nothing = np.zeros((size // 3, 3))
    if shapes is None:
        return (), np.zeros((0, size // 3, 3)), ACTIVATION, nothing
    if isinstance(shapes, Pca):
        if len(shapes.mean) != size:
            raise AssetError("the expression model has other vertices than the shape model")
        modes = _rows(shapes.scaled)
        names = tuple(f"expression{i:03d}" for i in range(len(modes)))
        return names, modes, SIGNED, shapes.mean.reshape(-1, 3)
    if any(len(shape) != size for shape in shapes.values()):
        raise AssetError("the blendshapes have other vertices than the shape model")
    stacked = np.stack([shape.reshape(-1, 3) for shape in shapes.values()])
    return tuple(shapes), stacked, ACTIVATION, nothing


def _uvs(model: EosModel, mean: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model's uvs with v up (eos stores v down), else a cylindrical unwrap."""
    uvs = model.uvs.astype(np.float64)
    if not len(uvs):
        return geometry.cylinder_uvs(mean, faces)
    uvs = np.stack((uvs[:, 0], 1 - uvs[:, 1]), 1)
    if not len(model.faces_uv):
        if len(uvs) != len(mean):
            raise AssetError("the model's texture coordinates do not belong to its vertices")
        return uvs, faces
    if len(model.faces_uv) != len(faces):
        raise AssetError("the model's texture triangles do not belong to its triangles")
    turned = not np.array_equal(faces, model.shape.triangles)
    return uvs, model.faces_uv[:, [0, 2, 1]] if turned else model.faces_uv


def _mapping(path: Path) -> tuple[int, ...]:
    """The vertices of "sfm50" from lines like `31 = 114  # nose-tip`; iBUG counts from 1."""
    text = read_bytes(path, 2**20).decode("utf-8", errors="replace")
    found = dict(re.findall(r"^[ \t]*(\d+)[ \t=]+(\d+)", text, flags=re.MULTILINE))
    missing = [i + 1 for i in SFM_50 if str(i + 1) not in found]
    if missing:
        raise AssetError(f"{path.name} lacks the landmarks {', '.join(map(str, missing))}")
    return tuple(int(found[str(i + 1)]) for i in SFM_50)


def _contours(path: Path | None, count: int) -> dict[str, np.ndarray]:
    if path is None:
        return {}
    content = json_of(np.frombuffer(read_bytes(path, 2**20), np.uint8), path.name)
    try:
        sides = {side: content["model_contour"][f"{side}_contour"] for side in ("right", "left")}
        ids = {side: np.array(values, dtype=np.int64) for side, values in sides.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(f"{path.name} does not list the model's contours") from error
    return {f"contour_{side}": np.isin(np.arange(count), index) for side, index in ids.items()}
