"""Losses: analytic cases, gradients, invariances."""

import torch

from lifemask.losses import (
    distance,
    gaussian_prior,
    huber,
    laplace_nll,
    outside_unit_interval,
    weighted_mean,
)


def test_distance_is_euclidean_with_a_gradient_at_zero():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    d = distance(a, torch.zeros_like(a))
    torch.testing.assert_close(d, torch.tensor([5.0, 0.0], dtype=torch.float64), atol=1e-4, rtol=0)
    d.sum().backward()
    assert a.grad is not None and torch.isfinite(a.grad).all()
    points = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: distance(p, other), (points,))


def test_weighted_mean_ignores_weightless_values_and_their_scale():
    values = torch.tensor([[1.0, 5.0, 100.0], [7.0, 8.0, 9.0]])
    weights = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(weighted_mean(values, weights), torch.tensor([4.0, 0.0]))
    torch.testing.assert_close(
        weighted_mean(values[:1], 10 * weights[:1]), weighted_mean(values[:1], weights[:1])
    )


def test_laplace_likelihood_is_least_at_half_the_distance():
    d = torch.tensor([0.3], dtype=torch.float64)
    log_b = (d / 2).log().requires_grad_()
    value = laplace_nll(d, log_b)
    value.sum().backward()
    torch.testing.assert_close(log_b.grad, torch.zeros(1, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (laplace_nll(d, log_b + 0.1) > value).all() and (
        laplace_nll(d, log_b - 0.1) > value
    ).all()


def test_laplace_likelihood_is_a_density_over_the_plane():
    """The integral of exp(-nll) / (2 pi) over the plane is 1."""
    r = torch.linspace(0, 30, 200_001, dtype=torch.float64)
    log_b = torch.tensor(0.2, dtype=torch.float64)
    density = (-laplace_nll(r, log_b)).exp() / (2 * torch.pi)
    total = torch.trapezoid(density * 2 * torch.pi * r, r)
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), atol=1e-4, rtol=0)


def test_priors():
    torch.testing.assert_close(gaussian_prior(torch.tensor([[3.0, 4.0]])), torch.tensor([12.5]))
    values = torch.tensor([[-0.5, 0.0, 0.4, 1.0, 1.25]])
    torch.testing.assert_close(outside_unit_interval(values), torch.tensor([0.15]))


def test_huber_is_a_parabola_that_goes_on_as_a_line():
    d = torch.tensor([0.0, 1.5, 3.0, 4.0, 103.0])
    torch.testing.assert_close(huber(d, 3.0), torch.tensor([0.0, 0.375, 1.5, 2.5, 101.5]))


def test_huber_has_slope_at_most_one_and_no_kink():
    d = torch.linspace(0, 9, 1801, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(huber(d, 3.0).sum(), d)
    torch.testing.assert_close(slope, (d.detach() / 3).clamp_max(1))
    assert (slope.diff() >= -1e-12).all() and slope.diff().max() < 2e-3
    inside = torch.tensor([0.4, 2.9, 3.1, 8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: huber(x, 3.0), (inside,))


def test_huber_scales_with_its_unit():
    """Distances and delta in another unit: the loss changes by the unit, nothing else."""
    d = torch.rand(20, dtype=torch.float64) * 10
    torch.testing.assert_close(huber(10 * d, 30.0), 10 * huber(d, 3.0))
