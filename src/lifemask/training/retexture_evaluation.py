"""How well a network in training does on held-out faces: a few numbers on the map."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear
from lifemask.methods._retexture_chart import sample_map
from lifemask.methods._retexture_light import detail_shading, lit, texel_transfer
from lifemask.methods._retexture_types import RetextureBatch, RetextureOutput
from lifemask.methods.retexture import RetextureNet
from lifemask.training.retexture_batches import RetextureCorpus, join_rows, read_face


def evaluate(network: RetextureNet, held_out: RetextureCorpus, limit: int) -> dict[str, float]:
    """Validation metrics by name.

    On renders: "albedo" is the RMSE of linear albedo after one gain a picture, "albedo_seen" and
    "albedo_hidden" the same on texels that the picture shows or not, "hue" the RMSE of its
    chromaticity, "prior", "prior_seen" and "prior_hidden" what the first three are of the prior's
    albedo, "invariance" the ratio of the albedo's to the raw texture's variation over the lights
    of a head (A/T), "high_pass" the energy of fine detail in hidden over visible texels. On both:
    "photo_db" is the PSNR of the re-rendered face. Photos give "photo_db_photos" too.

    Args:
        network: averaged weights.
        held_out: faces never trained on.
        limit: at most so many pictures of each kind.
    """
    found: dict[str, list[float]] = {}
    inside = network.get_buffer("inside") > 0
    was_training = network.training
    network.eval()
    with torch.no_grad():
        for batch in _heads(held_out, "renders", limit, network.config.size):
            said = network(batch.seen)
            for name, value in head_metrics(said, batch, inside).items():
                found.setdefault(name, []).append(value)
            found.setdefault("photo_db", []).append(_photo_db(said, batch, network.config.sh))
        for batch in _heads(held_out, "photos", limit, network.config.size):
            value = _photo_db(network(batch.seen), batch, network.config.sh)
            found.setdefault("photo_db_photos", []).append(value)
    network.train(was_training)
    return {
        name: float(torch.tensor([v for v in values if v == v]).mean())
        for name, values in found.items()
    }


def _heads(corpus: RetextureCorpus, kind: str, limit: int, size: int) -> Iterator[RetextureBatch]:
    """All pictures of a head as one batch, without any change; noise is fixed."""
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    left = limit
    for cache in getattr(corpus, kind):
        for head in range(len(cache)):
            if left <= 0:
                return
            count = min(cache.lights, left)
            left -= count
            faces = [read_face(cache, head, k, size) for k in range(count)]
            yield join_rows([face.batch(noise) for face in faces])


def head_metrics(said: RetextureOutput, batch: RetextureBatch, inside: Tensor) -> dict[str, float]:
    """Errors of one head's albedo under several lights; see `evaluate`."""
    known = inside & (batch.truth[0, 0] > 0.5)
    shown = known & (batch.seen.visible[0, 0] > 0.5)
    guess, true = said.albedo, batch.albedo
    gain = _gains(guess, true, known)
    scaled = guess * gain
    prior = said.prior * _gains(said.prior, true, known)
    hue = [x / x.sum(1, keepdim=True).clamp(min=0.02) for x in (guess, true)]
    texture = srgb_to_linear(batch.seen.texture).clamp(min=1e-3)
    rows = {
        "albedo": _rmse(scaled, true, known),
        "albedo_seen": _rmse(scaled, true, shown),
        "albedo_hidden": _rmse(scaled, true, known & ~shown),
        "hue": _rmse(hue[0], hue[1], known),
        "albedo_no_gain": _rmse(guess, true, known),
        "prior": _rmse(prior, true, known),
        "prior_seen": _rmse(prior, true, shown),
        "prior_hidden": _rmse(prior, true, known & ~shown),
    }
    if len(guess) > 1 and int(shown.sum()) > 50:
        rows["invariance"] = _variation(guess, shown) / _variation(texture, shown)
    fine = [_high_pass(guess, mask) for mask in (known & ~shown, shown)]
    if int((known & ~shown).sum()) > 200 and fine[1] > 0:
        rows["high_pass"] = fine[0] / fine[1]
    return rows


def _gains(guess: Tensor, true: Tensor, mask: Tensor) -> Float[Tensor, "b 1 1 1"]:
    a, b = guess[:, :, mask], true[:, :, mask]
    return ((a * b).sum((1, 2)) / (a * a).sum((1, 2)).clamp(min=1e-6))[:, None, None, None]


def _rmse(guess: Tensor, true: Tensor, mask: Tensor) -> float:
    if not bool(mask.any()):
        return float("nan")
    return float((guess - true)[:, :, mask].square().mean().sqrt())


def _variation(linear: Tensor, mask: Tensor) -> float:
    """Mean over texels of std / mean over the pictures, one gain a picture taken out."""
    values = linear[:, :, mask]
    values = values / values.mean((1, 2), keepdim=True)
    return float((values.std(0) / values.mean(0).clamp(min=1e-3)).mean())


def _high_pass(linear: Tensor, mask: Tensor) -> float:
    """Mean square of what is finer than about two texels, of coded albedo."""
    coded = linear_to_srgb(linear)
    low = nn.functional.avg_pool2d(coded, 5, 1, 2, count_include_pad=False)
    values = (coded - low)[:, :, mask]
    return float(values.square().mean()) if values.numel() else float("nan")


def _photo_db(said: RetextureOutput, batch: RetextureBatch, sh: str) -> float:
    """PSNR in dB of the albedo under its own light against the photo, on the face."""
    shading = detail_shading(texel_transfer(batch.seen.normals), said.detail)
    picture = sample_map(lit(said.albedo, shading, sh), batch.places).clamp(0, 1)  # pyright: ignore[reportArgumentType]
    square = ((picture - batch.photo).square().mean(1, keepdim=True) * batch.mask).sum((1, 2, 3))
    mse = square / batch.mask.sum((1, 2, 3)).clamp(min=1)
    return float((-10 * mse.clamp(min=1e-6).log10()).mean())
