"""What the re-renderable texture learns from: every term of the paper, each with its switch.

A0 + detail light, A + one light, A + detail light -> photo
A + detail light -> perceptual, style, grad, img_gan
A -> reg_detail, symmetry, chroma, uv_gan, albedo_sup
light -> reg_light, white, light_tv, detail_sup
A0 and the one light -> prior_sup, light_sup, code

Formulas and weights: docs/methods/retexture.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear
from lifemask.methods import _retexture_terms as terms
from lifemask.methods._retexture_chart import sample_map
from lifemask.methods._retexture_light import (
    Sh,
    detail_shading,
    global_shading,
    lit,
    spread_light,
    texel_transfer,
)
from lifemask.methods._retexture_perceptual import Embedder
from lifemask.methods._retexture_types import RetextureBatch, RetextureOutput
from lifemask.nn.patchgan import PatchGan, lsgan


@dataclass(frozen=True)
class RetextureLossConfig:
    """Terms and their weights; 0 switches a term off. The published ones where there are any.

    Attributes:
        photo: distance of three renders to the photo.
        photo_flat: share, in that term, of the render under the one light, on rows whose truth is
            not known; 1 published, 0 on the others. What one light leaves is shadow and gloss as
            often as albedo.
        perceptual: angle between embeddings of render and photo.
        style: distance of their channel Gram matrices.
        grad: distance of their gradients.
        reg_detail: low band of the albedo near the prior's, on texels without truth.
        detail_sigma: what is finer is free, in texels of a map of 128.
        symmetry: albedo near its mirror image, beyond small differences.
        chroma: albedo changes only where the photo's chromaticity does.
        reg_light: light of each texel near the photo's one light; 1 published, which with means
            over texels and coefficients holds it there exactly.
        white: light near white, where it is not known (ours: everywhere as published).
        light_tv: neighbouring texels' light alike.
        uv_gan: the albedo fools a critic that knows the prior's maps and true albedo.
        img_gan: the render on the photo fools a critic that knows photos.
        albedo_sup: distance to true albedo, on renders.
        prior_sup: distance of the prior's albedo to the true one, on renders (ours).
        light_sup: distance of the one light's shading to the true one's, on renders (ours).
        detail_sup: distance of each texel's shading to that of the photo over the true albedo, on
            what renders show (ours): shadows and gloss belong to the light.
        level: share, in these four, of what one gain a picture would take away.
        code: mean square of the prior's code (ours): likely skins.
        gan_from: step at which the adversarial terms join.
        critic_width: channels of the critics' first layers; 64 published.
        supervise: False hides all truth.
    """

    photo: float = 1.0
    photo_flat: float = 0.25
    perceptual: float = 0.2
    style: float = 1.0
    grad: float = 1.0
    reg_detail: float = 1.0
    detail_sigma: float = 8.0
    symmetry: float = 0.1
    chroma: float = 0.1
    reg_light: float = 0.2
    white: float = 1.0
    light_tv: float = 0.1
    uv_gan: float = 1e-3
    img_gan: float = 1e-3
    albedo_sup: float = 1.0
    prior_sup: float = 1.0
    light_sup: float = 1.0
    detail_sup: float = 0.5
    level: float = 0.25
    code: float = 2e-3
    gan_from: int = 800
    critic_width: int = 16
    supervise: bool = True


@dataclass(frozen=True)
class Renders:
    """The three renders, sRGB, as pictures (b, 3, s, s), and what they are made of.

    Attributes:
        prior_detail: prior albedo under each texel's light.
        flat: albedo under the one light.
        detail: albedo under each texel's light.
        shading: (b, 3, n, n) linear shading of the map by each texel's light.
    """

    prior_detail: Tensor
    flat: Tensor
    detail: Tensor
    shading: Tensor


def render_all(said: RetextureOutput, batch: RetextureBatch, sh: Sh = "lifemask") -> Renders:
    """The photo as the network explains it, in three ways: lit on the map, seen by the camera."""
    transfer = texel_transfer(batch.seen.normals)
    fine = detail_shading(transfer, said.detail)
    flat = global_shading(transfer, said.light)
    maps = [lit(said.prior, fine, sh), lit(said.albedo, flat, sh), lit(said.albedo, fine, sh)]
    pictures = sample_map(torch.cat(maps, 1), batch.places)
    by_prior, by_one, by_each = pictures.split(3, 1)
    return Renders(by_prior, by_one, by_each, fine)


class RetextureLoss(nn.Module):
    """Weighted sum of all terms; owns the critics.

    Args:
        config: weights.
        prior: code to albedo, as in the network; real examples for the map's critic.
        inside: (n, n) texels that the face covers.
        embed: features of pictures; None leaves the perceptual and the style term out.
        sh: how light meets albedo, as in the network.
    """

    def __init__(
        self,
        config: RetextureLossConfig,
        prior: nn.Module,
        inside: Tensor,
        embed: Embedder | None,
        sh: Sh = "lifemask",
    ) -> None:
        super().__init__()
        self.config = config
        self.sh: Sh = sh
        self._prior = (prior,)  # no part of this module: its weights are the network's
        self.register_buffer("inside", inside.float().clone(), persistent=False)
        self.embed = embed
        self.uv_critic = PatchGan(3, config.critic_width) if config.uv_gan else None
        self.img_critic = PatchGan(3, config.critic_width) if config.img_gan else None

    def forward(
        self, said: RetextureOutput, batch: RetextureBatch, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss (scalar) and its weighted parts by name, detached.

        The parts "uv_critic" and "img_critic" are the critics' own losses: their gradient reaches
        the critics alone, as that of the adversarial terms reaches the network alone.
        """
        renders = render_all(said, batch, self.sh)
        parts = self._pictures(renders, batch)
        parts |= self._maps(said, batch)
        parts |= self._lights(said, renders.shading, batch)
        weighted = {k: v * self._weight(k) for k, v in parts.items() if self._weight(k)}
        if step >= self.config.gan_from:
            weighted |= self._critics(said, renders, batch)
        total = torch.stack(list(weighted.values())).sum()
        return total, {k: v.detach() for k, v in weighted.items()}

    def _weight(self, name: str) -> float:
        return getattr(self.config, name)

    def _pictures(self, renders: Renders, batch: RetextureBatch) -> dict[str, Tensor]:
        """Terms that compare renders with the photo."""
        config, photo, mask = self.config, batch.photo, batch.mask
        parts: dict[str, Tensor] = {}
        if config.photo:
            flat = mask * config.photo_flat * self._unknown(batch)[:, None, None, None]
            costs = [
                terms.photo_term(renders.prior_detail, photo, mask),
                terms.photo_term(renders.flat, photo, flat, mask),
                terms.photo_term(renders.detail, photo, mask),
            ]
            parts["photo"] = torch.stack(costs).sum()
        if config.grad:
            parts["grad"] = terms.gradient_term(renders.detail, photo, mask)
        if self.embed is not None and (config.perceptual or config.style):
            pasted = renders.detail.clamp(0, 1) * mask + photo * (1 - mask)
            of_render = self.embed(pasted)
            with torch.no_grad():
                of_photo = self.embed(photo)
            parts["perceptual"] = terms.perceptual_term(of_render.embedding, of_photo.embedding)
            parts["style"] = terms.style_term(of_render.style, of_photo.style)
        return parts

    def _unknown(self, batch: RetextureBatch) -> Tensor:
        """1 for rows (b,) whose albedo and light are not known."""
        return 1 - batch.lit if self.config.supervise else torch.ones_like(batch.lit)

    def _maps(self, said: RetextureOutput, batch: RetextureBatch) -> dict[str, Tensor]:
        """Terms on the albedo's map."""
        config, inside = self.config, self.get_buffer("inside")[None, None]
        known = batch.truth * inside if config.supervise else torch.zeros_like(batch.truth)
        visible = batch.seen.visible * inside
        coded, prior = linear_to_srgb(said.albedo), linear_to_srgb(said.prior)
        sigma = config.detail_sigma * coded.shape[-1] / 128
        parts: dict[str, Tensor] = {"code": said.code.square().mean()}
        if config.reg_detail:
            free = (inside - known).clamp(min=0).expand_as(known)
            parts["reg_detail"] = terms.detail_term(coded, prior, free, sigma)
        if config.symmetry:
            parts["symmetry"] = terms.symmetry_term(coded, inside.expand_as(known))
        if config.chroma:
            texture = srgb_to_linear(batch.seen.texture)
            parts["chroma"] = terms.chroma_term(said.albedo, texture, visible)
        if config.albedo_sup:
            pair = said.albedo, batch.albedo, known
            parts["albedo_sup"] = terms.supervised_term(*pair, config.level)
        if config.prior_sup:
            pair = said.prior, batch.albedo, known
            parts["prior_sup"] = terms.supervised_term(*pair, config.level, steps=False)
        return parts

    def _lights(
        self, said: RetextureOutput, fine: Tensor, batch: RetextureBatch
    ) -> dict[str, Tensor]:
        """Terms on the light; `fine` is what each texel's own makes of the map."""
        config, inside = self.config, self.get_buffer("inside")[None, None]
        spread = spread_light(said.light, said.detail)
        parts = {
            "reg_light": terms.light_term(said.detail, spread),
            "white": terms.white_term(said.detail, self._unknown(batch)),
            "light_tv": terms.variation_term(said.detail),
        }
        if config.light_sup and config.supervise:
            transfer = texel_transfer(batch.seen.normals)
            own, true = (global_shading(transfer, g) for g in (said.light, batch.light))
            weight = batch.lit[:, None, None, None] * inside
            parts["light_sup"] = terms.shading_term(own, true, weight, config.level)
        if config.detail_sup and config.supervise:
            shown = batch.seen.visible * batch.truth * inside
            photo = srgb_to_linear(batch.seen.texture) / batch.albedo.clamp(min=0.01)
            parts["detail_sup"] = terms.shading_term(fine, photo, shown, config.level)
        return parts

    def _critics(
        self, said: RetextureOutput, renders: Renders, batch: RetextureBatch
    ) -> dict[str, Tensor]:
        """Adversarial terms and the critics' own losses."""
        parts: dict[str, Tensor] = {}
        inside, config = self.get_buffer("inside")[None, None], self.config
        if self.uv_critic is not None:
            made = linear_to_srgb(said.albedo) * inside * 2 - 1
            real = self._real_maps(batch) * inside * 2 - 1
            parts |= _duel(self.uv_critic, real, made, "uv", config.uv_gan)
        if self.img_critic is not None:
            made = renders.detail * batch.mask + batch.photo * (1 - batch.mask)
            real = batch.photo * 2 - 1
            parts |= _duel(self.img_critic, real, made * 2 - 1, "img", config.img_gan)
        return parts

    @torch.no_grad()
    def _real_maps(self, batch: RetextureBatch) -> Tensor:
        """True albedo where a row has it, else what the prior makes of a random code; coded."""
        prior = self._prior[0]
        code = torch.randn(len(batch.photo), int(prior.latent)).to(batch.photo)  # pyright: ignore[reportArgumentType]
        made = linear_to_srgb(prior(code))
        if not self.config.supervise:
            return made
        known = batch.truth
        return linear_to_srgb(batch.albedo) * known + made * (1 - known)


def _duel(critic: nn.Module, real: Tensor, made: Tensor, name: str, weight: float) -> dict:
    """The network's term against a critic, and the critic's own, which has weight 1."""
    wanted = [p for p in critic.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    fooled = lsgan(critic(made), 1.0)
    for p in wanted:
        p.requires_grad_(True)
    scores = critic(torch.cat((real, made.detach())))
    told = (lsgan(scores[: len(real)], 1.0) + lsgan(scores[len(real) :], 0.0)) / 2
    return {f"{name}_gan": weight * fooled, f"{name}_critic": told}
