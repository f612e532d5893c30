"""The landmarker: crops and the way back with a fake network, engines with the shipped weights."""

import numpy as np
import pytest
import torch

from lifemask.assets import AssetError, weights_path
from lifemask.facemodel.landmarks import flip_table
from lifemask.faces.crop import square_box
from lifemask.faces.landmarker import (
    Landmarker,
    face_square,
    load_landmarker,
    quarter_turns,
    turned_back,
)
from lifemask.types import Face

SIZE = 112


class BlobNetwork:
    """Puts a fixed, face-like set of points around the centroid of the bright part of a crop.

    Its spread follows that of the blob, so a square made from its points is a fixed point.
    """

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        half = generator.uniform(-1, 1, (392, 2))
        mirrored = half[flip_table("lifemask392").numpy()] * [-1, 1]
        self.layout = (half + mirrored) / 2
        self.calls: list[int] = []

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        self.calls.append(len(crops))
        out = np.empty((len(crops), 392, 4), np.float32)
        for crop, rows in zip(crops, out, strict=True):
            mass = crop.mean(0)
            mass = np.where(mass > 0.2, mass, 0)
            v, u = np.mgrid[:SIZE, :SIZE]
            total = mass.sum()
            cu, cv = (mass * u).sum() / total, (mass * v).sum() / total
            spread = np.sqrt((mass * ((u - cu) ** 2 + (v - cv) ** 2)).sum() / total)
            rows[:, 0] = cu + 2 * spread * self.layout[:, 0]
            rows[:, 1] = cv + 2 * spread * self.layout[:, 1]
            rows[:, 2] = spread * np.abs(self.layout[:, 0])
            rows[:, 3] = 2.0
        return out


def photo(center=(130.0, 90.0), sigma=14.0) -> np.ndarray:
    v, u = np.mgrid[:200, :260]
    spot = 255 * np.exp(-((u - center[0]) ** 2 + (v - center[1]) ** 2) / (2 * sigma**2))
    return np.repeat(spot[..., None], 3, -1).astype(np.uint8)


def test_landmarks_return_to_the_photo():
    landmarks = Landmarker(BlobNetwork(), SIZE, "open")(photo(), (70.0, 30.0, 200.0, 160.0))
    assert landmarks.convention == "lifemask392"
    center = (landmarks.points[:, :2].amax(0) + landmarks.points[:, :2].amin(0)) / 2
    torch.testing.assert_close(center, torch.tensor([130.0, 90.0]), atol=0.6, rtol=0)
    torch.testing.assert_close(landmarks.sigma_px, torch.full((392,), 2.0 * 130 / SIZE))


POINTS5 = torch.tensor([[-9.0, -8.0], [9.0, -8.0], [0.0, 0.0], [-6.0, 9.0], [6.0, 9.0]])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_photo_gives_turned_landmarks(turns):
    upright = photo((120.0, 96.0))
    center = torch.tensor([120.0, 96.0])
    face = Face((90.0, 50.0, 150.0, 130.0), 1.0, POINTS5 + center)
    expected = Landmarker(BlobNetwork(), SIZE, "open")(upright, face)
    # The photo lies on its side: `turns` counter-clockwise turns make it upright again.
    lying = np.ascontiguousarray(np.rot90(upright, -turns))
    width, height = upright.shape[1], upright.shape[0]

    def lay(points: torch.Tensor) -> torch.Tensor:
        w, h = width, height
        for _ in range(turns):  # one clockwise turn: (u, v) -> (h - 1 - v, u)
            points = torch.cat((h - 1 - points[:, 1:2], points[:, :1], points[:, 2:]), -1)
            w, h = h, w
        return points

    corners = lay(torch.tensor([[90.0, 50.0], [150.0, 130.0]]))
    low, high = corners.amin(0).tolist(), corners.amax(0).tolist()
    turned = Face((low[0], low[1], high[0], high[1]), 1.0, lay(face.points5))
    assert quarter_turns(turned.points5) == turns
    found = Landmarker(BlobNetwork(), SIZE, "open")(lying, turned)
    torch.testing.assert_close(found.points, lay(expected.points), atol=0.1, rtol=0)


def test_turning_points_back_follows_the_pixels():
    image = torch.zeros(1, 5, 5)
    image[0, 1, 3] = 1.0  # v = 1, u = 3
    for turns in range(4):
        v, u = image.rot90(turns, (1, 2))[0].nonzero()[0].tolist()
        back = turned_back(torch.tensor([[u, v, 7.0]]), turns, 5)
        assert back.tolist() == [[3.0, 1.0, 7.0]]


def test_a_box_is_the_square_and_a_face_gets_a_second_pass():
    network = BlobNetwork()
    landmarker = Landmarker(network, SIZE, "open")
    landmarker(photo(), (70.0, 30.0, 200.0, 160.0))
    assert network.calls == [1]
    landmarker(photo(), Face((95.0, 50.0, 165.0, 130.0), 0.9))
    assert network.calls == [1, 1, 1]


def test_passes_converge_from_a_bad_box():
    landmarker = Landmarker(BlobNetwork(), SIZE, "open")
    good = landmarker(photo(), (70.0, 30.0, 200.0, 160.0), passes=4).points
    bad = landmarker(photo(), (40.0, 20.0, 230.0, 210.0), passes=4).points
    torch.testing.assert_close(good[:, :2], bad[:, :2], atol=0.7, rtol=0)
    again = square_box(good[68:136])
    square = landmarker(photo(), _box(*again)).points
    torch.testing.assert_close(square[:, :2], good[:, :2], atol=0.3, rtol=0)


def _box(center, side):
    return tuple(c + k * side / 2 for k in (-1, 1) for c in center)


def test_flip_average_of_a_symmetric_face_changes_nothing():
    landmarker = Landmarker(BlobNetwork(), SIZE, "open")
    box = (65.5, 25.5, 194.5, 154.5)
    plain = landmarker(photo((129.5, 90.0)), box)
    averaged = landmarker(photo((129.5, 90.0)), box, flip_average=True)
    torch.testing.assert_close(averaged.points, plain.points, atol=0.05, rtol=0)


def test_square_of_a_detected_face_keeps_its_size_under_scaling():
    (u, v), side = face_square((10.0, 20.0, 50.0, 80.0))
    (u2, v2), side2 = face_square((20.0, 40.0, 100.0, 160.0))
    assert (u2, v2, side2) == pytest.approx((2 * u, 2 * v, 2 * side))


def test_wrong_arguments_are_refused():
    landmarker = Landmarker(BlobNetwork(), SIZE, "open")
    with pytest.raises(ValueError, match="passes"):
        landmarker(photo(), (0.0, 0.0, 10.0, 10.0), passes=0)
    with pytest.raises(ValueError, match="impossible"):
        landmarker(photo(), (10.0, 10.0, 10.0, 10.0))
    with pytest.raises(ValueError, match="crops must be"):
        landmarker.predict_crops(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="valid: open, research"):
        load_landmarker("secret")  # pyright: ignore[reportArgumentType]


def shipped(family: str) -> None:
    try:
        weights_path(f"landmarker-{family}")
    except AssetError:
        pytest.skip(f"no {family} weights")


@pytest.mark.parametrize("family", ["open", "research"])
def test_engines_agree(family):
    shipped(family)
    crops = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    onnx = load_landmarker(family, "onnx").predict_crops(crops)
    twin = load_landmarker(family, "torch").predict_crops(crops)
    torch.testing.assert_close(onnx, twin, atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("family", ["open", "research"])
def test_shipped_weights_find_the_astronaut(family):
    """Against the five points that the face detector, another network, finds."""
    shipped(family)
    from skimage.data import astronaut

    box = (179.2, 55.8, 269.0, 174.7)
    five = torch.tensor(
        [[202.3, 100.3], [246.7, 101.9], [221.6, 123.5], [203.5, 142.2], [241.1, 143.3]]
    )
    landmarks = load_landmarker(family)(astronaut(), Face(box, 1.0))
    ict = landmarks.points[:68, :2]
    found = torch.stack((ict[36:42].mean(0), ict[42:48].mean(0), ict[30], ict[48], ict[54]))
    torch.testing.assert_close(found, five, atol=6, rtol=0)
    assert (landmarks.sigma_px > 0).all() and landmarks.sigma_px.median() < 6


@pytest.mark.parametrize("family", ["open", "research"])
def test_mirrored_photo_gives_mirrored_landmarks(family):
    shipped(family)
    from skimage.data import astronaut

    image = astronaut()
    landmarker = load_landmarker(family)
    straight = landmarker(image, (150.0, 60.0, 300.0, 210.0)).points
    right = image.shape[1] - 1
    mirrored = landmarker(image[:, ::-1].copy(), (right - 300.0, 60.0, right - 150.0, 210.0)).points
    back = mirrored[flip_table("lifemask392")].clone()
    back[:, 0] = right - back[:, 0]
    assert (back - straight).norm(dim=-1).median() < 4
