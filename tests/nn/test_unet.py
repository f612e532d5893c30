"""The region network: shapes, what its parts see, and its two forms."""

import pytest
import torch

from lifemask.nn.unet import RegionExport, UNet, UNetConfig, config_from_dict
from lifemask.training.parser_recipes import CPU_NET, PAPER_NET

SMALL = UNetConfig(size=32, fold=2, widths=(8, 12, 16), down=2, up=1, merge="add")
PLAIN = UNetConfig(size=32, fold=1, widths=(4, 8, 12), down=2, up=2, merge="cat")


@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_one_score_per_class_and_pixel_and_a_batch_is_its_images(config):
    torch.manual_seed(0)
    network = UNet(config).eval()
    crops = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        scores = network(crops)
        single = torch.cat([network(one[None]) for one in crops])
    assert scores.shape == (3, 9, 32, 32)
    torch.testing.assert_close(scores, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_every_parameter_learns(config):
    torch.manual_seed(0)
    network = UNet(config)
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_pixel_blocks_keep_single_pixels_apart():
    """Every output pixel may depend on its own input pixel: folding loses no resolution."""
    torch.manual_seed(0)
    network = UNet(SMALL).eval()
    crops = torch.rand(1, 3, 32, 32, requires_grad=True)
    scores = network(crops)
    found = []
    for v, u in ((10, 10), (10, 11), (11, 10), (11, 11)):
        (gradient,) = torch.autograd.grad(scores[0, :, v, u].sum(), crops, retain_graph=True)
        found.append(gradient[0].abs().sum(0))
    assert all(g[10:12, 10:12].all() for g in found)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[0], found[2])


def test_the_deepest_level_sees_the_whole_crop():
    torch.manual_seed(0)
    network = UNet(CPU_NET).eval()
    crops = torch.rand(1, 3, 128, 128, requires_grad=True)
    network(crops)[0, :, 64, 64].sum().backward()
    assert crops.grad is not None
    seen = crops.grad[0].abs().sum(0) > 0
    assert seen[20, 20] and seen[108, 108]


def test_probabilities_sum_to_one():
    network = RegionExport(UNet(SMALL)).eval()
    with torch.no_grad():
        found = network(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 32, 32))
    assert found.min() >= 0


def test_recipes_have_the_sizes_of_the_paper_and_a_cheaper_one():
    assert PAPER_NET.widths[0] == CPU_NET.widths[0] == 32
    assert len(PAPER_NET.widths) == len(CPU_NET.widths) == 4
    assert (PAPER_NET.size, CPU_NET.size) == (256, 128)


def test_sizes_are_checked_and_survive_json():
    assert config_from_dict({**SMALL.__dict__, "widths": list(SMALL.widths)}) == SMALL
    with pytest.raises(ValueError, match="not a multiple of 8"):
        UNetConfig(size=36, fold=2, widths=(8, 8, 8))
    with pytest.raises(ValueError, match="cat, add"):
        UNetConfig(merge="mean")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        config_from_dict({"depth": 3})
