"""The region network: shapes, what its parts see, and its two forms."""

from dataclasses import replace

import pytest
import torch

from lifemask.nn.unet import (
    RegionExport,
    SmoothUNet,
    UNet,
    UNetConfig,
    config_from_dict,
    grown,
    widened,
)
from lifemask.training.parser_recipes import CPU_NET, PAPER_NET

SMALL = UNetConfig(size=32, fold=2, widths=(8, 12, 16), down=2, up=1, merge="add")
UNEVEN = UNetConfig(size=32, fold=2, widths=(8, 12, 16), down=(1, 2, 3), up=1, merge="add")
UNEVEN_LARGE = UNetConfig(size=32, fold=2, widths=(8, 12, 16), down=(1, 2, 2), up=1, merge="add")
PLAIN = UNetConfig(size=32, fold=1, widths=(4, 8, 12), down=2, up=2, merge="cat")


@pytest.mark.parametrize("config", [SMALL, UNEVEN, PLAIN])
def test_one_score_per_class_and_pixel_and_a_batch_is_its_images(config):
    torch.manual_seed(0)
    network = UNet(config).eval()
    crops = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        scores = network(crops)
        single = torch.cat([network(one[None]) for one in crops])
    assert scores.shape == (3, 9, 32, 32)
    torch.testing.assert_close(scores, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [SMALL, UNEVEN, PLAIN])
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
    size = CPU_NET.size
    crops = torch.rand(1, 3, size, size, requires_grad=True)
    network(crops)[0, :, size // 2, size // 2].sum().backward()
    assert crops.grad is not None
    seen = crops.grad[0].abs().sum(0) > 0
    assert seen[size // 6, size // 6] and seen[size * 5 // 6, size * 5 // 6]


def test_probabilities_sum_to_one():
    network = RegionExport(SmoothUNet(SMALL)).eval()
    with torch.no_grad():
        found = network(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(found.sum(1), torch.ones(2, 32, 32))
    assert found.min() >= 0


def test_pixel_blocks_are_smoothed_in_the_product_and_plain_nets_are_not():
    """A grid of single pixels in the scores is gone; a flat score and a border stay."""
    torch.manual_seed(0)
    crops = torch.rand(1, 3, 32, 32)
    for config, smooth in ((SMALL, True), (PLAIN, False)):
        network, product = UNet(config).eval(), SmoothUNet(config).eval()
        product.load_state_dict(network.state_dict())
        with torch.no_grad():
            scores, found = network(crops), RegionExport(product)(crops)
        padded = torch.nn.functional.pad(scores, (1, 1, 1, 1), value=float("nan"))
        around = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).nanmean(-1)
        torch.testing.assert_close(found, (around if smooth else scores).softmax(1))


def test_recipes_see_the_crop_of_the_paper_and_one_has_a_cheaper_finest_level():
    assert PAPER_NET.widths[0] == 32 and len(PAPER_NET.widths) == 4
    assert (PAPER_NET.size, CPU_NET.size) == (256, 256)
    assert CPU_NET.fold == 2 and CPU_NET.widths[1] == 64
    assert UNet(PAPER_NET).config.convolutions == (2, 2, 2, 2)


def test_a_network_grows_by_its_finest_level():
    """The smaller net's levels become the coarser ones; the seam and the head stay as they were."""
    torch.manual_seed(0)
    small = UNet(UNetConfig(size=16, fold=2, widths=(12, 16), down=2, up=1, merge="add"))
    large = UNet(UNEVEN_LARGE)
    before = {k: v.clone() for k, v in large.state_dict().items()}
    large.load_state_dict(grown(small.state_dict(), large))
    given, found = small.state_dict(), large.state_dict()
    assert torch.equal(found["up.1.0.0.weight"], given["up.0.0.0.weight"])
    assert torch.equal(found["down.2.0.0.weight"], given["down.1.0.0.weight"])
    assert torch.equal(found["down.1.1.0.weight"], given["down.0.1.0.weight"])
    assert torch.equal(found["lift.1.weight"], given["lift.0.weight"])
    for name in ("down.0.0.0.weight", "down.1.0.0.weight", "lift.0.weight", "head.weight"):
        assert torch.equal(found[name], before[name])
    with pytest.raises(ValueError, match="without the finest level"):
        grown(UNet(PLAIN).state_dict(), UNet(replace(PLAIN, widths=(5, 7, 9))))


def test_sizes_are_checked_and_survive_json():
    assert config_from_dict({**SMALL.__dict__, "widths": list(SMALL.widths)}) == SMALL
    with pytest.raises(ValueError, match="not a multiple of 8"):
        UNetConfig(size=36, fold=2, widths=(8, 8, 8))
    uneven = {**UNEVEN.__dict__, "widths": list(UNEVEN.widths), "down": [1, 2, 3]}
    assert config_from_dict(uneven) == UNEVEN
    with pytest.raises(ValueError, match="down has 2 levels, widths 3"):
        UNetConfig(size=32, fold=2, widths=(8, 8, 8), down=(1, 2))
    with pytest.raises(ValueError, match="cat, add"):
        UNetConfig(merge="mean")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        config_from_dict({"depth": 3})


def test_a_widened_network_answers_as_before_and_its_new_channels_learn():
    torch.manual_seed(0)
    narrow, wide = UNet(SMALL), UNet(replace(SMALL, widths=(12, 20, 24)))
    crops = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for _ in range(3):
            narrow.train()(crops)  # statistics that are not those of a new network
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    for network in (narrow, wide):
        network.eval()
    with torch.no_grad():
        torch.testing.assert_close(wide(crops), narrow(crops), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in wide.named_parameters()}
    for _ in range(2):  # first the old channels begin to listen, then the new ones learn
        optimizer.zero_grad()
        (wide.train()(crops) ** 2).mean().backward()
        optimizer.step()
    assert not torch.equal(wide.head.weight[:, 8:], before["head.weight"][:, 8:])
    moved = wide.down[0][0][0].weight[8:] - before["down.0.0.0.weight"][8:]
    assert moved.abs().max() > 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, widths=(8, 20, 12)), "more channels"),
        (replace(SMALL, down=1), "with fewer channels"),
        (replace(SMALL, merge="cat"), "with fewer channels"),
    ],
)
def test_a_network_widens_from_one_of_its_own_form_only(config, message):
    with pytest.raises(ValueError, match=message):
        widened(UNet(SMALL).state_dict(), UNet(config))
