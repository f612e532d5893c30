"""Each term of the re-renderable texture mends what it guards, by a measure of its own."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from helpers import retexture_faces as toy
from helpers.retexture_faces import (
    NEUTRAL,
    RandomLook,
    answer,
    ball,
    descend,
    faces,
    loss_of,
    only,
    skins,
    spot,
    unknown,
)
from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear
from lifemask.methods._retexture_light import (
    detail_shading,
    global_shading,
    lit,
    spread_light,
    texel_transfer,
)
from lifemask.methods._retexture_loss import render_all

COUNT, N = 2, toy.SIZE


@pytest.fixture(scope="module")
def batch():
    return faces(COUNT, seed=3)


@pytest.fixture(scope="module")
def inside():
    return ball()[1]


def noise(like, size, seed=0):
    return size * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def blurred(maps, sigma=3.0):
    """Gaussian blur, by another road than the terms' own."""
    reach = int(4 * sigma)
    line = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    line = (line / line.sum()).view(1, 1, -1, 1).expand(maps.shape[1], 1, -1, 1)
    for kernel in (line, line.mT):
        pad = (kernel.shape[3] // 2,) * 2 + (kernel.shape[2] // 2,) * 2
        padded = functional.pad(maps, pad, "replicate")
        maps = functional.conv2d(padded, kernel, groups=maps.shape[1])
    return maps


def rmse(a, b, inside, part=None):
    where = inside if part is None else inside & part
    return float((a - b).detach()[:, :, where].square().mean().sqrt())


def mended(loss, batch, make, variables, steps=80, rate=0.02):
    """Descend on a loss's only term; `make` says what the variables mean."""

    def total():
        value, parts = loss(make(), batch, 0)
        assert len(parts) == 1, parts
        return value

    descend(total, variables, steps, rate)


# ------------------------------------------------------------------------------- pictures


def test_photo_brings_the_albedo_to_the_truth(batch, inside):
    start = (batch.albedo * 1.5).clamp(0.02, 0.95)
    free = start.logit().requires_grad_()
    mended(loss_of(only(photo=1.0)), batch, lambda: answer(batch, albedo=free.sigmoid()), [free])
    assert rmse(free.sigmoid(), batch.albedo, inside) < 0.15 * rmse(start, batch.albedo, inside)


@pytest.mark.parametrize("part", ["light", "detail", "prior"])
def test_photo_brings_each_of_its_three_renders_to_the_photo(batch, inside, part):
    true = answer(batch, places=4)
    start = getattr(true, part) * 1.3
    free = start.clone().requires_grad_()
    rate = {"prior": 0.01}.get(part, 0.05)
    photo = unknown(batch)  # where the truth is known, the render under the one light has no say
    mended(
        loss_of(only(photo=1.0)), photo, lambda: true._replace(**{part: free}), [free], rate=rate
    )
    transfer = texel_transfer(batch.seen.normals)

    def seen(value):
        if part == "prior":
            return value
        shade = global_shading if part == "light" else detail_shading
        return shade(transfer, value)

    before, after = (
        rmse(seen(x), seen(getattr(true, part)), inside) for x in (start, free.detach())
    )
    assert after < 0.25 * before, (before, after)


@pytest.mark.parametrize(("share", "known"), [(0.25, True), (1.0, False), (0.0, False)])
def test_the_render_under_one_light_puts_shadows_into_the_albedo(inside, share, known):
    """With its published weight; not where the truth is known, and not without it."""
    shadow = 1 - 0.5 * spot(0.3, 0.1, 0.2)
    batch = faces(COUNT, seed=3, shadow=shadow)
    shades = spread_light(batch.light, shadow[None, None]) * shadow
    true = answer(batch)._replace(detail=shades)
    free = true.albedo.clamp(0.02, 0.95).logit().requires_grad_()
    loss = loss_of(only(photo=1.0, photo_flat=share))
    mended(loss, batch if known else unknown(batch),
           lambda: true._replace(albedo=free.sigmoid()), [free])  # fmt: skip
    dark = inside & (shadow < 0.7)
    change = (free.sigmoid().detach() / true.albedo).log()[:, :, dark].mean()
    assert -float(change) > 0.1 if share == 1 else abs(float(change)) < 0.02


def test_shading_of_renders_brings_shadows_into_the_light(inside):
    """What one light cannot make, up to one gain; the albedo and the one light learn nothing."""
    shadow = 1 - 0.5 * spot(0.3, 0.1, 0.2)
    batch = faces(COUNT, seed=3, shadow=shadow)
    true = answer(batch, places=16)
    free, other = true.detail.clone().requires_grad_(), batch.light.clone().requires_grad_()
    loss = loss_of(only(detail_sup=1.0))
    mended(loss, batch, lambda: true._replace(detail=free, light=other), [free, other], 100, 0.05)
    transfer = texel_transfer(batch.seen.normals)
    wanted = (global_shading(transfer, batch.light) * shadow).clamp(min=0.1).log()

    def gap(detail):
        return rmse(detail_shading(transfer, detail.detach()).clamp(min=0.1).log(), wanted, inside)

    assert gap(free) < 0.35 * gap(true.detail), (gap(true.detail), gap(free))
    assert torch.equal(other.detach(), batch.light)


def test_photo_is_blind_outside_the_mask(batch):
    hidden = batch.mask.clone()
    hidden[..., : N // 2] = 0
    free = (batch.albedo * 1.5).clamp(0.02, 0.95).requires_grad_()
    half = replace(batch, mask=hidden)
    loss_of(only(photo=1.0))(answer(batch, albedo=free), half, 0)[0].backward()
    used = free.grad.abs().sum((0, 1)) > 0
    assert not used[:, : N // 2 - 1].any() and used[:, N // 2 + 1 :].any()


def test_gradients_take_grain_out_that_the_photo_does_not_have(batch, inside):
    grain = noise(batch.albedo, 0.15)
    start = (batch.albedo.clamp(min=0.02) * torch.exp(grain)).clamp(0.02, 0.95)
    free = start.logit().requires_grad_()
    mended(loss_of(only(grad=1.0)), batch, lambda: answer(batch, albedo=free.sigmoid()), [free])
    inner = functional.max_pool2d(1 - inside[None, None].float(), 5, 1, 2)[0, 0] == 0

    def fine(x):
        gap = x.detach().log() - batch.albedo.clamp(min=0.02).log()
        return gap - blurred(gap, 1.5)

    before, after = (float(fine(x)[..., inner].std()) for x in (start, free.sigmoid()))
    assert after < 0.5 * before, (before, after)


def bumps(weights):
    """Factors (b, 3, n, n) of albedo by weights (b, k, 3) of soft spots."""
    places = [(-0.5, 0.3), (0.5, 0.3), (0.0, 0.0), (-0.4, -0.5), (0.4, -0.5)]
    shapes = torch.stack([spot(x, y, 0.25) for x, y in places])
    return torch.einsum("bkc,kij->bcij", weights, shapes).exp()


def test_an_embedder_mends_colours_that_another_one_sees(batch, inside):
    """Neither the embedder of the measure nor the truth takes part in the loss."""
    start = noise(torch.zeros(COUNT, 5, 3), 0.5)
    free = start.clone().requires_grad_()

    def make(weights=free):
        return answer(batch, albedo=(batch.albedo * bumps(weights)).clamp(0.01, 0.97))

    mended(loss_of(only(perceptual=1.0), RandomLook()), batch, make, [free], 100, 0.03)
    judge = RandomLook(seed=5)

    def distance(weights):
        render = render_all(make(weights), batch).detail.detach()
        pasted = render.clamp(0, 1) * batch.mask + batch.photo * (1 - batch.mask)
        return float((judge(pasted).embedding - judge(batch.photo).embedding).norm())

    assert distance(free) < 0.5 * distance(start)
    before, after = (rmse(make(w).albedo, batch.albedo, inside) for w in (start, free))
    assert after < 0.6 * before, (before, after)


def test_style_gives_back_the_fine_texture(batch, inside):
    """How much of the grain there is, not where: a smoothed albedo gets its contrast again."""
    grain = torch.exp(noise(torch.zeros(COUNT, 1, N, N), 0.2))
    rough = faces(COUNT, 3, albedo=(skins(COUNT, 3) * grain).clamp(0.02, 0.95))
    share = torch.full((COUNT, 1, 1, 1), 0.2, requires_grad=True)
    loss = loss_of(only(style=1.0), RandomLook())
    mended(
        loss, rough, lambda: answer(rough, albedo=skins(COUNT, 3) * grain**share), [share], 60, 0.03
    )
    assert (share.detach() - 1).abs().max() < 0.15


# ------------------------------------------------------------------------------- albedo


def test_the_low_band_comes_to_the_prior_and_fine_detail_stays(batch, inside):
    photo = unknown(batch)
    grain = torch.exp(noise(torch.zeros(COUNT, 1, N, N), 0.1))
    prior = toy.tone_prior()(torch.zeros(COUNT, 3))
    start = (prior * 1.5 * grain).clamp(0.02, 0.95)
    free = start.log().requires_grad_()
    config = only(reg_detail=1.0, detail_sigma=16.0)  # 4 texels of this map
    mended(loss_of(config), photo, lambda: answer(batch, prior=prior, albedo=free.exp()), [free])
    after = free.exp().detach()
    wide = [blurred(linear_to_srgb(x)) for x in (start, after, prior)]
    assert rmse(wide[1], wide[2], inside) < 0.3 * rmse(wide[0], wide[2], inside)
    inner = (toy.axes()[0].square() + toy.axes()[1].square()) < 0.6
    fine = [(x.log() - blurred(x.log(), 2.0))[:, :, inner].flatten() for x in (start, after)]
    assert torch.corrcoef(torch.stack(fine))[0, 1] > 0.95
    assert 0.8 < float(fine[1].std() / fine[0].std()) < 1.25


def test_where_the_truth_is_known_the_prior_has_no_say(batch):
    off = answer(batch, albedo=batch.albedo * 0.5)
    loss = loss_of(only(reg_detail=1.0))
    assert float(loss(off, batch, 0)[0]) == pytest.approx(0, abs=1e-5)
    assert float(loss(off, unknown(batch), 0)[0]) > 0.1


def test_symmetry_brings_the_hidden_half_to_the_visible_half(batch, inside):
    """The visible half holds still; a mole on it survives what the hidden half learns."""
    start = batch.albedo.clone().clamp(min=0.02)
    hidden = torch.zeros(N, N, dtype=torch.bool)
    hidden[:, : N // 2] = True
    wrong = torch.where(hidden, start * 0.5, start)
    free = wrong.logit().requires_grad_()

    def make():
        return answer(batch, albedo=torch.where(hidden, free.sigmoid(), start))

    mended(loss_of(only(symmetry=0.1)), batch, make, [free])
    after = make().albedo.detach()
    mirror = start.flip(-1)
    assert rmse(after, mirror, inside, hidden) < 0.3 * rmse(wrong, mirror, inside, hidden)


def test_symmetry_lets_both_halves_meet_and_moles_survive(batch, inside):
    coded = linear_to_srgb(batch.albedo.clamp(min=0.02))
    mole = 0.018 * spot(0.3, 0.5, 0.06)
    scar = 0.3 * spot(-0.4, -0.3, 0.15)
    start = (coded - mole + scar).clamp(0.05, 0.97)
    free = start.logit().requires_grad_()
    mended(
        loss_of(only(symmetry=0.1)), batch,
        lambda: answer(batch, albedo=srgb_to_linear(free.sigmoid())), [free],
    )  # fmt: skip
    after = free.sigmoid().detach()
    gap = [(x - x.flip(-1)).abs().mean(1) for x in (start, after)]
    scarred = inside & (scar > 0.1)
    assert float(gap[1][:, scarred].mean()) < 0.35 * float(gap[0][:, scarred].mean())
    spotted = inside & (mole > 0.009)
    left = (after - start)[:, :, spotted].abs().max()
    assert float(left) < 0.002, "differences below the floor are a face's own"


def soft_shadow_and_red_patch():
    """What a photo's colours show: a soft shadow of one chromaticity, and a painted patch."""
    x, y = toy.axes()
    shadow = 1 - 0.5 * spot(0.35, 0.0, 0.2)
    patch = (torch.maximum((x + 0.45).abs(), y.abs()) < 0.2).float()
    paint = torch.stack((1 + 0.2 * patch, 1 - 0.5 * patch, 1 - 0.5 * patch))
    return shadow, patch > 0, paint


def test_chroma_takes_a_soft_shadow_out_of_the_albedo_and_leaves_a_red_patch(batch, inside):
    shadow, patch, paint = soft_shadow_and_red_patch()
    skin = torch.tensor(toy.TONE)[:, None, None]
    texture = (skin * paint * shadow).expand(COUNT, -1, -1, -1)
    seen = batch.seen._replace(texture=linear_to_srgb(texture))
    photo = replace(unknown(batch), seen=seen)
    free = texture.log().clone().requires_grad_()
    loss = loss_of(only(chroma=0.1))
    mended(loss, photo, lambda: answer(batch, albedo=free.exp()), [free], 100, 0.02)
    after = free.detach()
    near = functional.max_pool2d(patch[None].float(), 5, 1, 2)[0] > 0
    core = shadow < 0.55
    bare = inside & ~near & (shadow > 0.95)

    def shadowed(log):
        return float(log[:, :, bare].mean() - log[:, :, core].mean())

    def redness(log):
        """Log ratio of red over green on the patch, against the skin around it."""
        ratio = log[:, 0] - log[:, 1]
        return float(ratio[:, patch].mean() - ratio[:, bare].mean())

    before = texture.log()
    assert shadowed(after) < 0.35 * shadowed(before), (shadowed(before), shadowed(after))
    assert redness(after) > 0.8 * redness(before), (redness(before), redness(after))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_truth_mends_the_albedo(batch, inside, level):
    """Its pattern in any case, how light it is by the level."""
    true = batch.albedo.clamp(min=0.02)
    start = (0.7 * true * bumps(noise(torch.zeros(COUNT, 5, 3), 0.4))).clamp(0.02, 0.95)
    free = start.logit().requires_grad_()
    config = only(albedo_sup=1.0, level=level)
    mended(loss_of(config), batch, lambda: answer(batch, albedo=free.sigmoid()), [free], 100, 0.03)

    def tone(x):
        """Mean log ratio to the truth (b, 1, 1, 1)."""
        ratio = (x.detach() / true).log()
        return ratio[:, :, inside].mean((1, 2))[:, None, None, None]

    def pattern(x):
        return rmse(x.detach() / tone(x).exp(), true, inside)

    assert pattern(free.sigmoid()) < 0.3 * pattern(start)
    nearer = float(tone(free.sigmoid()).abs().max() / tone(start).abs().max())
    assert nearer < 0.2 if level else nearer > 0.4, nearer


def test_truth_mends_the_priors_code(batch, inside):
    prior = toy.tone_prior()
    wanted = torch.tensor([[0.5, -0.5, 0.3], [-0.8, 0.2, 0.0]])
    known = faces(COUNT, albedo=prior(wanted))
    code = torch.zeros(COUNT, 3, requires_grad=True)
    mended(
        loss_of(only(prior_sup=1.0)), known,
        lambda: answer(known, prior=prior(code), code=code), [code],
    )  # fmt: skip
    assert (code.detach() - wanted).norm() < 0.2 * wanted.norm()


def test_codes_become_likely(batch):
    code = torch.tensor([[3.0, -2.0, 1.0], [-4.0, 0.5, 2.0]], requires_grad=True)
    before = code.detach().norm()
    mended(loss_of(only(code=1.0)), batch, lambda: answer(batch, code=code), [code], 100, 0.05)
    assert code.detach().norm() < 0.3 * before


# ------------------------------------------------------------------------------- light


def saturation(shading):
    """(highest - lowest) / highest of the channels, per texel."""
    high, low = shading.amax(1), shading.amin(1)
    return (high - low) / high.clamp(min=1e-3)


def shading_of(batch, detail):
    return detail_shading(texel_transfer(batch.seen.normals), detail.detach())


def test_white_light_is_less_saturated(batch, inside):
    spread = answer(batch, places=8).detail
    tint = torch.tensor([1.4, 1.0, 0.6]).repeat_interleave(9)[None, :, None, None]
    start = spread * tint
    free = start.clone().requires_grad_()
    wild = unknown(batch)
    mended(loss_of(only(white=1.0)), wild, lambda: answer(batch, detail=free), [free], 100, 0.02)
    before, after = (saturation(shading_of(batch, d))[:, inside].mean() for d in (start, free))
    assert before > 0.4 and after < 0.3 * before
    gain = shading_of(batch, free).mean((1, 2, 3)) / shading_of(batch, start).mean((1, 2, 3))
    assert (gain - 1).abs().max() < 0.1, "it takes colour, not light"
    known = loss_of(only(white=1.0))(answer(batch, detail=start), batch, 0)[0]
    assert float(known) == 0, "a light that is known may have its colour"


def test_each_texels_light_comes_to_the_one_light(batch, inside):
    true = answer(batch, places=8)
    start = true.detail + noise(true.detail, 0.8)
    free = start.clone().requires_grad_()
    mended(
        loss_of(only(reg_light=1.0)), batch, lambda: true._replace(detail=free), [free], 100, 0.02
    )
    wanted = global_shading(texel_transfer(batch.seen.normals), batch.light)
    before, after = (rmse(shading_of(batch, d), wanted, inside) for d in (start, free))
    assert after < 0.3 * before, (before, after)


def test_the_one_light_comes_to_each_texels_too(batch, inside):
    """Nothing is detached: the one light is what most texels say."""
    true = answer(batch, places=8)
    free = (batch.light * 1.3).clone().requires_grad_()
    mended(
        loss_of(only(reg_light=1.0)), batch, lambda: true._replace(light=free), [free], 100, 0.02
    )
    assert (free.detach() - batch.light).norm() < 0.3 * (0.3 * batch.light).norm()


def test_neighbouring_lights_become_alike(batch, inside):
    spread = answer(batch, places=8).detail
    start = spread + noise(spread, 0.5)
    free = start.clone().requires_grad_()
    mended(loss_of(only(light_tv=0.1)), batch, lambda: answer(batch, detail=free), [free], 100)

    def bumpiness(detail):
        shading = shading_of(batch, detail)
        return float((shading - blurred(shading))[:, :, inside].std())

    assert bumpiness(free) < 0.5 * bumpiness(start)
    drift = (free.detach().mean((2, 3)) - start.mean((2, 3))).abs().mean()
    assert drift < 0.15


def test_true_light_mends_the_one_light(batch, inside):
    start = batch.light * 0.6 + noise(batch.light, 0.3)
    free = start.clone().requires_grad_()
    mended(
        loss_of(only(light_sup=1.0)), batch, lambda: answer(batch, light=free), [free], 100, 0.03
    )
    transfer = texel_transfer(batch.seen.normals)
    wanted = global_shading(transfer, batch.light)
    before, after = (
        rmse(global_shading(transfer, x.detach()), wanted, inside) for x in (start, free)
    )
    assert after < 0.15 * before, (before, after)


# ------------------------------------------------------------------------------- adversaries


def duel(loss, batch, make, variables, steps=100, rate=0.03):
    """Network's part and critic learn at once, as in training."""
    mine = torch.optim.Adam(variables, rate)
    critics = torch.optim.Adam(loss.parameters(), 3e-3)
    for step in range(steps):
        torch.manual_seed(step)
        mine.zero_grad()
        critics.zero_grad()
        loss(make(), batch, step)[0].backward()
        mine.step()
        critics.step()


def test_the_maps_critic_makes_green_skin_look_like_skin(inside):
    """Real maps are those of the prior; truth is unknown."""
    batch = unknown(faces(4, 7))
    tint = torch.zeros(4, 3, 1, 1)
    tint[:, 1] = 0.7  # green
    free = tint.clone().requires_grad_()
    skin = torch.tensor(toy.TONE).view(1, 3, 1, 1).expand(4, 3, N, N)

    def make(log=free):
        return answer(batch, albedo=(skin * log.exp()).clamp(0.01, 0.97))

    duel(loss_of(only(uv_gan=1.0)), batch, make, [free])

    def greenness(log):
        albedo = make(log).albedo.detach()[:, :, inside].mean(2)
        own = albedo[:, 1] / albedo.sum(1)
        return float((own - toy.TONE[1] / sum(toy.TONE)).abs().mean())

    assert greenness(free) < 0.6 * greenness(tint), (greenness(tint), greenness(free))


def test_the_pictures_critic_makes_renders_look_like_photos():
    """Photos have grain, renders do not: how much of it there is can be told from patches."""
    grain = torch.exp(noise(torch.zeros(4, 1, N, N), 0.3))
    batch = faces(4, 7, albedo=(skins(4, 7) * grain).clamp(0.02, 0.95))
    other = torch.exp(noise(torch.zeros(4, 1, N, N), 0.3, seed=9))
    share = torch.full((4, 1, 1, 1), 0.1, requires_grad=True)

    def make():
        return answer(batch, albedo=(skins(4, 7) * other**share).clamp(0.02, 0.95))

    duel(loss_of(only(img_gan=1.0)), batch, make, [share], rate=0.02)
    assert 0.4 < float(share.detach().abs().mean()) < 1.6, "grain has no sign"


def test_the_truth_costs_nothing(batch):
    """Pictures are what true albedo in true light shows, so all terms agree."""
    zero = ("photo", "perceptual", "style", "grad", "symmetry", "reg_light", "light_tv",
            "albedo_sup", "light_sup", "code", "prior_sup")  # fmt: skip
    loss = loss_of(only(**dict.fromkeys(zero, 1.0)), RandomLook())
    _, parts = loss(answer(batch), batch, 0)
    assert set(parts) == set(zero)
    for name, value in parts.items():
        assert float(value) < 0.005, name
    white = faces(COUNT, light=torch.eye(9)[:1, :, None] * NEUTRAL * torch.ones(3))
    wild = unknown(white)
    assert float(loss_of(only(white=1.0))(answer(white), wild, 0)[0]) < 1e-6


def test_shading_of_the_truth_is_the_photo(batch, inside):
    shading = detail_shading(texel_transfer(batch.seen.normals), answer(batch).detail)
    found = lit(answer(batch).albedo, shading)
    assert rmse(found, batch.seen.texture, inside & (batch.seen.texture < 1).all(0).all(0)) < 1e-5
    spread = spread_light(batch.light, shading)
    torch.testing.assert_close(answer(batch).detail, spread)
