"""Optical flow without weights: census-normalised grey, a cost volume, a soft minimum.

A flow field says where the fixed image is found in the moving one: `fixed(x) ~ moving(x + flow(x))`
with (u, v) in px, u right, v down. It is differentiable in both images. Other flows (RAFT) stand
behind the same call, see `FLOW_BACKENDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifemask.assets import UserError

SIZE = 64  # px: side of the images that are compared
REACH = 3  # px: largest displacement, so the window is [-3, 3]^2
_PATCH = 7  # px: side of the patch that describes a pixel
_TEMPERATURE = 0.05  # of the soft minimum over costs in [0, 2]
_NOISE = 0.02  # sRGB: grey contrast at which a pixel counts as flat
_LUMA = (0.299, 0.587, 0.114)
_RAFT_SIDE = 128  # px: RAFT's pyramid has four levels of an eighth of the side


@dataclass(frozen=True)
class Flow:
    """Where the fixed image is found in the moving one.

    Attributes:
        field: (b, 2, n, n) displacement (u, v) in px of the n x n image.
        confidence: (b, n, n) in [0, 1], detached; 0 where nothing distinguishes displacements.
    """

    field: Float[Tensor, "b 2 n n"]
    confidence: Float[Tensor, "b n n"]


class FlowBackend(Protocol):
    """Two batches of images in sRGB [0, 1] to the flow between them."""

    def __call__(
        self, moving: Float[Tensor, "b 3 h w"], fixed: Float[Tensor, "b 3 h w"], /
    ) -> Flow:
        """`fixed(x) ~ moving(x + flow(x))`, differentiable in both."""
        ...


def census_flow(
    moving: Float[Tensor, "b 3 h w"],
    fixed: Float[Tensor, "b 3 h w"],
    size: int = SIZE,
    reach: int = REACH,
    temperature: float = _TEMPERATURE,
) -> Flow:
    """Flow as the mean displacement under `softmax(-cost / temperature)`.

    The cost of a displacement is the mean squared difference of census-normalised 7 x 7 patches:
    gain and offset of the light drop out. A pixel is matched both ways, fixed in moving and moving
    in fixed; half the difference of the two is free of the pull of the texture, which is the same
    in both: swapping the images flips the flow's sign, and equal images give exactly 0.

    Args:
        moving: sRGB in [0, 1].
        fixed: the same shape.
        size: side n in px at which the images are compared.
        reach: largest displacement in px along each axis.
        temperature: of the soft minimum.

    Returns:
        The flow. Confidence is `1 - entropy / log (2 reach + 1)^2`, the lower of the two ways.
    """
    first, second = census(resized(fixed, size)), census(resized(moving, size))
    there, sure = _soft_minimum(_costs(first, second, reach), reach, temperature)
    back, sure_back = _soft_minimum(_costs(second, first, reach), reach, temperature)
    return Flow((there - back) / 2, torch.minimum(sure, sure_back))


def census(image: Float[Tensor, "b 3 n n"]) -> Float[Tensor, "b 1 n n"]:
    """Soft census of the grey image in (-1, 1): brighter or darker than its surroundings.

    `z / sqrt(1 + z^2)` of the grey value's deviation z from the local mean in local standard
    deviations; the smooth form of the census transform's sign (Zabih and Woodfill, ECCV 1994).
    Gain and offset of the image change it only where the contrast is as low as noise.
    """
    grey = (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    mean = _box(grey)
    variance = (_box(grey.square()) - mean.square()).clamp_min(0)
    z = (grey - mean) * (variance + _NOISE**2).rsqrt()
    return z * (1 + z.square()).rsqrt()


def resized(image: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c n n"]:
    """The image at size x size, antialiased; itself if it has that size."""
    if image.shape[-2:] == (size, size):
        return image
    return functional.interpolate(
        image, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def _costs(
    fixed: Float[Tensor, "b 1 n n"], moving: Float[Tensor, "b 1 n n"], reach: int
) -> Float[Tensor, "b d n n"]:
    """Mean squared difference of patches at x and x + d, for all d of the window, rows first."""
    n = fixed.shape[-1]
    wide = functional.pad(moving, (reach,) * 4, mode="replicate")
    moved = wide.unfold(2, n, 1).unfold(3, n, 1).flatten(1, 3)
    return _box((fixed - moved).square())


def _soft_minimum(
    costs: Float[Tensor, "b d n n"], reach: int, temperature: float
) -> tuple[Float[Tensor, "b 2 n n"], Float[Tensor, "b n n"]]:
    """Mean displacement and, detached, how sure it is."""
    log_share = (-costs / temperature).log_softmax(1)
    share = log_share.exp()
    steps = torch.arange(-reach, reach + 1, device=costs.device).to(costs)
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    field = torch.einsum("bdij,kd->bkij", share, torch.stack((u, v)).flatten(1))
    entropy = -(share.detach() * log_share.detach()).sum(1)
    return field, (1 - entropy / math.log(costs.shape[1])).clamp(0, 1)


def _box(image: Tensor) -> Tensor:
    """Mean over the patch around each pixel; beyond the border, the border.

    As two products with a band matrix: several times faster than pooling on a CPU.
    """
    identity = torch.eye(image.shape[-1], dtype=image.dtype, device=image.device)
    wide = functional.pad(identity[None], (_PATCH // 2,) * 2, mode="replicate")
    band = functional.avg_pool1d(wide, _PATCH, 1)[0]
    return band.T @ image @ band


class RaftFlow:
    """A RAFT network of torchvision as a `FlowBackend`; its weights stay as they are.

    RAFT (Teed and Deng, ECCV 2020) tells no confidence: it is 1 everywhere.

    Args:
        network: `network(image1, image2, num_flow_updates=n)` gives a list of flows (b, 2, h, w)
            in px with `image1(x) ~ image2(x + flow(x))`, for images in [-1, 1] whose sides are
            multiples of 8.
        size: side n of the flow field in px.
        updates: refinement steps.
    """

    def __init__(self, network: torch.nn.Module, size: int = SIZE, updates: int = 6) -> None:
        self._network = network.eval().requires_grad_(False)
        self._size = size
        self._updates = updates

    def __call__(
        self, moving: Float[Tensor, "b 3 h w"], fixed: Float[Tensor, "b 3 h w"], /
    ) -> Flow:
        """Flow at n x n; the network sees the images at 128 px or more."""
        side = max(_RAFT_SIDE, math.ceil(self._size / 8) * 8)
        network = self._network.to(fixed.device)
        first, second = (2 * resized(image, side).float() - 1 for image in (fixed, moving))
        fields = network(first, second, num_flow_updates=self._updates)
        field = resized(fields[-1], self._size) * (self._size / side)
        return Flow(field.to(fixed), torch.ones_like(fixed[:, 0, :1, :1]).expand_as(field[:, 0]))


def load_raft(size: int = SIZE) -> RaftFlow:
    """RAFT small with torchvision's weights, which torchvision downloads on first use.

    Raises:
        UserError: torchvision is not installed, or its weights cannot be had.
    """
    try:
        from torchvision.models import optical_flow  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "the flow backend 'raft' needs torchvision: pip install torchvision, or use 'census'"
        ) from error
    build: Any = optical_flow.raft_small
    try:
        network = build(weights="DEFAULT", progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no weights for the flow backend 'raft' ({error}); use 'census'"
        ) from error
    return RaftFlow(network, size)


def load_census(size: int = SIZE) -> FlowBackend:
    """`census_flow` at one size."""
    return partial(census_flow, size=size)


FLOW_BACKENDS: dict[str, Callable[[int], FlowBackend]] = {"census": load_census, "raft": load_raft}
"""What makes a flow backend for images of n x n px, by name."""


def load_flow(name: str, size: int = SIZE) -> FlowBackend:
    """The flow backend of that name for fields of size x size.

    Raises:
        UserError: an unknown name, or what the backend needs is not installed.
    """
    if name not in FLOW_BACKENDS:
        raise UserError(f"unknown flow backend {name!r}; valid: {', '.join(FLOW_BACKENDS)}")
    return FLOW_BACKENDS[name](size)
