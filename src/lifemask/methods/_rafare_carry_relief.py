"""What of a surface is too fine for a head's vertices, as a displacement map over its UVs."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.methods._rafare_carry_layout import CarryLayout
from lifemask.methods._rafare_carry_view import MeshView, shoot

REACH_MM = 3.0
FADE_MM = 4.0
"""The map rises over this width from where nothing is known."""
AWAY_MM = (0.15, 0.45)
"""Where the head lies this far from the surface on the whole, fine differences mean nothing."""


def relief_map(
    layout: CarryLayout,
    view: MeshView,
    vertices_mm: Float[Tensor, "v 3"],
    seen: Float[Tensor, "t"],
    limit_mm: float,
    band_mm: float,
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "n n"]]:
    """Displacement along the normals, and how far it is known.

    Waves much longer than `band_mm` are left out: there a difference is the vertices' affair, or
    the border's, where the surface was not believed.

    Args:
        layout: of the head's model.
        view: of the surface.
        vertices_mm: (v, 3) the head that was moved onto the surface.
        seen: (t,) in [0, 1], how far the photo shows each texel.
        limit_mm: heights are bent to stay below this.
        band_mm: see above.

    Returns:
        (displacement (n, n) mm, positive outward; known (n, n) in [0, 1]), row 0 at v = 1.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    points, normals = layout.smooth_face(vertices_mm)
    hits = shoot(view, points, normals, REACH_MM)
    weight = _picture(layout, seen * hits.found)
    height = _picture(layout, hits.distance_mm)
    sigma = band_mm / 4 / layout.texel_mm
    mass = np.maximum(gaussian_filter(weight, sigma), 1e-4)
    smooth = gaussian_filter(height * weight, sigma) / mass
    high = height - smooth
    covered = _picture(layout, torch.ones(len(points))) > 0
    unknown = covered & (weight < 0.05)
    inside = np.asarray(distance_transform_edt(~unknown)) * layout.texel_mm / FADE_MM
    away = (np.abs(smooth) - AWAY_MM[0]) / (AWAY_MM[1] - AWAY_MM[0])
    known = _rise(inside) * _rise((weight - 0.4) / 0.5) * (1 - _rise(away))
    bent = limit_mm * np.tanh(high / limit_mm) * known
    return _filled(layout, bent), _filled(layout, known)


def _picture(layout: CarryLayout, values: Float[Tensor, "t"]) -> np.ndarray:
    """Texels' values (n, n), 0 elsewhere."""
    return layout.atlas.scatter(values[:, None], gutter=False)[0].double().numpy()


def _filled(layout: CarryLayout, picture: np.ndarray) -> Float[Tensor, "n n"]:
    """A picture with the gutter about the charts filled."""
    values = layout.atlas.gather(torch.from_numpy(picture).float()[None])
    return layout.atlas.scatter(values)[0]


def _rise(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)
