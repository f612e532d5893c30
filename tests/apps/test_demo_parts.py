"""The demo without a browser: settings, files that go away, heads in folders, lights, limits."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fake_stages import EggLandmarker, EggModel, no_face, one_face
from lifemask.apps.web.heads import DOWNLOADS, VERTEX_NUMBERS
from lifemask.apps.web.lights import light_lines, named_light, photo_light, uploaded_light
from lifemask.apps.web.settings import DemoConfig
from lifemask.apps.web.store import Store
from lifemask.apps.web.workshop import Workshop, check_methods, read_upload, told
from lifemask.assets import AssetError, UserError
from lifemask.graphics.environment import load_environment, write_radiance_hdr
from lifemask.graphics.lighting import studio_light
from lifemask.graphics.meshio import read_glb
from lifemask.pipeline import Pipeline, PipelineConfig


def read_picture(file) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def egg_pipeline(detector=one_face, texture="photo") -> Pipeline:
    config = PipelineConfig(method="fit", texture=texture, refine=False, regions=False)
    return Pipeline(config, detector=detector, landmarker=EggLandmarker(), model=EggModel())


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(60, 200, (160, 200, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def made(photo, tmp_path_factory):
    """A result of two methods, and what was told on the way."""
    folder = tmp_path_factory.mktemp("result")
    workshop = Workshop(DemoConfig(), {(m, "open"): egg_pipeline() for m in ("pgn", "fit")})
    steps = list(workshop.make(photo, "me.png", ["fit", "pgn"], "open", folder))
    return folder, steps


def test_a_result_has_all_files_of_each_method(made):
    folder, _ = made
    listed = json.loads((folder / "set.json").read_text())
    assert listed["heads"] == ["pgn", "fit"] and listed["complete"] is True
    assert listed["photo"] == "me.png" and listed["licence"] == "usable for anything"
    for method in listed["heads"]:
        scene = read_glb(folder / method / "head.glb")
        count = sum(len(np.unique(p.faces)) for p in scene.primitives)
        numbers = np.fromfile(folder / method / "vertices.bin", "<f4")
        assert numbers.size == VERTEX_NUMBERS * count
        view = json.loads((folder / method / "view.json").read_text())
        assert set(view["downloads"]) == set(DOWNLOADS)
        assert all((folder / method / name).stat().st_size for name in DOWNLOADS)
        with zipfile.ZipFile(folder / method / "textures.zip") as archive:
            assert set(archive.namelist()) == {"skin.png", "cap.png"}
            skin = read_picture(io.BytesIO(archive.read("skin.png")))
        texture = next(p.material for p in scene.primitives if p.name == "skin").texture
        np.testing.assert_array_equal(skin, texture)


def test_vertex_numbers_follow_the_order_of_the_file(made):
    folder, _ = made
    numbers = np.fromfile(folder / "fit" / "vertices.bin", "<f4").reshape(-1, VERTEX_NUMBERS)
    scene = read_glb(folder / "fit" / "head.glb")
    # an egg shadows itself nowhere: its transfer is Lambert's, 0.4886 * 2/3 * normal in band 1
    normals = scene.normals
    assert len(normals) == len(numbers)
    expected = 0.48860251 * 2 / 3 * normals[:, [1, 2, 0]]
    assert np.abs(numbers[:, 1:4] - expected).mean() < 0.03
    assert (numbers[:, 9] == -1).all(), "this method tells no doubt"


def test_the_photo_of_the_viewer_agrees_with_its_camera(made):
    folder, _ = made
    view = json.loads((folder / "pgn" / "view.json").read_text())
    pixels = read_picture(folder / "pgn" / "photo.jpg")
    assert pixels.shape == (view["photo"]["height"], view["photo"]["width"], 3)
    points = np.array(view["landmarks68_px"])
    record = json.loads((folder / "pgn" / "params.json").read_text())["faces"][0]
    camera = view["camera"]
    seen = np.array(record["landmarks68_mm"]) @ np.array(camera["rotation"]).T
    scale, shift = camera["scale_px_per_mm"], np.array(camera["translation_px"])
    np.testing.assert_allclose(scale * seen[:, :2] * [1, -1] + shift, points, atol=0.02)
    assert view["pose_deg"]["yaw"] == pytest.approx(record["pose_deg"]["yaw"], abs=0.06)


def test_progress_rises_and_the_first_head_comes_before_the_last(made):
    _, steps = made
    shares = [step.share for step in steps]
    assert shares == sorted(shares) and shares[-1] == 1.0
    first = next(i for i, step in enumerate(steps) if step.heads == 1)
    assert 0 < first < len(steps) - 4
    assert steps[-1].heads == 2


def test_one_method_that_fails_does_not_stop_the_other(photo, tmp_path):
    pipelines = {("pgn", "open"): egg_pipeline(no_face)}
    pipelines["fit", "open"] = egg_pipeline(texture="none")
    steps = list(
        Workshop(DemoConfig(), pipelines).make(photo, "", ["pgn", "fit"], "open", tmp_path)
    )
    assert [s.note for s in steps if s.note] and steps[-1].heads == 1
    assert json.loads((tmp_path / "set.json").read_text())["heads"] == ["fit"]


def test_no_face_is_told_in_words_of_the_page(photo, tmp_path):
    workshop = Workshop(DemoConfig(), {("pgn", "open"): egg_pipeline(no_face)})
    with pytest.raises(UserError) as caught:
        list(workshop.make(photo, "", ["pgn"], "open", tmp_path))
    assert told(caught.value).startswith("no face was found")
    assert "box" not in told(caught.value)


def test_missing_networks_are_told_without_folders_of_the_server():
    line = told(AssetError("weight file rafare-research.onnx is missing from /srv/weights"))
    assert "/srv" not in line and "not installed" in line


@pytest.mark.parametrize(
    ("chosen", "words"),
    [([], "choose a method"), (["nerf"], "valid: pgn"), (["pgn", "dasl", "fit", "rafare"], "most")],
)
def test_methods_are_checked(chosen, words):
    with pytest.raises(UserError, match=words):
        check_methods(chosen)


def test_uploads_are_limited_and_named_without_their_folder(tmp_path):
    config = DemoConfig(max_upload_mb=0.1, max_megapixels=1)
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(UserError, match=r"^notes\.png is not an image") as caught:
        read_upload(text, config)
    assert str(tmp_path) not in str(caught.value)
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * 200_000)
    with pytest.raises(UserError, match="0.2 MB, more than the 0.1 MB"):
        read_upload(large, config)
    wide = tmp_path / "wide.png"
    Image.new("L", (4000, 1000)).save(wide)
    with pytest.raises(UserError, match="4 megapixels"):
        read_upload(wide, config)
    with pytest.raises(UserError, match="deleted"):
        read_upload(tmp_path / "gone.png", config)


def test_a_turned_phone_photo_stands_upright(tmp_path):
    picture = Image.new("RGB", (40, 20), (200, 10, 10))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "phone.jpg", exif=exif)
    assert read_upload(tmp_path / "phone.jpg", DemoConfig()).shape == (40, 20, 3)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return {"now": 0.0}


@pytest.fixture
def store(tmp_path, clock):
    return Store(60, clock=lambda: clock["now"], root=tmp_path / "demo")


def upload(store: Store, name: str = "a.png"):
    path = store.uploads / "hash" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"photo")
    return path


def test_names_are_unguessable_and_lead_nowhere_else(store):
    token, folder = store.create("me")
    other, _ = store.create("me")
    assert len(token) >= 22 and token != other
    (folder / "pgn").mkdir()
    (folder / "pgn" / "head.glb").write_bytes(b"x")
    secret = store.root / "secret"
    secret.write_text("no")
    (folder / "link").symlink_to(secret)
    assert store.file(token, "pgn/head.glb") is not None
    for name in ("../../secret", "/etc/passwd", "link", "pgn", "", f"../{other}/x"):
        assert store.file(token, name) is None
    assert store.file("guess", "pgn/head.glb") is None


def test_a_closed_page_takes_its_files_along(store):
    token, folder = store.create("me")
    theirs, other = store.create("you")
    photo = upload(store)
    store.adopt("me", photo)
    store.forget("me")
    assert not folder.exists() and not photo.exists()
    assert other.exists() and store.file(token, "x") is None
    store.forget("nobody")


def test_a_photo_that_two_pages_use_stays_for_the_second(store):
    photo = upload(store)
    store.adopt("me", photo)
    store.adopt("you", photo)
    store.forget("me")
    assert photo.exists()
    store.forget("you")
    assert not photo.exists()


def test_a_new_head_replaces_the_old_one(store):
    _, old = store.create("me")
    before, now = upload(store, "old.png"), upload(store, "new.png")
    for path in (before, now):
        store.adopt("me", path)
    token, new = store.create("me")
    store.keep_only("me", token, now)
    assert not old.exists() and new.exists()
    assert not before.exists() and now.exists()


def test_what_nobody_uses_is_swept(store, clock):
    token, folder = store.create("me")
    (folder / "a").write_text("x")
    store.adopt("me", upload(store))
    clock["now"] = 59.0
    store.sweep()
    assert folder.exists() and upload(store).exists()
    store.file(token, "a")  # used at 59 s
    clock["now"] = 100.0
    store.sweep()
    assert folder.exists() and not (store.uploads / "hash" / "a.png").exists()
    clock["now"] = 120.0
    store.sweep()
    assert not folder.exists()


def test_foreign_files_are_never_adopted_and_closing_deletes_all(store, tmp_path):
    mine = tmp_path / "holiday.jpg"
    mine.write_bytes(b"dear")
    store.adopt("me", mine)
    store.create("me")
    store.forget("me")
    store.close()
    assert mine.exists() and not store.root.exists()


# --- lights -----------------------------------------------------------------------------------


def parts_of(data: bytes):
    levels, height, width = np.frombuffer(data[:12], "<u4")
    sh = np.frombuffer(data[12:120], "<f4").reshape(9, 3)
    pixels = np.frombuffer(data[120:], "<f2").reshape(levels, height, width, 4)
    return sh, pixels


def test_lights_are_those_of_the_renderer():
    assert "softboxes" in light_lines()
    sh, pixels = parts_of(named_light("low-sun"))
    expected = load_environment("low-sun").lighting.sh.numpy()
    np.testing.assert_allclose(sh, expected, rtol=1e-6)
    assert pixels.shape == (6, 64, 130, 4) and np.isfinite(pixels).all()
    np.testing.assert_array_equal(pixels[:, :, 0], pixels[:, :, -2])  # it wraps around
    with pytest.raises(KeyError):
        named_light("../secret")


def test_even_light_is_as_bright_in_gloss_as_in_shading():
    sh, pixels = parts_of(photo_light(studio_light("neutral")))
    np.testing.assert_allclose(sh[0], np.sqrt(4 * np.pi), rtol=1e-5)
    np.testing.assert_allclose(pixels[..., :3].astype(float), 1, atol=2e-3)


def test_an_uploaded_panorama_becomes_light(tmp_path):
    rows = np.full((16, 32, 3), 0.2, np.float32)
    rows[:8] = 2.0
    write_radiance_hdr(tmp_path / "sky.hdr", rows)
    sh, _ = parts_of(uploaded_light((tmp_path / "sky.hdr").read_bytes(), "sky.hdr"))
    assert sh[1].min() > 0.5, "light from above"
    assert np.abs(sh[[2, 3]]).max() < 0.05


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("sky.hdr", b"#?RADIANCE\n\nbroken", "sky.hdr"),
        ("sky.exe", b"MZ", "a light is one of"),
        ("sky.png", b"not a png", "sky.png"),
        ("sh.json", b"[1, 2]", "9 x 3"),
    ],
)
def test_broken_lights_are_told_in_one_line_without_our_folders(name, data, words):
    with pytest.raises(UserError, match=words) as caught:
        uploaded_light(data, name)
    assert "\n" not in str(caught.value) and "lifemask-light" not in str(caught.value)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "free"}, "valid: open, research"),
        ({"port": 70000}, "65535"),
        ({"max_upload_mb": 0}, "0.1..1000"),
        ({"jobs": 0}, "one per core"),
        ({"jobs": 4096}, "one per core"),
        ({"keep_minutes": 0}, "minutes"),
    ],
)
def test_settings_are_checked(change, words):
    with pytest.raises(UserError, match=words):
        replace(DemoConfig(), **change)


def test_only_loopback_is_private():
    assert DemoConfig().is_private and DemoConfig(host="localhost").is_private
    assert not DemoConfig(host="0.0.0.0").is_private
    assert torch.get_num_threads() >= 1 and DemoConfig().threads >= 1
