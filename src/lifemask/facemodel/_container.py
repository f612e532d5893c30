"""The npz file that converted face models live in: arrays, names and a header with their origin."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lifemask.assets import AssetError
from lifemask.facemodel import _geometry as geometry
from lifemask.facemodel.base import LandmarkEmbedding, Topology
from lifemask.facemodel.landmarks import FROM_68, LANDMARK_SETS
from lifemask.facemodel.linear import LinearFaceModel, as_tensor

LAYOUT = "lifemask face model 1"
SIGNED = (-3.0, 3.0)
ACTIVATION = (0.0, 1.0)


@dataclass(frozen=True)
class Embedding:
    """A landmark set on triangles, as arrays: corners (n, 3), weights (n, 3)."""

    corners: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class ModelArrays:
    """A face model as arrays; lengths in mm, model frame.

    Attributes:
        mean: (v, 3) neutral mean.
        identity: (i, v, 3) per standard deviation.
        expression: (e, v, 3) per unit of each coefficient.
        expression_names: e names.
        expression_range: (e, 2) lowest and highest value.
        faces: (f, 3), counter-clockwise from outside.
        uvs: (t, 2), v up.
        faces_uv: (f, 3).
        face_part: (f,) index into `part_names`.
        part_names: of the textures.
        mirror: (v,) involution.
        regions: masks (v,) by name.
        landmarks: by set name.
        albedo_mean: (v, 3) colour in [0, 1], or None.
        albedo_basis: (k, v, 3) per standard deviation, or None.
        extra: further arrays of one kind of model.
        header: further entries of the file's header, JSON.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    expression_names: tuple[str, ...]
    expression_range: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    faces_uv: np.ndarray
    face_part: np.ndarray
    part_names: tuple[str, ...]
    mirror: np.ndarray
    regions: Mapping[str, np.ndarray]
    landmarks: Mapping[str, Embedding] = field(default_factory=dict)
    albedo_mean: np.ndarray | None = None
    albedo_basis: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)


_FLOATS = ("mean", "identity", "expression", "expression_range", "uvs")
_INTEGERS = ("faces", "faces_uv", "face_part", "mirror")


def write_model(arrays: ModelArrays, header: Mapping[str, Any], out: Path) -> Path:
    """Writes the npz at once: the file appears whole or not at all.

    Args:
        arrays: the model; checked first.
        header: what is known about its origin, as JSON.
        out: the file; ".npz" is appended where it lacks a suffix.

    Returns:
        The file's path.

    Raises:
        AssetError: the arrays do not fit together, or the file cannot be written.
    """
    check(arrays)
    names = {
        "expressions": list(arrays.expression_names),
        "parts": list(arrays.part_names),
        "regions": list(arrays.regions),
        "landmark_sets": list(arrays.landmarks),
    }
    content: dict[str, np.ndarray] = {
        "header": np.array(
            json.dumps({**arrays.header, **header, "layout": LAYOUT, "names": names})
        ),
        **{key: np.asarray(getattr(arrays, key), dtype=np.float32) for key in _FLOATS},
        **{key: np.asarray(getattr(arrays, key), dtype=np.int32) for key in _INTEGERS},
        "regions": np.array(list(arrays.regions.values()), dtype=bool),
        **{f"extra.{key}": value for key, value in arrays.extra.items()},
    }
    for name, entry in arrays.landmarks.items():
        content[f"landmarks.{name}.corners"] = np.asarray(entry.corners, dtype=np.int32)
        content[f"landmarks.{name}.weights"] = np.asarray(entry.weights, dtype=np.float32)
    if arrays.albedo_mean is not None and arrays.albedo_basis is not None:
        content["albedo_mean"] = np.asarray(arrays.albedo_mean, dtype=np.float32)
        content["albedo_basis"] = np.asarray(arrays.albedo_basis, dtype=np.float32)
    out = out if out.suffix else out.with_suffix(".npz")
    save_npz(content, out)
    return out


def save_npz(content: Mapping[str, np.ndarray], out: Path, compress: bool = False) -> None:
    """Writes arrays to a temporary file beside `out`, then renames it.

    Raises:
        AssetError: the folder does not exist or cannot be written.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as stream:
            save = np.savez_compressed if compress else np.savez
            save(stream, **content)  # pyright: ignore[reportArgumentType]
        partial.replace(out)
    except OSError as error:
        raise AssetError(f"{out} cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)


def check(arrays: ModelArrays) -> None:
    """Raises AssetError where the arrays of a model do not fit together."""
    count = len(arrays.mean)
    problems = {
        "mean": arrays.mean.shape != (count, 3) or not np.isfinite(arrays.mean).all(),
        "identity": arrays.identity.shape[1:] != (count, 3),
        "expression": arrays.expression.shape != (len(arrays.expression_names), count, 3),
        "expression ranges": arrays.expression_range.shape != (len(arrays.expression_names), 2),
        "triangles": not _ids_below(arrays.faces, count, 3),
        "texture coordinates": not _ids_below(arrays.faces_uv, len(arrays.uvs), 3)
        or len(arrays.faces_uv) != len(arrays.faces),
        "mirror table": arrays.mirror.shape != (count,)
        or (arrays.mirror[arrays.mirror] != np.arange(count)).any(),
        "regions": any(mask.shape != (count,) for mask in arrays.regions.values()),
        "landmarks": any(not _ids_below(e.corners, count, 3) for e in arrays.landmarks.values()),
    }
    wrong = [name for name, bad in problems.items() if bad]
    if wrong:
        raise AssetError(f"the files do not make a face model: wrong {', '.join(wrong)}")
    if not all(np.isfinite(a).all() for a in (arrays.identity, arrays.expression, arrays.uvs)):
        raise AssetError("the files do not make a face model: a basis is not finite")


def _ids_below(ids: np.ndarray, count: int, width: int) -> bool:
    if ids.ndim != 2 or ids.shape[1] != width or ids.dtype.kind not in "iu":
        return False
    return ids.size == 0 or (ids.min() >= 0 and ids.max() < count)


def read_model(path: Path, remedy: str) -> tuple[ModelArrays, dict[str, Any]]:
    """The arrays and the header of a converted model.

    Raises:
        AssetError: missing, damaged or another layout; the message ends with the remedy.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
        header = json.loads(str(data["header"]))
        names = header["names"]
        if header["layout"] != LAYOUT:
            raise ValueError(f"its layout is {header['layout']!r}")
        arrays = _arrays(data, names)
    except FileNotFoundError:
        raise AssetError(f"{path} does not exist: {remedy}") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise AssetError(f"{path} is not a converted face model ({error}): {remedy}") from error
    check(arrays)
    return arrays, header


def _arrays(data: Mapping[str, np.ndarray], names: Mapping[str, list[str]]) -> ModelArrays:
    return ModelArrays(
        **{key: data[key] for key in (*_FLOATS, *_INTEGERS)},  # pyright: ignore[reportArgumentType]
        expression_names=tuple(names["expressions"]),
        part_names=tuple(names["parts"]),
        regions=dict(zip(names["regions"], data["regions"], strict=True)),
        landmarks={
            name: Embedding(data[f"landmarks.{name}.corners"], data[f"landmarks.{name}.weights"])
            for name in names["landmark_sets"]
        },
        albedo_mean=data.get("albedo_mean"),
        albedo_basis=data.get("albedo_basis"),
        extra={key[6:]: value for key, value in data.items() if key.startswith("extra.")},
    )


def topology_of(arrays: ModelArrays) -> Topology:
    """The `Topology` of a model's arrays."""
    return Topology(
        faces=as_tensor(arrays.faces, torch.int64),
        uvs=as_tensor(arrays.uvs),
        faces_uv=as_tensor(arrays.faces_uv, torch.int64),
        face_part=as_tensor(arrays.face_part, torch.int64),
        part_names=arrays.part_names,
        mirror=as_tensor(arrays.mirror, torch.int64),
        regions={name: torch.as_tensor(mask) for name, mask in arrays.regions.items()},
    )


def embeddings_of(arrays: ModelArrays) -> dict[str, LandmarkEmbedding]:
    """The landmark embeddings of a model's arrays."""
    return {
        name: LandmarkEmbedding(
            as_tensor(entry.corners, torch.int64),
            as_tensor(entry.weights),
            torch.tensor(LANDMARK_SETS[name].flip),
        )
        for name, entry in arrays.landmarks.items()
    }


def linear_model(arrays: ModelArrays, name: str) -> LinearFaceModel:
    """A linear face model in float32 on the CPU."""
    return LinearFaceModel(
        name=name,
        mean=as_tensor(arrays.mean),
        identity=as_tensor(arrays.identity),
        expression=as_tensor(arrays.expression),
        expression_names=arrays.expression_names,
        topology=topology_of(arrays),
        landmark_embeddings=embeddings_of(arrays),
        expression_range=ranges_of(arrays),
        albedo_mean=_tensor_or_none(arrays.albedo_mean),
        albedo_basis=_tensor_or_none(arrays.albedo_basis),
    )


def _tensor_or_none(values: np.ndarray | None) -> Tensor | None:
    return None if values is None else as_tensor(values)


def ranges_of(arrays: ModelArrays) -> tuple[tuple[float, float], ...]:
    """(lowest, highest) of each expression coefficient."""
    return tuple((float(low), float(high)) for low, high in arrays.expression_range)


def at_vertices(ids: Sequence[int] | np.ndarray) -> Embedding:
    """Landmarks that are vertices."""
    ids = np.asarray(ids, dtype=np.int64).reshape(-1)
    weights = np.zeros((len(ids), 3))
    weights[:, 0] = 1
    return Embedding(np.repeat(ids[:, None], 3, 1), weights)


def with_parts(
    given: Mapping[str, Embedding], mean: np.ndarray, faces: np.ndarray
) -> dict[str, Embedding]:
    """The sets and, where there is a set of 68, those that follow from it (`FROM_68`).

    A landmark that is the mean of several lies at the surface point closest to it. The chin and
    the Surrey points are not derived.
    """
    out = dict(given)
    whole = next((given[n] for n in ("ibug68-3d-bfm", "ibug68", "ict68") if n in given), None)
    if whole is None:
        return out
    points = np.einsum("nkc,nk->nc", mean[whole.corners], whole.weights)
    for name in ("ibug51", "aflw21", "map18"):
        corners, weights = [], []
        for row in FROM_68[name]:
            if len(row) == 1:
                corners.append(whole.corners[row[0]])
                weights.append(whole.weights[row[0]])
                continue
            target = points[list(row)].mean(0, keepdims=True)
            corner, weight = geometry.closest_corners(target, mean, faces)
            corners.append(corner[0])
            weights.append(weight[0])
        out.setdefault(name, Embedding(np.array(corners), np.array(weights)))
    return out
