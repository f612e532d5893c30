"""The back of a surface: carved by its own normals, and the front as if it were not there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.methods._rafare_carve import middle_depths
from lifemask.methods._rafare_engine import LookNet
from lifemask.methods._rafare_field import FieldConfig, extract_surface, lies_behind, mirrored
from lifemask.methods._rafare_lattice import voxel_points
from lifemask.methods._rafare_surface import create_surface
from lifemask.methods.rafare import (
    RafareConfig,
    RafareNet,
    RafarePredictConfig,
    RafarePredictor,
    config_from_dict,
    load_rafare,
)
from lifemask.nn.sdf import FieldNet, FieldNetConfig, NormalNet, NormalNetConfig, View

SIZE, GRID = 64, 48
NET = FieldNetConfig(size=SIZE, stem=8, widths=(8,), stacks=0, mlp=(8,))
NORMALS = NormalNetConfig(SIZE, widths=(8, 16))
CONFIG = RafareConfig(
    NET, replace(NET, pool=False), NORMALS,
    FieldConfig(grid=GRID, box=0.0, coarse=GRID, carve="both", kappa=0.01),
    replace(NORMALS, back=True),
)  # fmt: skip


def ball(points):
    return points.norm(dim=-1) - 0.6


def places():
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    return torch.meshgrid(axis, -axis, indexing="xy")


def bumpy(sign: float, outward: float) -> torch.Tensor:
    """Normals (s, s, 3) of a ball of radius 0.6 with a bump (1) or dent (-1) in its middle.

    `outward` 1: of its front. -1: of the same behind, turned to the viewer.
    """
    x, y = places()
    r2 = x**2 + y**2
    ball_z = (0.36 - r2).clamp(min=0.02).sqrt()
    hill = sign * 0.1 * torch.exp(-r2 / 0.03) / 0.015  # minus its slope over x, over y
    slope = torch.stack((x / ball_z + hill * x, y / ball_z + hill * y, torch.ones_like(x)), -1)
    return torch.nn.functional.normalize(slope, dim=-1) * torch.tensor([outward, outward, 1.0])


def extract(carve, front, behind, **changes):
    mask = places()[0].square() + places()[1].square() < 0.5**2
    config = FieldConfig(grid=GRID, box=0.0, carve=carve, kappa=0.01, front=False, back=True)
    return extract_surface(ball, None, mask, front, behind, replace(config, **changes))


def halves(surface):
    """Vertices of the front and of the back, and the depths of either's middle."""
    z = surface.vertices[:, 2]
    near = surface.vertices[:, :2].norm(dim=1) < 0.15
    return surface.vertices[z > 0], float(z[near & (z > 0)].mean()), float(z[near & (z < 0)].mean())


@pytest.mark.parametrize("carve", ["divergence", "integrate", "both"])
def test_normals_of_the_back_move_the_back_and_leave_the_front(carve):
    front = bumpy(1.0, 1.0)
    plain, ahead, behind = halves(extract(carve, front, None))
    moved = []
    for sign in (1.0, -1.0):
        found, nearest, farthest = halves(extract(carve, front, bumpy(sign, -1.0)))
        assert torch.equal(found, plain) and nearest == ahead, "not a bit of the front"
        moved.append(behind - farthest)  # outwards: behind that is to smaller z
    assert moved[0] > 1e-3 and moved[1] < -1e-4 and moved[0] - moved[1] > 2e-3
    ignored = extract(carve, front, bumpy(1.0, -1.0), back=False)
    assert torch.equal(ignored.vertices, extract(carve, front, None).vertices)


def test_the_back_is_carved_as_the_front_of_the_mirrored_ball():
    """Same bump before and behind: the carved surface is its own mirror image."""
    from scipy.spatial import KDTree

    found = extract("both", bumpy(1.0, 1.0), bumpy(1.0, -1.0)).vertices
    kept = found[(found[:, :2].norm(dim=1) < 0.4)].numpy()
    off = KDTree(found.numpy()).query(kept * [1, 1, -1])[0]
    assert len(kept) > 500 and off.max() < 2e-3


def test_middle_and_mirror():
    grid = 32
    sdf = (voxel_points(torch.arange(grid**3), grid) - torch.tensor([0.0, 0.0, -0.2])).norm(dim=-1)
    middle = middle_depths(sdf.view(grid, grid, grid) - 0.5)
    assert middle[16, 16] == pytest.approx(-0.2, abs=2 / grid)
    points = torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.0, -0.7], [-1.0, 1.0, 0.99]])
    assert lies_behind(points, middle).tolist() == [False, True, False]
    corners = torch.tensor([[0.0, 0, 0.5], [1, 0, 0.5], [0, 1, 0.5]])
    turned = mirrored(create_surface(corners, torch.tensor([[0, 1, 2]])))
    assert turned.vertices[:, 2].unique().tolist() == [-0.5] and (turned.normals[:, 2] == -1).all()


class Ball(FieldNet):
    """A field that is a ball, whatever it sees."""

    def query(self, features, view, points):
        return ball(points)


class Still(FieldNet):
    """A fine level of 0."""

    def query(self, features, view, points):
        return 0 * points[..., 0]


class Told(NormalNet):
    """Normals that are given."""

    given: torch.Tensor

    def forward(self, view):
        return self.given.movedim(-1, 0)[None]


def predictor(back_bump: float, **settings) -> RafarePredictor:
    net = RafareNet(CONFIG)
    net.base, net.fine = Ball(CONFIG.base), Still(CONFIG.fine)
    net.normals, net.normals_back = Told(NORMALS), Told(NORMALS)
    net.normals.given, net.normals_back.given = bumpy(1.0, 1.0), bumpy(back_bump, -1.0)
    return RafarePredictor(net, RafarePredictConfig(**settings))


def crop():
    region = np.where(places()[0].square() + places()[1].square() < 0.25, 4, 8).astype(np.uint8)
    return np.full((SIZE, SIZE, 3), 200, np.uint8), region


def test_a_photos_back_is_asked_for_and_kept():
    front = predictor(1.0).surface(*crop())
    assert float(front.vertices[:, 2].min()) > 0, "off by default: the outer face alone"
    bump, dent = (predictor(sign, back=True).surface(*crop()) for sign in (1.0, -1.0))
    assert torch.equal(halves(bump)[0], halves(dent)[0])
    assert halves(bump)[2] < halves(dent)[2] - 1e-3
    base = predictor(1.0, back=True).surface(*crop(), level="base")
    assert float(base.vertices[:, 2].min()) > 0


def test_weights_without_a_back_load_as_before_and_say_so():
    found = load_rafare("open", engine="torch")
    assert found.networks.config.normals_back is None and found.network.normals_back is None
    assert LookNet(found.network).outputs == ("base_features", "fine_features", "normals")
    assert not any("back" in name for name in found.network.state_dict())
    for engine in ("onnx", "torch"):
        with pytest.raises(UserError, match=r"no network for normals of the back.*net\.back=true"):
            load_rafare("open", RafarePredictConfig(back=True), engine=engine)


def test_a_card_with_a_back_gives_the_settings_back():
    import json
    from dataclasses import asdict

    card = json.loads(json.dumps({"size": SIZE, **asdict(CONFIG)}))
    assert config_from_dict(card) == CONFIG
    del card["normals_back"], card["normals"]["back"]  # cards of earlier versions
    assert config_from_dict(card) == replace(CONFIG, normals_back=None)


def test_the_back_starts_from_the_guide_turned_about_the_view():
    net = NormalNet(replace(NORMALS, back=True))
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    guide = torch.nn.functional.normalize(torch.randn(1, 3, SIZE, SIZE), dim=1)
    one = torch.ones(1, 1, SIZE, SIZE)
    said = net(View(torch.zeros(1, 4, SIZE, SIZE), 0 * one, guide, one))
    torch.testing.assert_close(said, guide * torch.tensor([-1.0, -1.0, 1.0])[:, None, None])
    lost = net(View(torch.zeros(1, 4, SIZE, SIZE), 0 * one, guide, 0 * one))
    torch.testing.assert_close(lost[:, 2], torch.ones(1, SIZE, SIZE))
