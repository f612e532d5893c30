"""Muon: orthogonal steps for matrices and convolutions, AdamW's for the rest, exact resume."""

import copy

import pytest
import torch
from torch import nn

from lifemask.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_the_step_is_nearly_orthogonal_whatever_the_gradients_scale(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() and values.max() < 1.3
    torch.testing.assert_close(found, orthogonal(1e3 * matrix), atol=1e-4, rtol=1e-3)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    cosine = (found * (u @ v)).sum() / found.norm() / (u @ v).norm()
    assert cosine > 0.97


def toy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


def steps(network, optimizer, count, first=0):
    for number in range(first, first + count):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        ((network(x) - x[:, :2, 1:-1, 1:-1]) ** 2).mean().backward()
        optimizer.step()


def test_convolutions_step_alike_in_all_directions_and_the_rest_as_in_adamw():
    network, plain = toy(), toy()
    steps(network, Muon(network.parameters(), lr=1e-2, weight_decay=0.0), 1)
    steps(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0), 1)
    moved = (network[0].weight - toy()[0].weight).detach()
    values = torch.linalg.svdvals(moved.flatten(1))
    assert values.max() < 2 * values.min()
    assert moved.square().mean().sqrt() == pytest.approx(0.2e-2, rel=0.3), "as AdamW usually steps"
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert torch.equal(network.get_parameter(name), plain.get_parameter(name))
    assert all(p.grad is not None for p in network.parameters()), "gradients are left as they were"


def test_weight_decay_shrinks_matrices():
    network = nn.Linear(4, 4, bias=False)
    before = network.weight.detach().clone()
    optimizer = Muon(network.parameters(), lr=0.1, weight_decay=0.5)
    network.weight.grad = torch.zeros_like(before)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * 0.95)


def test_the_state_goes_on_where_it_was_saved():
    whole, cut = toy(), toy()
    one = Muon(whole.parameters(), lr=1e-2)
    steps(whole, one, 6)
    two = Muon(cut.parameters(), lr=1e-2)
    steps(cut, two, 3)
    saved = copy.deepcopy(two.state_dict())
    three = Muon(cut.parameters(), lr=1e-2)
    three.load_state_dict(saved)
    steps(cut, three, 3, first=3)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(a, b)
