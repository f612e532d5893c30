"""How the coefficients of a head model mirror."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from lifemask.facemodel.base import FaceModel


@dataclass(frozen=True)
class HeadSymmetry:
    """What mirroring does to the coefficients of a head model.

    Attributes:
        identity_sign: (i,) -1 for modes that a mirrored head takes with the opposite sign.
        expression_partner: (e,) index of the expression on the other side.
    """

    identity_sign: Float[ndarray, "i"]
    expression_partner: Int[ndarray, "e"]


def head_symmetry(model: FaceModel) -> HeadSymmetry | None:
    """How the model's coefficients mirror; None where the model does not say.

    It says so by `antisymmetric` and by expressions that come in pairs of "Left" and "Right".
    """
    antisymmetric = getattr(model, "antisymmetric", None)
    names = model.expression_names
    others = [n.replace("Left", "#").replace("Right", "Left").replace("#", "Right") for n in names]
    if antisymmetric is None or not set(others) <= set(names):
        return None
    sign = 1.0 - 2.0 * antisymmetric.cpu().numpy().astype(np.float32)
    return HeadSymmetry(sign, np.array([names.index(n) for n in others], np.int64))
