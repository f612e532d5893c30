"""The albedo of rendered heads whose beards stand off the skin."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.graphics.lighting import linear_to_srgb

GROWN = 0.05
"""Density from which a beard's cut has hair."""
SEEN = 0.3
"""Visibility from which a texel counts as seen."""
_PART = 0.05
"""How far a texel may be part beard, part skin."""


def bearded_albedo(
    skin: Float[Tensor, "3 n n"],
    pixels: Float[Tensor, "3 h h"],
    beard: Float[Tensor, "h h"],
    visible: Float[Tensor, "n n"],
    grows: Bool[Tensor, "n n"],
    at: Float[Tensor, "1 n n 2"],
) -> tuple[Float[Tensor, "3 n n"], Bool[Tensor, "n n"], Bool[Tensor, "n n"]]:
    """Albedo of a head that wears a beard, which texels show the beard, and which show skin.

    A beard that stands out hides the skin below it, and is what a texture of the head has to show.
    Where the picture shows it, its pixels' albedo is the truth; a texel that is not seen takes the
    beard that its mirror image shows. Half beard, half skin, and what is below a beard that is not
    seen are neither: nothing is known of them.

    Args:
        skin: albedo without the beard, sRGB-coded in [0, 1].
        pixels: linear albedo of the picture.
        beard: 1 where the picture shows the beard, else 0.
        visible: how far the picture shows the texel, beard or skin.
        grows: where the beard's cut has hair.
        at: where the texels lie in the picture, as `functional.grid_sample` takes it.
    """
    layers = torch.cat((pixels * beard, beard[None]))[None]
    *colour, share = torch.nn.functional.grid_sample(layers, at, align_corners=False)[0]
    coded = linear_to_srgb(torch.stack(colour) / share.clamp(min=1e-3)).clamp(0, 1)
    seen = visible > SEEN
    shown = seen & (share > 1 - _PART)
    lent = ~seen & shown.flip(-1)
    bare = (seen & (share < _PART)) | (~seen & ~lent & ~grows)
    albedo = torch.where(shown, coded, torch.where(lent, coded.flip(-1), skin))
    return albedo, shown | lent, bare
