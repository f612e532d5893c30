"""From whitened coefficients to a posed head and back, for the methods that regress a head.

The coefficient vector is `pose | identity | expression`. Pose is `rot6d`: the first two columns of
the rotation (6), log scale (1), shift (2); or `affine12`, as published: a free 3 x 4 matrix, rows
first, then the translation. Lengths are half-crops, model lengths 100 mm.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.landmarks import convert
from lifemask.facemodel.linear import GAIN_RANGE, LinearFaceModel
from lifemask.graphics.pose import nearest_rotation
from lifemask.methods._targets import HeadLabels
from lifemask.nn.landmark_map import facing, map18_normals
from lifemask.nn.parametric import LENGTH_MM, rotation_from_6d

PoseKind = Literal["rot6d", "affine12"]
LABEL_SETS = ("lifemask392", "ibug68-3d-bfm", "ibug68", "ict68")
SETS_68 = ("ict68", "ibug68-3d-bfm", "ibug68")
POSE_SIZE: dict[str, int] = {"rot6d": 9, "affine12": 12}
FREE_VERTICES = 132  # beside the 68 landmarks, where coefficients are weighed
START_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
LEAST_DEVIATION = 0.05


class Posed(NamedTuple):
    """Posed heads; a named tuple, since lightning.fabric rebuilds what a network returns.

    Attributes:
        points: (b, n, 3) landmarks of the label set, then the free vertices; half-crops (u, v, w),
            w is nearness against the pivot.
        matrix: (b, 3, 3) `s R`, or the free matrix of `affine12`; half-crops per 100 mm.
        identity: (b, i).
        expression: (b, e), not clamped.
    """

    points: Float[Tensor, "b n 3"]
    matrix: Float[Tensor, "b 3 3"]
    identity: Float[Tensor, "b i"]
    expression: Float[Tensor, "b e"]


class CoefficientHead(nn.Module):
    """The points of a linear face model that a network looks at, as buffers; nothing learned.

    Heads turn about a pivot, the middle of the mean face's landmarks, so that a wrong rotation
    does not shift the face. Expressions are scaled by identity as `LinearFaceModel` does.

    Args:
        model: a linear face model with one of the sets `LABEL_SETS`.
        pose: "rot6d" or "affine12".

    Attributes:
        label_set: the landmark set of the first points.
        sets68: the sets of 68 among them, by name, as slices of the points.
        size: length D of a coefficient vector.
    """

    def __init__(self, model: FaceModel, pose: PoseKind = "rot6d") -> None:
        super().__init__()
        self.pose: PoseKind = pose
        self.label_set = next((n for n in LABEL_SETS if n in model.landmark_embeddings), "")
        if not self.label_set:
            known = ", ".join(sorted(model.landmark_embeddings)) or "none"
            raise ValueError(
                f"the network needs one of the landmark sets {', '.join(LABEL_SETS)}; "
                f"the face model {model.name!r} has {known}"
            )
        self.sets68 = _sets68(self.label_set)
        self.scored = "ibug68-3d-bfm" if "ibug68-3d-bfm" in self.sets68 else next(iter(self.sets68))
        mean, basis = _points_and_basis(model, self.label_set)
        self.landmarks = model.landmark_embeddings[self.label_set].vertex_ids.shape[0]
        pivot = mean[: self.landmarks].mean(0)
        self.identity_size = model.identity_size
        self.expression_size = len(model.expression_names)
        self.pose_size = POSE_SIZE[pose]
        self.size = self.pose_size + self.identity_size + self.expression_size
        gain = mean.new_zeros(self.expression_size, self.identity_size)
        if isinstance(model, LinearFaceModel):
            gain = model.expression_gain.float()
        self.clamps_gain = bool(gain.any())
        to_map = convert(torch.eye(68), self.scored, "map18")
        ranges = model.expression_range or ((0.0, 1.0),) * self.expression_size
        lowest, highest = mean.new_tensor(ranges).view(-1, 2).T
        constants = {
            "pivot": pivot,
            "mean": mean - pivot,
            "basis": basis.flatten(1),
            "gain": gain,
            "lowest": lowest,
            "highest": highest,
            "to_map18": to_map,
            "normals18": map18_normals(model, self.scored),
            "start": mean.new_tensor(START_6D),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.contiguous(), persistent=False)
        self.register_buffer("white_mean", torch.zeros(self.size))
        self.register_buffer("white_std", torch.ones(self.size))
        if pose == "rot6d":
            self.get_buffer("white_mean")[:6] = self.get_buffer("start")

    def set_whitening(self, labels: Float[Tensor, "n d"]) -> None:
        """Take mean and deviation of raw labels (n, D); a 6D rotation stays as it is."""
        mean, std = labels.mean(0), labels.std(0).clamp_min(LEAST_DEVIATION)
        if self.pose == "rot6d":
            mean[:6], std[:6] = self.get_buffer("start"), 1.0
        self.get_buffer("white_mean").copy_(mean)
        self.get_buffer("white_std").copy_(std)

    def raw(self, p: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """De-whitened coefficients."""
        return p * self.get_buffer("white_std") + self.get_buffer("white_mean")

    def whitened(self, raw: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Whitened coefficients; inverse of `raw`."""
        return (raw - self.get_buffer("white_mean")) / self.get_buffer("white_std")

    def pack(self, labels: HeadLabels) -> Float[Tensor, "b d"]:
        """Raw coefficients (b, D) of labels whose shift is that of the model's origin."""
        matrix = labels.scale[:, None, None] * labels.rotation
        turned = matrix @ self.get_buffer("pivot")
        shift = labels.shift + torch.stack((turned[:, 0], -turned[:, 1]), 1)
        if self.pose == "rot6d":
            columns = labels.rotation[..., :2].transpose(1, 2).flatten(1)
            pose = torch.cat((columns, labels.scale.log()[:, None], shift), 1)
        else:
            depth = torch.zeros_like(shift[:, :1])
            pose = torch.cat((matrix.flatten(1), shift, depth), 1)
        return torch.cat((pose, labels.identity, labels.expression), 1)

    def unpack(self, raw: Float[Tensor, "b d"]) -> HeadLabels:
        """Rotation, scale, shift of the model's origin and coefficients; inverse of `pack`.

        A free matrix gives its nearest rotation and the scale that fits it best.
        """
        matrix, shift, identity, expression = self.parts(raw)
        if self.pose == "rot6d":
            scale = raw[:, 6].exp()
            rotation = matrix / scale[:, None, None]
        else:
            rotation = nearest_rotation(matrix)
            scale = (rotation * matrix).sum((1, 2)) / 3
        turned = scale[:, None] * (rotation @ self.get_buffer("pivot"))
        origin = shift - torch.stack((turned[:, 0], -turned[:, 1]), 1)
        return HeadLabels(rotation, scale, origin, identity, expression)

    def parts(self, raw: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Matrix (b, 3, 3), shift of the pivot (b, 2), identity and expression."""
        n, i = self.pose_size, self.identity_size
        if self.pose == "rot6d":
            rotation = rotation_from_6d(raw[:, :6])
            matrix, shift = raw[:, 6].exp()[:, None, None] * rotation, raw[:, 7:9]
        else:
            matrix, shift = raw[:, :9].reshape(-1, 3, 3), raw[:, 9:11]
        return matrix, shift, raw[:, n : n + i], raw[:, n + i :]

    def gains(self, identity: Float[Tensor, "*b i"]) -> Float[Tensor, "*b e"]:
        """Factor of each expression; all ones for a strictly linear model."""
        factor = 1.0 + identity @ self.get_buffer("gain").T
        return factor.clamp(*GAIN_RANGE) if self.clamps_gain else factor

    def shape(
        self, identity: Float[Tensor, "b i"], expression: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b n 3"]:
        """Points against the pivot in the model frame, 100 mm."""
        active = torch.cat((identity, expression * self.gains(identity)), 1)
        mean = self.get_buffer("mean")
        return mean + (active @ self.get_buffer("basis")).view(-1, *mean.shape)

    def forward(self, p: Float[Tensor, "b d"]) -> Posed:
        """Posed points of whitened coefficients, in float32 at least under mixed precision too."""
        with torch.autocast(p.device.type, enabled=False):
            single = p.to(torch.promote_types(p.dtype, torch.float32))
            matrix, shift, identity, expression = self.parts(self.raw(single))
            points = project_points(self.shape(identity, expression), matrix, shift)
            return Posed(points, matrix, identity, expression)

    def own_map(self, posed: Posed) -> tuple[Tensor, Tensor]:
        """Map-18 points (b, 18, 2) of posed heads and which of them face the camera."""
        rows = self.sets68[self.scored]
        with torch.autocast(posed.points.device.type, enabled=False):
            points = self.get_buffer("to_map18") @ posed.points[:, rows, :2]
            return points, facing(posed.matrix, self.get_buffer("normals18"))


def project_points(
    shape: Float[Tensor, "b n 3"], matrix: Float[Tensor, "b 3 3"], shift: Float[Tensor, "b 2"]
) -> Float[Tensor, "b n 3"]:
    """(u, v, w) in half-crops of points in 100 mm: `u = (A X)_x + t_u`, `v = -(A X)_y + t_v`."""
    turned = shape @ matrix.transpose(1, 2)
    u = turned[..., 0] + shift[:, None, 0]
    v = shift[:, None, 1] - turned[..., 1]
    return torch.stack((u, v, turned[..., 2]), -1)


def _sets68(label_set: str) -> dict[str, slice]:
    if label_set == "lifemask392":
        return {"ict68": slice(0, 68), "ibug68-3d-bfm": slice(68, 136)}
    return {label_set: slice(0, 68)}


def _points_and_basis(model: FaceModel, convention: str) -> tuple[Tensor, Tensor]:
    """Points (n, 3) and their change (i + e, n, 3) per unit coefficient, in 100 mm."""
    i, e = model.identity_size, len(model.expression_names)
    ids = _free_vertices(model)

    def points(vertices: Tensor) -> Tensor:
        marked = model.landmarks(vertices, convention)
        return torch.cat((marked, vertices[..., ids, :]), -2) / LENGTH_MM

    with torch.no_grad():
        if isinstance(model, LinearFaceModel):
            modes = torch.cat((model.identity_basis, model.expression_basis))
            return points(model.mean).float(), points(modes).float()
        mean = points(model(torch.zeros(i), torch.zeros(e)))
        return mean, torch.stack([points(model(x[:i], x[i:])) - mean for x in torch.eye(i + e)])


def _free_vertices(model: FaceModel) -> Tensor:
    """The same random vertices of the face every time, at most `FREE_VERTICES`."""
    regions = model.topology.regions
    count = len(model.topology.mirror)
    face = regions["face"].nonzero()[:, 0] if "face" in regions else torch.arange(count)
    order = torch.randperm(len(face), generator=torch.Generator().manual_seed(0))
    return face[order[:FREE_VERTICES]]
