"""FLAME's published files (pickles of numpy, scipy and chumpy, in metres) to arrays in mm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lifemask.assets import AssetError
from lifemask.facemodel import _geometry as geometry
from lifemask.facemodel._container import SIGNED, Embedding, ModelArrays, with_parts
from lifemask.facemodel._pickle_arrays import read_pickle_file, to_array, to_dict
from lifemask.facemodel._readers import read_npz, read_obj_uvs, source_files
from lifemask.facemodel.flame import POSE_JOINTS
from lifemask.facemodel.landmarks import MEDIAPIPE_105

M_TO_MM = 1000.0
IDENTITY_SHARE = 0.75
"""`shapedirs` holds 300 identity and 100 expression modes; the file does not state the split."""
ONE_SEX = ("female_model.pkl", "male_model.pkl")
NEEDED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
REGIONS = ("left_eyeball", "right_eyeball")
NPZ_KEYS = ("lmk_face_idx", "lmk_b_coords", "landmark_indices", "vt", "ft")

Table = Mapping[Any, Any]


def read_files(sources: Sequence[Path]) -> tuple[ModelArrays, str]:
    """FLAME from its model pickle and, where given, embeddings, masks and uvs.

    Files are recognised by what they hold: the model (`generic_model.pkl`, `flame2023_Open.pkl`,
    `flame2023_no_jaw.pkl`, ...); landmarks (`flame_static_embedding.pkl` with 51 or 68 points,
    `flame_dynamic_embedding.npy`, DECA's `landmark_embedding.npy`,
    `mediapipe_landmark_embedding.npz`); `FLAME_masks.pkl`; uvs (`FLAME_texture.npz` or
    `head_template_mesh.obj`). A model whose name says "no_jaw" gets no jaw coefficients.

    Returns:
        The arrays, whose `extra` holds what skinning needs, and the model file's stem.

    Raises:
        AssetError: there is not exactly one model, or a file is damaged or refused.
    """
    files = source_files(sources)
    generic = any(p.name == "generic_model.pkl" for p in files)
    tables: dict[Path, Table] = {}
    for path in files:
        if path.suffix in (".pkl", ".npy") and not (generic and path.name in ONE_SEX):
            tables[path] = to_dict(read_pickle_file(path), path.name)
        elif path.suffix == ".npz":
            tables[path] = read_npz(path, NPZ_KEYS)
    models = [path for path, table in tables.items() if "v_template" in table]
    if len(models) != 1:
        found = ", ".join(p.name for p in models) or "none"
        raise AssetError(f"one FLAME model pickle is needed, found: {found}")
    model = tables.pop(models[0])
    charts = [read_obj_uvs(p) for p in files if p.suffix == ".obj"]
    return _arrays(model, models[0].stem, list(tables.values()), charts), models[0].stem


def _arrays(
    model: Table, stem: str, tables: Sequence[Table], charts: Sequence[tuple[np.ndarray, ...]]
) -> ModelArrays:
    missing = [key for key in NEEDED if key not in model]
    if missing:
        raise AssetError(f"{stem} lacks {', '.join(missing)}")
    data = {key: to_array(model[key], f"{stem}: {key}") for key in NEEDED}
    mean = data["v_template"].astype(np.float64) * M_TO_MM
    count = len(mean)
    modes = data["shapedirs"].astype(np.float64).transpose(2, 0, 1) * M_TO_MM
    split = round(len(modes) * IDENTITY_SHARE)
    original = data["f"].astype(np.int64)
    faces = geometry.outward_faces(mean, original)
    extra = _skinning(data, count, stem) | _contour(tables, original)
    landmarks = _landmarks(tables, original)
    regions = _regions(tables, count)
    if "face" not in regions:
        regions["face"] = geometry.near(mean, mean[mean[:, 2].argmax()])
    uvs, faces_uv = _uvs(tables, charts, mean, original, faces)
    piece = geometry.components(count, faces)
    eyes = piece > 0
    if all(name in regions for name in REGIONS):
        eyes = regions[REGIONS[0]] | regions[REGIONS[1]]
    linear = modes[split:]
    return ModelArrays(
        mean=mean,
        identity=modes[:split],
        expression=linear,
        expression_names=tuple(f"expression{i:03d}" for i in range(len(linear))),
        expression_range=np.tile(SIGNED, (len(linear), 1)),
        faces=faces,
        uvs=uvs,
        faces_uv=faces_uv,
        face_part=np.asarray(eyes[faces].all(1), dtype=np.int64),
        part_names=("skin", "eyes"),
        mirror=geometry.mirror_table(mean),
        regions=regions,
        landmarks=with_parts(landmarks, mean, faces),
        extra=extra,
        header={"pose": [p for p in POSE_JOINTS if p != "jaw" or "no_jaw" not in stem]},
    )


def _skinning(data: Mapping[str, np.ndarray], count: int, stem: str) -> dict[str, np.ndarray]:
    """Pose correctives (9 (j - 1), v, 3) mm, joint regressor (j, v), weights (v, j), parents."""
    parents = data["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    joints = len(parents)
    correctives = data["posedirs"].astype(np.float64)
    expected = {
        "posedirs": (correctives.shape, (count, 3, 9 * (joints - 1))),
        "J_regressor": (data["J_regressor"].shape, (joints, count)),
        "weights": (data["weights"].shape, (count, joints)),
    }
    for key, (shape, wanted) in expected.items():
        if shape != wanted:
            raise AssetError(f"{stem}: {key} has shape {shape}, expected {wanted}")
    if joints <= max(POSE_JOINTS.values()) or (parents[1:] >= np.arange(1, joints)).any():
        raise AssetError(f"{stem}: the joints are not root, neck, jaw and eyes in this order")
    return {
        "pose_basis": (correctives.transpose(2, 0, 1) * M_TO_MM).astype(np.float32),
        "joint_regressor": data["J_regressor"].astype(np.float32),
        "skinning": data["weights"].astype(np.float32),
        "parents": parents.astype(np.int32),
    }


def _embedding(faces: np.ndarray, triangles: np.ndarray, weights: np.ndarray) -> Embedding:
    triangles = triangles.astype(np.int64).reshape(-1)
    weights = weights.astype(np.float64).reshape(-1, 3)
    if len(weights) != len(triangles) or triangles.min() < 0 or triangles.max() >= len(faces):
        raise AssetError("a landmark embedding does not belong to this model's triangles")
    return Embedding(faces[triangles], weights)


def _landmarks(tables: Sequence[Table], faces: np.ndarray) -> dict[str, Embedding]:
    """Embeddings of "ibug68", "ibug51" and "mediapipe105", as far as the files have them."""
    out: dict[str, Embedding] = {}
    for table in tables:
        if "full_lmk_faces_idx" in table:
            triangles = to_array(table["full_lmk_faces_idx"], "full_lmk_faces_idx")
            weights = to_array(table["full_lmk_bary_coords"], "full_lmk_bary_coords")
            out["ibug68"] = _embedding(faces, triangles, weights)
        if "lmk_face_idx" not in table:
            continue
        triangles = to_array(table["lmk_face_idx"], "lmk_face_idx")
        entry_weights = to_array(table["lmk_b_coords"], "lmk_b_coords")
        if triangles.ndim != 1:
            continue  # the dynamic contour, one row per degree
        entry = _embedding(faces, triangles, entry_weights)
        if "landmark_indices" in table:
            indices = to_array(table["landmark_indices"], "landmark_indices").reshape(-1)
            out["mediapipe105"] = _mediapipe(entry, indices)
        elif len(triangles) in (51, 68):
            out[f"ibug{len(triangles)}"] = entry
    contour = _contour(tables, faces)
    if "ibug68" not in out and "ibug51" in out and contour:
        inner = out["ibug51"]
        corners = np.concatenate((contour["contour_corners"][0], inner.corners))
        weights = np.concatenate((contour["contour_weights"][0], inner.weights))
        out["ibug68"] = Embedding(corners, weights)
    return out


def _mediapipe(entry: Embedding, indices: np.ndarray) -> Embedding:
    place = {int(index): k for k, index in enumerate(indices)}
    if set(place) != set(MEDIAPIPE_105) or len(entry.corners) != len(indices):
        raise AssetError("the MediaPipe embedding is not the one of 105 points")
    order = [place[index] for index in MEDIAPIPE_105]
    return Embedding(entry.corners[order], entry.weights[order])


def _contour(tables: Sequence[Table], faces: np.ndarray) -> dict[str, np.ndarray]:
    """Corners and weights (79, 17, 3) of the jaw points by head yaw, where the files have them."""
    for table in tables:
        for ids, shares in (
            ("dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords"),
            ("lmk_face_idx", "lmk_b_coords"),
        ):
            if ids not in table or shares not in table:
                continue
            triangles = to_array(table[ids], ids)
            if triangles.ndim != 2 or triangles.shape[1] != 17:
                continue
            entry = _embedding(faces, triangles, to_array(table[shares], shares))
            shape = (*triangles.shape, 3)
            return {
                "contour_corners": entry.corners.reshape(shape).astype(np.int32),
                "contour_weights": entry.weights.reshape(shape).astype(np.float32),
            }
    return {}


def _regions(tables: Sequence[Table], count: int) -> dict[str, np.ndarray]:
    """Vertex masks of `FLAME_masks.pkl`: face, forehead, lips, nose, scalp, neck, ears, eyes."""
    for table in tables:
        if not all(name in table for name in REGIONS):
            continue
        out: dict[str, np.ndarray] = {}
        for name, ids in table.items():
            index = to_array(ids, f"mask {name}").astype(np.int64).reshape(-1)
            if len(index) and (index.min() < 0 or index.max() >= count):
                raise AssetError(f"the mask {name} does not belong to this model")
            out[str(name)] = np.isin(np.arange(count), index)
        return {**out, "eyeballs": out[REGIONS[0]] | out[REGIONS[1]]}
    return {}


def _uvs(
    tables: Sequence[Table],
    charts: Sequence[tuple[np.ndarray, ...]],
    mean: np.ndarray,
    original: np.ndarray,
    faces: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The authors' uvs, else a cylindrical unwrap; corners turned like the triangles."""
    found: tuple[np.ndarray, np.ndarray] | None = None
    for table in tables:
        if "vt" in table and "ft" in table:
            found = (to_array(table["vt"], "vt"), to_array(table["ft"], "ft").astype(np.int64))
    for points, uvs, corners in charts:
        if len(points) == len(mean) and np.array_equal(corners[..., 0], original):
            found = (uvs, corners[..., 1])
    if found is None or found[1].shape != faces.shape or found[1].max() >= len(found[0]):
        return geometry.cylinder_uvs(mean, faces)
    uvs, faces_uv = found
    turned = not np.array_equal(faces, original)
    return uvs.astype(np.float64), faces_uv[:, [0, 2, 1]] if turned else faces_uv
