"""FaceScape's benchmark for single photos: 400 in the wild, 660 from the lab, with true meshes.

Layout: the folder `benchmark/` of the official repository with its data unpacked:

    data/wild_gt_mesh/000.obj .. 399.obj    data/lab_gt_mesh/00.obj .. 19.obj
    data/lab_cam/SS_F_VV.json               [K (3, 3), Rt (3, 4)] of subject, focal length, view
    code/predef/wild_pupil_scales.npy       (400,) mm per unit of the wild meshes
    code/predef/{wild,lab}_head_centers.npy, {wild,lab}_rotations.npy

Wild meshes lie in the cube [-1, 1]^3 that covers the photo, orthographic, y up. Lab meshes are in
pupil distances; their cameras are OpenCV's (y down, looking along +z). Here everything is
millimetres in lifemask's camera frame (x right, y up, z towards the viewer).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.assets import UserError
from lifemask.data._scan_files import read_scan

Subset = Literal["wild", "lab"]

DOWNLOAD_PAGE = "https://github.com/zhuhao-nju/facescape/tree/master/benchmark"
PUPIL_DISTANCE_MM = (64.0 + 61.7) / 2  # mean of men and women; all truths are scaled to it
WILD_IMAGES = 400
WILD_BINS = ("0-5", "5-30", "30-60", "60-90")  # a hundred photos each, in order
LAB_SUBJECTS, LAB_VIEWS = 20, 11
LAB_FOCAL_PX = (1200, 600, 300)
LAB_VIEW_GROUPS = ("0",) + ("30",) * 8 + ("60",) * 2  # view number to angle in degrees
IMAGE_PX = 256
_FLIP_YZ = np.diag([1.0, -1.0, -1.0])  # OpenCV's camera axes to ours and back
_IMAGE_FOLDERS = ("{}_img", "{}_imgs", "{}_image", "{}_images")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class FaceScapeItem:
    """One photo and its truth.

    Attributes:
        name: "000" (wild) or "SS_F_VV" (lab: subject, focal length, view): what predictions are
            called.
        mesh: file of the truth, in its own unit and frame; read it with `FaceScape.truth`.
        groups: group of this photo by kind: {"yaw": "0-5"}, or {"yaw": "30", "focal": "600"}.
        unit_mm: millimetres per unit of `mesh`.
        head_rotation: (3, 3), head frame (y up, z out of the face) to camera frame.
        head_center_mm: (3,), origin of the head's axis in the camera frame.
        intrinsics: (3, 3) K of a 256 px image whose corner is 0 (pixel i covers [i, i + 1)); None
            for the orthographic wild photos.
        extrinsics: (3, 4), mesh to OpenCV camera frame, translation in mm; None for wild.
        image: the photo, where it is found.
    """

    name: str
    mesh: Path
    groups: dict[str, str]
    unit_mm: float
    head_rotation: Float[ndarray, "3 3"]
    head_center_mm: Float[ndarray, "3"]
    intrinsics: Float[ndarray, "3 3"] | None = None
    extrinsics: Float[ndarray, "3 4"] | None = None
    image: Path | None = None


@dataclass(frozen=True)
class FaceScape:
    """One half of the benchmark.

    Attributes:
        subset: "wild" or "lab".
        items: in the official order.
        complete: whether all 400 or 660 photos are there; published means are over all.
    """

    subset: Subset
    items: tuple[FaceScapeItem, ...]
    complete: bool

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the items."""
        return tuple(item.name for item in self.items)

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """The photos of the items; empty unless all are there."""
        paths = tuple(item.image for item in self.items if item.image is not None)
        return paths if len(paths) == len(self.items) else ()

    def truth(self, item: FaceScapeItem) -> tuple[Float[ndarray, "v 3"], Int[ndarray, "f 3"]]:
        """True vertices (v, 3) in mm in the camera frame, and faces (f, 3).

        Raises:
            UserError: the file cannot be read.
        """
        vertices, faces = read_scan(item.mesh)
        return in_camera_frame(vertices, item), faces


def in_camera_frame(vertices: Float[ndarray, "v 3"], item: FaceScapeItem) -> Float[ndarray, "v 3"]:
    """Vertices of a true mesh as its file holds them, in mm in the item's camera frame."""
    vertices = vertices * item.unit_mm
    if item.extrinsics is None:
        return vertices
    return (vertices @ item.extrinsics[:, :3].T + item.extrinsics[:, 3]) @ _FLIP_YZ


def load_facescape_wild(folder: str | Path) -> FaceScape:
    """The 400 photos in the wild.

    Raises:
        UserError: the layout is not there or damaged; the message names the download page.
    """
    data, predef = _folders(folder, "wild_gt_mesh")
    scales = _array(predef / "wild_pupil_scales.npy", (WILD_IMAGES,))
    centers = _array(predef / "wild_head_centers.npy", (WILD_IMAGES, 3))
    rotations = _rotations(predef / "wild_rotations.npy", WILD_IMAGES)
    items = []
    for k in range(WILD_IMAGES):
        mesh = data / "wild_gt_mesh" / f"{k:03d}.obj"
        if not mesh.is_file():
            continue
        groups = {"yaw": WILD_BINS[k // 100]}
        center, unit = centers[k] * scales[k], float(scales[k])
        image = _image(data, "wild", mesh.stem)
        items.append(
            FaceScapeItem(mesh.stem, mesh, groups, unit, rotations[k], center, image=image)
        )
    return FaceScape("wild", _some(items, data / "wild_gt_mesh"), len(items) == WILD_IMAGES)


def load_facescape_lab(folder: str | Path) -> FaceScape:
    """The 660 photos from the lab: 20 subjects, 3 focal lengths, 11 views.

    Raises:
        UserError: the layout is not there or damaged; the message names the download page.
    """
    data, predef = _folders(folder, "lab_gt_mesh")
    centers = _array(predef / "lab_head_centers.npy", (len(LAB_FOCAL_PX), 3)) @ _FLIP_YZ
    rotations = _FLIP_YZ @ _rotations(predef / "lab_rotations.npy", LAB_VIEWS)
    items = []
    for subject, focal, view in product(range(LAB_SUBJECTS), range(len(LAB_FOCAL_PX)),
                                        range(LAB_VIEWS)):  # fmt: skip
        mesh = data / "lab_gt_mesh" / f"{subject:02d}.obj"
        name = f"{subject:02d}_{focal}_{view:02d}"
        camera = data / "lab_cam" / f"{name}.json"
        if not (mesh.is_file() and camera.is_file()):
            continue
        groups = {"yaw": LAB_VIEW_GROUPS[view], "focal": str(LAB_FOCAL_PX[focal])}
        frame = (PUPIL_DISTANCE_MM, rotations[view], centers[focal], *_camera(camera))
        items.append(FaceScapeItem(name, mesh, groups, *frame, _image(data, "lab", name)))
    total = LAB_SUBJECTS * len(LAB_FOCAL_PX) * LAB_VIEWS
    return FaceScape("lab", _some(items, data / "lab_gt_mesh"), len(items) == total)


def _folders(folder: str | Path, meshes: str) -> tuple[Path, Path]:
    """The folders of the data and of the predefined values."""
    folder = Path(folder)
    data = next((d for d in (folder / "data", folder) if (d / meshes).is_dir()), None)
    places = (folder / "code" / "predef", folder / "predef", folder.parent / "code" / "predef")
    predef = next((p for p in places if p.is_dir()), None)
    if data is None or predef is None:
        missing = f"data/{meshes}" if data is None else "code/predef"
        raise UserError(
            f"{folder} has no {missing}: give the folder benchmark of the FaceScape repository"
            f" with its data unpacked, see {DOWNLOAD_PAGE}"
        )
    return data, predef


def _some(items: list[FaceScapeItem], folder: Path) -> tuple[FaceScapeItem, ...]:
    if not items:
        raise UserError(f"{folder} holds no truth with its camera, see {DOWNLOAD_PAGE}")
    return tuple(items)


def _array(path: Path, shape: tuple[int, ...]) -> Float[ndarray, "..."]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}; see {DOWNLOAD_PAGE}") from error
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or array.size != np.prod(shape):
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not numbers {shape}")
    array = array.astype(np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds infinite or undefined numbers")
    return array


def _rotations(path: Path, count: int) -> Float[ndarray, "n 3 3"]:
    """Rotations (count, 3, 3); a scale or a shear is refused, not repaired."""
    matrices = _array(path, (count, 3, 3))
    if np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max() > 1e-3:
        raise UserError(f"{path} holds matrices that are not rotations")
    return matrices


def _camera(path: Path) -> tuple[Float[ndarray, "3 3"], Float[ndarray, "3 4"]]:
    """K of the 256 px image, and mesh to OpenCV camera with the translation in mm."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        intrinsics = np.array(content[0], dtype=np.float64)
        extrinsics = np.array(content[1], dtype=np.float64)[:3]
    except (OSError, ValueError, TypeError, IndexError, KeyError) as error:
        raise UserError(f"{path} is not a camera [K, Rt]: {error!r}") from error
    finite = np.isfinite(intrinsics).all() and np.isfinite(extrinsics).all()
    if intrinsics.shape != (3, 3) or extrinsics.shape != (3, 4) or not finite:
        raise UserError(f"{path} is not a camera [K (3, 3), Rt (3, 4)]")
    extrinsics[:, 3] *= PUPIL_DISTANCE_MM
    return intrinsics, extrinsics


def _image(data: Path, subset: Subset, name: str) -> Path | None:
    """The photo; the official archive's folder name is not documented, so likely ones are tried."""
    for folder in _IMAGE_FOLDERS:
        for suffix in _IMAGE_SUFFIXES:
            path = data / folder.format(subset) / f"{name}{suffix}"
            if path.is_file():
                return path
    return None
