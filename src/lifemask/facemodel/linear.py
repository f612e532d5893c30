"""Linear face model: mean + identity modes + expression shapes, and its safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.base import FaceModel, LandmarkEmbedding, Topology

GAIN_RANGE = (0.5, 1.9)
SPARSE_FLOOR_MM = 0.004  # smaller expression deltas are not stored


@dataclass(frozen=True)
class JawContour:
    """Polylines on which jaw landmarks slide when the silhouette moves (profile, pitch).

    Attributes:
        lines: (n, k) vertex ids per jaw landmark, from the outer face towards the ear or throat;
            the landmark of the frontal face lies on its line. Short lines repeat the last vertex.
        landmark_ids: (n,) index of each line's landmark in the 68 sets (0..16).
    """

    lines: Tensor
    landmark_ids: Tensor


class LinearFaceModel(FaceModel):
    """`S(a, b) = mean + sum_i a_i U_i + sum_j b_j E_j` in mm.

    Args:
        name: key of `FACE_MODELS`.
        mean: (v, 3) neutral mean in mm, model frame.
        identity: (i, v, 3) modes in mm per standard deviation.
        expression: (e, v, 3) shapes in mm at activation 1.
        expression_names: e names.
        topology: shared connectivity.
        landmark_embeddings: by set name.
        contour: lines for sliding jaw landmarks, or None.
        antisymmetric: (i,) True for modes that a mirrored head takes with the opposite sign.
        expression_gain: (e, i) how identity scales an expression: its activation is multiplied by
            `clip(1 + gain . a, 0.5, 1.9)`, so that a blink closes large eyes and does not
            overshoot on small ones. None = all zeros, a strictly linear model.
        expression_range: (lowest, highest) per expression; None for activations in [0, 1].
        albedo_mean: (v, 3) mean colour of the vertices, or None.
        albedo_basis: (k, v, 3) colour per standard deviation, or None.
    """

    mean: Tensor
    identity_basis: Tensor
    expression_basis: Tensor
    expression_gain: Tensor
    albedo_mean: Tensor | None
    albedo_basis: Tensor | None

    def __init__(
        self,
        name: str,
        mean: Float[Tensor, "v 3"],
        identity: Float[Tensor, "i v 3"],
        expression: Float[Tensor, "e v 3"],
        expression_names: tuple[str, ...],
        topology: Topology,
        landmark_embeddings: Mapping[str, LandmarkEmbedding],
        contour: JawContour | None = None,
        antisymmetric: Tensor | None = None,
        expression_gain: Float[Tensor, "e i"] | None = None,
        expression_range: tuple[tuple[float, float], ...] | None = None,
        albedo_mean: Float[Tensor, "v 3"] | None = None,
        albedo_basis: Float[Tensor, "k v 3"] | None = None,
    ):
        super().__init__()
        if len(expression_names) != len(expression):
            raise ValueError(f"{len(expression)} expressions, {len(expression_names)} names")
        if expression_range is not None and len(expression_range) != len(expression):
            raise ValueError(f"{len(expression)} expressions, {len(expression_range)} ranges")
        self.name = name
        self.topology = topology
        self.landmark_embeddings = dict(landmark_embeddings)
        self.identity_size = len(identity)
        self.expression_names = tuple(expression_names)
        self.expression_range = expression_range
        self.contour = contour
        self.antisymmetric = antisymmetric
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("identity_basis", identity, persistent=False)
        self.register_buffer("expression_basis", expression, persistent=False)
        gain = mean.new_zeros(len(expression), len(identity))
        gain = gain if expression_gain is None else expression_gain
        self.register_buffer("expression_gain", gain, persistent=False)
        self.register_buffer("albedo_mean", albedo_mean, persistent=False)
        self.register_buffer("albedo_basis", albedo_basis, persistent=False)

    def forward(
        self, identity: Float[Tensor, "*b i"], expression: Float[Tensor, "*b e"]
    ) -> Float[Tensor, "*b v 3"]:
        """Vertices (*b, v, 3) in mm; shorter coefficient vectors are padded with zeros.

        Raises:
            ValueError: a coefficient vector is longer than the model's basis.
        """
        shape = self.mean.flatten() + _combine(identity, self.identity_basis, "identity")
        active = expression * self.gains(identity)[..., : expression.shape[-1]]
        shape = shape + _combine(active, self.expression_basis, "expression")
        return shape.unflatten(-1, (-1, 3))

    def albedo(self, coefficients: Float[Tensor, "*b k"]) -> Float[Tensor, "*b v 3"]:
        """Colour of the vertices as its authors give it, scaled to [0, 1] but not clamped.

        Raises:
            ValueError: the model has no colours, or too many coefficients.
        """
        if self.albedo_mean is None or self.albedo_basis is None:
            raise ValueError(f"face model {self.name} has no colours")
        change = _combine(coefficients, self.albedo_basis, "albedo")
        return (self.albedo_mean.to(change).flatten() + change).unflatten(-1, (-1, 3))

    def gains(self, identity: Float[Tensor, "*b i"]) -> Float[Tensor, "*b e"]:
        """The factor in [0.5, 1.9] by which an identity scales each expression."""
        gain = self.expression_gain[:, : identity.shape[-1]].to(identity)
        return (1.0 + identity @ gain.T).clamp(*GAIN_RANGE)


def _combine(coefficients: Tensor, basis: Tensor, what: str) -> Tensor:
    count = coefficients.shape[-1]
    if count > len(basis):
        raise ValueError(f"{count} {what} coefficients, the model has {len(basis)}")
    return coefficients @ basis[:count].flatten(1).to(coefficients)


def load_linear_model(path: Path, name: str) -> LinearFaceModel:
    """Reads a linear model from the safetensors file that `pack_linear_model` describes.

    Returns:
        The model in float32 on the CPU.

    Raises:
        FileNotFoundError: no such file.
        KeyError: a tensor is missing.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        names = json.loads(file.metadata()["names"])
    embeddings = {
        entry: LandmarkEmbedding(
            vertex_ids=tensors[f"landmarks.{entry}.vertex_ids"].long(),
            barycentric=tensors[f"landmarks.{entry}.barycentric"],
            mirror=tensors[f"landmarks.{entry}.mirror"].long(),
        )
        for entry in names["landmark_sets"]
    }
    contour = None
    if "contour.lines" in tensors:
        ids = tensors["contour.landmark_ids"].long()
        contour = JawContour(tensors["contour.lines"].long(), ids)
    return LinearFaceModel(
        name=name,
        mean=tensors["mean"].float(),
        identity=tensors["identity"].float(),
        expression=_dense(tensors),
        expression_names=tuple(names["expressions"]),
        topology=_topology(tensors, names),
        landmark_embeddings=embeddings,
        contour=contour,
        antisymmetric=tensors["antisymmetric"].bool() if "antisymmetric" in tensors else None,
        expression_gain=tensors["expression_gain"].float()
        if "expression_gain" in tensors
        else None,
    )


def _dense(tensors: Mapping[str, Tensor]) -> Tensor:
    """Expression shapes (e, v, 3) from their stored entries."""
    counts = tensors["expression.count"].long()
    out = torch.zeros(len(counts), len(tensors["mean"]), 3)
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
    out[rows, tensors["expression.vertex"].long()] = tensors["expression.delta"].float()
    return out


def _sparse(expression: Tensor) -> dict[str, Tensor]:
    """The entries of expression shapes (e, v, 3) that are not negligible, as fp16."""
    rows, vertices = (expression.norm(dim=-1) > SPARSE_FLOOR_MM).nonzero(as_tuple=True)
    return {
        "expression.count": torch.bincount(rows, minlength=len(expression)).int(),
        "expression.vertex": vertices.to(torch.int16),
        "expression.delta": expression[rows, vertices].half(),
    }


def _topology(tensors: Mapping[str, Tensor], names: Mapping[str, list[str]]) -> Topology:
    regions = tensors["regions"].bool()
    return Topology(
        faces=tensors["faces"].long(),
        uvs=tensors["uvs"].float(),
        faces_uv=tensors["faces_uv"].long(),
        face_part=tensors["face_part"].long(),
        part_names=tuple(names["parts"]),
        mirror=tensors["mirror"].long(),
        regions={name: regions[i] for i, name in enumerate(names["regions"])},
        polygons=tensors["polygons"].long() if "polygons" in tensors else None,
    )


def pack_linear_model(model: LinearFaceModel, path: Path) -> None:
    """Writes a linear model of under 32,768 vertices: fp16 bases, sparse expressions."""
    from safetensors.torch import save_file

    topology = model.topology
    tensors = {
        "mean": model.mean.float(),
        "identity": model.identity_basis.half(),
        **_sparse(model.expression_basis),
        "expression_gain": model.expression_gain.float(),
        "faces": topology.faces.to(torch.int16),
        "uvs": topology.uvs.float(),
        "faces_uv": topology.faces_uv.to(torch.int16),
        "face_part": topology.face_part.to(torch.uint8),
        "mirror": topology.mirror.to(torch.int16),
        "regions": torch.stack(list(topology.regions.values())).to(torch.uint8),
    }
    if topology.polygons is not None:
        tensors["polygons"] = topology.polygons.to(torch.int16)
    if model.antisymmetric is not None:
        tensors["antisymmetric"] = model.antisymmetric.to(torch.uint8)
    if model.contour is not None:
        tensors["contour.lines"] = model.contour.lines.to(torch.int16)
        tensors["contour.landmark_ids"] = model.contour.landmark_ids.int()
    for name, entry in model.landmark_embeddings.items():
        tensors[f"landmarks.{name}.vertex_ids"] = entry.vertex_ids.to(torch.int16)
        tensors[f"landmarks.{name}.barycentric"] = entry.barycentric.float()
        tensors[f"landmarks.{name}.mirror"] = entry.mirror.to(torch.int16)
    names = {
        "expressions": list(model.expression_names),
        "parts": list(topology.part_names),
        "regions": list(topology.regions),
        "landmark_sets": list(model.landmark_embeddings),
    }
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(contiguous, str(path), metadata={"names": json.dumps(names)})


def as_tensor(values: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """A copy of a numpy array as a tensor of the given dtype."""
    return torch.as_tensor(np.ascontiguousarray(values)).to(dtype)
