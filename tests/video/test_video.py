"""Clips end to end: a real photo in motion through the shipped networks, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.graphics.camera import default_focal_px, project
from lifemask.graphics.meshio import pose_at, read_animation, read_glb
from lifemask.video import SmootherConfig, VideoConfig, VideoReconstructor, open_clip
from lifemask.video.outputs import track_text, write_video
from lifemask.video.store import RowStore
from lifemask.video.types import PersonTrack, VideoResult

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
COUNT, FPS = 8, 20.0
WIDTH, HEIGHT = 480, 360


def frame(k: int) -> np.ndarray:
    """The portrait, panned and zoomed."""
    zoom, u, v = 1.3 + 0.02 * k, 200 + 5 * k, 170 - 2 * k
    photo = Image.fromarray(astronaut())
    matrix = (1 / zoom, 0, 223 - u / zoom, 0, 1 / zoom, 130 - v / zoom)
    size = (WIDTH, HEIGHT)
    moved = photo.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(moved)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [frame(k) for k in range(COUNT)]


@pytest.fixture(scope="module")
def result(frames) -> VideoResult:
    config = VideoConfig(threads=1, texture="none", refine=False, flip=False)
    return VideoReconstructor(config)(open_clip(frames, FPS))


@pytest.fixture(scope="module")
def written(result, frames, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "out"
    write_video(result, folder, open_clip(frames, FPS) if _has_ffmpeg() else None)
    return folder


def _has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        return False
    return True


def test_the_track_follows_the_pan_and_the_zoom(result) -> None:
    (person,) = result.people
    assert len(person) == COUNT and person.seen.all() and result.cuts == ()
    points = person.landmarks68_px()
    nose = points[:, 30]
    steps = np.diff(nose, axis=0).mean(0)
    assert steps == pytest.approx([5, -2], abs=1.0)
    growth = person.scale[-1] / person.scale[0]
    assert growth == pytest.approx((1.3 + 0.02 * (COUNT - 1)) / 1.3, abs=0.02)
    assert np.abs(points - person.measured_px).mean() < 0.5
    assert np.ptp(person.pose_deg, axis=0).max() < 3


def test_the_identity_is_one_and_the_mesh_of_a_frame_is_the_sum(result) -> None:
    (person,) = result.people
    model = load_face_model()
    geometry = person.geometry_at(3)
    assert geometry.params is not None
    with torch.no_grad():
        expected = model(torch.from_numpy(person.head.identity), geometry.params.expression)
    torch.testing.assert_close(geometry.vertices_mm, expected, atol=2e-3, rtol=0)
    assert geometry.landmarks68_mm is not None
    seen = project(geometry.landmarks68_mm, geometry.camera)[:, :2].numpy()
    np.testing.assert_allclose(seen, person.landmarks68_px()[3], atol=0.01)


def test_the_glb_plays_what_the_clip_shows(result, written) -> None:
    (person,) = result.people
    file = written / "person-1" / "head.glb"
    animation, still = read_animation(file), read_glb(file)
    assert animation is not None
    assert animation.times_s == pytest.approx(np.arange(COUNT) / FPS, abs=1e-6)
    f_px = default_focal_px(WIDTH)
    distance = f_px / np.median(person.scale)
    for k in (0, 5):
        pose = pose_at(animation, float(person.time_s[k]))
        names = list(still.morph_targets)
        moved = still.positions_mm.astype(np.float64)
        for name, weight in zip(names, pose.weights, strict=True):
            moved = moved + weight * still.morph_targets[name].positions_mm
        geometry = person.geometry_at(k)
        vertices = geometry.vertices_mm.numpy()
        # every corner of the file is a vertex of the frame's mesh, but for what the writer drops
        apart = np.array([np.abs(vertices - p).max(1).min() for p in moved[::97]])
        assert apart.max() < 0.1
        turned = pose(vertices)
        expected = vertices @ person.rotation[k].T + pose.translation_mm
        np.testing.assert_allclose(turned, expected, atol=1e-3)
        # the camera of the file sees the head's origin where the clip shows it, as large
        x, y, z = pose.translation_mm
        depth = distance - z
        assert f_px / depth == pytest.approx(person.scale[k], rel=1e-5)
        u, v = (WIDTH - 1) / 2 + f_px * x / depth, (HEIGHT - 1) / 2 - f_px * y / depth
        assert (u, v) == pytest.approx(tuple(person.translation_px[k]), abs=1e-2)


def test_records_say_the_same(result, written) -> None:
    (person,) = result.people
    record = json.loads((written / "person-1" / "track.json").read_text())
    assert len(record["frames"]) == COUNT and len(record["identity"]) == 80
    third = record["frames"][3]
    assert third["time_s"] == pytest.approx(3 / FPS) and third["flags"] == []
    assert np.allclose(third["landmarks68_px"], person.landmarks68_px()[3], atol=1e-3)
    with np.load(written / "person-1" / "track.npz", allow_pickle=False) as arrays:
        assert arrays["expression"].shape == (COUNT, 52)
        assert np.allclose(arrays["landmarks68_px"][3], third["landmarks68_px"], atol=2e-3)
    clip = json.loads((written / "clip.json").read_text())
    assert clip["frames"] == COUNT and clip["people"][0]["frames_filled"] == 0


def test_the_overlay_is_the_clip_with_lines_on_the_face(result, written, frames) -> None:
    pytest.importorskip("imageio_ffmpeg")
    drawn = list(open_clip(written / "overlay.mp4").frames())
    assert len(drawn) == COUNT and drawn[0].shape == (HEIGHT, WIDTH, 3)
    change = np.abs(drawn[4].astype(int) - frames[4]).mean(2)
    u, v = result.people[0].landmarks68_px()[4].mean(0).astype(int)
    assert change[v - 30 : v + 30, u - 30 : u + 30].mean() > 4 * change[:60, -60:].mean()


def test_a_gap_is_flagged(result) -> None:
    (person,) = result.people
    seen = person.seen.copy()
    seen[4] = False
    frames = json.loads(track_text(replace(person, seen=seen)))["frames"]
    assert [f["flags"] for f in frames] == [["filled"] if k == 4 else [] for k in range(COUNT)]


def test_earlier_results_are_replaced_only_when_asked(result, tmp_path) -> None:
    folder = tmp_path / "out"
    write_video(result, folder)
    with pytest.raises(UserError, match="--overwrite"):
        write_video(result, folder)
    write_video(result, folder, overwrite=True)
    for mine in ("notes.txt", "person-1/notes.txt", "person-photos"):
        (folder / mine).touch()
        with pytest.raises(UserError, match="did not write"):
            write_video(result, folder, overwrite=True)
        (folder / mine).unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_what_fails_leaves_nothing(result, tmp_path, monkeypatch) -> None:
    def broken(person: PersonTrack) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("lifemask.video.outputs.track_text", broken)
    with pytest.raises(KeyboardInterrupt):
        write_video(result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_without_faces_is_told(tmp_path) -> None:
    blank = [np.full((120, 160, 3), 90, np.uint8)] * 3
    config = VideoConfig(threads=1, texture="none", refine=False)
    video = VideoReconstructor(config, detectors=[lambda image: []])
    with pytest.raises(UserError, match="no face"):
        video(open_clip(blank))


def test_rows_come_back_from_the_disk() -> None:
    store, rows = RowStore(3), np.arange(15, dtype=np.float32).reshape(5, 3)
    for row in rows:
        store.append((row[:1], row[1:]))
    assert np.array_equal(store.read(), rows) and np.array_equal(store.read(1, 3), rows[1:3])
    store.truncate(4)
    store.append((rows[0],))
    assert np.array_equal(store.read(), rows[[0, 1, 2, 3, 0]])
    with pytest.raises(ValueError, match="3 numbers"):
        store.append((rows[0], rows[0]))
    store.close()


def test_blinks_of_a_clip_become_blinks_of_the_track(monkeypatch):
    """What the reader sees in each frame moves the lids of that frame, and of no other."""
    from lifemask.faces.eyes import EyeReading

    frames = [frame(k) for k in range(24)]
    count = 0

    class Blinker:
        def __call__(self, image, points):
            nonlocal count
            count += 1
            level = 0.04 if 12 <= count <= 16 else 0.3
            sure = np.full(2, 1e-3), np.full((2, 2), 1e-2)
            return EyeReading(np.full(2, level), np.zeros((2, 2)), *sure)

    smoother = SmootherConfig(mode="none")
    config = VideoConfig(texture="none", refine=False, smoother=smoother)
    video = VideoReconstructor(config)
    video.eyes = Blinker()  # pyright: ignore[reportAttributeAccessIssue]
    (person,) = video(open_clip(frames, 25.0)).people
    column = person.model.expression_names.index("eyeBlinkLeft")
    blink = person.expression[:, column]
    assert count == len(person) == 24
    # a smile lifts the lower lids, so that they meet before the upper ones are all the way down
    assert (blink[11:16] > 0.6).all() and (np.delete(blink, range(11, 16)) < 0.3).all()
