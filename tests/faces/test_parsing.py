"""Region maps of photos: where they lie, what they hold, and the shipped networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifemask.assets import AssetError, weights_folder
from lifemask.faces.crop import crop_square, photo_to_crop, square_box
from lifemask.faces.parsing import EXPAND, UNKNOWN, Parser, Regions, load_parser
from lifemask.types import REGION_NAMES, Face, Landmarks

SIZE = 32


def regions_of(classes: torch.Tensor, center=(50.0, 60.0), side=64.0) -> Regions:
    """Certain maps."""
    one_hot = torch.nn.functional.one_hot(classes.long(), 9).permute(2, 0, 1).float()
    return Regions(one_hot, center, side)


def quarters() -> torch.Tensor:
    """Nose, lips / eyes, brows in the four quarters."""
    classes = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    classes[:16, 16:], classes[16:, :16], classes[16:, 16:] = 1, 2, 3
    return classes


class RedNetwork:
    """The red channel, in eight steps, is the class."""

    def __call__(self, crops):
        ids = np.clip(np.round(crops[:, 0] * 8), 0, 8).astype(int)
        return np.eye(9, dtype=np.float32)[ids].transpose(0, 3, 1, 2)


def red_photo(classes: np.ndarray) -> np.ndarray:
    return np.stack([np.round(classes * 255 / 8)] * 3, -1).astype(np.uint8)


def test_masks_and_probabilities_by_name():
    regions = regions_of(quarters())
    assert torch.equal(regions.classes, quarters())
    assert torch.equal(regions.mask("lips", "brows"), (quarters() == 1) | (quarters() == 3))
    assert regions.probability("nose").sum() == 256 and regions.probability("hair").sum() == 0
    with pytest.raises(ValueError, match="unknown region 'face'; valid: nose"):
        regions.mask("face")
    with pytest.raises(ValueError, match="unknown region"):
        regions.probability("nose", "ear")


def test_sampling_agrees_with_the_crop_convention():
    generator = torch.Generator().manual_seed(0)
    plane = torch.rand(9, SIZE, SIZE, generator=generator).softmax(0)
    regions = Regions(plane, (50.0, 60.0), 64.0)
    crop = crop_square(np.zeros((128, 128, 3), np.uint8), (50.0, 60.0), 64.0, SIZE)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = torch.stack((columns, rows), -1).float()
    photo = centres * 2 + torch.tensor([50.0, 60.0]) - 32 + 1.0  # the documented way back
    torch.testing.assert_close(photo_to_crop(photo, crop), centres)
    found = regions.sample(photo, "nose", "skin")
    torch.testing.assert_close(found, plane[[0, 4]].sum(0), atol=1e-5, rtol=0)
    middle = regions.sample(photo[3, 4:6].mean(0), "nose")
    assert float(middle) == pytest.approx(float(plane[0, 3, 4:6].mean()), abs=1e-5)


def test_glasses_are_asked_for_by_themselves():
    worn = torch.zeros(SIZE, SIZE)
    worn[4:8] = 0.75
    regions = replace(regions_of(quarters()), glasses=worn)
    assert torch.equal(regions.mask("glasses"), worn > 0.5)
    assert float(regions.sample(torch.tensor([50.0, 40.0]), "glasses")) == 0.75
    assert torch.equal(regions.classes, quarters())
    assert torch.equal(regions.seen_in((50.0, 60.0), 64.0, SIZE).probability("glasses"), worn)
    assert regions_of(quarters()).probability("glasses").sum() == 0
    with pytest.raises(ValueError, match="unknown region 'glasses'.* or glasses alone"):
        regions.probability("glasses", "skin")


class GlassesNetwork(RedNetwork):
    """And where the green channel is high there are glasses."""

    def __call__(self, crops):
        return np.concatenate((super().__call__(crops), crops[:, 1:2]), 1)


def test_a_parser_that_tells_glasses_gives_them_in_place():
    photo = red_photo(np.full((64, 64), 4.0))
    photo[..., 1] = 0
    photo[16:24, :, 1] = 255
    found = Parser(GlassesNetwork(), 64, "open")(photo, (-0.5, -0.5, 63.5, 63.5), expand=1.0)
    assert found.probabilities.shape == (9, 64, 64)
    assert torch.equal(found.mask("glasses"), torch.from_numpy(photo[..., 1] > 0))
    plain = Parser(RedNetwork(), 64, "open")(photo, (-0.5, -0.5, 63.5, 63.5), expand=1.0)
    assert plain.glasses is None and not plain.mask("glasses").any()


def test_outside_is_told_apart():
    regions = regions_of(quarters())
    points = torch.tensor([[17.0, 60.0], [83.0, 60.0], [50.0, 27.9], [float("nan"), 60.0]])
    assert regions.sample(points, "nose").isnan().all()
    assert (regions.sample(points, "nose", outside=1.0) == 1).all()
    assert float(regions.sample(torch.tensor([20.0, 30.0]), "nose")) == 1


def test_maps_in_photo_pixels():
    regions = regions_of(quarters(), center=(20.0, 24.0), side=16.0)
    found = regions.photo_classes(40, 30)
    assert found.shape == (40, 30) and found.dtype == torch.uint8
    known = found != UNKNOWN
    rows, columns = torch.nonzero(known, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (16, 31)
    assert (int(columns.min()), int(columns.max())) == (12, 27)
    points = torch.stack((columns, rows), -1).float()
    for id, name in enumerate(REGION_NAMES[:4]):
        share = regions.sample(points, name)
        assert (found[known][share > 0.6] == id).all()


def test_maps_move_into_a_crop_and_say_the_same_there():
    regions = regions_of(quarters())
    crop = crop_square(np.zeros((128, 128, 3), np.uint8), (40.0, 70.0), 30.0, 90)
    inside = regions.seen_in(crop.center_px, crop.side_px, crop.size)
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 60 + 25
    torch.testing.assert_close(
        inside.sample(photo_to_crop(points, crop), "nose", "brows"),
        regions.sample(points, "nose", "brows"),
        equal_nan=True, atol=1e-4, rtol=0,
    )  # fmt: skip


def test_a_box_is_the_landmark_square():
    classes = np.random.default_rng(0).integers(0, 9, (64, 64))
    parser = Parser(RedNetwork(), 64, "open")
    whole = parser(red_photo(classes), (-0.5, -0.5, 63.5, 63.5), expand=1.0)
    assert np.array_equal(whole.classes.numpy(), classes)
    assert np.array_equal(whole.photo_classes(64, 64).numpy(), classes)
    loose = parser(red_photo(classes), (15.5, 15.5, 47.5, 47.5))
    assert loose.side_px == pytest.approx(32 * EXPAND) and loose.center_px == (31.5, 31.5)


def test_landmarks_give_the_square_and_turn_a_lying_face_upright():
    seen = []

    class Spy(RedNetwork):
        def __call__(self, crops):
            seen.append(crops)
            return super().__call__(crops)

    rng = np.random.default_rng(1)
    photo = red_photo(rng.integers(0, 9, (96, 96)).repeat(2, 0).repeat(2, 1)[:160, :160])
    points = torch.from_numpy(rng.uniform(60, 100, (68, 3))).float()
    points[36:42, :2], points[42:48, :2] = torch.tensor([70.0, 65.0]), torch.tensor([90.0, 65.0])
    points[48, :2], points[54, :2] = torch.tensor([72.0, 95.0]), torch.tensor([88.0, 95.0])
    parser = Parser(Spy(), 64, "open")
    upright = parser(photo, Landmarks(points, torch.ones(68), "ibug68-3d-bfm"))
    center, side = square_box(points)
    assert upright.center_px == pytest.approx(center)
    assert upright.side_px == pytest.approx(EXPAND * side)
    lying = points.clone()  # a quarter turn clockwise in the picture
    lying[:, 0], lying[:, 1] = 159 - points[:, 1], points[:, 0]
    turned = np.ascontiguousarray(np.rot90(photo, -1))
    found = parser(turned, Landmarks(lying, torch.ones(68), "ibug68-3d-bfm"))
    np.testing.assert_allclose(seen[1], seen[0], atol=0.02)
    back = found.probabilities.rot90(1, (1, 2))
    assert (back.argmax(0) == upright.classes).float().mean() > 0.98


def test_averaging_with_the_mirror_image_is_symmetric_and_changes_nothing_for_a_local_network():
    class Leaning:  # says "lips" more on the left of whatever it sees
        def __call__(self, crops):
            found = np.zeros((len(crops), 9, 64, 64), np.float32)
            found[:, 1] = np.linspace(1, 0, 64)
            found[:, 0] = 1 - found[:, 1]
            return found

    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = Parser(Leaning(), 64, "open").predict_crops(crops, flip_average=True)
    torch.testing.assert_close(found[:, 1], torch.full((2, 64, 64), 0.5))
    local = Parser(RedNetwork(), 64, "open")
    torch.testing.assert_close(local.predict_crops(crops, True), local.predict_crops(crops))


def test_a_detected_face_is_enough():
    parser = Parser(RedNetwork(), 64, "open")
    found = parser(np.zeros((100, 100, 3), np.uint8), Face((30, 30, 60, 70), 0.9))
    assert found.mask("nose").all()
    assert found.side_px > 40


def test_wrong_crops_families_and_engines_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="crops must be"):
        Parser(RedNetwork(), 64, "open").predict_crops(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="open, research"):
        load_parser("free")  # type: ignore[arg-type]
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(AssetError, match="parser-open.safetensors is missing"):
        load_parser("open")


def shipped(family: str) -> Path:
    path = weights_folder() / f"parser-{family}.onnx"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    return path


@pytest.mark.parametrize("family", ["open", "research"])
def test_shipped_weights_agree_in_both_engines(family):
    shipped(family)
    onnx, other = load_parser(family), load_parser(family, "torch")
    assert onnx.tag == family
    size = onnx.size
    crops = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    for count in (1, 3):
        found, expected = (p.predict_crops(crops[:count]) for p in (onnx, other))
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
        whole = found[:, :9].sum(1)
        torch.testing.assert_close(whole, torch.ones(count, size, size), atol=1e-4, rtol=0)
        assert found.shape[1] == 10 and 0 <= found[:, 9].min() <= found[:, 9].max() <= 1


@pytest.mark.parametrize("family", ["open", "research"])
def test_shipped_weights_find_the_astronauts_face(family):
    shipped(family)
    data = pytest.importorskip("skimage.data")
    found = load_parser(family)(data.astronaut(), (160.6, 63.4, 292.8, 195.6))
    assert not found.mask("glasses").any()
    classes = found.photo_classes(512, 512)
    names = {name: i for i, name in enumerate(REGION_NAMES)}
    for point, name in (
        ((221, 124), "nose"), ((221, 152), "lips"), ((190, 130), "skin"), ((256, 130), "skin"),
        ((203, 101), "eyes"), ((247, 104), "eyes"), ((270, 62), "hair"), ((152, 205), "background"),
    ):  # fmt: skip
        u, v = point
        patch = classes[v - 4 : v + 5, u - 4 : u + 5]
        assert (patch == names[name]).any(), (name, patch.unique())
