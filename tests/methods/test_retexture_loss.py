"""The loss of the re-renderable texture: switches, who learns from what, and what is hidden."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from helpers import retexture_faces as toy
from helpers.retexture_faces import (
    TERMS,
    RandomLook,
    answer,
    ball,
    create_net,
    faces,
    loss_of,
    only,
    spot,
    unknown,
)
from lifemask.methods._retexture_loss import RetextureLoss, RetextureLossConfig, render_all
from lifemask.methods._retexture_perceptual import BackboneFeatures
from lifemask.nn.landmark_net import LandmarkNet, LandmarkNetConfig

COUNT, N = 4, toy.SIZE
ADVERSARIES = {"uv_gan", "uv_critic", "img_gan", "img_critic"}
LEARNED = {"albedo_sup", "prior_sup", "light_sup", "detail_sup"}
CONFIG = replace(RetextureLossConfig(), gan_from=5, critic_width=8, uv_gan=0.1, img_gan=0.1)


@pytest.fixture(scope="module")
def batch():
    """Two renders and two photos of faces half of which are turned away."""
    visible = (toy.axes()[0] < 0.4).float()
    known = faces(COUNT, seed=5, visible=visible)
    photos = unknown(known)
    rows = torch.tensor([1.0, 1.0, 0.0, 0.0])

    def mixed(a, b):
        wide = rows.view(-1, *[1] * (a.ndim - 1))
        return a * wide + b * (1 - wide)

    names = ("albedo", "truth", "light", "lit")
    return replace(known, **{n: mixed(getattr(known, n), getattr(photos, n)) for n in names})


@pytest.fixture(scope="module")
def said():
    """A wrong answer on every account."""
    true = answer(faces(COUNT, seed=5), places=8)
    draw = torch.Generator().manual_seed(0)
    prior = toy.tone_prior()(torch.full((COUNT, 3), 0.4))
    off = 1 + 0.4 * spot(0.4, 0.1, 0.3)
    rough = true.albedo * off * torch.exp(0.05 * torch.randn(COUNT, 3, N, N, generator=draw))
    detail = true.detail + 0.2 * torch.randn(true.detail.shape, generator=draw)
    return true._replace(
        prior=prior, code=torch.full((COUNT, 3), 0.4), light=true.light * 1.2, detail=detail,
        albedo=rough.clamp(0.02, 0.95),
    )  # fmt: skip


def told(config, said, batch, step=9, embed=None):
    """Total and parts; what is random in it starts at the same place."""
    loss = loss_of(config, embed or RandomLook())
    torch.manual_seed(1)
    return loss(said, batch, step)


def test_every_weight_of_the_settings_is_a_term():
    weights = {f.name for f in fields(RetextureLossConfig) if f.type in ("float", float)}
    assert weights - {"photo_flat", "detail_sigma", "level"} == set(TERMS)


def test_the_total_is_the_sum_of_its_parts(said, batch):
    total, parts = told(CONFIG, said, batch)
    assert set(parts) == set(TERMS) | ADVERSARIES
    torch.testing.assert_close(total, torch.stack(list(parts.values())).sum())
    assert not any(value.requires_grad for value in parts.values())
    assert all(value.isfinite() for value in parts.values())


@pytest.mark.parametrize("term", TERMS)
def test_a_switch_takes_its_term_and_nothing_else_from_the_total(said, batch, term):
    total, parts = told(CONFIG, said, batch)
    less, rest = told(replace(CONFIG, **{term: 0.0}), said, batch)
    gone = {term, term.replace("gan", "critic")} if "gan" in term else {term}
    assert set(rest) == set(parts) - gone
    assert parts[term].abs() > 1e-7 and less < total
    if "gan" not in term:  # without one critic the other starts elsewhere
        torch.testing.assert_close(less, total - parts[term])
        for name, value in rest.items():
            torch.testing.assert_close(value, parts[name])


@pytest.mark.parametrize("term", [t for t in TERMS if "gan" not in t])
def test_weights_are_factors(said, batch, term):
    one = told(only(**{term: 1.0}), said, batch)[0]
    torch.testing.assert_close(told(only(**{term: 2.5}), said, batch)[0], 2.5 * one)


def test_without_an_embedder_two_terms_are_absent(said, batch):
    loss = loss_of(CONFIG)
    assert set(loss(said, batch, 0)[1]) == set(TERMS) - {
        "perceptual", "style", "uv_gan", "img_gan",
    }  # fmt: skip


# ------------------------------------------------------------------------------- truth


def test_without_truth_nothing_is_supervised(said, batch):
    photos = unknown(batch)
    _, parts = told(CONFIG, said, photos)
    assert all(float(parts[name]) == 0 for name in LEARNED)
    assert float(parts["reg_detail"]) > 0
    wild = replace(photos, albedo=torch.rand_like(photos.albedo), light=torch.rand(COUNT, 9, 3))
    _, again = told(replace(CONFIG, uv_gan=0.0, img_gan=0.0), said, wild)
    for name, value in again.items():
        torch.testing.assert_close(value, parts[name], msg=name)


def test_supervision_can_be_switched_off(said, batch):
    """No term and no critic looks at the truth then, as if all were photos."""
    blind = replace(CONFIG, supervise=False)
    _, parts = told(blind, said, batch)
    _, photos = told(CONFIG, said, unknown(batch))
    lies = replace(
        batch, albedo=torch.rand_like(batch.albedo), light=torch.randn_like(batch.light),
        truth=torch.ones_like(batch.truth),
    )  # fmt: skip
    _, lied = told(blind, said, lies)
    for name, value in parts.items():
        torch.testing.assert_close(value, lied[name], msg=name)
        torch.testing.assert_close(value, photos[name], msg=name)
    assert all(float(parts.get(name, 0.0)) == 0 for name in LEARNED)
    assert float(told(CONFIG, said, batch)[1]["albedo_sup"]) > 0.001


def test_the_level_is_the_weight_of_one_gain_a_picture(said, batch):
    """Without it the terms of the truth know a picture's albedo and light up to a gain."""
    gain = torch.tensor([0.5, 0.8, 1.0, 1.0])[:, None, None]
    scaled = said._replace(
        albedo=said.albedo * gain[..., None], prior=said.prior * gain[..., None],
        light=said.light * gain, detail=said.detail * gain[..., None],
    )  # fmt: skip
    for term in LEARNED:
        free = [float(told(only(**{term: 1.0}, level=0.0), x, batch)[0]) for x in (said, scaled)]
        held = [float(told(only(**{term: 1.0}, level=1.0), x, batch)[0]) for x in (said, scaled)]
        assert free[1] == pytest.approx(free[0], rel=0.02, abs=1e-5), term
        assert held[0] > free[0] + 0.01 and abs(held[1] - held[0]) > 0.03, term


def test_known_rows_alone_are_supervised(said, batch):
    """Rows two and three are photos: what is said of them does not matter to the truth."""
    changed = said._replace(
        albedo=torch.cat((said.albedo[:2], 0.5 * said.albedo[2:])),
        light=torch.cat((said.light[:2], 2 * said.light[2:])),
        prior=torch.cat((said.prior[:2], 0.5 * said.prior[2:])),
        detail=torch.cat((said.detail[:2], 2 * said.detail[2:])),
    )
    config = only(**dict.fromkeys(LEARNED, 1.0))
    first, second = (told(config, x, batch)[1] for x in (said, changed))
    for name in LEARNED:
        torch.testing.assert_close(first[name], second[name])


def test_nothing_outside_the_face_counts(said, batch):
    """Maps beyond the chart hold copies of the nearest texel: they teach nothing."""
    outside = ~ball()[1]
    free = said.albedo.clone().requires_grad_()
    config = replace(CONFIG, photo=0.0, grad=0.0, perceptual=0.0, style=0.0, img_gan=0.0)
    told(config, said._replace(albedo=free), batch)[0].backward()
    # reg_detail, symmetry, chroma, albedo_sup and the map's critic
    assert float(free.grad[:, :, outside].abs().max()) == 0
    assert float(free.grad[:, :, ~outside].abs().mean()) > 0


def test_hidden_texels_have_no_chroma(said, batch):
    free = said.albedo.clone().requires_grad_()
    told(only(chroma=1.0), said._replace(albedo=free), batch)[0].backward()
    hidden = batch.seen.visible[0, 0] == 0
    assert float(free.grad[:, :, hidden].abs().max()) == 0 < float(free.grad.abs().max())


# ------------------------------------------------------------------------------- adversaries


def test_adversaries_join_at_their_step(said, batch):
    for step in (0, 4):
        assert not ADVERSARIES & set(told(CONFIG, said, batch, step)[1])
    assert set(told(CONFIG, said, batch, 5)[1]) >= ADVERSARIES
    early = told(replace(CONFIG, gan_from=0), said, batch, 0)[1]
    assert set(early) >= ADVERSARIES


def test_critics_exist_only_where_they_are_wanted():
    assert not list(loss_of(replace(CONFIG, uv_gan=0.0, img_gan=0.0)).parameters())
    one = loss_of(replace(CONFIG, uv_gan=0.0))
    assert one.uv_critic is None and one.img_critic is not None


@pytest.mark.parametrize("kind", ["uv", "img"])
def test_the_network_and_its_critic_learn_from_their_own_terms_alone(batch, kind):
    """The gradient of the whole is that of each part where it belongs."""
    network = create_net()
    loss = loss_of(only(**{f"{kind}_gan": 0.5}))
    critic = {"uv": loss.uv_critic, "img": loss.img_critic}[kind]

    def gradients(module):
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    torch.manual_seed(1)
    total, parts = loss(network(batch.seen), batch, 0)
    assert set(parts) == {f"{kind}_gan", f"{kind}_critic"}
    total.backward()
    both = gradients(network.refine), gradients(critic)
    assert all(any(float(g.abs().max()) > 0 for g in part) for part in both)
    assert all(p.requires_grad for p in critic.parameters())
    # the critic's own loss, without the network: the same gradient for the critic
    loss.zero_grad()
    torch.manual_seed(1)
    with torch.no_grad():
        fixed = network(batch.seen)
    loss(fixed, batch, 0)[0].backward()
    for alone, joint in zip(gradients(critic), both[1], strict=True):
        torch.testing.assert_close(alone, joint, atol=1e-6, rtol=1e-4)
    # the adversarial term, with a frozen critic: the same gradient for the network
    network.zero_grad()
    critic.requires_grad_(False)
    torch.manual_seed(1)
    loss(network(batch.seen), batch, 0)[0].backward()
    for alone, joint in zip(gradients(network.refine), both[0], strict=True):
        torch.testing.assert_close(alone, joint, atol=1e-7, rtol=1e-4)


def test_real_maps_are_the_truth_where_there_is_one(batch):
    loss = loss_of(only(uv_gan=1.0))
    torch.manual_seed(1)
    real = loss._real_maps(batch)
    torch.manual_seed(1)
    made = loss._real_maps(unknown(batch))
    assert not real.requires_grad
    torch.testing.assert_close(real[2:], made[2:])
    assert (real[:2] - made[:2]).abs().max() > 0.05
    assert float(made.flatten(2).std(2).max()) < 1e-4  # one tone each, by this prior
    assert float(made.mean((2, 3)).std(0).min()) > 0.005  # several tones


# ------------------------------------------------------------------------------- the rest


def test_three_renders(said, batch):
    renders = render_all(said, batch)
    for one in (renders.prior_detail, renders.flat, renders.detail):
        assert one.shape == batch.photo.shape
    same = said._replace(prior=said.albedo)
    torch.testing.assert_close(*(getattr(render_all(same, batch), n) for n in (
        "prior_detail", "detail")))  # fmt: skip
    plain = answer(faces(COUNT, seed=5))
    flat = render_all(plain, batch)
    torch.testing.assert_close(flat.flat, flat.detail, atol=1e-5, rtol=1e-4)
    shown = batch.mask.expand(-1, 3, -1, -1) > 0.5
    assert (flat.detail.clamp(0, 1) - batch.photo)[shown].abs().mean() < 0.02


def test_every_output_of_the_network_gets_a_gradient(said, batch):
    free = said._make(part.clone().requires_grad_() for part in said)
    told(CONFIG, free, batch)[0].backward()
    for name, part in free._asdict().items():
        assert part.grad is not None and part.grad.isfinite().all(), name
        assert float(part.grad.abs().max()) > 0, name


def test_one_light_for_all_texels_costs_nothing_in_the_light_terms(said, batch):
    one = answer(faces(COUNT, seed=5), places=1)
    _, parts = told(CONFIG, one, batch)
    assert float(parts["reg_light"]) < 1e-6 and float(parts["light_tv"]) == 0


def test_the_detail_terms_band_follows_the_maps_size(said, batch):
    """8 texels of 128 are 2 of 32: what is wider than that is not free."""
    narrow, wide = (
        told(only(reg_detail=1.0, detail_sigma=s), said, unknown(batch))[0] for s in (8.0, 32.0)
    )
    assert narrow > wide > 0


@pytest.mark.parametrize("sh", ["lifemask", "deep3d"])
def test_both_ways_that_light_meets_albedo(said, batch, sh):
    loss = RetextureLoss(CONFIG, toy.tone_prior(), ball()[1], None, sh)
    assert loss(said, batch, 9)[0].isfinite()


def test_extremes_stay_finite(said, batch):
    """Black photos, empty masks, black and over-exposed light."""
    dark = replace(
        batch, photo=0 * batch.photo, mask=0 * batch.mask, truth=0 * batch.truth,
        seen=batch.seen._replace(
            texture=0 * batch.seen.texture, visible=0 * batch.seen.visible
        ),
    )  # fmt: skip
    for factor in (0.0, 1.0, 50.0, -1.0):
        free = said._replace(
            light=(said.light * factor).requires_grad_(),
            detail=(said.detail * factor).requires_grad_(),
            albedo=(said.albedo * min(abs(factor), 1.0)).requires_grad_(),
        )
        for one in (batch, dark):
            total, _ = told(CONFIG, free, one)
            total.backward()
            assert total.isfinite()
            assert all(p.grad.isfinite().all() for p in (free.light, free.detail, free.albedo))


def test_our_embedder_is_frozen_and_bounded():
    torch.manual_seed(0)
    look = BackboneFeatures(LandmarkNet(LandmarkNetConfig())).train()
    pictures = torch.rand(2, 3, 64, 64, requires_grad=True)
    before = copy.deepcopy(look.state_dict())
    features = look(pictures)
    assert not look.network.training and not any(p.requires_grad for p in look.parameters())
    norm = features.embedding.square().sum(1)
    torch.testing.assert_close(norm, torch.full((2,), 3.0))  # three stages of length 1
    features.embedding.sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().max() > 0
    assert all(torch.equal(v, look.state_dict()[k]) for k, v in before.items())
