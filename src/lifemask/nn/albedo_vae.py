"""The albedo prior's network: a variational autoencoder of face albedo maps.

    albedo n x n -> 5 convolutions, stride 2 -> mean, log variance -> z (64)
    z -> n/32 x n/32 -> 5 times (convolution, bilinear x 2), convolution
      -> + mean face + 64 linear modes of 32 x 32 -> albedo n x n

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014. Nothing is normalised between the
layers: a map's overall colour is what matters most, and normalisation would take it away. The
linear path starts as the principal components of the maps, so that a short training only has to
learn what they cannot say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear

LOG_VARIANCE_RANGE = (-12.0, 4.0)
SLOPE = 0.2
MODE_SIDE = 32


class VaeOutput(NamedTuple):
    """Maps as their codes give them back.

    Attributes:
        srgb: (b, 3, n, n) in (0, 1).
        mean: (b, z) of the codes.
        log_variance: (b, z) of the codes.
    """

    srgb: Float[Tensor, "b 3 n n"]
    mean: Float[Tensor, "b z"]
    log_variance: Float[Tensor, "b z"]


class AlbedoVae(nn.Module):
    """Face albedo maps from and to codes that are standard normal.

    The convolutions work on sRGB-coded values, where a difference looks alike on dark and on light
    skin; what comes in and goes out is linear albedo.

    Args:
        size: n, a multiple of 2 to the number of widths.
        latent: numbers of a code.
        widths: channels of the encoder, finest first; the decoder has them in reverse.

    Raises:
        ValueError: the size does not fit the number of layers.
    """

    def __init__(
        self, size: int, latent: int = 64, widths: Sequence[int] = (32, 64, 128, 256, 256)
    ) -> None:
        super().__init__()
        step = 2 ** len(widths)
        if size % step:
            raise ValueError(f"size {size} is not a multiple of {step}")
        self.size, self.latent, self.widths = size, latent, tuple(widths)
        inner, deepest = size // step, widths[-1]
        pairs = list(zip((3, *widths[:-1]), widths, strict=True))
        self.encoder = nn.Sequential(
            *(_unit(nn.Conv2d(a, b, 3, 2, 1)) for a, b in pairs),
            nn.Flatten(),
            nn.Linear(deepest * inner**2, 2 * latent),
        )
        back = [(b, a if a > 3 else b) for a, b in reversed(pairs)]
        self.decoder = nn.Sequential(
            nn.Linear(latent, deepest * inner**2),
            nn.Unflatten(1, (deepest, inner, inner)),
            *(_lift(a, b) for a, b in back[:-1]),
            _twice(),
            nn.Conv2d(back[-1][0], 3, 3, 1, 1),
        )
        self.mean_face = nn.Parameter(torch.zeros(3, size, size))
        self.modes = nn.Parameter(
            torch.zeros(latent, 3, min(size, MODE_SIDE), min(size, MODE_SIDE))
        )
        self._start()

    @torch.no_grad()
    def start_from(self, srgb: Float[Tensor, "k 3 n n"]) -> None:
        """Let decoding start as the principal components of sRGB-coded maps (logits)."""
        logits = torch.logit(srgb, eps=1e-3)
        self.mean_face.copy_(logits.mean(0))
        small = functional.interpolate(
            logits - self.mean_face, size=self.modes.shape[-2:], mode="area"
        ).flatten(1)
        count = min(len(self.modes), *small.shape)
        _, sizes, directions = torch.linalg.svd(small, full_matrices=False)
        modes = directions[:count] * (sizes[:count, None] / len(small) ** 0.5)
        self.modes[:count] = modes.view(count, *self.modes.shape[1:])

    def encode(
        self, albedo: Float[Tensor, "b 3 n n"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Mean and log variance of the codes of maps (b, 3, size, size), linear in [0, 1]."""
        return self._encode(linear_to_srgb(albedo))

    def decode(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 n n"]:
        """Linear albedo (b, 3, size, size) in (0, 1) of codes."""
        return srgb_to_linear(self._decode(z))

    def forward(self, srgb: Float[Tensor, "b 3 n n"], noise: Float[Tensor, "b z"]) -> VaeOutput:
        """What training needs of sRGB-coded maps.

        Args:
            srgb: (b, 3, size, size) in [0, 1].
            noise: standard normal for codes drawn around their means, 0 for the means.
        """
        mean, log_variance = self._encode(srgb)
        z = mean + noise * (0.5 * log_variance).exp()
        return VaeOutput(self._decode(z), mean, log_variance)

    def _decode(self, z: Tensor) -> Tensor:
        linear = torch.einsum("bk,kcij->bcij", z, self.modes)
        linear = functional.interpolate(
            linear, size=(self.size, self.size), mode="bilinear", align_corners=False
        )
        return torch.sigmoid(self.mean_face + linear + self.decoder(z))

    def _start(self) -> None:
        """Weights that keep the size of signals (He et al., ICCV 2015), the last ones smaller."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            for last in (self.encoder[-1], self.decoder[-1]):
                assert isinstance(last, nn.Conv2d | nn.Linear)
                last.weight.mul_(0.2)

    def _encode(self, srgb: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(srgb * 2 - 1).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def kl_divergence(
    mean: Float[Tensor, "b z"], log_variance: Float[Tensor, "b z"]
) -> Float[Tensor, "b"]:
    """Divergence (nats) of normal codes from the standard normal, summed over the code."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)


def _unit(convolution: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE))


def _lift(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, then twice the side: a quarter of the work of the other order."""
    return nn.Sequential(_unit(nn.Conv2d(inputs, outputs, 3, 1, 1)), _twice())


def _twice() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
