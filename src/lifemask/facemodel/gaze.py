"""Where ARKit's eyeLook shapes turn the eyes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

LOOK_DEG = {"up": 28.0, "down": 30.0, "side": 36.0}
"""Turn of an eye at activation 1 of ARKit's eyeLook shapes, measured on ICT-FaceKit's eyeballs."""
SIDES = ("Left", "Right")
"""The subject's left eye is the one at +x."""


def look_activations(
    gaze_deg: Float[ndarray, "*t 2 2"], names: Sequence[str]
) -> dict[int, Float[ndarray, "*t"]]:
    """Activations of the eyeLook shapes of a model that turn its eyes like this.

    Args:
        gaze_deg: pitch (up is positive) and yaw (towards +x) of the eye at +x and of the one at
            -x, in the head's frame.
        names: of the model's expressions; those that are not ARKit's have no part.

    Returns:
        Activations in [0, 1] by index of the expression, all of an eye's four shapes.
    """
    found: dict[int, ndarray] = {}
    for k, side in enumerate(SIDES):
        pitch, yaw = gaze_deg[..., k, 0], gaze_deg[..., k, 1]
        outward = yaw if side == "Left" else -yaw
        for shape, degrees, full in (
            ("Up", pitch, LOOK_DEG["up"]),
            ("Down", -pitch, LOOK_DEG["down"]),
            ("Out", outward, LOOK_DEG["side"]),
            ("In", -outward, LOOK_DEG["side"]),
        ):
            name = f"eyeLook{shape}{side}"
            if name in names:
                found[list(names).index(name)] = np.clip(degrees / full, 0.0, 1.0)
    return found
