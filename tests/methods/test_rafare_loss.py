"""Each term of RAFaRe's losses improves what it guards, and its switch changes the total."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lifemask.methods._rafare_loss import (
    Critics,
    FieldLoss,
    NormalLoss,
    RafareBatch,
    RafareLossConfig,
    around,
    duel,
    slope_loss,
)
from lifemask.methods._retexture_perceptual import PictureFeatures
from lifemask.nn.sdf import View

OFF = {
    "value": 0.0, "slope": 0.0, "absolute": 0.0, "angle": 0.0, "edges": 0.0, "gan": 0.0,
    "matching": 0.0, "perceptual": 0.0, "critic_width": 16, "critics": 1,
}  # fmt: skip
RADIUS = 0.6


def batch(size: int = 16, count: int = 400) -> RafareBatch:
    """A ball, its points and its normals."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, count, 3, generator=generator) * 2 - 1
    outward = functional.normalize(torch.randn(1, 60, 3, generator=generator), dim=-1)
    steps = (torch.arange(size) + 0.5) * 2 / size - 1
    x, y = torch.meshgrid(steps, -steps, indexing="xy")
    squared = RADIUS**2 - x * x - y * y
    known = (squared > 0.01).float()
    normals = torch.stack((x, y, squared.clamp(min=0).sqrt())) / RADIUS * known
    nothing = torch.zeros(1, 1, size, size)
    view = View(nothing.expand(-1, 4, -1, -1), nothing, nothing.expand(-1, 3, -1, -1), nothing)
    distance = points.norm(dim=-1) - RADIUS
    return RafareBatch(
        view, points, distance, RADIUS * outward, outward, normals[None], known[None, None]
    )


class Ball(nn.Module):
    """A field that is a stretched ball; stands in for `FieldNet`."""

    def __init__(self) -> None:
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(0.4))
        self.stretch = nn.Parameter(torch.tensor([1.5, 1.0, 0.8]))

    def forward(self, view: View, points: Tensor) -> Tensor:
        """(1, b, n)."""
        return ((points * self.stretch).norm(dim=-1) - self.radius)[None]


class Picture(nn.Module):
    """Normals that are parameters; stands in for `NormalNet`."""

    def __init__(self, normals: Tensor) -> None:
        super().__init__()
        self.normals = nn.Parameter(normals)

    def forward(self, view: View) -> Tensor:
        """(b, 3, s, s)."""
        return functional.normalize(self.normals, dim=1)


def improve(loss: nn.Module, network: nn.Module, data: RafareBatch, rate: float = 0.02) -> None:
    """A hundred steps of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for _ in range(100):
        optimizer.zero_grad()
        loss(network, data)[0].backward()
        optimizer.step()


@pytest.mark.parametrize("field", ["sdf", "occupancy"])
def test_values_bring_the_surface_to_its_place(field: str):
    data, ball = batch(), Ball()
    loss = FieldLoss(RafareLossConfig(**(OFF | {"value": 1.0}), field=field), "base")  # pyright: ignore
    wrong = ((ball(data.view, data.points)[0] > 0) != (data.values > 0)).float().mean()
    improve(loss, ball, data)
    right = ((ball(data.view, data.points)[0] > 0) != (data.values > 0)).float().mean()
    assert right < 0.2 * wrong


def test_slopes_turn_the_field_along_the_normals():
    data, ball = batch(), Ball()
    loss = FieldLoss(RafareLossConfig(**(OFF | {"slope": 1.0})), "base")
    before = float(ball.stretch.detach().std() / ball.stretch.detach().mean())
    improve(loss, ball, data)
    after = float(ball.stretch.detach().std() / ball.stretch.detach().mean())
    assert after < 0.1 * before


def test_central_differences_are_those_of_the_field():
    data, ball = batch(), Ball()
    ball.stretch.data.fill_(1.0)
    assert slope_loss(ball(data.view, around(data.surface)), data.surface_normals) < 1e-4
    turned = data.surface_normals.roll(1, -1)
    expected = (1 - (turned * data.surface_normals).sum(-1)).mean()
    said = slope_loss(ball(data.view, around(data.surface)), turned)
    torch.testing.assert_close(said, expected, atol=1e-3, rtol=1e-2)


@torch.no_grad()
def angle_deg(network: nn.Module, data: RafareBatch) -> float:
    """Mean angle where normals are known."""
    cosine = (network(data.view) * data.normals).sum(1, keepdim=True).clamp(-1, 1)
    return float(torch.rad2deg(cosine.acos())[data.known > 0].mean())


@pytest.mark.parametrize("term", ["absolute", "angle"])
def test_terms_turn_the_normals(term: str):
    data = batch()
    network = Picture(data.normals + 0.5 * torch.randn(data.normals.shape).cumsum(-1).tanh())
    before = angle_deg(network, data)
    improve(NormalLoss(RafareLossConfig(**(OFF | {term: 1.0}))), network, data)
    assert angle_deg(network, data) < 0.3 * before


def test_edges_take_away_noise():
    torch.manual_seed(0)
    data = batch()
    network = Picture(data.normals + 0.3 * torch.randn(data.normals.shape))

    @torch.no_grad()
    def roughness() -> float:
        off = (network(data.view) - data.normals) * data.known
        inner = functional.max_pool2d(1 - data.known, 3, 1, 1) == 0
        return float((off - functional.avg_pool2d(off, 3, 1, 1))[inner.expand_as(off)].std())

    before = roughness()
    improve(NormalLoss(RafareLossConfig(**(OFF | {"edges": 1.0}))), network, data, 0.01)
    assert roughness() < 0.5 * before


@pytest.mark.parametrize(
    ("create", "terms"),
    [
        (lambda config: FieldLoss(config, "base"), ("value", "slope")),
        (NormalLoss, ("absolute", "angle", "edges")),
    ],
)
def test_each_switch_changes_the_total(
    create: Callable[[RafareLossConfig], nn.Module], terms: tuple[str, ...]
):
    data = batch()
    network = Ball() if len(terms) == 2 else Picture(data.normals + 0.4)
    on = RafareLossConfig(**(OFF | dict.fromkeys(terms, 1.0)))
    total, parts = create(on)(network, data)
    assert set(parts) == set(terms)
    torch.testing.assert_close(total.detach(), sum(parts.values()))
    for term in terms:
        less = RafareLossConfig(**(OFF | dict.fromkeys(terms, 1.0) | {term: 0.0}))
        assert create(less)(network, data)[0] < total - 1e-4


def test_unknown_pixels_say_nothing():
    data = batch()
    network = Picture(data.normals.clone() + 0.1)
    total = NormalLoss(RafareLossConfig())(network, data)[0]
    total.backward()
    grad = network.normals.grad
    assert grad is not None
    assert float((grad * (1 - data.known)).abs().max()) == 0


class Mean(nn.Module):
    """Features of a picture: itself, blurred; stands in for a face network."""

    def forward(self, pictures: Tensor) -> PictureFeatures:
        """The same as embedding and style."""
        blurred = functional.avg_pool2d(pictures, 2)
        return PictureFeatures(blurred.flatten(1), blurred)


@pytest.mark.parametrize("term", ["gan", "matching", "perceptual"])
def test_adversaries_and_features_turn_the_normals(term: str):
    torch.manual_seed(0)
    data = batch(32)
    network = Picture(data.normals + 0.5 * torch.randn(data.normals.shape).cumsum(-1).tanh())
    loss = NormalLoss(RafareLossConfig(**(OFF | {term: 10.0})), Mean())
    before = angle_deg(network, data)
    both = nn.ModuleList((network, loss))
    optimizer = torch.optim.Adam(both.parameters(), 0.02, betas=(0.5, 0.9))
    for _ in range(100):
        optimizer.zero_grad()
        loss(network, data)[0].backward()
        optimizer.step()
    assert angle_deg(network, data) < 0.8 * before


def test_network_and_critics_do_not_learn_for_each_other():
    torch.manual_seed(0)
    critics = Critics(3, 16, 2)
    real, made = torch.randn(2, 1, 3, 64, 64)
    made.requires_grad_(True)
    parts = duel(critics, real, made, 1.0, 10.0)
    (parts["gan"] + parts["matching"]).backward(retain_graph=True)
    assert made.grad is not None and made.grad.abs().max() > 0
    assert all(p.grad is None for p in critics.parameters())
    made.grad = None
    parts["critic"].backward()
    assert made.grad is None
    assert any(p.grad is not None for p in critics.parameters())
