"""The true albedo of rendered heads on the face's chart, with beards that stand off the skin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifemask.graphics.lighting import linear_to_srgb
from lifemask.graphics.uv import sample_uv

if TYPE_CHECKING:
    from lifemask.data._synthetic_rig import HeadRig
    from lifemask.methods._retexture_chart import TextureChart

GROWN = 0.05
"""Density from which a beard's cut has hair."""
_SEEN = 0.3
"""Visibility from which a texel counts as seen."""
_PART = 0.05
"""How far a texel may be part beard, part skin."""


def layout_on_chart(
    rig: HeadRig, layout: Float[Tensor, "c h w"], chart: TextureChart
) -> Float[Tensor, "t c"]:
    """A map in the layout of the generator's skins, read at the texels that the chart covers."""
    low, high = torch.tensor(rig.uv_box).view(2, 2)
    return sample_uv(layout.contiguous(), (chart.model_uv - low) / (high - low))


def bearded_albedo(
    skin: Float[Tensor, "3 n n"],
    pixels: Float[Tensor, "3 h h"],
    beard: Float[Tensor, "h h"],
    visible: Float[Tensor, "n n"],
    grows: Bool[Tensor, "n n"],
    points: Float[Tensor, "2 n n"],
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
        points: where the texels lie in the picture, px.
    """
    layers = torch.cat((pixels * beard, beard[None]))[None]
    at = ((points + 0.5) * (2 / len(beard)) - 1).permute(1, 2, 0)[None]
    *colour, share = torch.nn.functional.grid_sample(layers, at, align_corners=False)[0]
    coded = linear_to_srgb(torch.stack(colour) / share.clamp(min=1e-3)).clamp(0, 1)
    seen = visible > _SEEN
    shown = seen & (share > 1 - _PART)
    lent = ~seen & shown.flip(-1)
    bare = (seen & (share < _PART)) | (~seen & ~lent & ~grows)
    albedo = torch.where(shown, coded, torch.where(lent, coded.flip(-1), skin))
    return albedo, shown | lent, bare
