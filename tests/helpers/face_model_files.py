"""Face models of a few hundred vertices, written in the layouts of the real ones."""

import io
import json
import struct
from pathlib import Path

import numpy as np

ROWS, COLUMNS = 11, 13


def face_mask(rows: int = ROWS, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """A half ellipsoid like a face, in mm (v, 3), and triangles (f, 3), ccw from outside.

    Symmetric about x = 0; the nose tip is the vertex furthest in z.
    """
    x = np.linspace(-1, 1, columns)[None].repeat(rows, 0)
    y = np.linspace(-1, 1, rows)[:, None].repeat(columns, 1)
    nose = 25 * np.exp(-((x / 0.25) ** 2 + (y / 0.35) ** 2))
    z = 60 * np.sqrt(np.maximum(1.2 - 0.8 * x**2 - 0.35 * y**2, 0)) + nose
    points = np.stack((70 * x, 90 * y, z), -1).reshape(-1, 3)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    low = np.stack((a, a + 1, a + columns), 1)
    high = np.stack((a + 1, a + columns + 1, a + columns), 1)
    return points, np.concatenate((low, high))


def landmark_vertices(points: np.ndarray) -> np.ndarray:
    """68 vertex ids that are roughly where iBUG-68 has them; 30 is the nose tip."""
    template = np.zeros((68, 2))
    angle = np.linspace(np.pi, 2 * np.pi, 17)
    template[:17] = np.stack((62 * np.cos(angle), 20 + 85 * np.sin(angle)), 1)
    template[17:22] = [(-50, 42), (-42, 50), (-33, 52), (-22, 50), (-12, 44)]
    template[22:27] = template[17:22][::-1] * (-1, 1)
    template[27:31] = [(0, 30), (0, 20), (0, 10), (0, 0)]
    template[31:36] = [(-14, -10), (-7, -12), (0, -13), (7, -12), (14, -10)]
    eye = np.array([(-45, 30), (-37, 36), (-27, 36), (-19, 30), (-27, 26), (-37, 26)])
    template[36:42], template[42:48] = eye, eye[[3, 2, 1, 0, 5, 4]] * (-1, 1)
    angle = np.deg2rad(np.arange(180, -180, -30))
    template[48:60] = np.stack((25 * np.cos(angle), -40 + 11 * np.sin(angle)), 1)
    angle = np.deg2rad(np.arange(180, -180, -45))
    template[60:68] = np.stack((18 * np.cos(angle), -40 + 5 * np.sin(angle)), 1)
    return ((points[None, :, :2] - template[:, None]) ** 2).sum(-1).argmin(1)


def modes(count: int, points: np.ndarray, seed: int) -> np.ndarray:
    """Smooth deformations (count, v, 3) in mm per standard deviation, mirror-symmetric."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.3, 2.0, (count, 2))
    ax, y = np.abs(points[:, 0]) / 70, points[:, 1] / 90
    shape = np.cos(waves[:, :1] * np.pi * ax + 3 * waves[:, 1:] * y)
    sign = np.stack((np.sign(points[:, 0]), np.ones(len(points)), np.ones(len(points))), -1)
    return 3 * shape[..., None] * rng.normal(size=(count, 1, 3)) * sign


def orthonormal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit columns (3v, k) and their lengths (k,) of modes (k, v, 3)."""
    flat = rows.reshape(len(rows), -1)
    length = np.linalg.norm(flat, axis=1)
    return (flat / length[:, None]).T, length


def write_bfm2009(folder: Path, identities: int = 4) -> dict[str, np.ndarray]:
    """`01_MorphableModel.mat` with micrometres, 1-based clockwise triangles and colours."""
    from scipy.io import savemat

    points, faces = face_mask()
    shape = modes(identities, points, 1)
    colours = 10 * modes(3, points, 2)
    basis, sigma = orthonormal(shape)
    tex_basis, tex_sigma = orthonormal(colours)
    segments = np.zeros((len(points), 4), dtype=np.uint8)
    segments[np.arange(len(points)), np.arange(len(points)) % 4] = 1
    content = {
        "shapeMU": (points.reshape(-1, 1) * 1000).astype(np.float32),
        "shapePC": basis.astype(np.float32),
        "shapeEV": (sigma[:, None] * 1000).astype(np.float32),
        "texMU": np.full((3 * len(points), 1), 127.5, dtype=np.float32),
        "texPC": tex_basis.astype(np.float32),
        "texEV": tex_sigma[:, None].astype(np.float32),
        "tl": (faces[:, [0, 2, 1]] + 1).astype(np.float64),
        "segbin": segments,
    }
    savemat(folder / "01_MorphableModel.mat", content)
    return {"points": points, "faces": faces, "shape": shape, "colours": colours}


def write_3ddfa(folder: Path, points: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """`model_info.mat` and `Model_Expression.mat` on the vertices without the first five."""
    from scipy.io import savemat

    trim = np.arange(5, len(points))
    kept = faces[(faces >= 5).all(1)] - 5
    expression = modes(2, points[trim], 3)
    offset = np.full((len(trim), 3), 0.25)
    basis, sigma = orthonormal(expression)
    savemat(
        folder / "model_info.mat",
        {
            "trimIndex": (trim + 1)[:, None].astype(np.float64),
            "tri": (kept.T + 1).astype(np.float64),
            "keypoints": (landmark_vertices(points[trim]) + 1)[None].astype(np.float64),
        },
    )
    savemat(
        folder / "Model_Expression.mat",
        {
            "mu_exp": (offset.reshape(-1, 1) * 1000),
            "w_exp": basis,
            "sigma_exp": sigma[:, None] * 1000,
        },
    )
    return {"trim": trim, "expression": expression, "offset": offset}


def write_deep3d(folder: Path, points: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Exp_Pca.bin, std_exp.txt, BFM_exp_idx.mat, BFM_front_idx.mat, facemodel_info.mat."""
    from scipy.io import savemat

    trim = np.arange(5, len(points))
    front = np.arange(3, len(trim))
    expression = modes(3, points[trim], 4)
    basis, sigma = orthonormal(expression)
    with (folder / "Exp_Pca.bin").open("wb") as stream:
        stream.write(struct.pack("<i", len(expression)))
        stream.write(np.full(basis.shape[0], 7.0, "<f4").tobytes())
        stream.write(basis.T.astype("<f4").tobytes())
    (folder / "std_exp.txt").write_text(" ".join(f"{s * 1000:.9g}" for s in sigma) + "\n")
    savemat(folder / "BFM_exp_idx.mat", {"trimIndex": (trim + 1)[:, None].astype(np.uint16)})
    savemat(folder / "BFM_front_idx.mat", {"idx": (front + 1)[:, None].astype(np.uint16)})
    rows = trim[front]
    kept = faces[(faces >= rows[0]).all(1)] - rows[0]
    mask = (np.arange(len(rows)) % 3 == 0).astype(np.float64)
    savemat(
        folder / "facemodel_info.mat",
        {
            "tri": (kept + 1).astype(np.float64),
            "keypoints": (landmark_vertices(points[rows]) + 1)[None].astype(np.float64),
            "skinmask": mask[None],
            "frontmask2_idx": np.arange(1, 10.0)[:, None],
        },
    )
    return {"rows": rows, "front": front, "expression": expression, "skin": mask}


def write_bfm2017(folder: Path) -> dict[str, np.ndarray]:
    """`model2017-1_bfm_nomouth.h5` in the Statismo layout: (3, v) points, (3, f) cells, mm."""
    import h5py

    from lifemask.facemodel.bfm import NAMES_15
    from lifemask.facemodel.landmarks import BFM_15

    points, faces = face_mask()
    ids = landmark_vertices(points)
    parts = {"shape": modes(4, points, 5), "expression": modes(3, points, 6)}
    named = [
        {"id": name, "coordinates": (points[ids[k]] + 0.01).tolist()}
        for name, k in zip(NAMES_15, BFM_15, strict=True)
    ]
    means = {"shape": points, "expression": np.full_like(points, 0.5)}
    with h5py.File(folder / "model2017-1_bfm_nomouth.h5", "w") as file:
        for part, rows in parts.items():
            basis, sigma = orthonormal(rows)
            file[f"{part}/model/mean"] = means[part].reshape(-1).astype(np.float32)
            file[f"{part}/model/pcaBasis"] = basis.astype(np.float32)
            file[f"{part}/model/pcaVariance"] = (sigma**2).astype(np.float32)
            file[f"{part}/model/noiseVariance"] = 0.0
            file[f"{part}/representer/points"] = points.T.astype(np.float32)
            file[f"{part}/representer/cells"] = faces.T.astype(np.int32)
        basis, sigma = orthonormal(modes(2, points, 7) / 30)
        file["color/model/mean"] = np.full(points.size, 0.5, np.float32)
        file["color/model/pcaBasis"] = basis.astype(np.float32)
        file["color/model/pcaVariance"] = (sigma**2).astype(np.float32)
        text = json.dumps([{"id": "left.ear.lobule.tip", "coordinates": [0, 0, 0]}, *named])
        file["metadata/landmarks/json"] = text
    return {"points": points, "faces": faces, "ids": ids, **parts}


def npy_of_object(pickle: bytes) -> bytes:
    """A .npy file of an object array: header, then the pickle as given."""
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickle


def triangle_ids(faces: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A triangle (n,) at each vertex and the weights (n, 3) that pick the vertex."""
    triangles = np.array([int(np.flatnonzero((faces == v).any(1))[0]) for v in vertices])
    return triangles, (faces[triangles] == vertices[:, None]).astype(np.float64)


def flame_arrays() -> dict[str, np.ndarray]:
    """FLAME's arrays in metres: a face mask and two eyeballs, five joints, 12 modes (9 + 3)."""
    points, faces = face_mask()
    ball = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]) * 12.0
    sides = np.array([(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5)])
    sides = np.concatenate((sides, [(3, 1, 5), (0, 3, 5)]))
    centers = np.array([(31.0, 30.0, 30.0), (-31.0, 30.0, 30.0)])  # the subject's left is at +x
    count = len(points)
    everything = np.concatenate((points, ball + centers[0], ball + centers[1]))
    faces = np.concatenate((faces, sides + count, sides + count + 6))
    rng = np.random.default_rng(8)
    dirs = modes(12, everything, 9) / 1000
    dirs[:, count:] = 0
    correctives = rng.normal(0, 2e-3, (36, len(everything), 3))
    correctives[:, count:] = 0
    weights = np.zeros((len(everything), 5))
    jaw = 1 / (1 + np.exp((points[:, 1] + 30) / 8))
    neck = 1 / (1 + np.exp((points[:, 1] + 85) / 5))
    weights[:count, 2], weights[:count, 0] = jaw * (1 - neck), neck
    weights[:count, 1] = 1 - weights[:count].sum(1)
    weights[count : count + 6, 3] = weights[count + 6 :, 4] = 1
    places = np.array([(0, -90, -30), (0, -60, -40), (0, 10, -20), *centers], dtype=float)
    ones = np.ones((1, len(everything)))
    homogeneous = np.concatenate((everything.T, ones))
    regressor = np.stack(
        [np.linalg.lstsq(homogeneous, np.append(p, 1), rcond=None)[0] for p in places]
    )
    return {
        "v_template": everything / 1000,
        "shapedirs": dirs.transpose(1, 2, 0),
        "posedirs": correctives.transpose(1, 2, 0),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], dtype=np.uint32),
        "f": faces.astype(np.uint32),
    }


def write_flame(folder: Path, name: str = "generic_model.pkl") -> dict[str, np.ndarray]:
    """A model pickle as Python 2 wrote it, with embeddings, masks and uvs beside it."""
    arrays = flame_arrays()
    faces = arrays["f"].astype(np.int64)
    points = arrays["v_template"] * 1000
    packed = {
        "bs_style": "lbs",
        "bs_type": "lrotmin",
        **{key: Chumpy(arrays[key]) for key in ("v_template", "shapedirs", "posedirs")},
        "J_regressor": Sparse(arrays["J_regressor"]),
        **{key: arrays[key] for key in ("weights", "kintree_table", "f")},
    }
    (folder / name).write_bytes(python2_pickle(packed))
    mask = points[: ROWS * COLUMNS]
    ids = landmark_vertices(mask)
    triangles, shares = triangle_ids(faces, ids)
    embedding = {
        "full_lmk_faces_idx": triangles[None],
        "full_lmk_bary_coords": shares[None],
        "static_lmk_faces_idx": triangles[17:],
        "static_lmk_bary_coords": shares[17:],
    }
    np.save(folder / "landmark_embedding.npy", np.array(embedding, dtype=object))
    rows = np.stack([np.roll(triangles[:17], k) for k in range(79)])
    weights = np.stack([np.roll(shares[:17], k, axis=0) for k in range(79)])
    dynamic = {"lmk_face_idx": list(rows), "lmk_b_coords": list(weights)}
    np.save(folder / "flame_dynamic_embedding.npy", np.array(dynamic, dtype=object))
    static = {"lmk_face_idx": triangles[17:].astype(np.uint32), "lmk_b_coords": shares[17:]}
    (folder / "flame_static_embedding.pkl").write_bytes(python2_pickle(static))
    from lifemask.facemodel.landmarks import MEDIAPIPE_105

    order = np.random.default_rng(3).permutation(105)
    np.savez(
        folder / "mediapipe_landmark_embedding.npz",
        landmark_indices=np.array(MEDIAPIPE_105)[order],
        lmk_face_idx=order,
        lmk_b_coords=np.full((105, 3), 1 / 3),
    )
    count = len(mask)
    masks = {
        "face": np.arange(count),
        "lips": ids[48:],
        "left_eyeball": np.arange(count, count + 6),
        "right_eyeball": np.arange(count + 6, count + 12),
    }
    (folder / "FLAME_masks.pkl").write_bytes(python2_pickle(masks))
    return {**arrays, "ids": ids}


def write_obj(path: Path, points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A template OBJ with a uv per corner; returns the uvs (3 f, 2)."""
    uvs = np.random.default_rng(1).uniform(size=(3 * len(faces), 2)).round(6)
    lines = [f"v {p[0]:.6f} {p[1]:.6f} {p[2]:.6f}" for p in points]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uvs]
    for k, face in enumerate(faces):
        lines.append("f " + " ".join(f"{v + 1}/{3 * k + c + 1}" for c, v in enumerate(face)))
    path.write_text("\n".join(lines) + "\n")
    return uvs


class Chumpy:
    """Stands for `chumpy.ch.Ch` in `python2_pickle`."""

    def __init__(self, x: np.ndarray):
        self.x = x


class Sparse:
    """Stands for `scipy.sparse.csc.csc_matrix` in `python2_pickle`."""

    def __init__(self, dense: np.ndarray):
        self.dense = dense


def python2_pickle(value: object) -> bytes:
    """A protocol-2 pickle with the opcodes that Python 2 and its numpy, scipy and chumpy wrote."""
    return b"\x80\x02" + _emit(value) + b"."


def _text(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def _table(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(_text(k.encode()) + v for k, v in items.items()) + b"u"


def _emit(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        return _emit_array(value)
    if isinstance(value, Chumpy):
        state = {"x": _emit(value.x), "_dirty_vars": b"c__builtin__\nset\n](U\x01xe\x85R"}
        state |= {"_itr": b"N", "_make_dense": b"\x89", "_status": _text(b"undefined")}
        return b"cchumpy.ch\nCh\n)\x81" + _table(state) + b"b"
    if isinstance(value, Sparse):
        columns = value.dense.T
        rows = [np.flatnonzero(c) for c in columns]
        starts = np.concatenate(([0], np.cumsum([len(r) for r in rows]))).astype(np.int32)
        data = np.concatenate([c[r] for c, r in zip(columns, rows, strict=True)])
        height, width = value.dense.shape
        shape = b"J" + struct.pack("<i", height) + b"J" + struct.pack("<i", width) + b"\x86"
        state = {"format": _text(b"csc"), "_shape": shape, "maxprint": b"K\x32"}
        state |= {"data": _emit(data), "indptr": _emit(starts)}
        state["indices"] = _emit(np.concatenate(rows).astype(np.int32))
        return b"cscipy.sparse.csc\ncsc_matrix\n)\x81" + _table(state) + b"b"
    if isinstance(value, dict):
        return _table({key: _emit(entry) for key, entry in value.items()})
    assert isinstance(value, str)
    return _text(value.encode("latin-1"))


def _emit_array(array: np.ndarray) -> bytes:
    kind = f"{array.dtype.kind}{array.dtype.itemsize}".encode()
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n" + _text(kind) + b"K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = _text(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def cereal_matrix(matrix: np.ndarray) -> bytes:
    """int32 rows and columns, then column-major float32."""
    matrix = np.atleast_2d(matrix.T).T
    return struct.pack("<ii", *matrix.shape) + matrix.astype("<f4").tobytes(order="F")


def cereal_pca(mean: np.ndarray, rows: np.ndarray, faces: np.ndarray) -> bytes:
    """A PCA model of eos from modes (k, v, 3) per standard deviation."""
    basis, sigma = orthonormal(rows) if len(rows) else (np.zeros((mean.size, 0)), np.zeros(0))
    out = cereal_matrix(mean.reshape(-1)) + cereal_matrix(basis) + cereal_matrix(sigma**2)
    return out + struct.pack("<Q", len(faces)) + faces.astype("<i4").tobytes()


def cereal_blendshapes(shapes: dict[str, np.ndarray]) -> bytes:
    """Names and deformations."""
    out = struct.pack("<Q", len(shapes))
    for name, shape in shapes.items():
        out += struct.pack("<Q", len(name)) + name.encode() + cereal_matrix(shape.reshape(-1))
    return out


def write_sfm(folder: Path, version: int = 4, expression: str = "file") -> dict[str, np.ndarray]:
    """`sfm_shape_toy.bin` of a version, with expressions inside it or beside it."""
    from lifemask.facemodel.landmarks import SFM_50

    points, faces = face_mask()
    points = points - points[points[:, 2].argmax()]  # eos: the origin is at the nose tip
    shape = modes(4, points, 11)
    acts = {"anger": modes(1, points, 12)[0], "happiness": modes(1, points, 13)[0]}
    uvs = np.stack((points[:, 0] / 140 + 0.5, 0.5 - points[:, 1] / 240), 1)  # v down
    empty = struct.pack("<iiiiiiQ", 0, 1, 0, 0, 0, 1, 0)
    data = struct.pack("<I", version) + cereal_pca(points, shape, faces[:, [0, 2, 1]]) + empty
    if version >= 2:
        inside = {
            "file": b"\x01",
            "blendshapes": b"\0" + struct.pack("<i", 1) + cereal_blendshapes(acts),
            "pca": b"\0" + struct.pack("<i", 0) + cereal_pca(points * 0 + 0.5, shape[:2], faces),
        }
        data += inside[expression]
    if version >= 3:
        data += b"\0" + struct.pack("<QQ", 1, 8) + b"nose.tip" + struct.pack("<i", 3)
    data += struct.pack("<Q", len(uvs)) + uvs.astype("<f8").tobytes()
    data += struct.pack("<Q", 0) if version >= 4 else b""
    (folder / "sfm_shape_toy.bin").write_bytes(data)
    if expression == "file":
        content = cereal_blendshapes(acts)
        (folder / "expression_blendshapes_toy.bin").write_bytes(content)
    ids = landmark_vertices(points - points.mean(0) * [0, 1, 0])
    lines = ["# comment", "[landmark_mappings] # text"]
    lines += [f"{i + 1} = {ids[i]:5d}  # landmark (3)" for i in SFM_50]
    (folder / "ibug_to_sfm.txt").write_text("\n".join(lines) + "\n[contour_landmarks]\n")
    contours = {"right_contour": [0, 13, 26], "left_contour": [12, 25, 38]}
    text = json.dumps({"model_contour": contours})
    (folder / "sfm_model_contours.json").write_text(text)
    return {"points": points, "faces": faces, "shape": shape, "ids": ids, "uvs": uvs, **acts}
