"""Fields and normals: resolution, alignment with pixels, the guide, and what switches do."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from lifemask.nn.blocks import unit
from lifemask.nn.sdf import (
    START_REACH,
    ConvBlock,
    FieldMlp,
    FieldNet,
    FieldNetConfig,
    Hourglass,
    NormalNet,
    NormalNetConfig,
    View,
    at_points,
    guide_distance,
)

SMALL = FieldNetConfig(size=32, stem=8, widths=(8, 8), stacks=2, mlp=(16, 8))


def view(count: int = 2, size: int = 32, seed: int = 0) -> View:
    """Random crops whose guide is a plane facing the viewer at z = 0.1, except a corner."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.ones(count, 1, size, size)
    there[..., :8, :8] = 0
    normals = torch.zeros(count, 3, size, size)
    normals[:, 2:] = there
    picture = torch.rand(count, 4, size, size, generator=generator) * 2 - 1
    return View(picture, 0.1 * there, normals, there)


def points(count: int = 2, each: int = 50, seed: int = 1) -> torch.Tensor:
    """Random points of the cube."""
    return torch.rand(count, each, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_block_concatenates_a_half_and_two_quarters():
    block = ConvBlock(8, 16)
    assert [part[2].out_channels for part in block.parts] == [8, 4, 4]  # pyright: ignore
    assert block(torch.zeros(1, 8, 6, 6)).shape == (1, 16, 6, 6)
    x = torch.randn(1, 16, 6, 6)
    plain, residual = ConvBlock(16, 16, residual=False), ConvBlock(16, 16)
    residual.load_state_dict(plain.state_dict())
    torch.testing.assert_close(residual(x), plain(x) + x)


@pytest.mark.parametrize("levels", [1, 2])
def test_an_hourglass_keeps_the_shape(levels: int):
    assert Hourglass(8, levels)(torch.randn(1, 8, 16, 16)).shape == (1, 8, 16, 16)


def test_the_mlp_gets_its_input_again():
    mlp = FieldMlp(5, (16, 8))
    assert [(m.in_features, m.out_features) for m in mlp.layers] == [  # pyright: ignore
        (5, 16), (21, 8), (13, 1)
    ]  # fmt: skip


def test_published_sizes_can_be_built():
    from lifemask.training.rafare_recipes import recipes

    base = recipes("base")["paper"]("open").net
    net = FieldNet(base)  # pyright: ignore[reportArgumentType]
    assert [(m.in_features, m.out_features) for m in net.mlp.layers] == [  # pyright: ignore
        (257, 1024), (1281, 512), (769, 256), (513, 128), (385, 1)
    ]  # fmt: skip
    assert len(net.encoder.glasses) == 4


def test_each_hourglass_answers_and_a_batch_equals_single_calls():
    net = FieldNet(SMALL).eval()
    both, where = view(), points()
    said = net(both, where)
    assert said.shape == (2, 2, 50)
    for row in range(2):
        one = View(*(getattr(both, n)[row : row + 1] for n in View.__dataclass_fields__))
        torch.testing.assert_close(net(one, where[row : row + 1])[:, 0], said[:, row])


def test_features_lie_where_their_pixels_are():
    size = 8
    steps = (torch.arange(size) + 0.5) * 2 / size - 1
    x, y = torch.meshgrid(steps, -steps, indexing="xy")
    maps = torch.stack((x, y))[None]
    where = 0.8 * points(1, 200)
    found = at_points(maps, where)
    torch.testing.assert_close(found, where[..., :2], atol=1e-5, rtol=0)
    assert at_points(maps + 1, torch.tensor([[[1.9, 0.0, 0.0]]])).abs().max() == 0


def test_only_the_last_pixels_of_the_picture_reach_a_point_through_z():
    """z is an input of its own: the value changes with z where the features do not."""
    net = FieldNet(SMALL)
    near = torch.tensor([[[0.2, 0.1, 0.3]]])
    far = torch.tensor([[[0.2, 0.1, -0.3]]])
    one = View(*(getattr(view(1), n) for n in View.__dataclass_fields__))
    assert (net(one, near) - net(one, far)).abs().max() > 1e-6


def test_the_distance_to_a_plane_is_exact_and_zero_without_a_guide():
    both = view(1)
    where = torch.tensor([[[0.5, -0.5, 0.35], [0.5, -0.5, -0.2], [-0.9, 0.9, 0.4]]])
    distance, there = guide_distance(both, where)
    torch.testing.assert_close(distance[0], torch.tensor([0.25, -0.3, 0.0]))
    torch.testing.assert_close(there[0], torch.tensor([1.0, 1.0, 0.0]))


def test_a_field_starts_from_its_guide():
    plain = FieldNet(SMALL, starts_from_guide=True)
    torch.nn.init.zeros_(plain.mlp.layers[-1].weight)  # pyright: ignore[reportArgumentType]
    both, where = view(), points()
    start = guide_distance(both, where)[0].clamp(-START_REACH, START_REACH)
    torch.testing.assert_close(plain(both, where)[-1], start)
    alone = FieldNet(replace(SMALL, guide=False), starts_from_guide=True)
    assert not alone.starts_from_guide
    assert alone.encoder.stem[0].in_channels == 4


def test_switched_off_inputs_have_no_influence():
    both, where = view(), points()
    other_class = replace(both, picture=both.picture.clone())
    other_class.picture[:, 3] += 1
    other_guide = replace(both, guide_depth=both.guide_depth + 0.2)
    for name, other in (("semantic", other_class), ("guide", other_guide)):
        on = FieldNet(SMALL)
        off = FieldNet(replace(SMALL, **{name: False}))
        assert (on(both, where) - on(other, where)).abs().max() > 0
        assert (off(both, where) - off(other, where)).abs().max() == 0


@pytest.mark.parametrize("kind", ["unet", "pix2pixhd"])
def test_normals_are_unit_and_start_from_the_guide(kind: Literal["unet", "pix2pixhd"]):
    net = NormalNet(NormalNetConfig(size=32, kind=kind, widths=(8, 16)))
    last = net.body.told if kind == "unet" else net.body.leave[-1]  # pyright: ignore
    torch.nn.init.zeros_(last.weight)  # pyright: ignore
    torch.nn.init.zeros_(last.bias)  # pyright: ignore
    said = net(view(size=64))
    torch.testing.assert_close(said.norm(dim=1), torch.ones(2, 64, 64))
    torch.testing.assert_close(said[:, 2], torch.ones(2, 64, 64))
    with torch.no_grad():
        last.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    assert (net(view(size=64))[:, 0] > 0.5).all()


def test_a_field_that_folds_sees_every_pixel_on_a_coarser_grid():
    """Blocks of pixels are channels: maps have the side of an unfolded net on half the crop."""
    folded = FieldNet(replace(SMALL, fold=2, features=4))
    both, where = view(), points()
    maps = folded.encode(both)
    assert [m.shape for m in maps] == [(2, 4, 4, 4)] * 2
    assert FieldNet(replace(SMALL, size=16)).encode(view(size=16))[0].shape == (2, 8, 4, 4)
    assert folded.mlp.layers[0].in_features == 4 + 3  # pyright: ignore[reportAttributeAccessIssue]
    other = replace(both, picture=both.picture.clone())
    other.picture[:, 0, 15, 16] += 5.0
    assert (folded(both, where) - folded(other, where)).abs().max() > 1e-6


def test_normals_that_fold_start_from_the_guide_and_tell_each_pixel_apart():
    net = NormalNet(NormalNetConfig(size=32, widths=(8, 16), fold=2))
    last = net.body.told  # pyright: ignore[reportAttributeAccessIssue]
    torch.nn.init.zeros_(last.weight)  # pyright: ignore
    said = net(view())
    torch.testing.assert_close(said[:, 2], torch.ones(2, 32, 32))
    with torch.no_grad():  # channel 1 is the right one of a block's upper two pixels, in x
        last.bias[1] = 1.0  # pyright: ignore
    said = net(view())[:, 0]
    assert (said[:, ::2, 1::2] > 0.5).all()
    assert said[:, 1::2].abs().max() == said[:, ::2, ::2].abs().max() == 0
    with pytest.raises(ValueError, match="fold"):
        NormalNetConfig(kind="pix2pixhd", fold=2)


def test_unit_vectors_are_torchs():
    vectors = torch.randn(2, 3, 5, 4)
    vectors[0, :, 0, 0] = 0
    torch.testing.assert_close(unit(vectors, 1), torch.nn.functional.normalize(vectors, dim=1))
    tiny = torch.full((1, 3), 1e-9)
    torch.testing.assert_close(unit(tiny, 1), tiny / 1e-6)
