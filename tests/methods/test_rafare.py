"""RAFaRe's predictor with stand-ins for its networks: levels, placement, regions, records."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import orthographic_camera, project
from lifemask.methods._rafare_field import FieldConfig
from lifemask.methods._rafare_stage import RafareStage
from lifemask.methods._rafare_view import (
    Guide,
    create_view,
    cube_from_px,
    cut_crop,
    guide_of,
    px_from_cube,
    see_front,
)
from lifemask.methods._stage import FaceInput
from lifemask.methods.rafare import (
    RafareConfig,
    RafareNet,
    RafarePredictConfig,
    RafarePredictor,
    config_from_dict,
    crop_regions,
    without_strips,
)
from lifemask.nn.sdf import (
    FieldNet,
    FieldNetConfig,
    NormalNet,
    NormalNetConfig,
    View,
    guide_distance,
)
from lifemask.types import Crop, Face, FreeSurface, Geometry

SIZE = 64
NET = FieldNetConfig(size=SIZE, stem=8, widths=(8,), stacks=0, mlp=(8,))
CONFIG = RafareConfig(
    NET, replace(NET, pool=False), NormalNetConfig(SIZE, widths=(8, 16)),
    FieldConfig(grid=48, box=0.0, coarse=48, erode=0.0),
)  # fmt: skip


class Ball(FieldNet):
    """A field that is a ball of radius 0.6, whatever it sees; the picture adds its mean."""

    value = 0.0

    def query(self, features: Tensor, view: View, points: Tensor) -> Tensor:
        """Distance to the ball, and a constant for bright pictures."""
        return points.norm(dim=-1) - 0.6 + self.value * view.picture[:, :3].mean()


class Same(FieldNet):
    """A fine level that says the mean of the picture everywhere."""

    def query(self, features: Tensor, view: View, points: Tensor) -> Tensor:
        """The mean of the picture."""
        return view.picture[:, :3].mean().expand(points.shape[:-1])


class Round(NormalNet):
    """Normals of a ball that fills the crop."""

    def forward(self, view: View) -> Tensor:
        """Unit, camera frame."""
        steps = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
        x, y = torch.meshgrid(steps, -steps, indexing="xy")
        return torch.nn.functional.normalize(torch.stack((x, y, torch.ones_like(x))), dim=0)[None]


def predictor(**settings: object) -> RafarePredictor:
    """A predictor whose base is a ball."""
    torch.manual_seed(0)
    net = RafareNet(CONFIG)
    net.base, net.fine = Ball(CONFIG.base), Same(CONFIG.fine)
    net.normals = Round(CONFIG.normals)
    return RafarePredictor(net, RafarePredictConfig(**settings))  # pyright: ignore


def crop(value: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """A plain picture, all of it skin."""
    return np.full((SIZE, SIZE, 3), value, np.uint8), np.full((SIZE, SIZE), 4, np.uint8)


def test_levels_add_up():
    ask = predictor()
    base = ask.surface(*crop(), level="base")
    radius = base.vertices.norm(dim=1)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.6), atol=0.002, rtol=0)
    fine = ask.surface(*crop(), level="fine", fine_scale=0.1).vertices.norm(dim=1)
    torch.testing.assert_close(fine, torch.full_like(fine, 0.5), atol=0.002, rtol=0)
    blind = ask.surface(*crop(), level="fine", fine_scale=0.1, blind=True).vertices.norm(dim=1)
    torch.testing.assert_close(blind, torch.full_like(blind, 0.6), atol=0.002, rtol=0)
    carved = ask.surface(*crop(), level="normals", carve="divergence", kappa=0.05)
    assert float((carved.vertices.norm(dim=1) - 0.599).max()) > 0.005


def test_a_crop_without_a_face_is_refused():
    image, region = crop()
    with pytest.raises(UserError):
        predictor().surface(image, np.full_like(region, 8))


def test_cube_and_px_are_inverse_and_centred():
    points = torch.rand(50, 3) * 2 - 1
    torch.testing.assert_close(cube_from_px(px_from_cube(points, SIZE), SIZE), points)
    middle = px_from_cube(torch.zeros(1, 3), SIZE)
    torch.testing.assert_close(middle, torch.tensor([[SIZE / 2 - 0.5, SIZE / 2 - 0.5, 0.0]]))
    up = px_from_cube(torch.tensor([[0.0, 0.5, 0.0]]), SIZE)
    assert up[0, 1] < middle[0, 1]


@pytest.fixture(scope="module")
def head() -> Geometry:
    """The mean head, turned, in a photo of 300 px."""
    model = load_face_model()
    with torch.no_grad():
        vertices = model(torch.zeros(model.identity_size), torch.zeros(52))
    turn = torch.tensor(0.4)
    c, s = turn.cos(), turn.sin()
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    camera = orthographic_camera(rotation, 0.9, torch.tensor([160.0, 140.0]))
    return Geometry(vertices, model.topology.faces, camera, model.name)


def test_the_surface_lies_where_the_crop_does(head: Geometry):
    model = load_face_model()
    image = np.full((300, 300, 3), 255, np.uint8)
    found = predictor(level="base")(image, head, model)
    cut = cut_crop(image, head, model, SIZE)
    center = torch.tensor(cut.center_px)
    half = cut.side_px / 2
    seen = (found.vertices_px[:, :2] - center) / half
    assert float(seen.norm(dim=1).max()) < 0.61
    _, middle = guide_of(head, model, cut)
    depth = found.vertices_px[:, 2] / half - middle
    assert 0.3 < float(depth.max()) < 0.61


def test_the_guide_is_the_head_on_the_crops_pixels(head: Geometry):
    model = load_face_model()
    cut = cut_crop(np.zeros((300, 300, 3), np.uint8), head, model, SIZE)
    guide, middle = guide_of(head, model, cut)
    points = project(model.landmarks(head.vertices_mm, "ict68"), head.camera)
    step = cut.size / cut.side_px
    u, v = ((points[30, k] - cut.center_px[k]) * step + SIZE / 2 - 0.5 for k in (0, 1))
    near = guide.depth[round(float(v)), round(float(u))]
    wanted = points[30, 2] * 2 / cut.side_px - middle
    assert abs(float(near - wanted)) < 0.03
    lengths = guide.normals.norm(dim=-1)
    assert ((lengths > 0.5) == guide.depth.isfinite()).all()


def test_a_plane_seen_from_the_front():
    corners = torch.tensor([[-0.5, -0.5, 0.2], [0.5, -0.5, 0.2], [0.5, 0.5, 0.2], [-0.5, 0.5, 0.2]])
    guide = see_front(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), SIZE)
    assert int(guide.depth.isfinite().sum()) == (SIZE // 2) ** 2
    torch.testing.assert_close(guide.depth[SIZE // 2, SIZE // 2], torch.tensor(0.2))
    torch.testing.assert_close(
        guide.normals[SIZE // 2, SIZE // 2], torch.tensor([0.0, 0.0, 1.0])
    )  # fmt: skip
    view = create_view(
        torch.ones(1, 3, SIZE, SIZE), torch.full((1, SIZE, SIZE), 4, dtype=torch.uint8),
        guide.depth[None], guide.normals[None],
    )  # fmt: skip
    distance, there = guide_distance(view, torch.tensor([[[0.1, 0.1, 0.5], [0.9, 0.9, 0.0]]]))
    torch.testing.assert_close(distance, torch.tensor([[0.3, 0.0]]))
    torch.testing.assert_close(there, torch.tensor([[1.0, 0.0]]))


def test_nothing_off_the_face_reaches_the_networks():
    region = torch.full((1, SIZE, SIZE), 4, dtype=torch.uint8)
    region[:, :, : SIZE // 2] = 7
    view = create_view(torch.rand(1, 3, SIZE, SIZE), region)
    assert view.picture[..., : SIZE // 2].abs().max() == 0
    assert view.guide_there.abs().max() == 0


def test_a_strip_of_skin_in_hair_is_no_face():
    v, u = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    face = (u - 64) ** 2 + (v - 70) ** 2 < 35**2
    parting = (v < 40) & ((u - 60).abs() < 5)
    profile = (v - 75).abs() < 5
    region = torch.where(v < 60, 7, 8).byte()  # hair above, background beside and below
    region[face | parting | (profile & (u > 64) & (u < 106))] = 4
    found = without_strips(region)
    assert (found[:33][parting[:33]] == 8).all()  # up to the roundings of the disc
    assert torch.equal(found[v >= 60], region[v >= 60])  # a nose as narrow before the background
    assert (found[face & (v > 45)] == 4).all()
    assert int((found != region).sum()) < 1.2 * int((parting & ~face).sum())


def test_strips_are_only_looked_for_beside_a_face():
    region = torch.full((SIZE, SIZE), 7, dtype=torch.uint8)
    region[:, 3] = 4
    assert torch.equal(without_strips(region), region)


def test_regions_are_read_where_the_crop_lies():
    maps = torch.zeros(9, 40, 40)
    maps[8], maps[4, :, 20:] = 0.5, 1.0  # skin on the right half of the parsed square
    regions = Regions(maps, (50.0, 60.0), 80.0)
    cut = Crop(torch.zeros(3, SIZE, SIZE), (70.0, 60.0), 100.0)
    guide = Guide(torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE, 3))
    found = crop_regions(cut, regions, guide)
    # the skin covers photo columns 50 to 90, the crop 20 to 120
    columns = (found[SIZE // 2] == 4).nonzero()[:, 0].float()
    assert abs(float(columns.min()) / SIZE * 100 + 20 - 50) < 3
    assert abs(float(columns.max()) / SIZE * 100 + 20 - 90) < 3
    assert (crop_regions(cut, None, guide) == 4).all()
    narrow = guide.depth.clone()
    narrow[:, SIZE // 2 :] = torch.nan  # the head ends in the middle of the crop
    found = crop_regions(cut, regions, replace(guide, depth=narrow))
    assert (found[:, SIZE // 2 + 1 :] == 8).all()
    assert (found[SIZE // 2, : SIZE // 2 + 1] == 4).any()


def test_a_card_gives_the_settings_back():
    import json
    from dataclasses import asdict

    card = json.loads(json.dumps({"size": SIZE, **asdict(CONFIG)}))
    assert config_from_dict(card) == CONFIG


def test_threads_are_put_back():
    before = torch.get_num_threads()
    ask = RafarePredictor(predictor().network, threads=1)
    ask.surface(*crop(), level="base")
    assert torch.get_num_threads() == before


class Guided:
    """A guide that always says the same head."""

    needs_landmarks = False

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    def __call__(self, seen: FaceInput) -> Geometry:
        """The head."""
        return self.geometry

    def options(self, seen: FaceInput) -> dict[str, str]:
        """A record."""
        return {"shape": "model"}


def test_how_far_heads_move_is_the_weights_word_unless_asked(head: Geometry):
    image, model = np.full((300, 300, 3), 255, np.uint8), load_face_model()
    for asked, found in ((None, 0.7), (1.0, 1.0), (0.0, 0.0)):
        ask = predictor(share=asked)
        ask.networks.config = replace(CONFIG, share=0.7)
        assert ask(image, head, model).share == found
    parts = asdict(replace(CONFIG, share=0.7))
    assert config_from_dict(parts).share == 0.7
    del parts["share"]  # a card from before
    assert config_from_dict(parts).share == 1.0
    with pytest.raises(UserError, match=r"share is 1\.2; it lies in 0 to 1"):
        RafarePredictConfig(share=1.2)


def test_the_stage_attaches_the_surface(head: Geometry):
    asked = []

    def parse(image: np.ndarray, landmarks: object) -> Regions:
        asked.append(landmarks)
        return Regions(torch.ones(9, 8, 8) / 9, (150.0, 150.0), 300.0)

    def finder(image, geometry, model, regions=None) -> FreeSurface:
        assert regions is not None and geometry is head
        return FreeSurface(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))

    stage = RafareStage(Guided(head), finder, load_face_model(), parse)
    seen = FaceInput(np.zeros((300, 300, 3), np.uint8), Face((50, 50, 250, 250), 1.0))
    found = stage(seen)
    assert found.surface is not None and len(found.surface.faces) == 1
    assert torch.equal(found.vertices_mm, head.vertices_mm)
    assert len(asked) == 1 and not stage.needs_landmarks
    assert stage.options(seen) == {"shape": "model", "level": "normals", "guided": "yes"}
    chosen = RafareStage(
        Guided(head), finder, load_face_model(), parse, RafarePredictConfig(share=0.5)
    )
    assert chosen.options(seen)["share"] == "0.5"
