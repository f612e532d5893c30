import pytest
import torch

from lifemask.facemodel.landmarks import (
    AFLW21_FROM_68,
    LANDMARK_SETS,
    MAP18_FROM_68,
    MEDIAPIPE_TO_68,
    convert,
    flip_table,
    map18,
)


@pytest.mark.parametrize("name", LANDMARK_SETS)
def test_flip_is_an_involution_of_the_right_size(name):
    flip = flip_table(name)
    assert len(flip) == LANDMARK_SETS[name].count
    assert torch.equal(flip[flip], torch.arange(len(flip)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("ict68", "aflw21"),
        ("ibug68-3d-bfm", "map18"),
        ("aflw21", "map18"),
        ("mediapipe478", "ict68"),
        ("lifemask392", "ict68"),
        ("lifemask392", "ibug68-3d-bfm"),
        ("mediapipe478", "aflw21"),
        ("lifemask392", "aflw21"),
        ("ibug68", "aflw21"),
        ("ict68", "ibug51"),
        ("ibug68-3d-bfm", "sfm50"),
        ("ibug68", "bfm15"),
        ("mediapipe478", "mediapipe105"),
    ],
)
def test_conversion_commutes_with_the_flip(source, target):
    points = torch.randn(2, LANDMARK_SETS[source].count, 3)
    flipped_first = convert(points[:, flip_table(source)], source, target)
    flipped_last = convert(points, source, target)[:, flip_table(target)]
    if target == "map18" and source != "aflw21":  # the published eye means are not symmetric
        same = (flipped_first - flipped_last).abs().amax((0, 2)) < 1e-6
        assert same.sum() == 16 and not same[[7, 10]].any()
    elif source != "mediapipe478":
        assert torch.allclose(flipped_first, flipped_last, atol=1e-6)
    else:  # MediaPipe's jaw has other points, the inner 51 are symmetric
        same = (flipped_first - flipped_last).abs().amax((0, 2)) < 1e-6
        assert same[-51:].all() if target == "ict68" else same[:12].all()


def test_means_of_the_reductions():
    points = torch.arange(68.0)[:, None].expand(68, 2)
    expected = [sum(row) / len(row) for row in AFLW21_FROM_68]
    assert torch.allclose(convert(points, "ict68", "aflw21")[:, 0], torch.tensor(expected))
    expected = [sum(row) / len(row) for row in MAP18_FROM_68]
    assert torch.allclose(map18(points, "ibug68-3d-bfm")[:, 0], torch.tensor(expected))


def test_map18_is_aflw21_without_ears_and_chin_where_they_share_points():
    points = torch.randn(68, 3)
    direct = convert(points, "ict68", "map18")
    through = convert(convert(points, "ict68", "aflw21"), "aflw21", "map18")
    single = [i for i, row in enumerate(MAP18_FROM_68) if len(row) == 1]
    assert torch.equal(direct[single], through[single])


def test_mediapipe_picks_single_points():
    points = torch.randn(478, 2)
    assert torch.equal(convert(points, "mediapipe478", "ict68"), points[list(MEDIAPIPE_TO_68)])
    assert len(set(MEDIAPIPE_TO_68)) == 68


def test_clear_errors():
    with pytest.raises(KeyError, match="known: ict68"):
        flip_table("ibug")
    with pytest.raises(KeyError, match="no conversion"):
        convert(torch.zeros(21, 2), "aflw21", "ict68")
    with pytest.raises(ValueError, match="68 points"):
        convert(torch.zeros(21, 2), "ict68", "aflw21")
