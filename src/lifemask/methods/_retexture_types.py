"""What travels between the parts of the re-renderable texture: batches, the network's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class RetextureInput(NamedTuple):
    """What the network sees of a face, on its map of n x n texels.

    Attributes:
        texture: (b, 3, n, n) the photo's colours, sRGB in [0, 1]; 0 where not visible.
        visible: (b, 1, n, n) in [0, 1], how far the photo shows the texel's skin.
        normals: (b, 3, n, n) unit, camera frame.
        noise: (b, 3, n, n) standard normal, what `fill: noise` puts into hidden texels.
    """

    texture: Float[Tensor, "b 3 n n"]
    visible: Float[Tensor, "b 1 n n"]
    normals: Float[Tensor, "b 3 n n"]
    noise: Float[Tensor, "b 3 n n"]


class RetextureOutput(NamedTuple):
    """Albedo and light of faces, on the map.

    Attributes:
        prior: (b, 3, n, n) linear albedo in (0, 1) of the prior for this face.
        code: (b, z) of the prior.
        light: (b, 9, 3) radiance coefficients of the photo's one light, camera frame, exposure
            included.
        albedo: (b, 3, n, n) linear albedo in (0, 1).
        detail: (b, 27, m, m) radiance coefficients of each texel's own light, channel-major: the
            nine of red, of green, of blue; camera frame. On a grid over the map, bilinear between
            its places; m is 1 where there is one light only.
    """

    prior: Float[Tensor, "b 3 n n"]
    code: Float[Tensor, "b z"]
    light: Float[Tensor, "b 9 3"]
    albedo: Float[Tensor, "b 3 n n"]
    detail: Float[Tensor, "b 27 m m"]


@dataclass(frozen=True)
class RetextureBatch:
    """Faces with their photos, and their truth where they are renders.

    Attributes:
        seen: what the network gets.
        photo: (b, 3, s, s) square crops, sRGB in [0, 1].
        places: (b, s, s, 2) where in the map each pixel looks, as `functional.grid_sample` takes
            it; `_retexture_chart.OUTSIDE` where it shows nothing of the map.
        mask: (b, 1, s, s) in [0, 1], pixels that show the map's skin and nothing before it.
        albedo: (b, 3, n, n) true linear albedo, 0 where unknown.
        truth: (b, 1, n, n) in [0, 1], how far `albedo` is known; 0 for photos.
        light: (b, 9, 3) true radiance coefficients times exposure, camera frame; 0 if unknown.
        lit: (b,) 1 where `light` is known.
    """

    seen: RetextureInput
    photo: Float[Tensor, "b 3 s s"]
    places: Float[Tensor, "b s s 2"]
    mask: Float[Tensor, "b 1 s s"]
    albedo: Float[Tensor, "b 3 n n"]
    truth: Float[Tensor, "b 1 n n"]
    light: Float[Tensor, "b 9 3"]
    lit: Float[Tensor, "b"]
