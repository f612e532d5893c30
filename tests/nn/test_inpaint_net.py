"""The inpainting network: its smooth start, what it may look at, its sizes."""

import numpy as np
import pytest
import torch

from lifemask.data._pairs_blend import harmonic_fill
from lifemask.nn.inpaint_net import (
    InpaintExport,
    InpaintNet,
    InpaintNetConfig,
    config_from_dict,
    line_fill,
    smooth_fill,
)

SIZE = 64
STEPS = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
Y, X = torch.meshgrid(STEPS, STEPS, indexing="ij")


def scene():
    """A ramp, a face that hides, and a crescent beside it: picture, known, hole, with batch."""
    face = (X**2 + Y**2 < 0.3**2).float()
    hole = ((X - 0.07) ** 2 + Y**2 < 0.34**2).float() * (1 - face)
    picture = torch.stack((0.5 + 0.4 * X, 0.5 + 0.3 * Y, 0.5 + 0.2 * torch.sin(5 * X)))
    return picture[None], ((1 - face) * (1 - hole))[None, None], hole[None, None]


def trained(config=None) -> InpaintNet:
    """A network that does something."""
    torch.manual_seed(0)
    net = InpaintNet(config or InpaintNetConfig(SIZE, (8, 16), (2,)))
    torch.nn.init.normal_(net.told.weight, 0.0, 0.1)
    return net.eval().requires_grad_(False)


def test_the_start_is_nearly_laplaces_equation():
    picture, known, hole = scene()
    plain = picture[0].permute(1, 2, 0).double().numpy()
    wanted = harmonic_fill(plain, hole[0, 0].numpy() > 0, known[0, 0].numpy() > 0)
    inside = hole[0, 0].numpy() > 0
    off = []
    for relax in (2, 40):
        found = smooth_fill(picture, known, hole, relax)[0].permute(1, 2, 0).numpy()
        off.append(np.abs(found - wanted)[inside].mean())
    assert off[0] < 0.01 and off[1] < 0.3 * off[0], "more rounds come nearer"
    same = smooth_fill(picture, known, hole)
    assert torch.equal(same * known, picture * known)
    assert not (same * (1 - known - hole)).any()


def test_the_smooth_fill_keeps_a_constant_and_its_bounds():
    picture, known, hole = scene()
    even = smooth_fill(torch.full_like(picture, 0.3), known, hole)
    torch.testing.assert_close(even, 0.3 * (known + hole).expand_as(even))
    found = smooth_fill(picture, known, hole)
    seen = picture.masked_fill(known == 0, torch.nan)[0].flatten(1)
    low, high = (torch.from_numpy(f(seen.numpy(), 1)) for f in (np.nanmin, np.nanmax))
    inside = found[0].flatten(1)[:, hole.flatten() > 0]
    assert (inside >= low[:, None] - 1e-5).all() and (inside <= high[:, None] + 1e-5).all()


def test_nothing_crosses_what_is_hidden():
    """A wall of hidden pixels between two halves; the hole in one of them."""
    known, hole = torch.zeros(2, 1, 1, SIZE, SIZE)
    known[:] = 1
    known[..., SIZE // 2 - 8 : SIZE // 2] = 0
    hole[..., 20:40, 2:12] = 1
    known = known * (1 - hole)
    picture = (X > 0).float().expand(1, 3, SIZE, SIZE)
    assert not (smooth_fill(picture, known, hole) * hole).any()


@pytest.mark.parametrize("line", [(1, 0), (0, 1), (1, 1), (1, -1)])
def test_stripes_go_on_along_their_line(line):
    """Also across what is hidden: a wall goes on behind a head."""
    _, known, hole = scene()
    phase = line[1] * X - line[0] * Y
    picture = (0.5 + 0.4 * torch.sin(40 * phase)).expand(1, 3, SIZE, SIZE)
    fill, apart, near = line_fill(picture * known, known, line)
    assert ((fill - picture).abs() * hole).max() < 1e-5
    assert (apart * hole).max() < 1e-5 and (near[hole > 0] > 0).all()
    across, differ, _ = line_fill(picture * known, known, (line[1], -line[0]))
    assert ((across - picture).abs() * hole).max() > 0.3 and (differ * hole).max() > 0.1


def test_a_line_takes_the_nearest_by_distance_as_a_loop_would():
    rng = np.random.default_rng(0)
    picture, known = rng.random((3, 9, 11)), rng.random((9, 11)) < 0.3
    given = (torch.from_numpy(picture).float()[None], torch.from_numpy(known).float()[None, None])
    for line in ((1, 0), (1, -1)):
        fill, _, near = line_fill(*given, line)
        for y, x in np.argwhere(~known):
            ends = []
            for sense in (1, -1):
                for k in range(1, 12):
                    v, u = y + sense * k * line[1], x + sense * k * line[0]
                    if not (0 <= v < 9 and 0 <= u < 11):
                        break
                    if known[v, u]:
                        ends.append((1 / k, picture[:, v, u]))
                        break
            total = sum(w for w, _ in ends)
            assert float(near[0, 0, y, x]) == pytest.approx(total)
            wanted = sum(w * c for w, c in ends) / total if ends else np.zeros(3)
            assert np.allclose(fill[0, :, y, x].numpy(), wanted, atol=1e-6)


def test_an_untrained_network_trusts_lines_whose_ends_agree():
    _, known, hole = scene()
    net = InpaintNet(InpaintNetConfig(SIZE, (8, 16)))
    stripes = (0.5 + 0.4 * torch.sin(40 * Y)).expand(1, 3, SIZE, SIZE)
    found = net(stripes * known, known, hole)
    torch.testing.assert_close(found * known, stripes * known)
    smooth = smooth_fill(stripes * known, known, hole, net.config.relax)
    off, blurred = (((x - stripes).abs() * hole).sum() for x in (found, smooth))
    assert off < 0.6 * blurred
    net.trust.data[0] = -99.0  # no line at all
    torch.testing.assert_close(net(stripes * known, known, hole), smooth)


def test_what_is_not_known_is_not_looked_at():
    picture, known, hole = scene()
    net = trained()
    other = torch.where(known > 0, picture, torch.rand_like(picture))
    assert torch.equal(net(picture, known, hole), net(other, known, hole))
    changed = picture.clone()
    changed[..., 60, 60] = 0
    assert not torch.equal(net(picture, known, hole), net(changed, known, hole))


def test_only_the_hole_changes_and_it_stays_a_picture():
    picture, known, hole = scene()
    found = InpaintExport(trained())(picture, known, hole)
    assert torch.equal(found * (1 - hole), picture * (1 - hole))
    assert 0 <= found.min() and found.max() <= 1
    assert not torch.equal(found, InpaintExport(InpaintNet(trained().config))(picture, known, hole))


def test_a_batch_is_its_rows_and_any_multiple_of_the_step_will_do():
    picture, known, hole = scene()
    net = trained()
    two = [torch.cat((x, x.flip(-1))) for x in (picture, known, hole)]
    rows = [net(*(x[k : k + 1] for x in two)) for k in range(2)]
    torch.testing.assert_close(net(*two), torch.cat(rows), atol=1e-5, rtol=1e-5)
    part = (picture[..., :38, :50], known[..., :38, :50], hole[..., :38, :50])
    assert net(*part).shape == (1, 3, 38, 50)


def test_sizes():
    net = InpaintNet(InpaintNetConfig())
    assert sum(p.numel() for p in net.parameters()) <= 500_000
    with pytest.raises(ValueError, match="multiple of 4"):
        InpaintNetConfig(30, (8, 8, 8))
    given = {"size": 32, "widths": [8, 16], "dilations": [], "relax": 2}
    assert config_from_dict(given) == InpaintNetConfig(32, (8, 16), (), 2)
    with pytest.raises(TypeError):
        config_from_dict({"depth": 3})
