"""The albedo autoencoder: shapes and ranges at every size, and it starts at the mean face."""

import pytest
import torch

from lifemask.graphics.lighting import linear_to_srgb
from lifemask.nn.albedo_vae import AlbedoVae, kl_divergence

WIDTHS = (4, 8, 8, 8, 8)


@pytest.mark.parametrize("size", [32, 64])
def test_shapes_and_ranges(size):
    net = AlbedoVae(size, 5, WIDTHS)
    albedo = net.decode(3 * torch.randn(2, 5))
    assert albedo.shape == (2, 3, size, size)
    assert bool((albedo > 0).all()) and bool((albedo < 1).all())
    mean, log_variance = net.encode(albedo)
    assert mean.shape == log_variance.shape == (2, 5)


def test_a_batch_is_its_items():
    net = AlbedoVae(32, 5, WIDTHS).eval()
    z = torch.randn(3, 5)
    torch.testing.assert_close(net.decode(z), torch.cat([net.decode(one[None]) for one in z]))


def test_forward_is_encode_then_decode():
    net = AlbedoVae(32, 5, WIDTHS)
    albedo, noise = torch.rand(2, 3, 32, 32), torch.randn(2, 5)
    found = net(linear_to_srgb(albedo), noise)
    mean, log_variance = net.encode(albedo)
    torch.testing.assert_close(found.mean, mean)
    again = net.decode(mean + noise * (0.5 * log_variance).exp())
    torch.testing.assert_close(found.srgb, linear_to_srgb(again), rtol=1e-3, atol=1e-5)


def test_decoding_starts_from_the_principal_components():
    """Maps of two components: their mean at z = 0, and the components' spread at z = 1."""
    net = AlbedoVae(32, 5, WIDTHS)
    with torch.no_grad():
        for parameter in net.decoder.parameters():
            parameter.zero_()
    z = torch.randn(200, 2)
    z = (z - z.mean(0)) / z.std(0, correction=0)
    modes = torch.randn(2, 3, 32, 32) * torch.tensor([0.4, 0.1])[:, None, None, None]
    net.start_from(torch.sigmoid(0.3 + torch.einsum("bk,kcij->bcij", z, modes)))
    middle = net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 5))
    found = torch.logit(linear_to_srgb(net.decode(torch.zeros(1, 5))))
    torch.testing.assert_close(found, torch.full_like(found, 0.3), atol=1e-3, rtol=0)
    variance = (net.modes**2).sum(0)
    torch.testing.assert_close(variance, (modes**2).sum(0), atol=0.1, rtol=0.2)
    assert middle.srgb.shape == (1, 3, 32, 32)


def test_divergence_is_zero_for_normal_codes_only():
    zero = torch.zeros(2, 4)
    assert kl_divergence(zero, zero).tolist() == [0, 0]
    assert bool((kl_divergence(zero + 1, zero) > 0).all())
    mean, log_variance = torch.tensor([[0.5]]), torch.tensor([[-1.0]])
    own = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    other = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, log_variance), other.sum(1))


def test_wrong_size():
    with pytest.raises(ValueError, match="not a multiple of 32"):
        AlbedoVae(48)
