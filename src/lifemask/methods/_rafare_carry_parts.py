"""Eyes, lids and mouth while a head is moved onto a surface: what moves as a whole, and with what.

An eyeball moves like the mean of its lids' edge, and that edge and the socket move with it, so that
lids stay closed on the ball. Teeth and tongue move like the mean of the edge of their lip.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.methods._rafare_carry_layout import CarryLayout, EyeLayout


def eyes_and_mouth(layout: CarryLayout, moves: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
    """Moves with those of eyeballs, teeth, gums and tongue filled in.

    Args:
        layout: of the head's model.
        moves: (v, 3) mm of the skin.
    """
    moves = moves.clone()
    for eye in layout.eyes:
        moves[eye.ball] = moves[eye.rim].mean(0)
    for inside, lips in layout.mouth:
        moves[inside] = moves[lips].mean(0)
    return moves


def pins(layout: CarryLayout, moves: Float[Tensor, "v 3"]) -> Iterator[tuple[Tensor, Tensor]]:
    """Vertices of the skin that move as a whole, and their move (3,): each eye's rim and socket."""
    for eye in layout.eyes:
        yield torch.cat((eye.rim, eye.socket)), moves[eye.rim].mean(0)


def keep_lids_out(
    layout: CarryLayout, start: Float[Tensor, "v 3"], moves: Float[Tensor, "v 3"]
) -> Float[Tensor, "v 3"]:
    """Moves that leave no lid deeper in its eyeball than it was.

    Args:
        layout: of the head's model.
        start: (v, 3) mm before the moves.
        moves: (v, 3) mm, those of the eyeballs among them.
    """
    moves = moves.clone()
    for eye in layout.eyes:
        center, radius = _ball(eye, start)
        own = layout.skin.clone()
        own[eye.socket] = False
        near = (own & (torch.linalg.vector_norm(start - center, dim=-1) < 2 * radius)).nonzero()
        ids = near[:, 0]
        before = torch.linalg.vector_norm(start[ids] - center, dim=-1)
        away = start[ids] + moves[ids] - center - moves[eye.ball[0]]
        after = torch.linalg.vector_norm(away, dim=-1)
        least = before.clamp(max=radius)
        short = (least - after).clamp(min=0) / after.clamp(min=1e-6)
        moves[ids] = moves[ids] + short[:, None] * away
    return moves


def _ball(eye: EyeLayout, vertices: Tensor) -> tuple[Float[Tensor, "3"], float]:
    """Centre and largest radius of an eyeball: the least-squares sphere of its vertices."""
    points = vertices[eye.ball].double()
    rows = torch.cat((2 * points, torch.ones(len(points), 1, dtype=points.dtype)), dim=-1)
    found = torch.linalg.lstsq(rows, points.square().sum(-1, keepdim=True)).solution[:3, 0]
    center = found.to(vertices)
    return center, float(torch.linalg.vector_norm(vertices[eye.ball] - center, dim=-1).amax())
