"""Light from files."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lifemask.assets import UserError
from lifemask.graphics.environment import (
    load_environment,
    load_light,
    read_radiance_hdr,
    write_radiance_hdr,
)
from lifemask.graphics.lighting import shading, studio_light


def rgbe(radiance: np.ndarray) -> np.ndarray:
    """(h, w, 3) radiance to bytes (h, w, 4)."""
    mantissa, exponent = np.frexp(radiance.max(axis=2))
    scale = np.where(mantissa > 0, mantissa * 256 / np.maximum(radiance.max(axis=2), 1e-30), 0)
    pixels = np.concatenate([radiance * scale[..., None], (exponent + 128)[..., None]], axis=2)
    return np.where(radiance.max(axis=2, keepdims=True) > 0, pixels, 0).astype(np.uint8)


def run_lengths(row: np.ndarray) -> bytes:
    """A channel of a row as runs where a value repeats, else as literals."""
    out, i = b"", 0
    while i < len(row):
        j = i
        while j < len(row) and row[j] == row[i] and j - i < 127:
            j += 1
        out += bytes([128 + j - i, row[i]]) if j - i > 1 else bytes([1, row[i]])
        i = j
    return out


def hdr_file(pixels: np.ndarray, coded: bool) -> bytes:
    height, width = pixels.shape[:2]
    head = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (height, width)
    if not coded:
        return head + pixels.tobytes()
    mark = bytes([2, 2, width >> 8, width & 255])
    return head + b"".join(mark + b"".join(run_lengths(c) for c in row.T) for row in pixels)


@pytest.mark.parametrize("coded", [True, False])
def test_radiance_files_are_read(tmp_path, coded):
    radiance = np.random.default_rng(0).uniform(0, 4, (6, 300, 3)).round()
    radiance[2, 10:200] = 17
    radiance[0, 0] = 0
    (tmp_path / "sky.hdr").write_bytes(hdr_file(rgbe(radiance), coded))
    read = read_radiance_hdr(tmp_path / "sky.hdr")
    np.testing.assert_allclose(read, radiance, atol=4 / 128)


@pytest.mark.parametrize("keep", [3, 40, 60, 500])
def test_damaged_radiance_files_are_refused(tmp_path, keep):
    data = hdr_file(rgbe(np.ones((6, 300, 3))), coded=True)
    (tmp_path / "sky.hdr").write_bytes(data[: min(keep, len(data) - 9)])
    with pytest.raises(UserError, match="no Radiance HDR"):
        load_light(tmp_path / "sky.hdr")


def test_light_of_a_bright_left_half_comes_from_the_left(tmp_path):
    picture = np.full((32, 64, 3), 30, np.uint8)
    picture[:, :32] = 250
    Image.fromarray(picture).save(tmp_path / "room.png")
    sh = load_light(tmp_path / "room.png").sh
    left, right = shading(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]), sh)
    assert left.mean() > 3 * right.mean() > 0
    assert float(sh[0].mean()) / math.sqrt(4 * math.pi) == pytest.approx(1, abs=1e-3)


def test_json_and_names(tmp_path):
    sh = studio_light("rim").sh
    torch.testing.assert_close(load_light("rim").sh, sh)
    for content in (sh.tolist(), {"light_sh": sh.tolist()}, {"sh": sh.tolist()}):
        (tmp_path / "light.json").write_text(json.dumps(content))
        torch.testing.assert_close(load_light(tmp_path / "light.json").sh, sh)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"sh": "dark"}', "[[1, 2], [3]]"])
def test_json_without_light_is_refused(tmp_path, content):
    (tmp_path / "light.json").write_text(content)
    with pytest.raises(UserError, match="9 x 3"):
        load_light(tmp_path / "light.json")


def test_unknown_light_lists_the_names(tmp_path):
    with pytest.raises(UserError, match="key, rim"):
        load_light("disco")
    (tmp_path / "black.png").write_bytes(b"")
    with pytest.raises(UserError, match="picture of light"):
        load_light(tmp_path / "black.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="luminance"):
        load_light(tmp_path / "black.png")


@pytest.mark.parametrize("width", [4, 8, 300])
def test_radiance_files_are_written(tmp_path, width):
    radiance = np.random.default_rng(1).uniform(0, 8, (5, width, 3)).astype(np.float32)
    radiance[1, 1:] = [2, 2, 900]  # flat in every channel, and much brighter than the rest
    radiance[3, 2] = 0
    write_radiance_hdr(tmp_path / "sky.hdr", radiance)
    read = read_radiance_hdr(tmp_path / "sky.hdr")
    assert np.all(np.abs(read - radiance) <= radiance.max(axis=2, keepdims=True) / 256 + 1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["sky.hdr"]
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match="radiance"):
            write_radiance_hdr(tmp_path / "no.hdr", np.full((4, 8, 3), wrong))


def test_even_rows_are_written_as_runs(tmp_path):
    write_radiance_hdr(tmp_path / "flat.hdr", np.full((64, 128, 3), 0.5))
    assert (tmp_path / "flat.hdr").stat().st_size < 64 * 24


def test_picture_and_coefficients_of_an_environment_have_one_exposure(tmp_path):
    radiance = np.full((32, 64, 3), 5.0, np.float32)
    radiance[:16] = 9.0
    write_radiance_hdr(tmp_path / "sky.hdr", radiance)
    room = load_environment(tmp_path / "sky.hdr")
    assert float(room.radiance.mean()) == pytest.approx(1, abs=0.01)
    assert float(room.radiance.amax() / room.radiance.amin()) == pytest.approx(1.8, abs=0.02)
    torch.testing.assert_close(load_light(tmp_path / "sky.hdr").sh, room.lighting.sh)


def test_coefficients_alone_make_a_picture_too(tmp_path):
    light = studio_light("sunset")
    (tmp_path / "light.json").write_text(json.dumps(light.sh.tolist()))
    for source in (tmp_path / "light.json", light):
        room = load_environment(source)
        torch.testing.assert_close(room.lighting.sh, light.sh)
        assert float(room.radiance.min()) >= 0
        left, right = room.radiance[:, :32].mean(0).mean(), room.radiance[:, 32:].mean(0).mean()
        assert float(right) > 1.5 * float(left)
