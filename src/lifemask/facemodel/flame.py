"""FLAME 2020 and 2023 (Max Planck Institute for Intelligent Systems): head with a moving jaw.

Li et al., "Learning a model of facial shape and expression from 4D scans", SIGGRAPH Asia 2017.
Identity and expression are linear; jaw, neck and eyes turn by linear blend skinning with pose
correctives. The files come from the user; `lifemask assets convert flame2020|flame2023` reads them
once (`_flame_files`).
"""

from __future__ import annotations

from pathlib import Path

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.assets import AssetError, external
from lifemask.facemodel._container import (
    ModelArrays,
    embeddings_of,
    ranges_of,
    read_model,
    topology_of,
)
from lifemask.facemodel.base import FaceModel, LandmarkEmbedding
from lifemask.facemodel.linear import as_tensor

NECK = 1
POSE_JOINTS = {"jaw": 2, "eyeLookLeft": 3, "eyeLookRight": 4}
POSE_RANGES = {
    "jaw": ((0.0, 0.6), (-0.15, 0.15), (-0.15, 0.15)),
    "eyeLookLeft": ((-0.5, 0.5), (-0.7, 0.7), (-0.1, 0.1)),
    "eyeLookRight": ((-0.5, 0.5), (-0.7, 0.7), (-0.1, 0.1)),
}
"""Plausible rotation vectors in rad about x, y, z; a positive x opens the jaw."""
CONTOUR_LIMIT_DEG = 39


def load_2020(path: Path | None = None) -> FlameModel:
    """FLAME 2020 from a converted npz.

    Raises:
        AssetError: the file is missing or damaged; the message says how to make it.
    """
    return _load("flame2020", path)


def load_2023(path: Path | None = None) -> FlameModel:
    """FLAME 2023 (Open, with or without jaw) from a converted npz.

    Raises:
        AssetError: the file is missing or damaged; the message says how to make it.
    """
    return _load("flame2023", path)


def _load(name: str, path: Path | None) -> FlameModel:
    asset = external(name)
    file = asset.place(path)
    arrays, header = read_model(file, asset.remedy)
    needed = {"pose_basis", "joint_regressor", "skinning", "parents"}
    if not needed <= arrays.extra.keys() or "pose" not in header:
        raise AssetError(f"{file} is no FLAME model: {asset.remedy}")
    return FlameModel(name, arrays, tuple(header["pose"]))


class FlameModel(FaceModel):
    """FLAME in mm: `W(T + S a + E b + P(R - 1), J(a, b), R)` with skinning W (Li et al., eq. 1-5).

    The expression vector is the linear coefficients ("expression000", ...), then a rotation vector
    in rad for the jaw and each eye ("jawX_rad", ...). The neck, which a single face cannot tell
    from the pose of the head, is an argument of `posed`.

    Args:
        name: key of `FACE_MODELS`.
        arrays: as `_flame_files` makes them.
        pose: names of the rotations that the expression vector holds, keys of `POSE_JOINTS`.
    """

    mean: Tensor
    identity_basis: Tensor
    expression_basis: Tensor
    pose_basis: Tensor
    joint_regressor: Tensor
    skinning: Tensor
    contour_corners: Tensor | None
    contour_weights: Tensor | None

    def __init__(self, name: str, arrays: ModelArrays, pose: tuple[str, ...]):
        super().__init__()
        self.name = name
        self.topology = topology_of(arrays)
        self.landmark_embeddings: dict[str, LandmarkEmbedding] = embeddings_of(arrays)
        self.identity_size = len(arrays.identity)
        self.pose = pose
        rotations = tuple(f"{part}{axis}_rad" for part in pose for axis in "XYZ")
        self.expression_names = (*arrays.expression_names, *rotations)
        self.expression_range = (
            *ranges_of(arrays),
            *(limits for part in pose for limits in POSE_RANGES[part]),
        )
        self.parents = tuple(int(p) for p in arrays.extra["parents"])
        buffers = {
            "mean": arrays.mean,
            "identity_basis": arrays.identity,
            "expression_basis": arrays.expression,
            **{k: arrays.extra[k] for k in ("pose_basis", "joint_regressor", "skinning")},
        }
        for key, value in buffers.items():
            self.register_buffer(key, as_tensor(value), persistent=False)
        corners, weights = arrays.extra.get("contour_corners"), arrays.extra.get("contour_weights")
        ids = None if corners is None else as_tensor(corners, torch.int64)
        shares = None if weights is None else as_tensor(weights)
        self.register_buffer("contour_corners", ids, persistent=False)
        self.register_buffer("contour_weights", shares, persistent=False)

    def forward(
        self, identity: Float[Tensor, "*b i"], expression: Float[Tensor, "*b e"]
    ) -> Float[Tensor, "*b v 3"]:
        """Vertices (*b, v, 3) in mm; shorter coefficient vectors are padded with zeros.

        Raises:
            ValueError: a coefficient vector is longer than the model's basis.
        """
        return self.posed(identity, expression)

    def posed(
        self,
        identity: Float[Tensor, "*b i"],
        expression: Float[Tensor, "*b e"],
        neck: Float[Tensor, "*b 3"] | None = None,
    ) -> Float[Tensor, "*b v 3"]:
        """Vertices (*b, v, 3) in mm with the neck turned by a rotation vector in rad.

        Raises:
            ValueError: a coefficient vector is longer than the model's basis.
        """
        linear = len(self.expression_basis)
        shaped = (
            self.mean
            + _combine(identity, self.identity_basis, "identity")
            + _combine(expression[..., :linear], self.expression_basis, "expression")
        )
        rotations = self._rotations(expression[..., linear:], neck)
        return self._skinned(shaped, rotations)

    def contour(self, vertices: Float[Tensor, "v 3"], yaw_deg: float) -> Float[Tensor, "17 3"]:
        """The 17 jaw points that an image shows on its outline when the head is turned.

        Args:
            vertices: (v, 3), in any frame.
            yaw_deg: yaw of the head as in `docs/conventions.md`, clamped to 39 degrees.

        Raises:
            ValueError: the converted files held no dynamic embedding.
        """
        if self.contour_corners is None or self.contour_weights is None:
            raise ValueError(f"{self.name} was converted without a dynamic landmark embedding")
        # The authors' table: entries 0..39 for the angle -yaw = 0..39, then 40..78 for -1..-39.
        angle = max(-CONTOUR_LIMIT_DEG, min(CONTOUR_LIMIT_DEG, round(-yaw_deg)))
        row = angle if angle >= 0 else CONTOUR_LIMIT_DEG - angle
        corners = vertices[self.contour_corners[row]]
        return torch.einsum("nkc,nk->nc", corners, self.contour_weights[row].to(vertices))

    def _rotations(self, pose: Tensor, neck: Tensor | None) -> Float[Tensor, "*b j 3 3"]:
        """Rotation matrix of each joint; joints without coefficients stay."""
        given = pose.shape[-1]
        if given > 3 * len(self.pose):
            linear = len(self.expression_basis)
            known = linear + 3 * len(self.pose)
            raise ValueError(f"{linear + given} expression coefficients, the model has {known}")
        padded = torch.nn.functional.pad(pose, (0, 3 * len(self.pose) - given))
        still = torch.zeros_like(padded[..., :1]).expand(*padded.shape[:-1], 3)
        vectors = [still] * len(self.parents)
        for k, part in enumerate(self.pose):
            vectors[POSE_JOINTS[part]] = padded[..., 3 * k : 3 * k + 3]
        if neck is not None:
            vectors[NECK] = neck.to(still)
        stacked = torch.stack(torch.broadcast_tensors(*vectors), -2)
        rotations = roma.rotvec_to_rotmat(stacked)
        assert isinstance(rotations, Tensor)
        return rotations

    def _skinned(
        self, shaped: Float[Tensor, "*b v 3"], rotations: Float[Tensor, "*b j 3 3"]
    ) -> Float[Tensor, "*b v 3"]:
        """Pose correctives and linear blend skinning."""
        joints = self.joint_regressor.to(shaped) @ shaped
        unit = torch.eye(3).to(rotations)
        change = (rotations[..., 1:, :, :] - unit).flatten(-3)
        corrected = shaped + _combine(change, self.pose_basis, "pose")
        turns: list[Tensor] = []
        places: list[Tensor] = []
        for k, parent in enumerate(self.parents):
            turn, place = rotations[..., k, :, :], joints[..., k, :]
            if parent >= 0:
                step = place - joints[..., parent, :]
                place = (turns[parent] @ step[..., None])[..., 0] + places[parent]
                turn = turns[parent] @ turn
            turns.append(turn)
            places.append(place)
        turned = torch.stack(turns, -3)
        moved = torch.stack(torch.broadcast_tensors(*places), -2)
        shift = moved - (turned @ joints[..., None])[..., 0]
        weights = self.skinning.to(shaped)
        blended = torch.einsum("vj,...jrc->...vrc", weights, turned)
        return (blended @ corrected[..., None])[..., 0] + weights @ shift


def _combine(coefficients: Tensor, basis: Tensor, what: str) -> Tensor:
    """Sum of modes (*b, v, 3)."""
    count = coefficients.shape[-1]
    if count > len(basis):
        raise ValueError(f"{count} {what} coefficients, the model has {len(basis)}")
    return (coefficients @ basis[:count].flatten(1).to(coefficients)).unflatten(-1, (-1, 3))
