"""True coefficients of renders under a scaled orthographic camera, and how a view changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from lifemask.assets import UserError
from lifemask.data.augment import View
from lifemask.data.base import read_cache_header, read_labels
from lifemask.data.sight import along_sight
from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.facemodel.symmetry import HeadSymmetry
from lifemask.graphics.pose import cross_matrix, procrustes_camera, project_with_jacobian
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_net import unit_from_crop_px
from lifemask.nn.parametric import LENGTH_MM
from lifemask.types import Camera

CHUNK = 256  # heads at a time
NEARNESS_WEIGHT = 0.1  # see `fit_orthographic` and docs/methods/dasl.md
WRONG_MODEL_PX = 0.1  # nearness of a cache's own model differs by rounding of its labels only


@dataclass(frozen=True)
class PoseLabels:
    """Heads of renders: `u = s (R X)_x + t_u`, `v = -s (R X)_y + t_v` of points X in mm.

    Attributes:
        rotation: (n, 3, 3) model frame to camera frame.
        scale_px_per_mm: (n,) stored-image px per mm.
        shift_px: (n, 2) stored-image px of the model's origin.
        identity: (n, i).
        expression: (n, e).
        residual_px: (n,) mean distance of the landmarks from where the camera puts them: what an
            orthographic camera cannot say about a perspective picture.
    """

    rotation: Float[ndarray, "n 3 3"]
    scale_px_per_mm: Float[ndarray, "n"]
    shift_px: Float[ndarray, "n 2"]
    identity: Float[ndarray, "n i"]
    expression: Float[ndarray, "n e"]
    residual_px: Float[ndarray, "n"]

    def __len__(self) -> int:
        """Number of heads."""
        return len(self.rotation)

    def subset(self, ids: Int[ndarray, "m"] | slice) -> PoseLabels:
        """Labels of some of the heads."""
        return PoseLabels(*(getattr(self, name)[ids] for name in self.__dataclass_fields__))


def pose_labels(
    folder: Path,
    model: FaceModel,
    shards: slice = slice(None),
    nearness_weight: float = NEARNESS_WEIGHT,
) -> PoseLabels:
    """Labels of a cache of renders; the camera is fitted to all its landmarks.

    Exact for orthographic renders; for perspective ones the best scaled orthographic camera that
    looks along the line of sight to the face (`data.sight`).

    Args:
        folder: what `data.synthetic` wrote.
        model: the head model that was rendered.
        shards: which shards, in name order, as in `data.base.load_render_cache`.
        nearness_weight: of the squared error of w against that of (u, v); see `fit_orthographic`.

    Raises:
        UserError: no such cache, test people, or renders of another head model.
    """
    header = read_cache_header(folder)
    if header["identity_size"] != model.identity_size or tuple(header["expression_names"]) != tuple(
        model.expression_names
    ):
        raise UserError(f"{folder} shows heads of {header['face_model']!r}, not of {model.name!r}")
    points_of = landmark_function(model, header["convention"])
    parts = []
    for path in sorted(folder.glob("labels-*.npz"))[shards]:
        arrays = read_labels(path)
        for start in range(0, len(arrays["points"]), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = {k: v[rows] for k, v in arrays.items() if v.ndim > 0}
            parts.append(_chunk_labels(chunk, points_of, nearness_weight, folder))
    fields = (np.concatenate([getattr(p, n) for p in parts]) for n in PoseLabels.__annotations__)
    return PoseLabels(*fields)


def _chunk_labels(
    arrays: dict[str, ndarray],
    points_of: Callable[[Tensor, Tensor], Tensor],
    nearness_weight: float,
    folder: Path,
) -> PoseLabels:
    identity, expression, image, turn = (
        torch.from_numpy(arrays[name].astype(np.float32))
        for name in ("identity", "expression", "points", "rotation")
    )
    points = points_of(identity, expression)
    scale = torch.from_numpy(arrays["scale_px_per_mm"].astype(np.float32))
    nearness = scale[:, None] * (points @ turn[:, 2, :, None])[..., 0]
    if (nearness - image[..., 2]).abs().max() > WRONG_MODEL_PX:
        raise UserError(f"{folder} was rendered from another version of the head model")
    image = torch.from_numpy(along_sight(arrays))
    camera = fit_orthographic(points, image, nearness_weight)
    apart = _residual(camera, points, image)[..., :2].norm(dim=-1).mean(1)
    fitted = (camera.rotation, camera.scale, camera.translation[:, :2], identity, expression, apart)
    return PoseLabels(*(x.numpy() for x in fitted))


def landmark_function(
    model: FaceModel, convention: str
) -> Callable[[Float[Tensor, "b i"], Float[Tensor, "b e"]], Float[Tensor, "b n 3"]]:
    """From coefficients to a landmark set in mm, without the vertices between where they add up.

    Raises:
        KeyError: the model lacks the landmark set.
    """
    if not isinstance(model, LinearFaceModel):
        return torch.no_grad()(lambda a, b: model.landmarks(model(a, b), convention))
    with torch.no_grad():
        mean, identity_basis, expression_basis = (
            model.landmarks(x, convention)
            for x in (model.mean, model.identity_basis, model.expression_basis)
        )
    basis = torch.cat((identity_basis, expression_basis)).flatten(1)

    def points(identity: Tensor, expression: Tensor) -> Tensor:
        active = torch.cat((identity, expression * model.gains(identity)), -1)
        return mean + (active @ basis).unflatten(-1, (-1, 3))

    return torch.no_grad()(points)


def fit_orthographic(
    points_mm: Float[Tensor, "b n 3"],
    image_px: Float[Tensor, "b n 3"],
    nearness_weight: float = 1.0,
    steps: int = 4,
) -> Camera:
    """Scaled orthographic camera of least squared error in (u, v) and, weighted, in w.

    Perspective moves the points of a close picture in ways that a turn imitates in part. With
    weight 1 (Procrustes) the depths hold the rotation; with less the points come closer in the
    picture and the rotation leaves the truth.

    Args:
        points_mm: (b, n, 3) model frame.
        image_px: (b, n, 3) px (u, v, w); the offset of w is free.
        nearness_weight: of w's squared error, > 0.
        steps: Gauss-Newton steps after the closed form; none are taken for weight 1.
    """
    import roma

    camera = procrustes_camera(points_mm, image_px)
    if nearness_weight == 1:
        return camera
    weight = image_px.new_tensor([1.0, 1.0, nearness_weight**0.5])
    for _ in range(steps):
        residual = _residual(camera, points_mm, image_px) * weight
        image, by_point, turned = project_with_jacobian(points_mm, camera)
        by_scale = image - camera.translation[:, None]
        by_shift = torch.eye(3).to(image).expand(*image.shape, 3)
        by_turn = -by_point @ cross_matrix(turned)
        jacobian = torch.cat((by_turn, by_scale[..., None], by_shift), -1) * weight[:, None]
        flat = jacobian.flatten(1, 2)
        step = -torch.linalg.lstsq(flat, residual.flatten(1)[..., None]).solution[..., 0]
        camera = Camera(
            "orthographic",
            roma.rotvec_to_rotmat(step[:, :3]) @ camera.rotation,
            camera.translation + step[:, 4:],
            camera.scale * step[:, 3].exp(),
            camera.center,
        )
    return camera


def _residual(camera: Camera, points_mm: Tensor, image_px: Tensor) -> Tensor:
    """Errors (b, n, 3) in px of (u, v, w), the mean error of w taken out."""
    error = project_with_jacobian(points_mm, camera)[0] - image_px
    offset = error[..., 2:].mean(1, keepdim=True)
    return torch.cat((error[..., :2], error[..., 2:] - offset), -1)


def labels_in_view(
    labels: PoseLabels, view: View, size: int, symmetry: HeadSymmetry | None
) -> HeadLabels:
    """Labels of augmented crops; the head that they describe is the one that the crop shows.

    A view is `k Rot diag(+-1, 1)`: the mirror comes first (`R -> M R M`, coefficients change
    sides), then the turn in the plane, scale and shift.

    Args:
        labels: (b) of the stored images.
        view: (b) from stored px to crop px.
        size: side of the crops in px.
        symmetry: of the head model; may be None if no view mirrors.

    Raises:
        ValueError: a mirrored view of a model whose symmetry is not known.
    """
    flipped = view.flipped
    if flipped.any() and symmetry is None:
        raise ValueError("mirrored views need a head model that tells how it mirrors")
    side = np.where(flipped, -1.0, 1.0)
    rotation = labels.rotation.astype(np.float64)
    rotation[:, 0, 1:] *= side[:, None]
    rotation[:, 1:, 0] *= side[:, None]
    plain = view.matrix / view.scale[:, None, None]
    cosine, sine = plain[:, 1, 1], plain[:, 0, 1]  # column 1 is never mirrored: (-sin, cos)
    turn = np.zeros_like(rotation)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cosine, -sine, sine, cosine
    turn[:, 2, 2] = 1
    shift = (view.matrix @ labels.shift_px[..., None])[..., 0] + view.offset
    identity, expression = labels.identity, labels.expression
    if symmetry is not None:
        choose = flipped[:, None]
        identity = np.where(choose, identity * symmetry.identity_sign, identity)
        expression = np.where(choose, expression[:, symmetry.expression_partner], expression)
    scale = labels.scale_px_per_mm * view.scale * LENGTH_MM / (size / 2)
    return HeadLabels(
        _single(turn @ rotation),
        _single(scale),
        unit_from_crop_px(_single(shift), size),
        _single(identity),
        _single(expression),
    )


def _single(values: ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
