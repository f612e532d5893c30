"""True cameras of renders: they put the true head where the labelled points of the crop are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import pgn_faces as toy
from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data.augment import NO_AUGMENTATION, draw_views
from lifemask.data.synthetic import write_cache
from lifemask.facemodel import load_face_model
from lifemask.training.pgn_batches import PgnBatchConfig, PgnBatchMaker
from lifemask.training.pgn_data import PgnCorpus, PgnFaces, load_renders
from lifemask.training.pgn_labels import render_cameras

SIZE = 112
STRONG = replace(NO_AUGMENTATION, rotation_deg=40.0, scale=0.2, shift=0.1)
EVERY = slice(None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A cache of dotted heads, one shard with each kind of camera."""
    folder = tmp_path_factory.mktemp("written") / "cache"
    return toy.write_renders(folder, load_face_model(), shards=2, people=4, frames=2)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A cache by the generator, both kinds of camera."""
    folder = tmp_path_factory.mktemp("rendered")
    settings = {"camera": "both", "frames": 2, "size": 32}
    write_cache(small_generator(load_face_model(), **settings), folder, 8)
    return folder


def distance_px(faces: PgnFaces, flip: float, augment=STRONG) -> torch.Tensor:
    """Distance (n, 392, 2) in the picture and in nearness between camera and labels, crop px."""
    model = load_face_model()
    config = PgnBatchConfig(32, SIZE, replace(augment, flip=flip), pairs=False)
    batch = PgnBatchMaker(PgnCorpus([faces], {}, {}), config, model)(0)
    (target,), (camera,) = batch.targets, batch.cameras
    assert target.labels is not None and camera.pinhole.any() and not camera.pinhole.all()
    heads = model(target.labels.identity, target.labels.expression)
    apart = camera.project(model.landmarks(heads, "lifemask392")) - target.points
    return torch.stack((apart[..., :2].norm(dim=-1), apart[..., 2].abs()), -1) * SIZE / 2


@pytest.mark.parametrize("augment", [NO_AUGMENTATION, STRONG], ids=["nominal", "turned"])
def test_cameras_reproduce_the_labelled_points(written, augment):
    faces = load_renders(written, load_face_model(), EVERY)
    assert distance_px(faces, 0.0, augment).max() < 2e-3


def test_a_mirrored_camera_sees_the_mirrored_head(written):
    """As exactly as the head model is symmetric."""
    faces = load_renders(written, load_face_model(), EVERY)
    apart = distance_px(faces, 1.0)
    assert apart.max() < 0.2 and apart.mean() < 0.02
    mixed = distance_px(faces, 0.5)
    assert mixed.max() < 0.2


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_generators_own_crops(rendered, flip):
    """Its coefficients are stored in half precision."""
    faces = load_renders(rendered, load_face_model(), EVERY)
    assert faces.cameras is not None and len(faces) == len(faces.cameras) == 8
    assert distance_px(faces, flip).max() < (0.05 if flip == 0 else 0.2)


def test_true_rotations_stay_rotations(written):
    cameras = render_cameras(written)
    view = draw_views(np.random.default_rng(0), replace(STRONG, flip=0.5), 16, 64, 51.2, SIZE)
    assert view.flipped.any() and not view.flipped.all()
    seen = cameras.in_view(view, SIZE)
    turns = seen.rotation @ seen.rotation.transpose(1, 2)
    torch.testing.assert_close(turns, torch.eye(3).expand(16, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(seen.rotation), torch.ones(16))
    # the picture is turned and scaled by the view, never mirrored by it
    assert (torch.linalg.det(seen.image) > 0).all()


def test_parts_of_the_cameras(written):
    whole = render_cameras(written)
    assert whole.pinhole.tolist() == [False] * 8 + [True] * 8
    assert (whole.translation_mm[:8] == 0).all() and (whole.translation_mm[8:, 2] < -100).all()
    later = render_cameras(written, slice(1, None))
    some = whole.subset(np.arange(8, 16))
    for name in whole.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(later, name), getattr(some, name))


def test_perspective_is_not_what_the_best_orthographic_camera_sees(written):
    """Otherwise the true cameras would teach nothing new."""
    faces = load_renders(written, load_face_model(), slice(1, None))
    view = draw_views(np.random.default_rng(0), NO_AUGMENTATION, 8, 64, 51.2, SIZE)
    assert faces.cameras is not None and faces.faces.labels is not None
    camera = faces.cameras.in_view(view, SIZE)
    zoom = camera.zoom / -camera.translation_mm[:, 2]
    flat = replace(camera, zoom=zoom, pinhole=torch.zeros_like(camera.pinhole))
    depths = torch.tensor([[[0.0, 40.0, 60.0], [0.0, 40.0, -60.0]]]).expand(8, 2, 3)
    apart = camera.project(depths) - flat.project(depths)
    moved = (apart[:, 0] - apart[:, 1])[:, :2].norm(dim=-1) * SIZE / 2
    assert moved.mean() > 1.0  # px


def test_old_caches_without_cameras_are_told(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with np.load(tmp_path / "labels-0000.npz") as labels:
        kept = {name: labels[name] for name in labels.files if name not in ("f_px", "center_px")}
    np.savez(tmp_path / "labels-0000.npz", allow_pickle=False, **kept)
    with pytest.raises(UserError, match="labels-0000.npz lacks f_px, center_px: render"):
        render_cameras(tmp_path)
    with pytest.raises(UserError, match="no cache of renders|no complete shard"):
        load_renders(tmp_path / "nothing", load_face_model(), EVERY)
