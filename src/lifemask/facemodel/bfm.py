"""Basel Face Model 2009 and 2017 (University of Basel; research only) as linear face models.

The files come from the user; `lifemask assets convert bfm2009|bfm2017` reads them once. 2009:
Paysan et al., "A 3D face model for pose and illumination invariant face recognition", AVSS 2009.
2017: Gerig et al., "Morphable face models - an open framework", FG 2018. BFM 2009 has no
expressions of its own; two published sets that were transferred from FaceWarehouse are read:
3DDFA's (`Model_Expression.mat`) and that of Guo et al. as Deep3DFaceReconstruction uses it
(`Exp_Pca.bin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lifemask.assets import AssetError, external
from lifemask.facemodel import _geometry as geometry
from lifemask.facemodel._container import (
    SIGNED,
    Embedding,
    ModelArrays,
    at_vertices,
    linear_model,
    read_model,
    with_parts,
)
from lifemask.facemodel._readers import (
    json_of,
    read_bytes,
    read_hdf5,
    read_mat,
    read_numbers,
    source_files,
)
from lifemask.facemodel.linear import LinearFaceModel

UM_TO_MM, DM_TO_MM = 1e-3, 100.0
FACE3D = {"expPC": "w_exp", "expMU": "mu_exp", "expEV": "sigma_exp", "kpt_ind": "keypoints"}
"""What face3d's `BFM.mat` calls the expressions and keypoints of 3DDFA."""
NAMES_15 = (
    *("center.chin.tip", "center.nose.tip"),
    *("right.nose.wing.tip", "center.nose.attachement_to_philtrum", "left.nose.wing.tip"),
    *("right.eye.corner_outer", "right.eye.corner_inner"),
    *("left.eye.corner_inner", "left.eye.corner_outer"),
    *("right.lips.corner", "center.lips.upper.outer", "left.lips.corner"),
    *("center.lips.lower.outer", "center.lips.upper.inner", "center.lips.lower.inner"),
)
"""The names in BFM 2017's own landmark list of the points of the set "bfm15", in its order."""


def load_2009(path: Path | None = None) -> LinearFaceModel:
    """BFM 2009 from a converted npz; identity and expression are normal, in mm.

    Raises:
        AssetError: the file is missing or damaged; the message says how to make it.
    """
    return _load("bfm2009", path)


def load_2017(path: Path | None = None) -> LinearFaceModel:
    """BFM 2017 (or 2019, which has the same layout) from a converted npz, in mm.

    Raises:
        AssetError: the file is missing or damaged; the message says how to make it.
    """
    return _load("bfm2017", path)


def _load(name: str, path: Path | None) -> LinearFaceModel:
    asset = external(name)
    return linear_model(read_model(asset.place(path), asset.remedy)[0], name)


@dataclass(frozen=True)
class _Basis:
    """Rows of a PCA: mean (v, 3) and modes (k, v, 3), per standard deviation."""

    mean: np.ndarray
    modes: np.ndarray

    def at(self, rows: np.ndarray) -> _Basis:
        return _Basis(self.mean[rows], self.modes[:, rows])


def _basis(mean: np.ndarray, modes: np.ndarray, sigma: np.ndarray, what: str) -> _Basis:
    """A PCA from a vector (3v,), columns (3v, k) and standard deviations (k,)."""
    mean, sigma = mean.astype(np.float64).reshape(-1), sigma.astype(np.float64).reshape(-1)
    if mean.size % 3 or modes.shape != (mean.size, sigma.size):
        raise AssetError(f"the {what} has modes {modes.shape} for {mean.size} numbers")
    scaled = (modes.astype(np.float32) * sigma.astype(np.float32)).T
    return _Basis(mean.reshape(-1, 3), scaled.reshape(len(sigma), -1, 3))


def read_2009(sources: Sequence[Path]) -> tuple[ModelArrays, str]:
    """BFM 2009 from its files and those of 3DDFA or Deep3DFaceReconstruction.

    `01_MorphableModel.mat` alone gives 53,490 vertices, 199 identities and no expressions. With
    an expression set and the list of its vertices (`trimIndex` of `BFM_exp_idx.mat` or
    `model_info.mat`) it gives 53,215; with `BFM_front_idx.mat` and `facemodel_info.mat` besides,
    the 35,709 of Deep3D. `BFM_model_front.mat` and face3d's `BFM.mat` are read by themselves. Files
    are recognised by what they hold, so other files in the same folder do no harm.

    Returns:
        The arrays and the variant: "basel", "3ddfa", "deep3d" or "trimmed".

    Raises:
        AssetError: they do not make a model; the message names what is missing.
    """
    files = source_files(sources)
    mats: dict[str, np.ndarray] = {}
    for path in sorted(p for p in files if p.suffix == ".mat"):
        content = {FACE3D.get(key, key): value for key, value in read_mat(path).items()}
        for key in content.keys() & {"keypoints", "tri"}:
            kind = "front." if "skinmask" in content or "frontmask2_idx" in content else "trim."
            content[kind + key] = content.pop(key)
        mats |= content
    if "shapePC" not in mats and "idBase" in mats:
        return _deep3d_model(mats), "deep3d"
    return _assembled(mats, _coarse_expression(files))


def _coarse_expression(files: Sequence[Path]) -> _Basis | None:
    """`Exp_Pca.bin`: int32 count, float32 mean (3v), float32 modes (count, 3v); `std_exp.txt`."""
    by_name = {p.name: p for p in files}
    if "Exp_Pca.bin" not in by_name:
        return None
    if "std_exp.txt" not in by_name:
        raise AssetError("Exp_Pca.bin needs std_exp.txt beside it (from Deep3DFaceRecon_pytorch)")
    data = read_bytes(by_name["Exp_Pca.bin"])
    sigma = read_numbers(by_name["std_exp.txt"])
    count = int(np.frombuffer(data[:4].ljust(4, b"\0"), "<i4")[0])
    if count < 1 or (len(data) - 4) % (12 * (count + 1)) or len(sigma) != count:
        raise AssetError("Exp_Pca.bin is damaged, or std_exp.txt belongs to another file")
    rows = np.frombuffer(data, "<f4", offset=4).reshape(count + 1, -1)
    # Deep3DFaceReconstruction leaves the mean of this set out, and so do we.
    return _basis(np.zeros(rows.shape[1]), rows[1:].T, sigma, "expression set")


def _assembled(mats: dict[str, np.ndarray], coarse: _Basis | None) -> tuple[ModelArrays, str]:
    shape, colour = _identity(mats)
    trim = _ids(mats, "trimIndex", len(shape.mean))
    expression, variant = coarse, "trimmed"
    if expression is None and "w_exp" in mats:
        expression = _basis(mats["mu_exp"], mats["w_exp"], _need(mats, "sigma_exp"), "expressions")
        variant = "3ddfa"
    rows = np.arange(len(shape.mean))
    if expression is not None and len(expression.mean) != len(shape.mean):
        if trim is None or len(trim) != len(expression.mean):
            raise AssetError(
                f"the expressions have {len(expression.mean)} vertices, the identities "
                f"{len(shape.mean)}: add BFM_exp_idx.mat or model_info.mat (trimIndex)"
            )
        rows = trim
        front = _ids(mats, "idx", len(trim))
        if front is not None and "front.tri" in mats:
            rows, expression, variant = trim[front], expression.at(front), "deep3d"
    if expression is None:
        expression, variant = _Basis(np.zeros((len(rows), 3)), np.zeros((0, len(rows), 3))), "basel"
    place = np.full(len(shape.mean), -1)
    place[rows] = np.arange(len(rows))
    faces = _faces(mats, rows, place, trim)
    mean = (shape.mean[rows] + expression.mean) * UM_TO_MM
    landmarks = _keypoints(mats, place, trim, variant)
    regions: dict[str, np.ndarray] = {}
    if "segbin" in mats and mats["segbin"].shape[0] == len(shape.mean):
        columns = mats["segbin"][rows].astype(bool).T
        regions |= dict(zip(("nose", "eyes", "mouth"), columns, strict=False))
    if variant == "deep3d":
        regions |= _deep3d_regions(mats, len(rows))
    uvs = None
    if "UV" in mats and mats["UV"].shape == (len(shape.mean), 2):
        uvs = mats["UV"][rows].astype(np.float64)
    picked = None if colour is None else colour.at(rows)
    arrays = _arrays(
        mean,
        shape.modes[:, rows] * np.float32(UM_TO_MM),
        expression.modes * np.float32(UM_TO_MM),
        faces,
        landmarks,
        regions,
        picked,
        uvs,
    )
    return replace(arrays, extra=_scales(mats)), variant


def _scales(mats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standard deviations of the files' coefficients: data sets store coefficients times these."""
    identity = mats["shapeEV"] if "shapePC" in mats else _need(mats, "sigma")
    out = {"identity_sigma": identity.astype(np.float64).reshape(-1)}
    if "sigma_exp" in mats and "w_exp" in mats:
        out["expression_sigma"] = mats["sigma_exp"].astype(np.float64).reshape(-1)
    return out


def _identity(mats: dict[str, np.ndarray]) -> tuple[_Basis, _Basis | None]:
    """Identity and colour of `01_MorphableModel.mat`, or of 3DDFA's `Model_Shape.mat`."""
    if "shapePC" in mats:
        shape = _basis(
            _need(mats, "shapeMU"), mats["shapePC"], _need(mats, "shapeEV"), "identity basis"
        )
        colour = None
        if {"texMU", "texPC", "texEV"} <= mats.keys():
            colour = _basis(mats["texMU"] / 255.0, mats["texPC"], mats["texEV"] / 255.0, "colours")
        return shape, colour
    if "mu_shape" in mats:
        return _basis(mats["mu_shape"], _need(mats, "w"), _need(mats, "sigma"), "identity"), None
    raise AssetError(
        "no BFM 2009 among the files: 01_MorphableModel.mat, Model_Shape.mat or "
        "BFM_model_front.mat is needed"
    )


def _need(mats: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in mats:
        raise AssetError(f"the files of BFM lack {key!r}; 01_MorphableModel.mat has the original")
    return mats[key]


def _ids(mats: dict[str, np.ndarray], key: str, limit: int) -> np.ndarray | None:
    """0-based ids from Matlab's, or None where the files do not have them."""
    if key not in mats:
        return None
    ids = mats[key].astype(np.int64).reshape(-1) - 1
    if len(ids) == 0 or ids.min() < 0 or ids.max() >= limit:
        return None
    return ids


def _faces(
    mats: dict[str, np.ndarray], rows: np.ndarray, place: np.ndarray, trim: np.ndarray | None
) -> np.ndarray:
    """Triangles between the chosen vertices: the variant's own, else those of the original."""
    if "front.tri" in mats and trim is not None and len(rows) < len(trim):
        return _triangles(mats["front.tri"])
    if "tl" in mats:
        faces = place[_triangles(mats["tl"])]
        return faces[(faces >= 0).all(1)]
    faces = _triangles(_need(mats, "trim.tri"))
    return faces if trim is None or len(rows) == len(trim) else place[trim[faces]]


def _triangles(matlab: np.ndarray) -> np.ndarray:
    """(f, 3), 0-based, from Matlab's (f, 3) or (3, f)."""
    matlab = matlab.astype(np.int64) - 1
    if matlab.ndim != 2 or 3 not in matlab.shape:
        raise AssetError(f"triangles of shape {matlab.shape}")
    return matlab if matlab.shape[1] == 3 else matlab.T


def _keypoints(
    mats: dict[str, np.ndarray], place: np.ndarray, trim: np.ndarray | None, variant: str
) -> dict[str, Embedding]:
    """68 vertices: 3DDFA's are the definition of "ibug68-3d-bfm", Deep3D's its authors' own."""
    out = {}
    given = _ids(mats, "trim.keypoints", len(place))
    if given is not None and len(given) == 68:
        kept = place[given if trim is None else trim[given]]
        if (kept >= 0).all():
            out["ibug68-3d-bfm"] = at_vertices(kept)
    own = _ids(mats, "front.keypoints", len(place))
    if variant == "deep3d" and own is not None and len(own) == 68:
        out["ibug68"] = at_vertices(own)
    return out


def _deep3d_regions(mats: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    out = {}
    if "skinmask" in mats and mats["skinmask"].size == count:
        out["skin"] = mats["skinmask"].reshape(-1) > 0
    front = _ids(mats, "frontmask2_idx", count)
    if front is not None:
        out["front"] = np.isin(np.arange(count), front)
    return out


def _deep3d_model(mats: dict[str, np.ndarray]) -> ModelArrays:
    """`BFM_model_front.mat`: decimetres, bases already times their standard deviations."""
    one = np.ones(mats["idBase"].shape[1])
    shape = _basis(_need(mats, "meanshape"), mats["idBase"], one, "identity basis")
    modes = _need(mats, "exBase")
    expression = _basis(mats["meanshape"], modes, np.ones(modes.shape[1]), "expressions")
    colour = None
    if {"meantex", "texBase"} <= mats.keys():
        scale = np.full(mats["texBase"].shape[1], 1 / 255)
        colour = _basis(mats["meantex"] / 255.0, mats["texBase"], scale, "colours")
    count = len(shape.mean)
    points = _ids(mats, "front.keypoints", count)
    return _arrays(
        shape.mean * DM_TO_MM,
        shape.modes * np.float32(DM_TO_MM),
        expression.modes * np.float32(DM_TO_MM),
        _triangles(_need(mats, "front.tri")),
        {"ibug68": at_vertices(points)} if points is not None and len(points) == 68 else {},
        _deep3d_regions(mats, count),
        colour,
    )


def read_2017(sources: Sequence[Path]) -> tuple[ModelArrays, str]:
    """BFM 2017 or 2019 from one `.h5` file of Basel (Statismo layout; already in mm).

    Returns:
        The arrays and the file's name without suffix.

    Raises:
        AssetError: there is not exactly one such file, or it lacks a part.
    """
    files = [p for p in source_files(sources) if p.suffix in (".h5", ".hdf5")]
    if len(files) != 1:
        raise AssetError(f"give one .h5 file of BFM 2017, got {len(files)}")
    data = read_hdf5(files[0])
    shape = _statismo(data, "shape")
    expression = _statismo(data, "expression")
    colour = _statismo(data, "color") if "color/model/mean" in data else None
    if len(expression.mean) != len(shape.mean):
        raise AssetError("shape and expression of the .h5 file differ in vertices")
    cells = next((data[k] for k in data if k.endswith("representer/cells")), None)
    if cells is None:
        raise AssetError(f"{files[0].name} lacks shape/representer/cells")
    faces = cells.astype(np.int64)
    faces = faces.T if faces.shape[0] == 3 else faces
    arrays = _arrays(
        shape.mean + expression.mean,
        shape.modes,
        expression.modes,
        faces,
        _named(data, shape.mean),
        {},
        colour,
    )
    return arrays, files[0].stem


def _statismo(data: dict[str, np.ndarray], part: str) -> _Basis:
    keys = [f"{part}/model/{name}" for name in ("mean", "pcaBasis", "pcaVariance")]
    missing = [key for key in keys if key not in data]
    if missing:
        raise AssetError(f"the .h5 file lacks {', '.join(missing)}")
    mean, modes, variance = (data[key] for key in keys)
    return _basis(mean, modes, np.sqrt(np.maximum(variance, 0)), part)


def _named(data: dict[str, np.ndarray], points: np.ndarray) -> dict[str, Embedding]:
    """The set "bfm15" from the file's list of named points on the mean shape."""
    if "metadata/landmarks/json" not in data:
        return {}
    content: Any = json_of(data["metadata/landmarks/json"], "metadata/landmarks/json")
    if isinstance(content, list):
        content = {entry.get("id"): entry.get("coordinates") for entry in content}
    if not all(name in content for name in NAMES_15):
        return {}
    try:
        wanted = np.array([content[name] for name in NAMES_15], dtype=np.float64).reshape(15, 3)
    except (ValueError, TypeError) as error:
        raise AssetError(f"metadata/landmarks/json is damaged: {error}") from error
    distance = ((points[None] - wanted[:, None]) ** 2).sum(-1)
    return {"bfm15": at_vertices(distance.argmin(1))}


def _arrays(
    mean: np.ndarray,
    identity: np.ndarray,
    expression: np.ndarray,
    faces: np.ndarray,
    landmarks: dict[str, Embedding],
    regions: dict[str, np.ndarray],
    colour: _Basis | None,
    uvs: np.ndarray | None = None,
) -> ModelArrays:
    """What both years share: outward faces, mirror, unwrap, the face region; lengths in mm."""
    if faces.size == 0 or faces.min() < 0 or faces.max() >= len(mean):
        raise AssetError("the triangles do not belong to the vertices")
    faces = geometry.outward_faces(mean, faces)
    faces_uv = faces
    if uvs is None:
        uvs, faces_uv = geometry.cylinder_uvs(mean, faces)
    nose = mean[mean[:, 2].argmax()]
    for name, index in (("ibug68-3d-bfm", 30), ("ibug68", 30), ("bfm15", 1)):
        if name in landmarks:
            nose = mean[landmarks[name].corners[index, 0]]
    return ModelArrays(
        mean=mean,
        identity=identity,
        expression=expression,
        expression_names=tuple(f"expression{i:03d}" for i in range(len(expression))),
        expression_range=np.tile(SIGNED, (len(expression), 1)),
        faces=faces,
        uvs=uvs,
        faces_uv=faces_uv,
        face_part=np.zeros(len(faces), dtype=np.int64),
        part_names=("skin",),
        mirror=geometry.mirror_table(mean),
        regions={"face": geometry.near(mean, nose), **regions},
        landmarks=with_parts(landmarks, mean, faces),
        albedo_mean=None if colour is None else colour.mean,
        albedo_basis=None if colour is None else colour.modes,
    )
