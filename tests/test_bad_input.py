"""Whatever a user hands in gets the right result, or one clear line, status 2 and no files."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_stages import EggLandmarker
from lifemask.apps.cli import main
from lifemask.faces.detect import DetectorConfig, load_detector, overlaps
from lifemask.pipeline import Pipeline

ASTRONAUT_BOX = np.array([179, 56, 269, 175])


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    from skimage.data import astronaut

    return astronaut()


@pytest.fixture(scope="module")
def detector():
    return load_detector(DetectorConfig(threads=1))


@pytest.fixture(autouse=True)
def pipeline_with_the_real_detector(monkeypatch, detector, request):
    """Real reading, detection, fit and writing; the networks and the texture are left out."""
    if "weights" in request.node.name:
        return

    class FakePipeline(Pipeline):
        def __init__(self, config):
            landmarker = EggLandmarker()
            super().__init__(
                replace(config, method="fit"),  # the networks know no eggs
                detector=detector,
                landmarker=landmarker,
                model=landmarker.model,
            )

        def refine(self, image, geometry, landmarks, regions=None, **options):
            return geometry

        def dress(self, image, geometry, regions=None):
            return None

    monkeypatch.setattr("lifemask.pipeline.Pipeline", FakePipeline)


def run(*arguments: str | Path) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refused(capsys, *arguments: str | Path, out: Path, command: str = "reconstruct") -> str:
    """The one line with which a command refuses; nothing is left behind."""
    before = sorted(out.iterdir()) if out.is_dir() else None
    assert run(command, *arguments, "-o", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    after = sorted(out.iterdir()) if out.is_dir() else None
    assert before == after or after == []
    return error


def face_of(photo: Path, out: Path) -> dict:
    """The record of the face of a photo that is reconstructed without complaint."""
    assert run("reconstruct", photo, "-o", out, "--formats", "json") == 0
    record = json.loads((out / photo.stem / "params.json").read_text())
    return record | record["faces"][0]


def grey(picture, path):
    Image.fromarray(picture).convert("L").save(path)


def sixteen_bit(picture, path):
    deep = np.asarray(Image.fromarray(picture).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(path)


def with_alpha(picture, path):
    image = Image.fromarray(picture).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda a: max(a, 200)))
    image.save(path)


def animated(picture, path):
    frames = [Image.fromarray(p) for p in (picture, picture[::-1], 255 - picture)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


GOOD: dict[str, tuple[str, Callable]] = {
    "grey": ("png", grey),
    "16-bit": ("png", sixteen_bit),
    "16-bit tiff": ("tiff", sixteen_bit),
    "CMYK": ("jpg", lambda p, path: Image.fromarray(p).convert("CMYK").save(path)),
    "palette": ("png", lambda p, path: Image.fromarray(p).quantize(128).save(path)),
    "alpha": ("png", with_alpha),
    "animated gif": ("gif", animated),
    "animated webp": ("webp", animated),
    "no suffix": ("", lambda p, path: Image.fromarray(p).save(path, "PNG")),
    "wrong suffix": ("jpg", lambda p, path: Image.fromarray(p).save(path, "PNG")),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_picture_gives_the_same_face(portrait, tmp_path, kind):
    suffix, save = GOOD[kind]
    photo = tmp_path / ("photo" + ("." if suffix else "") + suffix)
    save(portrait, photo)
    face = face_of(photo, tmp_path / "out")
    assert overlaps(ASTRONAUT_BOX, np.array([face["box"]]))[0] > 0.75
    assert face["image_size"] == [512, 512]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_are_upright(portrait, tmp_path, orientation):
    upright = portrait[:400]
    operations = Image.Transpose
    undo = {
        2: operations.FLIP_LEFT_RIGHT,
        3: operations.ROTATE_180,
        4: operations.FLIP_TOP_BOTTOM,
        5: operations.TRANSPOSE,
        6: operations.ROTATE_90,
        7: operations.TRANSVERSE,
        8: operations.ROTATE_270,
    }
    stored = Image.fromarray(upright)
    stored = stored.transpose(undo[orientation]) if orientation in undo else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    face = face_of(tmp_path / "photo.jpg", tmp_path / "out")
    assert overlaps(ASTRONAUT_BOX, np.array([face["box"]]))[0] > 0.75
    assert face["image_size"] == [512, 400]


@pytest.mark.slow
def test_hundred_megapixels(portrait, tmp_path):
    large = Image.fromarray(portrait).resize((10_000, 10_000), Image.Resampling.NEAREST)
    large.save(tmp_path / "photo.jpg", quality=80)
    face = face_of(tmp_path / "photo.jpg", tmp_path / "out")
    scaled = np.array([face["box"]]) * 512 / 10_000
    assert overlaps(ASTRONAUT_BOX, scaled)[0] > 0.75


def bomb(portrait, path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def truncated(portrait, path):
    Image.fromarray(portrait).save(path)
    path.write_bytes(path.read_bytes()[:20_000])


def tiny_face(portrait, path):
    scene = np.full((400, 400, 3), 128, np.uint8)
    scene[100:200, 100:200] = np.asarray(Image.fromarray(portrait).resize((100, 100)))
    Image.fromarray(scene).save(path)


BAD: dict[str, tuple[Callable, str]] = {
    "not an image": (lambda p, path: path.write_text("hello " * 99), "not an image"),
    "zero bytes": (lambda p, path: path.touch(), "empty"),
    "truncated": (truncated, "truncated"),
    "no face": (lambda p, path: Image.fromarray(p[300:]).save(path), "no face found"),
    "flat": (lambda p, path: Image.new("RGB", (99, 99)).save(path), "no face found"),
    "tiny face": (tiny_face, "needs 32 px"),
    "bomb": (bomb, "megapixels"),
    "missing": (lambda p, path: None, "does not exist"),
    "folder": (lambda p, path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_reconstructed_is_refused(portrait, tmp_path, capsys, kind):
    make, message = BAD[kind]
    photo = tmp_path / "photo.png"
    make(portrait, photo)
    error = refused(capsys, photo, out=tmp_path / "out")
    assert message in error and "photo.png" in error
    assert not (tmp_path / "out").exists()


def test_unreadable_photo(portrait, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(portrait).save(photo)
    photo.chmod(0)
    root = os.geteuid() == 0
    if root:  # root reads everything
        os.seteuid(65534)
    try:
        assert "cannot be read" in refused(capsys, photo, out=Path("/lifemask-out"))
    finally:
        if root:
            os.seteuid(0)


def test_read_only_output(portrait, tmp_path, capsys):
    Image.fromarray(portrait).save(tmp_path / "photo.png")
    assert "cannot write" in refused(capsys, tmp_path / "photo.png", out=Path("/proc/lifemask"))


def test_output_that_is_a_file(portrait, tmp_path, capsys):
    Image.fromarray(portrait).save(tmp_path / "photo.png")
    (tmp_path / "out").touch()
    assert "is a file" in refused(capsys, tmp_path / "photo.png", out=tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


def test_photos_that_would_share_a_folder(portrait, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    photos = [tmp_path / "photo.png", tmp_path / "b" / "photo.jpg"]
    for photo in photos:
        Image.fromarray(portrait).save(photo)
    error = refused(capsys, *photos, out=tmp_path / "out")
    assert str(photos[0]) in error and str(photos[1]) in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["no face", "tiny face", "zero bytes", "missing"])
def test_a_person_needs_a_face_in_every_photo(portrait, tmp_path, capsys, kind):
    good, photo = tmp_path / "good.png", tmp_path / "photo.png"
    Image.fromarray(portrait).save(good)
    make, message = BAD[kind]
    make(portrait, photo)
    error = refused(capsys, good, photo, "--same-person", out=tmp_path / "out")
    assert message in error and "photo.png" in error and "good.png" not in error
    assert not (tmp_path / "out").exists()


LANDMARKS: dict[str, tuple[str, str | bytes]] = {
    "empty": ("json", ""),
    "not json": ("json", "points"),
    "wrong count": ("json", json.dumps([[1, 2]] * 7)),
    "wrong shape": ("json", json.dumps([1, 2, 3])),
    "text in it": ("json", json.dumps([["a", "b"]] * 68)),
    "not finite": ("json", json.dumps([[float("nan"), 1.0]] * 68)),
    "all in one place": ("json", json.dumps([[5, 5]] * 68)),
    "outside": ("json", json.dumps([[9000 + i, 9000 + 2 * i] for i in range(68)])),
    "not npz": ("npz", b"PK no archive"),
    "unknown suffix": ("docx", "points"),
    "not pts": ("pts", "version: 1"),
    "text in csv": ("csv", "u,v\n1,two\n"),
    "ragged csv": ("csv", "1,2\n3,4,5\n"),
}


@pytest.mark.parametrize("kind", LANDMARKS)
def test_wrong_landmark_files(portrait, tmp_path, capsys, kind):
    suffix, content = LANDMARKS[kind]
    Image.fromarray(portrait).save(tmp_path / "photo.png")
    file = tmp_path / f"points.{suffix}"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = (tmp_path / "photo.png", "--landmarks", file)
    error = refused(capsys, *arguments, out=tmp_path / "out", command="fit")
    assert file.name in error
    assert not (tmp_path / "out").exists()


def test_missing_landmark_file(portrait, tmp_path, capsys):
    Image.fromarray(portrait).save(tmp_path / "photo.png")
    arguments = (tmp_path / "photo.png", "--landmarks", tmp_path / "nowhere.npz")
    assert "nowhere.npz" in refused(capsys, *arguments, out=tmp_path / "out", command="fit")


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_missing_or_damaged_weights(portrait, tmp_path, capsys, monkeypatch, content):
    from lifemask.assets import weights_folder

    folder = tmp_path / "weights"
    folder.mkdir()
    for card in weights_folder().glob("*.json"):
        (folder / card.name).write_bytes(card.read_bytes())
        if content is not None:
            (folder / card.name).with_suffix(".safetensors").write_bytes(content)
            (folder / card.name).with_suffix(".onnx").write_bytes(content)
    from lifemask.facemodel import lifemask as default_model

    default_model.load.cache_clear()
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(folder))
    Image.fromarray(portrait).save(tmp_path / "photo.png")
    error = refused(capsys, tmp_path / "photo.png", out=tmp_path / "out")
    assert "weight file" in error and ("missing" in error or "empty" in error or "damaged" in error)
    default_model.load.cache_clear()
