"""Every kind of picture file becomes the same upright RGB array, or one clear error."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lifemask.faces.image import PhotoError, as_uint8_rgb, load_image

SIZE = (48, 32)  # width, height


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture without symmetry, (32, 48, 3)."""
    v, u = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    channels = [u * 4 + 20, v * 6 + 10, (u + v) * 2 + 30]
    return np.stack(channels, axis=-1).astype(np.uint8)


def save(picture: np.ndarray, path: Path, mode: str = "RGB", **options) -> Path:
    Image.fromarray(picture).convert(mode).save(path, **options)
    return path


def test_lossless_formats_are_read_exactly(picture, tmp_path):
    for suffix in ("png", "tiff", "bmp", "ppm"):
        path = save(picture, tmp_path / f"photo.{suffix}")
        np.testing.assert_array_equal(load_image(path), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_exif_orientations_are_turned_upright(picture, tmp_path, orientation):
    # What the camera stored, so that the orientation turns it into `picture`.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, 1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(load_image(path), picture)


def test_grey_has_three_equal_channels(picture, tmp_path):
    image = load_image(save(picture, tmp_path / "photo.png", "L"))
    assert image.shape == picture.shape
    assert (image == image[..., :1]).all()


def test_palette_is_looked_up(picture, tmp_path):
    image = load_image(save(picture, tmp_path / "photo.gif", "P"))
    assert np.abs(image.astype(int) - picture).mean() < 20


def test_cmyk_has_the_colours_of_rgb(picture, tmp_path):
    image = load_image(save(picture, tmp_path / "photo.jpg", "CMYK", quality=98))
    assert np.abs(image.astype(int) - picture).mean() < 6


def test_transparent_pixels_show_white(picture, tmp_path):
    alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
    alpha[:, :24] = 0
    rgba = np.concatenate([picture, alpha], axis=2)
    Image.fromarray(rgba).save(tmp_path / "photo.png")
    for image in (load_image(tmp_path / "photo.png"), as_uint8_rgb(rgba)):
        assert (image[:, :24] == 255).all()
        np.testing.assert_array_equal(image[:, 24:], picture[:, 24:])


def test_sixteen_bit_grey_keeps_its_range(picture, tmp_path):
    grey = picture[..., 0].astype(np.uint16) * 257
    for suffix in ("png", "tiff"):
        Image.fromarray(grey).save(tmp_path / f"photo.{suffix}")
        image = load_image(tmp_path / f"photo.{suffix}")
        np.testing.assert_array_equal(image[..., 1], picture[..., 0])


def test_sixteen_bit_colour_png(picture, tmp_path):
    deep = picture.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    (tmp_path / "photo.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png"), picture)


def test_float_tiff(picture, tmp_path):
    Image.fromarray(picture[..., 0].astype(np.float32) / 255).save(tmp_path / "photo.tiff")
    np.testing.assert_array_equal(load_image(tmp_path / "photo.tiff")[..., 0], picture[..., 0])


def test_of_an_animation_the_first_frame_is_read(picture, tmp_path):
    frames = [Image.fromarray(p) for p in (picture, 255 - picture)]
    frames[0].save(tmp_path / "photo.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(load_image(tmp_path / "photo.webp"), picture)


def test_colour_profile_is_converted_to_srgb(picture, tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = save(picture, tmp_path / "same.png", icc_profile=srgb)
    np.testing.assert_array_equal(load_image(same), picture)
    broken = save(picture, tmp_path / "broken.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(load_image(broken), picture)


def test_pillow_and_numpy_inputs(picture):
    np.testing.assert_array_equal(as_uint8_rgb(picture), picture)
    np.testing.assert_array_equal(as_uint8_rgb(Image.fromarray(picture)), picture)
    np.testing.assert_array_equal(as_uint8_rgb(picture / np.float32(255)), picture)
    np.testing.assert_array_equal(as_uint8_rgb(picture.astype(np.uint16) * 257), picture)
    for wrong in (picture.astype(int), picture[:4], picture * 1.0, "photo.png", picture[..., :2]):
        with pytest.raises(PhotoError):
            as_uint8_rgb(wrong)


def one_line_error(path: Path) -> str:
    with pytest.raises(PhotoError) as error:
        load_image(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_photo_is_refused_in_one_line(picture, tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "empty" in one_line_error(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("this is not an image\n" * 9)
    assert "not an image" in one_line_error(tmp_path / "text.jpg")
    assert "does not exist" in one_line_error(tmp_path / "nowhere.jpg")
    assert "folder" in one_line_error(tmp_path)
    assert "8 x 8" in one_line_error(save(picture[:8, :8], tmp_path / "tiny.png"))
    assert one_line_error(Path("photo\0.jpg"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "gif", "bmp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(noise, tmp_path / f"photo.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in one_line_error(path)


def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    save(np.zeros((16, 16, 3), np.uint8), path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    assert "megapixels" in one_line_error(path)


def test_hundred_megapixels_are_read_without_a_warning(tmp_path):
    Image.new("L", (10_000, 10_000), 77).save(tmp_path / "large.png", compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = load_image(tmp_path / "large.png")
    assert image.shape == (10_000, 10_000, 3) and image[5000, 5000, 0] == 77


def test_unreadable_file(picture, tmp_path):
    path = save(picture, tmp_path / "photo.png")
    path.chmod(0)
    become_nobody = os.geteuid() == 0
    if become_nobody:
        os.seteuid(65534)
    try:
        assert "cannot be read" in one_line_error(path)
    finally:
        if become_nobody:
            os.seteuid(0)
