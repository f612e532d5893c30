"""The loss terms of the re-renderable texture, one function each (arXiv 2111.08282, section 3).

Maps are (b, c, n, n); masks (b, 1, n, n) in [0, 1]. Every term is a mean over its mask, so that
weights do not depend on sizes. Colours are sRGB-coded unless it says linear.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.graphics.lighting import linear_to_srgb

_EPS = 1e-6
CHROMA_SHARPNESS = 80.0
MOLE = 0.02
"""Left-right differences of coded albedo below this are a face's own."""


def masked_mean(values: Float[Tensor, "b c n m"], mask: Float[Tensor, "b 1 n m"]) -> Tensor:
    """Mean over the mask's weight and the channels; 0 for an empty mask."""
    total = (values * mask).sum()
    return total / (mask.sum() * values.shape[1]).clamp(min=1.0)


def photo_term(
    render: Tensor, photo: Tensor, mask: Tensor, of: Float[Tensor, "b 1 n m"] | None = None
) -> Tensor:
    """Masked mean of each pixel's RGB distance (L2 norm).

    Args:
        render: sRGB.
        photo: sRGB.
        mask: weight of each pixel.
        of: the mean is over this mask's weight; None: over `mask`'s.
    """
    distance = ((render - photo).square().sum(1, keepdim=True) + _EPS).sqrt()
    return (distance * mask).sum() / (mask if of is None else of).sum().clamp(min=1.0)


def gradient_term(render: Tensor, photo: Tensor, mask: Tensor) -> Tensor:
    """L1 between the diagonal differences of render and photo, where both pixels count."""
    cost = render.new_zeros(())
    for (top, left), (bottom, right) in (((0, 0), (1, 1)), ((0, 1), (1, 0))):

        def shifted(x: Tensor, row: int, column: int) -> Tensor:
            height, width = x.shape[-2:]
            return x[..., row : height - 1 + row, column : width - 1 + column]

        both = shifted(mask, top, left) * shifted(mask, bottom, right)
        steps = [shifted(x, bottom, right) - shifted(x, top, left) for x in (render, photo)]
        cost = cost + masked_mean((steps[0] - steps[1]).abs(), both)
    return cost / 2


def perceptual_term(
    of_render: Float[Tensor, "b f"], of_photo: Float[Tensor, "b f"]
) -> Float[Tensor, ""]:
    """1 - cosine of two embeddings."""
    return (1 - functional.cosine_similarity(of_render, of_photo.detach(), dim=1)).mean()


def style_term(of_render: Float[Tensor, "b c h w"], of_photo: Float[Tensor, "b c h w"]) -> Tensor:
    """Squared distance of channel Gram matrices, each over C H W (Gatys et al., CVPR 2016)."""
    return (gram(of_render) - gram(of_photo.detach())).square().sum((1, 2)).mean()


def gram(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Channel Gram matrix over C H W."""
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def low_band(maps: Float[Tensor, "b c n n"], sigma: float = 8.0) -> Float[Tensor, "b c m m"]:
    """The maps without what is finer than `sigma` texels, on a grid of about that spacing.

    Means of squares twice as wide as sigma, tent-weighted: features of 2 sigma and more are left.
    """
    step = max(1, min(round(sigma), maps.shape[-1] // 4))
    return functional.avg_pool2d(functional.avg_pool2d(maps, step), 2, 1)


def detail_term(albedo: Tensor, prior: Tensor, mask: Tensor, sigma: float) -> Tensor:
    """L2 distance of the albedo's low band to the prior's; detail is free."""
    gap = low_band((albedo - prior) * mask, sigma)
    weight = low_band(mask, sigma)
    distance = (gap.square().sum(1, keepdim=True) + _EPS).sqrt() / weight.clamp(min=0.1)
    return masked_mean(distance, weight)


def symmetry_term(albedo: Tensor, mask: Tensor, floor: float = MOLE) -> Tensor:
    """Distance of a map to its own mirror image, which takes no gradient, beyond `floor`."""
    other = albedo.detach().flip(-1)
    gap = torch.relu((albedo - other).abs() - floor)
    distance = (gap.square().sum(1, keepdim=True) + _EPS).sqrt() - _EPS**0.5
    return masked_mean(distance, mask * mask.flip(-1))


def chromaticity(linear: Float[Tensor, "b 3 n n"]) -> Float[Tensor, "b 3 n n"]:
    """`rgb / (r + g + b + 1e-3)`."""
    return linear / (linear.sum(1, keepdim=True) + 1e-3)


def chroma_term(linear_albedo: Tensor, linear_texture: Tensor, visible: Tensor) -> Tensor:
    """Log albedo may only change where the photo's chromaticity does: the rest is shading.

    `mean exp(-80 |d c(T)|) |d log A|` over neighbours that are both visible; T takes no gradient.
    """
    reference = chromaticity(linear_texture.detach())
    log = linear_albedo.clamp(min=0.005).log()
    cost = log.new_zeros(())
    for axis in (-1, -2):
        steps = [_forward(x, axis) for x in (reference, log)]
        norms = [(s.square().sum(1, keepdim=True) + _EPS**2).sqrt() for s in steps]
        both = torch.minimum(*_pair(visible, axis))
        cost = cost + masked_mean(torch.exp(-CHROMA_SHARPNESS * norms[0]) * norms[1], both)
    return cost / 2


def light_term(detail: Float[Tensor, "b 27 n n"], spread: Float[Tensor, "b 27 n n"]) -> Tensor:
    """L1 between each texel's light and the photo's one light."""
    return (detail - spread).abs().mean()


def white_term(detail: Float[Tensor, "b 27 n n"], weight: Float[Tensor, "b"]) -> Tensor:
    """L1 between each channel's light and the mean of the three, mean over all faces.

    Args:
        detail: lights.
        weight: of each face.
    """
    channels = detail.unflatten(1, (3, 9))
    each = (channels - channels.mean(1, keepdim=True)).abs().flatten(1).mean(1)
    return (each * weight).mean()


def variation_term(detail: Float[Tensor, "b 27 n n"]) -> Tensor:
    """Mean absolute difference of neighbouring places' light; 0 for one light."""
    if detail.shape[-1] == 1:
        return detail.sum() * 0
    return (_forward(detail, -1).abs().mean() + _forward(detail, -2).abs().mean()) / 2


def supervised_term(
    albedo: Tensor, truth: Tensor, known: Tensor, level: float, steps: bool = True
) -> Tensor:
    """L1 to true albedo where it is known, up to one gain a picture, and of the gain itself.

    How light a skin is and how strong its light cannot both be told from one photo. An L1 distance
    of albedo as such is ruled by that: where all texels are too dark its gradient is the same
    everywhere, and shadows left in the albedo go unpunished. So pictures are compared after the
    best gain, and without it with weight `level`.

    Args:
        albedo: linear.
        truth: linear.
        known: how far the truth is known.
        level: weight of the comparison without gain.
        steps: compare the steps between neighbours, too.
    """
    with torch.no_grad():
        energy = (albedo.square() * known).sum((1, 2, 3), keepdim=True)
        gain = (albedo * truth * known).sum((1, 2, 3), keepdim=True) / energy.clamp(min=_EPS)
        gain = gain.clamp(0.1, 10)
    true = linear_to_srgb(truth)
    scaled = linear_to_srgb((albedo * gain).clamp(min=1e-4))
    cost = masked_mean((scaled - true).abs(), known)
    if level:
        cost = cost + level * masked_mean((linear_to_srgb(albedo) - true).abs(), known)
    for axis in (-1, -2) if steps else ():
        both = torch.minimum(*_pair(known, axis))
        cost = cost + masked_mean((_forward(scaled, axis) - _forward(true, axis)).abs(), both)
    return cost


def shading_term(own: Tensor, true: Tensor, weight: Tensor, level: float) -> Tensor:
    """L1 between log shadings up to one gain a picture, and of the gain with weight `level`."""
    gap = own.clamp(min=0.05).log() - true.clamp(min=0.05).log()
    total = (weight.sum((1, 2, 3), keepdim=True) * gap.shape[1]).clamp(min=1.0)
    mean = (gap * weight).sum((1, 2, 3), keepdim=True) / total
    cost = masked_mean((gap - mean.detach()).abs(), weight)
    return cost + level * masked_mean(gap.abs(), weight)


def _forward(x: Tensor, axis: int) -> Tensor:
    """Differences of neighbours along an axis."""
    first, second = _pair(x, axis)
    return second - first


def _pair(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    length = x.shape[axis] - 1
    return x.narrow(axis, 0, length), x.narrow(axis, 1, length)
