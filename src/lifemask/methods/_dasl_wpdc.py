"""How much each coefficient matters: the weights of 2DASL's coefficient loss.

`e_i = |H(p* with entry i from p) - H(p*)| + 1e-6` over 68 landmarks and 132 vertices,
`w_i = e_i / max_k e_k`: the weighted parameter distance cost of 3DDFA (Zhu et al., TPAMI 2019), on
which the paper's loss rests, in closed form instead of one posed mesh per coefficient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.facemodel.linear import GAIN_RANGE
from lifemask.methods._coefficients import CoefficientHead
from lifemask.nn.parametric import rotation_from_6d

EPS = 1e-6
DEPTH = 11  # entry of `affine12` that moves nothing in the picture


class Importance(torch.nn.Module):
    """Importance of coefficients; Gram matrices of the face model's points as buffers.

    Args:
        head: the coefficients' meaning; handed in again at each call, since it is no part of this.
    """

    def __init__(self, head: CoefficientHead) -> None:
        super().__init__()
        rows = head.sets68[head.scored]
        count = head.get_buffer("mean").shape[0]
        ids = torch.cat((torch.arange(count)[rows], torch.arange(head.landmarks, count)))
        basis = head.get_buffer("basis").view(-1, count, 3)[:, ids].flatten(1)
        i = head.identity_size
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("norms", basis.norm(dim=1), persistent=False)
        self.register_buffer("cross", basis[:i] @ basis[i:].T, persistent=False)
        self.register_buffer("gram", basis[i:] @ basis[i:].T, persistent=False)

    def forward(
        self, head: CoefficientHead, raw: Float[Tensor, "b d"], true: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b d"]:
        """Weights (b, D) in (0, 1], largest 1, detached; 0 for a translation in depth.

        Args:
            head: that this was made for.
            raw: predicted coefficients, not whitened.
            true: true ones, not whitened; under `affine12` the matrix is a scaled rotation.
        """
        with torch.no_grad():
            errors = self.errors(head, raw, true) + EPS
            if head.pose == "affine12":
                errors[:, DEPTH] = 0
            return errors / errors.amax(1, keepdim=True)

    def errors(
        self, head: CoefficientHead, raw: Float[Tensor, "b d"], true: Float[Tensor, "b d"]
    ) -> Tensor:
        """Displacement (b, D) in half-crops, root of the sum of squares over the points."""
        matrix, _, identity, expression = head.parts(true)
        shape = head.shape(identity, expression)[:, self.get_buffer("ids")]
        pose = self._rot6d if head.pose == "rot6d" else self._affine
        scale = matrix[:, 0].norm(dim=-1, keepdim=True)
        i, n = head.identity_size, head.pose_size
        moved = self._identity(head, raw[:, n : n + i], identity, expression)
        gains = head.gains(identity)
        bent = (raw[:, n + i :] - expression).abs() * gains * self.get_buffer("norms")[i:]
        return torch.cat((pose(raw, true, shape), scale * moved, scale * bent), 1)

    def _identity(
        self, head: CoefficientHead, found: Tensor, identity: Tensor, expression: Tensor
    ) -> Tensor:
        """|a_i U_i + change of the expressions that identity scales| for each mode alone."""
        change = found - identity
        length = self.get_buffer("norms")[: head.identity_size]
        if not head.clamps_gain:
            return change.abs() * length
        gain = head.get_buffer("gain")
        before = 1.0 + identity @ gain.T
        after = (before[:, None] + change[..., None] * gain.T).clamp(*GAIN_RANGE)
        scaled = expression[:, None] * (after - before.clamp(*GAIN_RANGE)[:, None])
        crossed = (scaled * self.get_buffer("cross")).sum(-1)
        bent = ((scaled @ self.get_buffer("gram")) * scaled).sum(-1)
        square = (change * length).square() + 2 * change * crossed + bent
        return square.clamp_min(0).sqrt()

    def _rot6d(self, raw: Tensor, true: Tensor, shape: Tensor) -> Tensor:
        """Rotation entries by direct evaluation, scale and shift in closed form."""
        scale = true[:, 6].exp()
        size = shape.flatten(1).norm(dim=1)
        mixed = true[:, None, :6].expand(-1, 6, -1).clone()
        entries = torch.arange(6, device=raw.device)
        mixed[:, entries, entries] = raw[:, :6]
        turned = rotation_from_6d(mixed.reshape(-1, 6)).view(-1, 6, 3, 3)
        # |X dR^T| through the second moments of the points
        delta = turned - rotation_from_6d(true[:, :6])[:, None]
        moments = shape.transpose(1, 2) @ shape
        square = (delta @ moments[:, None] * delta).sum((-1, -2)).clamp_min(0)
        zoom = (raw[:, 6].exp() - scale).abs() * size
        shift = (raw[:, 7:9] - true[:, 7:9]).abs() * shape.shape[1] ** 0.5
        return torch.cat((scale[:, None] * square.sqrt(), zoom[:, None], shift), 1)

    def _affine(self, raw: Tensor, true: Tensor, shape: Tensor) -> Tensor:
        """Every entry moves one coordinate; a translation in depth moves nothing that is seen."""
        change = (raw[:, :12] - true[:, :12]).abs()
        columns = shape.norm(dim=1).repeat(1, 3)
        shift = change.new_full((1, 3), shape.shape[1] ** 0.5)
        shift[:, 2] = 0
        return change * torch.cat((columns, shift.expand(len(change), -1)), 1)
