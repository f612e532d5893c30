"""Backbones: shapes, what they see, and the landmarker's trunk as a start."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lifemask.assets import UserError
from lifemask.nn.backbones import (
    BACKBONES,
    Backbone,
    Bottleneck,
    create_backbone,
    mobile_from_landmarker,
)
from lifemask.nn.blocks import ResidualBlock
from lifemask.nn.landmark_net import LandmarkNet, LandmarkNetConfig
from lifemask.training.export import fuse_norms
from lifemask.training.landmarker import with_fresh_parameters as complete
from lifemask.training.recipes import CPU_NET
from lifemask.training.start import shipped_weights

SIZES = {"tiny": 40, "mobile": 112, "resnet18_half": 120, "resnet50": 120}
FEATURES = {"tiny": 32, "mobile": 384, "resnet18_half": 256, "resnet50": 2048}
PARAMETERS = {
    "tiny": 16_896,
    "mobile": 2_268_064,
    "resnet18_half": 2_800_448,
    "resnet50": 23_511_168,  # the usual 23,508,032 without a classifier, and a 4th input channel
}
LIGHT = ["tiny", "mobile", "resnet18_half"]


def seen_shapes(network: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of every named layer's output."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in network.named_children():

        def keep(_: nn.Module, __: object, output: torch.Tensor, name: str = name) -> None:
            shapes[name] = tuple(output.shape)

        layer.register_forward_hook(keep)
    with torch.no_grad():
        network(x)
    return shapes


def liven(network: Backbone) -> Backbone:
    """Normalisations as after some training: no branch is silent, no statistic is trivial."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize("name", BACKBONES)
def test_features_and_parameter_counts(name):
    backbone = create_backbone(name, 4, SIZES[name]).eval()
    with torch.no_grad():
        features = backbone(torch.rand(2, 4, SIZES[name], SIZES[name]))
    assert features.shape == (2, backbone.features) == (2, FEATURES[name])
    assert sum(p.numel() for p in backbone.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", LIGHT)
def test_a_batch_is_its_images(name):
    torch.manual_seed(0)
    backbone = liven(create_backbone(name, 4, SIZES[name])).eval()
    x = torch.rand(3, 4, SIZES[name], SIZES[name]) * 2 - 1
    with torch.no_grad():
        single = torch.cat([backbone(one[None]) for one in x])
        torch.testing.assert_close(backbone(x), single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "channels"), [("resnet18_half", 256), ("resnet50", 2048)])
def test_the_last_stage_keeps_the_resolution(name, channels):
    shapes = seen_shapes(create_backbone(name, 4, 120).eval(), torch.zeros(1, 4, 120, 120))
    assert shapes["stem"][2:] == (60, 60)
    assert shapes["shrink"][2:] == shapes["stage4"][2:] == (30, 30)
    assert shapes["stage8"][2:] == (15, 15)
    assert shapes["stage16"][2:] == (8, 8)
    assert shapes["last"] == (1, channels, 8, 8)
    assert shapes["pool"] == (1, channels, 1, 1)


def test_the_published_pool_leaves_out_the_last_row_and_column():
    pool = create_backbone("resnet50", 4, 120).pool
    assert isinstance(pool, nn.Module)
    cells = torch.rand(1, 2048, 8, 8)
    torch.testing.assert_close(pool(cells)[..., 0, 0], cells[..., :7, :7].mean((2, 3)))
    changed = cells.clone()
    changed[..., 7, :] += 1
    changed[..., :, 7] -= 1
    torch.testing.assert_close(pool(cells), pool(changed), atol=0, rtol=0)


def test_resnet50_is_built_of_3_4_6_3_bottlenecks_with_the_stride_in_the_middle():
    backbone = create_backbone("resnet50", 4, 120)
    blocks = [m for m in backbone.modules() if isinstance(m, Bottleneck)]
    strides = [[c.stride[0] for c in b.modules() if isinstance(c, nn.Conv2d)] for b in blocks]
    assert len(blocks) == 3 + 4 + 6 + 3
    plain, widened, halved = [1, 1, 1], [1, 1, 1, 1], [1, 2, 1, 2]
    starts = {0: widened, 3: halved, 7: halved, 13: widened}
    assert strides == [starts.get(i, plain) for i in range(16)]


@pytest.mark.parametrize("name", LIGHT)
def test_every_weight_learns_and_every_channel_is_used(name):
    torch.manual_seed(0)
    backbone = liven(create_backbone(name, 4, SIZES[name]))
    x = torch.randn(4, 4, SIZES[name], SIZES[name], requires_grad=True)
    (backbone(x) * torch.linspace(0.5, 2, backbone.features)).square().mean().backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


def test_the_map_channel_of_resnet50_reaches_the_features():
    torch.manual_seed(0)
    backbone = create_backbone("resnet50", 4, 97).eval()
    crops = torch.rand(1, 4, 97, 97)
    drawn = crops.clone()
    drawn[:, 3] = 1 - drawn[:, 3]
    with torch.no_grad():
        features = backbone(crops)
        assert (features - backbone(drawn)).abs().mean() > 0.01 * features.mean()


@pytest.mark.parametrize("name", ["resnet18_half", "resnet50"])
def test_residual_branches_start_silent(name):
    """The last normalisation of each branch multiplies by 0; the mobile network's do not."""
    for module in create_backbone(name, 4, 120).modules():
        if isinstance(module, ResidualBlock | Bottleneck):
            x = torch.rand(1, _inputs(module), 6, 6)
            with torch.no_grad():
                expected = functional.relu(module.eval().shortcut(x))
                torch.testing.assert_close(module(x), expected)
    mobile = create_backbone("mobile", 4, 112)
    norms = [m for m in mobile.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


def _inputs(block: nn.Module) -> int:
    first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
    return first.in_channels


def test_convolutions_start_as_he_et_al_say():
    torch.manual_seed(0)
    backbone = create_backbone("resnet18_half", 4, 120)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) * (fan_out / 2) ** 0.5 == pytest.approx(
                1, abs=0.06
            )


@pytest.mark.parametrize("weights", ["landmarker-open", "landmarker-research"])
def test_the_landmarkers_trunk_gives_the_landmarkers_summary(weights):
    """Whatever the map holds."""
    torch.manual_seed(0)
    shipped = shipped_weights(weights)
    landmarker = LandmarkNet(CPU_NET)
    landmarker.load_state_dict(complete(shipped, landmarker))
    backbone = create_backbone("mobile", 4, CPU_NET.size)
    backbone.load_state_dict(mobile_from_landmarker(shipped, backbone))
    expected = _summary(landmarker.eval(), crops := torch.rand(3, 3, 112, 112))
    maps = torch.stack((-torch.ones(1, 112, 112), torch.rand(1, 112, 112), torch.ones(1, 112, 112)))
    with torch.no_grad():
        found = backbone.eval()(torch.cat(((255 * crops - 127.5) / 128, maps), 1))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def _summary(landmarker: LandmarkNet, crops: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []

    def keep(_: nn.Module, __: object, output: torch.Tensor) -> None:
        kept.append(output)

    landmarker.summary.register_forward_hook(keep)
    with torch.no_grad():
        landmarker(crops)
    return kept[0]


def test_a_warm_start_learns_from_the_map():
    """Zero weights on the map are a start, not an end: their gradient is not zero."""
    torch.manual_seed(0)
    backbone = create_backbone("mobile", 4, 112)
    backbone.load_state_dict(mobile_from_landmarker(shipped_weights("landmarker-open"), backbone))
    backbone(torch.randn(2, 4, 112, 112)).square().mean().backward()
    stem = backbone.get_parameter("stem.0.weight")
    assert not stem[:, 3].any() and stem.grad is not None and stem.grad[:, 3].any()


def test_weights_of_another_network_or_crop_are_refused():
    weights = LandmarkNet(CPU_NET).state_dict()
    narrow = LandmarkNet(LandmarkNetConfig(widths=(16, 32, 48, 64))).state_dict()
    for wrong, size, inputs, reason in (
        (weights, 96, 4, "summary.0.weight is .384, 3136., not .384, 2304."),
        (narrow, 112, 4, "stem.0.weight is .16, 4, 5, 5., not .24, 4, 5, 5."),
        (weights, 112, 1, "stem.0.weight is .24, 3, 5, 5., not .24, 1, 5, 5."),
        ({}, 112, 4, "stem.0.weight is nothing"),
    ):
        with pytest.raises(UserError, match=f"do not fit the mobile backbone: {reason}"):
            mobile_from_landmarker(wrong, create_backbone("mobile", inputs, size))


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(UserError, match="'vgg'.*tiny, mobile, resnet18_half, resnet50"):
        create_backbone("vgg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiples of 16, not 120"):
        create_backbone("mobile", 4, 120)
    for size in (96, 129):
        with pytest.raises(UserError, match=f"from 97 to 128, not {size}"):
            create_backbone("resnet50", 4, size)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_normalisation_folds_into_its_convolution(name):
    torch.manual_seed(0)
    size = {"resnet50": 97}.get(name, SIZES[name])
    backbone = liven(create_backbone(name, 4, size)).eval()
    folded = fuse_norms(backbone)  # type: ignore[type-var]
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.rand(1, 4, size, size) * 2 - 1
    with torch.no_grad():
        expected = backbone(x)
        error = (folded(x) - expected).abs().max() / expected.abs().max()
    assert error < 1e-4


@pytest.mark.parametrize("name", LIGHT)
def test_cells_are_the_last_features_in_place(name):
    """What comes after them makes the features of the whole crop."""
    torch.manual_seed(0)
    network = liven(create_backbone(name, 3, SIZES[name])).eval()
    x = torch.rand(2, 3, SIZES[name], SIZES[name])
    with torch.no_grad():
        cells, features = network.cells(x), network(x)
        rest = dict(network.named_children())
        last = next(k for k, name in enumerate(rest) if name in ("pool", "squeeze"))
        for layer in list(rest.values())[last:]:
            cells = layer(cells)
        assert network.cells(x).ndim == 4
    torch.testing.assert_close(cells, features)
    side = network.cells(x).shape[-1]
    assert side == -(-SIZES[name] // 16)
