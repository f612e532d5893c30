"""Shapes that no head model says: a smooth random field of moves that bends a head.

Every head of a model lies in the span of its shapes, and so does the parametric head that the
networks are guided by. People do not. A field of random waves moves a head's vertices by a few
millimetres, so that what is to be learned is not in the model.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

WAVES = 40
"""Waves of a field: so many that it is about Gaussian."""
LENGTH_MM = (60.0, 140.0)
"""Shortest and longest of them."""
EVEN = 0.8
"""Share of the moves' energy that is the same on both sides of the face."""
EYE_MM = (16.0, 30.0)
"""Up to the first distance from an eye's centre all moves as one, from the second on freely."""
STREAM = 37
"""Of random numbers."""


def draw_warp_mm(most_mm: float, seed: int) -> float:
    """How far the field of a head moves it, RMS: anything up to `most_mm`."""
    if most_mm == 0:
        return 0.0
    return round(float(np.random.default_rng([STREAM, 0, seed]).uniform(0, most_mm)), 6)


def warp_moves(
    rest_mm: Float[Tensor, "v 3"], eyes: list[Bool[Tensor, "v"]], rms_mm: float, seed: int
) -> Float[Tensor, "v 3"]:
    """Moves of a head's vertices.

    The field is a sum of waves of random direction, length (evenly by its logarithm between the two
    of `LENGTH_MM`), phase and pull. It is continuous in space, so parts that lie in one another
    (teeth behind lips) stay so; eyeballs, with what is around them, keep their shape.

    Args:
        rest_mm: vertices of the model's mean head, model frame: where the field is read.
        eyes: masks of the eyeballs' vertices, one an eye.
        rms_mm: root mean square length of the moves, over the fields of all seeds.
        seed: of the field.

    Returns:
        (v, 3) moves in mm, model frame.
    """
    rng = np.random.default_rng([STREAM, 1, seed])
    low, high = np.log(LENGTH_MM)
    ways = rng.standard_normal((WAVES, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    lengths = np.exp(rng.uniform(low, high, WAVES))
    numbers = torch.from_numpy(ways * (2 * math.pi / lengths)[:, None])
    phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, WAVES))
    pulls = torch.from_numpy(rng.standard_normal((WAVES, 3))) * math.sqrt(2 / WAVES)

    def field(points: Tensor) -> Tensor:
        return torch.cos(points @ numbers.T + phases) @ pulls

    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)

    def paired(points: Tensor) -> Tensor:
        own, other = field(points), field(points * mirror) * mirror
        even, odd = (own + other) / math.sqrt(2), (own - other) / math.sqrt(2)
        return math.sqrt(EVEN) * even + math.sqrt(1 - EVEN) * odd

    points = rest_mm.double()
    moves = paired(points)
    for eye in eyes:
        ball = points[eye]
        centre = (ball.amin(0, keepdim=True) + ball.amax(0, keepdim=True)) / 2
        far = (torch.linalg.vector_norm(points - centre, dim=1) - EYE_MM[0]) / (
            EYE_MM[1] - EYE_MM[0]
        )
        free = far.clamp(0, 1)
        free = (free * free * (3 - 2 * free))[:, None]
        moves = free * moves + (1 - free) * paired(centre)
    return (moves * (rms_mm / math.sqrt(3))).to(rest_mm.dtype)
