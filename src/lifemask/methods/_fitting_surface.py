"""Points on a linear face model as functions of its coefficients, and the prior on those."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lifemask.facemodel.base import FaceModel
from lifemask.facemodel.linear import LinearFaceModel

# Coefficients that landmarks on the skin cannot see, or that are not a left-right pair of one act.
UNSEEN_EXPRESSIONS = ("eyeLook", "tongueOut", "PupilDilate")
_OPPOSITES = ("jaw", "mouth", "eyeLookIn", "eyeLookOut")
# Acts that people in photos seldom make and that identity can imitate: rate of the prior, relative.
_RARE = {
    "cheekPuff": 4.0,
    "jawForward": 4.0,
    "jawLeft": 3.0,
    "jawRight": 3.0,
    "mouthLeft": 2.0,
    "mouthRight": 2.0,
    "mouthClose": 2.0,
    "mouthRoll": 2.0,
    "mouthShrug": 2.0,
}
IDENTITY_LIMIT = 4.0  # standard deviations
_STEP, _CHUNK = 0.02, 32  # of the differences that linearise a model, and how many at once


@dataclass(frozen=True)
class SurfacePoints:
    """Points in the model frame, linear in the coefficients c = (identity, expression).

    Attributes:
        mean: (n, 3) mm at c = 0.
        basis: (n, 3, p) mm per unit of each coefficient.
    """

    mean: Float[Tensor, "n 3"]
    basis: Float[Tensor, "n 3 p"]

    def at(self, coefficients: Float[Tensor, " p"]) -> Float[Tensor, "n 3"]:
        """Points (n, 3) mm for coefficients (p,)."""
        n, _, p = self.basis.shape
        return self.mean + (self.basis.reshape(3 * n, p) @ coefficients).reshape(n, 3)

    def select(self, index: Tensor) -> SurfacePoints:
        """The points with the given indices or mask."""
        return SurfacePoints(self.mean[index], self.basis[index])


@dataclass(frozen=True)
class Prior:
    """Gaussian and exponential prior on the coefficients with bounds.

    Energy: `c^T precision c / 2 + linear^T c`, subject to `lower <= c <= upper`.

    Attributes:
        precision: (p, p) symmetric, positive semi-definite.
        linear: (p,) slope; the rate of an exponential prior where positive.
        lower: (p,) lower bounds.
        upper: (p,) upper bounds; equal to `lower` for a coefficient that stays fixed.
    """

    precision: Float[Tensor, "p p"]
    linear: Float[Tensor, " p"]
    lower: Float[Tensor, " p"]
    upper: Float[Tensor, " p"]


def holding(prior: Prior, identity: Float[Tensor, " i"]) -> Prior:
    """The prior with bounds that fix the identity, which stands first among the coefficients."""
    lower, upper = prior.lower.clone(), prior.upper.clone()
    lower[: len(identity)] = upper[: len(identity)] = identity.to(lower)
    return replace(prior, lower=lower, upper=upper)


_CACHE: weakref.WeakKeyDictionary[FaceModel, SurfacePoints] = weakref.WeakKeyDictionary()


def vertex_basis(model: FaceModel) -> SurfacePoints:
    """All vertices of a model as `SurfacePoints` (v points), kept until the model is freed.

    A model that is not linear is linearised at its neutral mean.
    """
    if model not in _CACHE:
        with torch.no_grad():
            _CACHE[model] = _linear(model)
    return _CACHE[model]


def _linear(model: FaceModel) -> SurfacePoints:
    if isinstance(model, LinearFaceModel):
        basis = torch.cat((model.identity_basis, model.expression_basis))
        return SurfacePoints(model.mean, basis.permute(1, 2, 0).contiguous())
    reference = next(model.buffers(), torch.zeros(()))
    i, e = model.identity_size, len(model.expression_names)
    steps = torch.eye(i + e, dtype=reference.dtype, device=reference.device) * _STEP
    mean = model(steps.new_zeros(i), steps.new_zeros(e))
    slopes = [
        (model(c[:, :i], c[:, i:]) - model(-c[:, :i], -c[:, i:])) / (2 * _STEP)
        for c in steps.split(_CHUNK)
    ]
    return SurfacePoints(mean, torch.cat(slopes).permute(1, 2, 0).contiguous())


def surface_points(
    model: FaceModel,
    vertex_ids: Int[Tensor, "n k"],
    weights: Float[Tensor, "n k"],
    dtype: torch.dtype = torch.float64,
) -> SurfacePoints:
    """Weighted means of k vertices each, as `SurfacePoints` of the given dtype."""
    vertices = vertex_basis(model)
    weights = weights.to(vertices.mean)
    mean = torch.einsum("nkc,nk->nc", vertices.mean[vertex_ids], weights)
    basis = weights[:, 0, None, None] * vertices.basis[vertex_ids[:, 0]]
    for k in range(1, vertex_ids.shape[1]):
        basis += weights[:, k, None, None] * vertices.basis[vertex_ids[:, k]]
    return SurfacePoints(mean.to(dtype), basis.to(dtype))


def landmark_points(
    model: FaceModel, convention: str, dtype: torch.dtype = torch.float64
) -> SurfacePoints:
    """A landmark set of the model as `SurfacePoints`.

    Raises:
        KeyError: the model has no such landmark set; the message lists those it has.
    """
    embeddings = model.landmark_embeddings
    if convention not in embeddings:
        known = ", ".join(sorted(embeddings))
        raise KeyError(f"{model.name} has no landmark set {convention!r}; it has: {known}")
    embedding = embeddings[convention]
    return surface_points(model, embedding.vertex_ids, embedding.barycentric, dtype)


def expression_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Indices of expressions that are the left and right half of one act (smile, blink, ...)."""
    index = {name: k for k, name in enumerate(names)}
    pairs = []
    for name, k in index.items():
        if not name.endswith("Left") or name[: -len("Left")] in _OPPOSITES:
            continue
        other = index.get(name[: -len("Left")] + "Right")
        if other is not None:
            pairs.append((k, other))
    return pairs


def coefficient_prior(
    model: FaceModel,
    identity_weight: float,
    expression_rate: float,
    symmetry_sigma: float,
    like: Tensor,
) -> Prior:
    """Prior on (identity, expression): unit normal, exponential on [0, 1], left like right.

    Where the model has an `expression_range`, an activation is exponential on that range instead,
    and a signed coefficient is normal, with a third of its range's end as standard deviation.

    Args:
        model: the face model.
        identity_weight: precision of the identity coefficients; 1 is the model's own prior.
        expression_rate: rate of the exponential prior on expressions, per unit; larger for acts
            that are rare.
        symmetry_sigma: standard deviation of left minus right activation of a paired expression.
        like: tensor that gives dtype and device.
    """
    i, names = model.identity_size, model.expression_names
    size = i + len(names)
    diagonal = like.new_full((size,), 0.1 * expression_rate)
    diagonal[:i] = identity_weight
    precision = torch.diag(diagonal)
    for left, right in expression_pairs(names):
        for a, b, sign in (
            (left, left, 1),
            (right, right, 1),
            (left, right, -1),
            (right, left, -1),
        ):
            precision[i + a, i + b] += sign / symmetry_sigma**2
    linear = like.new_full((size,), expression_rate)
    linear[:i] = 0
    lower = like.new_zeros(size)
    upper = like.new_ones(size)
    lower[:i], upper[:i] = -IDENTITY_LIMIT, IDENTITY_LIMIT
    for k, (low, high) in enumerate(model.expression_range or ()):
        lower[i + k], upper[i + k] = low, high
        linear[i + k] = expression_rate / high if low >= 0 else 0.0
        precision[i + k, i + k] *= 1.0 / high**2 if low >= 0 else 0.0
        precision[i + k, i + k] += (3.0 / high) ** 2 if low < 0 else 0.0
    for k, name in enumerate(names):
        if name.startswith(UNSEEN_EXPRESSIONS):
            lower[i + k] = upper[i + k] = 0
        for act, rate in _RARE.items():
            if name.startswith(act):
                linear[i + k] *= rate
    return Prior(precision, linear, lower, upper)
