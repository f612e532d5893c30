"""The landmark network: shapes, coordinates, batches, export."""

from dataclasses import replace

import pytest
import torch

from lifemask.nn.landmark_net import (
    ExportNet,
    LandmarkNet,
    LandmarkNetConfig,
    config_from_dict,
    crop_px_from_unit,
    unit_from_crop_px,
)

SMALL = LandmarkNetConfig(
    widths=(8, 8, 16, 16), blocks=(1, 1, 1), map_width=16, hidden=32, identity=3, expression=2
)


@pytest.fixture(scope="module")
def network() -> LandmarkNet:
    torch.manual_seed(0)
    network = LandmarkNet(SMALL)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # running statistics unlike the initial ones
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def test_shapes_and_centred_depth(network):
    output = network(torch.rand(3, 3, 112, 112))
    assert output.points.shape == (3, 392, 3) and output.log_b.shape == (3, 392)
    assert output.maps.shape == (3, 392, 2) and output.parameters.shape == (3, 14)
    torch.testing.assert_close(output.points[..., 2].mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    assert output.maps.abs().max() <= 1


def test_a_batch_equals_single_calls(network):
    crops = torch.rand(3, 3, 112, 112)
    together = network(crops).points
    alone = torch.cat([network(crop[None]).points for crop in crops])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_look_shows_the_features_behind_the_landmarks(network):
    crops = torch.rand(2, 3, 112, 112)
    looked = network.look(crops)
    for found, plain in zip(looked.output, network(crops), strict=True):
        torch.testing.assert_close(found, plain)
    assert looked.quarter.shape == (2, 8, 28, 28) and looked.summary.shape == (2, 32)
    torch.testing.assert_close(network.to_parameters(looked.summary), looked.output.parameters)
    dark = crops.clone()
    dark[:, :, :, 56:] = 0  # the left edge of the fine features sees the left half alone
    same = network.look(dark).quarter[..., :8]
    torch.testing.assert_close(same, looked.quarter[..., :8])


def test_soft_argmax_finds_a_peak(network):
    scores = torch.zeros(1, 2, 14, 14)
    scores[0, 0, 3, 10] = 60
    scores[0, 1, 13, 0] = 60
    found = crop_px_from_unit(network._soft_argmax(scores), 112)
    expected = torch.tensor([[[10 * 8 + 3.5, 3 * 8 + 3.5], [3.5, 13 * 8 + 3.5]]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_units_round_trip_and_edges():
    points = torch.rand(5, 3, dtype=torch.float64) * 112
    again = crop_px_from_unit(unit_from_crop_px(points, 112), 112)
    torch.testing.assert_close(again, points)
    edges = torch.tensor([[-0.5, 111.5]])
    torch.testing.assert_close(unit_from_crop_px(edges, 112), torch.tensor([[-1.0, 1.0]]))


def test_run_time_output_is_in_crop_px(network):
    crops = torch.rand(2, 3, 112, 112)
    output, found = network(crops), ExportNet(network)(crops)
    torch.testing.assert_close(found[..., :3], crop_px_from_unit(output.points, 112))
    torch.testing.assert_close(found[..., 3], 3**0.5 * 56 * output.log_b.exp())


def test_sigma_is_the_deviation_of_one_coordinate():
    """Distances r ~ r exp(-r / b): the variance of u is E[r^2] / 2 = 3 b^2."""
    b = 0.7
    generator = torch.Generator().manual_seed(0)
    shape = torch.tensor([2.0]).expand(200_000)
    torch.manual_seed(0)
    radius = torch._standard_gamma(shape) * b
    u = radius * torch.cos(torch.rand(200_000, generator=generator) * 2 * torch.pi)
    torch.testing.assert_close(u.std(), torch.tensor(3**0.5 * b), rtol=0.02, atol=0)


def test_without_parameter_output():
    net = LandmarkNet(replace(SMALL, identity=0, expression=0))
    assert net(torch.rand(2, 3, 112, 112)).parameters.shape == (2, 0)


def test_made_from_a_card(network):
    from dataclasses import asdict

    sizes = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(SMALL).items()}
    assert config_from_dict(sizes) == SMALL
    with pytest.raises(TypeError):
        config_from_dict({**sizes, "unheard": 1})


def test_positions_stay_exact_under_mixed_precision():
    """Map positions in bfloat16 would be off by up to 0.004 half-crops."""
    net = LandmarkNet(SMALL).eval()
    scores = 8 * torch.randn(2, SMALL.points, 14, 14, generator=torch.Generator().manual_seed(2))
    exact = net._soft_argmax(scores)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net._soft_argmax(scores)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact)
