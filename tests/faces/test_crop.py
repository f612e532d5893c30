"""Crops and the exact way back."""

import numpy as np
import pytest
import torch

from lifemask.faces.crop import (
    crop_face,
    crop_square,
    crop_to_photo,
    cut_window,
    photo_to_crop,
    square_box,
    without_bars,
)
from lifemask.types import Crop, Face


def ramp(height: int = 90, width: int = 120) -> np.ndarray:
    """A photo whose red is 2 u and whose green is 2 v."""
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([2 * u, 2 * v, 0 * u], axis=-1).astype(np.uint8)


def test_round_trip():
    crop = Crop(torch.zeros(3, 64, 64), (31.7, 88.2), 45.9)
    points = torch.randn(5, 7, 3, dtype=torch.float64) * 50
    torch.testing.assert_close(photo_to_crop(crop_to_photo(points, crop), crop), points)
    torch.testing.assert_close(
        crop_to_photo(points[..., :2], crop), crop_to_photo(points, crop)[..., :2]
    )


def test_formula_of_the_types():
    crop = Crop(torch.zeros(3, 64, 64), (31.7, 88.2), 45.9)
    point = torch.tensor([[10.0, 20.0, 30.0]])
    expected = [
        31.7 - 45.9 / 2 + 10.5 * 45.9 / 64,
        88.2 - 45.9 / 2 + 20.5 * 45.9 / 64,
        30 * 45.9 / 64,
    ]
    torch.testing.assert_close(crop_to_photo(point, crop)[0], torch.tensor(expected))


@pytest.mark.parametrize(("side", "size"), [(40.0, 40), (41.5, 23), (30.2, 64), (60.0, 15)])
def test_pixels_show_the_photo_at_the_place_the_formula_says(side, size):
    crop = crop_square(ramp(), (55.3, 44.6), side, size)
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    photo = crop_to_photo(torch.stack([u, v], -1).reshape(-1, 2).float(), crop)
    shown = crop.image[:2].permute(1, 2, 0) * 255 / 2
    inner = slice(2, size - 2)
    expected = photo.reshape(size, size, 2)
    assert (shown - expected)[inner, inner].abs().max() < 0.3  # half of 8-bit steps of 1/2 px


def test_whole_pixels_are_copied():
    photo = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    crop = crop_square(photo, (24.5, 19.5), 20, 20)  # pixels 15..34, 10..29
    np.testing.assert_array_equal(
        (crop.image.permute(1, 2, 0) * 255).round().byte().numpy(), photo[10:30, 15:35]
    )


def test_outside_the_border_continues():
    crop = crop_square(ramp(), (-10.0, 45.0), 40, 40)
    assert (crop.image[0, :, :9] == 0).all()
    far = crop_square(ramp(), (400.0, 45.0), 40, 40)
    assert (far.image[0] * 255 == 2 * 119).all()


def test_face_crop_is_centred_and_expanded():
    face = Face((10.0, 20.0, 30.0, 60.0), 1.0)
    crop = crop_face(ramp(), face, 32, expand=1.5)
    assert crop.center_px == (20.0, 40.0) and crop.side_px == 60.0 and crop.size == 32
    same = crop_face(ramp(), face.box, 32, expand=1.5)
    torch.testing.assert_close(crop.image, same.image)


def test_square_box_of_landmarks():
    center, side = square_box(torch.tensor([[0.0, 0.0, 5.0], [10.0, 4.0, -3.0]]))
    assert center == (5.0, 2.0) and side == pytest.approx(10 * 2**0.5)


@pytest.mark.parametrize(
    ("center", "side"), [((5, 5), 0.0), ((5, 5), float("nan")), ((np.inf, 5), 9)]
)
def test_impossible_crops_are_refused(center, side):
    with pytest.raises(ValueError, match="impossible"):
        crop_square(ramp(), center, side, 32)


def test_window_pixels_are_where_the_crop_formula_says():
    for box, max_side in (((10.3, 5.2, 70.0, 60.0), 100), ((-20.0, -9.0, 95.0, 300.0), 30)):
        window = cut_window(ramp(), box, max_side)
        assert window is not None and max(window.image.shape[:2]) <= max_side
        crop = Crop(torch.zeros(3, window.size, window.size), window.center_px, window.side_px)
        height, width = window.image.shape[:2]
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        photo = crop_to_photo(torch.stack([u, v], -1).reshape(-1, 2).float(), crop)
        shown = torch.from_numpy(window.image[..., :2]).reshape(-1, 2) / 2
        torch.testing.assert_close(photo, shown, atol=0.3, rtol=0)
        assert photo.min() >= 0 and photo[:, 0].max() <= 119 and photo[:, 1].max() <= 89


def test_window_outside_the_photo():
    assert cut_window(ramp(), (200.0, 5.0, 260.0, 60.0), 100) is None


def framed(photo: np.ndarray, color: tuple[int, int, int], noise: int = 0) -> np.ndarray:
    """The photo with bars of 30, 11, 7 and 0 px left, above, right and below it."""
    height, width = photo.shape[:2]
    picture = np.empty((height + 11, width + 37, 3), np.uint8)
    picture[:] = color
    ripples = np.random.default_rng(0).integers(-noise, noise + 1, picture.shape)
    picture = (picture + ripples).clip(0, 255).astype(np.uint8)
    picture[11:, 30 : 30 + width] = photo
    return picture


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (20, 120, 60)])
@pytest.mark.parametrize("noise", [0, 5])
def test_bars_of_any_colour_are_no_photo(color, noise):
    picture = framed(ramp(), color, noise)
    assert without_bars(picture) == (30, 11, 150, 101)
    assert without_bars(picture.swapaxes(0, 1)) == (11, 30, 101, 150)
    window = cut_window(picture, (40.0, -5.0, 200.0, 60.0), 500)
    alone = cut_window(ramp(), (10.0, -16.0, 170.0, 49.0), 500)
    assert window is not None and alone is not None
    np.testing.assert_array_equal(window.image, alone.image)
    moved = np.subtract(window.center_px, alone.center_px)
    assert moved.tolist() == [30, 11] and window.side_px == alone.side_px


def test_a_picture_without_bars_stays_whole():
    assert without_bars(ramp()) == (0, 0, 120, 90)
    halves = np.full((20, 30, 3), 7, np.uint8)
    assert without_bars(halves) == (0, 0, 30, 20)
    halves[10:] = 90
    assert without_bars(halves) == (0, 0, 30, 20)
    halves[1:] = 20
    assert without_bars(halves) == (0, 0, 30, 20)


def test_what_stands_before_a_plain_wall_is_no_bar():
    picture = np.full((100, 200, 3), 240, np.uint8)
    picture[40:44, 90:93] = 90
    assert without_bars(picture) == (90, 40, 93, 44)
