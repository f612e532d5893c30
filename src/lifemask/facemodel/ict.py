"""ICT-FaceKit Light (USC ICT, MIT) as a face model, from its OBJ folder or a converted npz.

The files come from the user: https://github.com/USC-ICT/ICT-FaceKit, folder FaceXModel. Paper: Li
et al., "Learning formation of physically-based face attributes", CVPR 2020.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifemask.assets import AssetError, external
from lifemask.facemodel._container import at_vertices, save_npz, with_parts
from lifemask.facemodel._geometry import mirror_table
from lifemask.facemodel.base import LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import flip_table
from lifemask.facemodel.linear import LinearFaceModel, as_tensor

CM_TO_MM = 10.0
REMEDY = "clone https://github.com/USC-ICT/ICT-FaceKit and pass the path of its FaceXModel folder"
REGION_NAMES = (
    *("face", "head_neck", "mouth_socket", "eye_socket_L", "eye_socket_R", "gums_tongue", "teeth"),
    *("eyeball_L", "eyeball_R", "lacrimal_L", "lacrimal_R", "eyeblend_L", "eyeblend_R"),
    *("eyeocc_L", "eyeocc_R", "eyelashes_L", "eyelashes_R"),
)
REGION_STARTS = (
    *(0, 9409, 11248, 13294, 13678, 14062, 17039, 21451, 23021, 24591, 24795, 24999, 25023),
    *(25047, 25199, 25351, 26035, 26719),
)
LANDMARKS_68 = (
    *(1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088),
    *(3443, 268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140),
    *(2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725),
    *(3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702, 5711, 5533),
    *(6216, 6207, 6470, 5517, 5966),
)
PAIRED = {
    "browInnerUp": ("browInnerUp_L", "browInnerUp_R"),
    "cheekPuff": ("cheekPuff_L", "cheekPuff_R"),
}
NOT_ARKIT = ("PupilDilate", "cheekRaiser")


def arkit_names(ict_names: tuple[str, ...]) -> list[str]:
    """The ARKit names that ICT's shapes can fill, in ICT's order; Left is the subject's left (+x).

    ICT splits browInnerUp and cheekPuff in two, has cheekRaiser and PupilDilate besides, and lacks
    tongueOut: 51 of 52.
    """
    out: list[str] = []
    for name in ict_names:
        if name.startswith(NOT_ARKIT):
            continue
        base, _, side = name.partition("_")
        full = base if base in PAIRED else base + {"L": "Left", "R": "Right", "": ""}[side]
        if full not in out:
            out.append(full)
    return out


def arkit_shape(shapes: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The delta (v, 3) for an ARKit name from ICT's shapes by ICT name.

    Raises:
        KeyError: ICT has no such shape.
    """
    if name in PAIRED:
        return shapes[PAIRED[name][0]] + shapes[PAIRED[name][1]]
    for suffix, side in (("Left", "_L"), ("Right", "_R")):
        ict_name = name.removesuffix(suffix) + side
        if name.endswith(suffix) and ict_name in shapes:
            return shapes[ict_name]
    return shapes[name]


def load(path: Path | None = None) -> LinearFaceModel:
    """ICT-FaceKit in millimetres with ARKit names, 100 identity modes and 51 expressions.

    Args:
        path: the FaceXModel folder, or the npz that `convert` wrote; None for `ict.npz` in
            `lifemask.assets.models_folder()`.

    Raises:
        AssetError: no path, or it holds no complete model.
    """
    if path is None:
        path = external("ict").place()
    elif not path.exists():
        raise AssetError(f"ICT-FaceKit is not at {path}: {REMEDY}")
    data = read_folder(path) if path.is_dir() else _read_npz(path)
    shapes = dict(zip(data["expression_names"].tolist(), data["expression"], strict=True))
    names = arkit_names(tuple(shapes))
    mean = data["mean"].astype(np.float32) * CM_TO_MM
    return LinearFaceModel(
        name="ict",
        mean=as_tensor(mean),
        identity=as_tensor(data["identity"]) * CM_TO_MM,
        expression=torch.stack([as_tensor(arkit_shape(shapes, n)) for n in names]) * CM_TO_MM,
        expression_names=tuple(names),
        topology=_topology(data, mean),
        landmark_embeddings=_landmarks(mean, data["faces"].astype(np.int64)),
    )


def convert(folder: Path, out: Path, header: Mapping[str, Any] | None = None) -> Path:
    """Writes the FaceXModel folder as one npz (about 17 MB, fp16 deltas) that `load` reads fast.

    Args:
        folder: FaceXModel.
        out: the npz; it appears whole or not at all.
        header: what to tell about its origin, JSON.

    Raises:
        AssetError: the folder holds no complete model.
    """
    data = read_folder(folder)
    halves = {key: data[key].astype(np.float16) for key in ("identity", "expression")}
    origin = {"header": np.array(json.dumps(header or {}))}
    save_npz({**data, **halves, **origin}, out, compress=True)
    return out


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a FaceXModel folder, in its centimetres.

    Returns:
        mean (v, 3), identity (i, v, 3), expression (e, v, 3), expression_names, faces (f, 3),
        uv (t, 2), faces_uv (f, 3), polygons (p, 4), tri_material (f,), material_names.

    Raises:
        AssetError: the neutral mesh or the shapes are missing, or differ in size.
    """
    neutral = folder / "generic_neutral_mesh.obj"
    if not neutral.is_file():
        raise AssetError(f"no generic_neutral_mesh.obj in {folder}: {REMEDY}")
    data = _read_obj(neutral)
    modes = sorted(folder.glob("identity[0-9]*.obj"))
    shapes = sorted(p for p in folder.glob("*.obj") if p not in modes and p.stem != neutral.stem)
    if not modes or not shapes:
        raise AssetError(f"no identity or expression shapes in {folder}: {REMEDY}")
    mean = data["mean"]
    data["identity"] = np.stack([_positions(p, len(mean)) - mean for p in modes])
    data["expression"] = np.stack([_positions(p, len(mean)) - mean for p in shapes])
    data["expression_names"] = np.array([p.stem for p in shapes])
    return data


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} is not a readable npz: {REMEDY}") from error
    needed = {"mean", "identity", "expression", "expression_names", "faces", "uv", "faces_uv"}
    if not needed <= data.keys():
        raise AssetError(f"{path} lacks {', '.join(sorted(needed - data.keys()))}: {REMEDY}")
    return data


def _positions(path: Path, count: int) -> np.ndarray:
    lines = [line[2:] for line in path.read_text().splitlines() if line.startswith("v ")]
    points = np.array(" ".join(lines).split(), dtype=np.float32).reshape(len(lines), -1)[:, :3]
    if len(points) != count:
        raise AssetError(f"{path.name} has {len(points)} vertices, the neutral mesh {count}")
    return points


def _read_obj(path: Path) -> dict[str, np.ndarray]:
    points, uvs, materials = [], [], ["default"]
    polygons, corners, groups = [], [], []
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(" ")
        if key == "v":
            points.append(rest.split()[:3])
        elif key == "vt":
            uvs.append(rest.split()[:2])
        elif key == "usemtl":
            materials.append(rest.strip())
        elif key == "f":
            pairs = [word.split("/") for word in rest.split()]
            ids = [int(pair[0]) - 1 for pair in pairs]
            polygons.append([*ids, -1][:4])
            corners.append([int(pair[1]) - 1 for pair in pairs if len(pair) > 1] or ids)
            groups.append(len(materials) - 1)
    names, material = np.unique(materials, return_inverse=True)
    quads = np.array(polygons)
    triangles = [(i, (0, k, k + 1)) for i, c in enumerate(corners) for k in range(1, len(c) - 1)]
    return {
        "mean": np.array(points, dtype=np.float32),
        "uv": np.array(uvs or [[0, 0]], dtype=np.float32),
        "polygons": quads.astype(np.int32),
        "faces": np.array([[polygons[i][j] for j in t] for i, t in triangles], dtype=np.int32),
        "faces_uv": np.array([[corners[i][j] for j in t] for i, t in triangles], dtype=np.int32),
        "tri_material": np.array([material[groups[i]] for i, _ in triangles], dtype=np.uint8),
        "material_names": names,
    }


def _topology(data: Mapping[str, np.ndarray], mean: np.ndarray) -> Topology:
    """One part per material, since each wears its own texture; UV tiles are moved to [0, 1]."""
    uvs, faces_uv = data["uv"].astype(np.float64), data["faces_uv"].astype(np.int64)
    tile = np.zeros_like(uvs)
    tile[faces_uv.ravel()] = np.repeat(np.floor(uvs[faces_uv].mean(1)), 3, 0)
    names = tuple(data["material_names"].tolist()) if "material_names" in data else ("skin",)
    part = data.get("tri_material", np.zeros(len(faces_uv), int))
    regions = {}
    for name, start, stop in zip(REGION_NAMES, REGION_STARTS, REGION_STARTS[1:], strict=False):
        regions[name] = torch.zeros(len(mean), dtype=torch.bool)
        regions[name][start:stop] = True
    return Topology(
        faces=as_tensor(data["faces"].astype(np.int64), torch.int64),
        uvs=as_tensor((uvs - tile).clip(0.0, 1.0)),
        faces_uv=as_tensor(faces_uv, torch.int64),
        face_part=as_tensor(part.astype(np.int64), torch.int64),
        part_names=names,
        mirror=as_tensor(mirror_table(mean), torch.int64),
        regions=regions,
        polygons=as_tensor(data["polygons"], torch.int64) if "polygons" in data else None,
    )


def _landmarks(mean: np.ndarray, faces: np.ndarray) -> dict[str, LandmarkEmbedding]:
    """The set "ict68" and those that follow from it."""
    sets = with_parts({"ict68": at_vertices(LANDMARKS_68)}, mean, faces)
    return {
        name: LandmarkEmbedding(
            as_tensor(entry.corners, torch.int64), as_tensor(entry.weights), flip_table(name)
        )
        for name, entry in sets.items()
    }
