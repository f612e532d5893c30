"""Lights for the viewer: spherical harmonics and blurred panoramas, in one small binary file."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from lifemask.assets import UserError
from lifemask.graphics.environment import Environment, load_environment
from lifemask.graphics.gloss import blur_for_gloss
from lifemask.types import Lighting

SUFFIXES = (".hdr", ".exr", ".pic", ".png", ".jpg", ".jpeg", ".webp", ".json")
SHOWN = ("softboxes", "window", "low-sun", "overcast", "ring", "key", "neon", "rim", "candle", "stage")  # noqa: E501  # fmt: skip
"""The named lights of the page, in its order."""
_HALF_MAX = 65504.0


def light_lines() -> dict[str, str]:
    """The page's lights by name, with a line about each."""
    from lifemask.graphics.panoramas import PANORAMAS

    return {name: PANORAMAS[name].line for name in SHOWN}


@lru_cache(maxsize=32)
def named_light(name: str) -> bytes:
    """A light of `SHOWN` as the viewer reads it (about 0.3 s, then remembered).

    Raises:
        KeyError: no such light.
    """
    if name not in SHOWN:
        raise KeyError(name)
    return encode_light(load_environment(name))


def photo_light(lighting: Lighting) -> bytes:
    """The light of a photo as the viewer reads it."""
    return encode_light(load_environment(Lighting(lighting.sh.detach().cpu().float())))


def uploaded_light(data: bytes, name: str) -> bytes:
    """A user's panorama or harmonics as the viewer reads them; nothing stays on disk.

    Args:
        data: content of the file.
        name: of the file; its suffix tells the format, and errors name it.

    Raises:
        UserError: not a light that can be read; one line, without paths of this computer.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{name}: a light is one of {', '.join(SUFFIXES)}")
    with tempfile.TemporaryDirectory(prefix="lifemask-light-") as folder:
        path = Path(folder) / f"light{suffix}"
        path.write_bytes(data)
        try:
            return encode_light(load_environment(path))
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from error


def encode_light(environment: Environment) -> bytes:
    """A light as bytes, little-endian.

    Layout: uint32 levels k, height h, width w; float32 (9, 3) radiance coefficients, camera frame;
    float16 (k, h, w, 4) panoramas of `graphics.gloss.GlossMap`, RGB and 1, in which a column of
    the other end is at both sides.
    """
    levels = blur_for_gloss(environment.radiance).levels.permute(1, 2, 3, 0).numpy()
    pixels = np.ones((*levels.shape[:3], 4), "<f2")
    pixels[..., :3] = levels.clip(0, _HALF_MAX)
    size = np.array(levels.shape[:3], "<u4")
    sh = environment.lighting.sh.detach().cpu().numpy().astype("<f4")
    return size.tobytes() + sh.tobytes() + pixels.tobytes()
