"""What every face model offers: topology, landmark embeddings, and parameters to vertices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class LandmarkEmbedding:
    """Landmarks as fixed points on the surface.

    Attributes:
        vertex_ids: (n, 3) the corners of the triangle that carries each landmark.
        barycentric: (n, 3) weights that sum to 1.
        mirror: (n,) index of the landmark on the other side of the face.
    """

    vertex_ids: Int[Tensor, "n 3"]
    barycentric: Float[Tensor, "n 3"]
    mirror: Int[Tensor, "n"]


@dataclass(frozen=True)
class Topology:
    """Connectivity, UVs and names that all shapes of a model share.

    Attributes:
        faces: (f, 3) triangles, counter-clockwise from outside.
        uvs: (t, 2) in [0, 1], v up (v = 1 is the top row of a texture).
        faces_uv: (f, 3) ids into `uvs`.
        face_part: (f,) index into `part_names` of each triangle.
        part_names: e.g. ("skin", "eyes", "teeth", "tongue"); each has its own texture.
        mirror: (v,) id of the vertex on the other side; an involution.
        regions: vertex masks (v,) by name; "face" is the part that methods fit and score.
        polygons: (p, 4) quads for export, last id -1 for a triangle; None if only triangles.
    """

    faces: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "t 2"]
    faces_uv: Int[Tensor, "f 3"]
    face_part: Int[Tensor, "f"]
    part_names: tuple[str, ...]
    mirror: Int[Tensor, "v"]
    regions: Mapping[str, Bool[Tensor, "v"]]
    polygons: Int[Tensor, "p 4"] | None = None


class FaceModel(nn.Module, ABC):
    """Parameters to a head in millimetres in the model frame (`docs/conventions.md`).

    Attributes:
        name: key of `facemodel.FACE_MODELS`.
        topology: connectivity, UVs, parts, mirror table, regions.
        landmark_embeddings: by landmark-set name, see `facemodel.landmarks.LANDMARK_SETS`.
        identity_size: number of identity coefficients, each standard normal under the prior.
        expression_names: names of the expression coefficients.
        expression_range: (lowest, highest) of each; None: activations, all in [0, 1]. A range
            that reaches below 0 belongs to a signed coefficient, normal with mean 0 and a third
            of the range's end as its standard deviation.
    """

    name: str
    topology: Topology
    landmark_embeddings: Mapping[str, LandmarkEmbedding]
    identity_size: int
    expression_names: tuple[str, ...]
    expression_range: tuple[tuple[float, float], ...] | None = None

    @abstractmethod
    def forward(
        self, identity: Float[Tensor, "*b i"], expression: Float[Tensor, "*b e"]
    ) -> Float[Tensor, "*b v 3"]:
        """Vertices (*b, v, 3) in mm; shorter coefficient vectors are padded with zeros."""

    def landmarks(self, vertices: Float[Tensor, "*b v 3"], convention: str) -> Tensor:
        """Points (*b, n, 3) of a landmark set on given vertices, in the vertices' frame.

        Raises:
            KeyError: the model has no such landmark set; the message lists those it has.
        """
        if convention not in self.landmark_embeddings:
            known = ", ".join(sorted(self.landmark_embeddings))
            raise KeyError(f"{self.name} has no landmark set {convention!r}; it has: {known}")
        embedding = self.landmark_embeddings[convention]
        corners = vertices[..., embedding.vertex_ids.to(vertices.device), :]
        weights = embedding.barycentric.to(vertices)
        return torch.einsum("...nkc,nk->...nc", corners, weights)
