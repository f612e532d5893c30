"""Environment pictures (Radiance HDR, OpenEXR, or plain images) to light, and back to files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lifemask.assets import UserError
from lifemask.graphics.lighting import (
    STUDIO_LIGHTS,
    project_environment,
    sh_basis,
    srgb_to_linear,
    studio_light,
    with_mean_shading,
)
from lifemask.graphics.panoramas import PANORAMAS, panorama, panorama_directions
from lifemask.types import Lighting

_MAX_PIXELS = 1 << 27
_NAMED_ROWS, _SH_ROWS = 128, 32


@dataclass(frozen=True)
class Environment:
    """A light twice, at one exposure: as spherical harmonics for what is matte, and as a picture.

    Attributes:
        lighting: radiance coefficients, camera frame.
        radiance: (h, w, 3) linear panorama for gloss, laid out as in
            `lighting.project_environment`; of light that is known by its coefficients alone, what
            they tell.
    """

    lighting: Lighting
    radiance: Float[Tensor, "h w 3"]


def load_light(source: str | Path) -> Lighting:
    """Light from a file or by name, see `load_environment`.

    Raises:
        UserError: unknown name, or a file that cannot be read as light.
    """
    if str(source) in STUDIO_LIGHTS:
        return studio_light(str(source))
    return load_environment(source).lighting


def load_environment(source: str | Path | Lighting) -> Environment:
    """Light from a file or by name; the exposure of pictures makes the mean shading 1.

    Args:
        source: a name of `panoramas.PANORAMAS` (taken as it is); a panorama `.hdr`, `.exr` (needs
            the package OpenEXR) or ordinary picture; a `.json` with (9, 3) radiance coefficients,
            bare or under "light_sh" or "sh", or a `Lighting` (both taken as they are).

    Raises:
        UserError: unknown name, or a file that cannot be read as light.
    """
    if isinstance(source, Lighting):
        return _environment_of(source)
    if str(source) in PANORAMAS:
        name = str(source)
        radiance = panorama(name, _NAMED_ROWS)
        known = name in STUDIO_LIGHTS
        light = studio_light(name) if known else Lighting(project_environment(radiance))
        return Environment(light, radiance)
    path = Path(source)
    if not path.is_file():
        names = ", ".join(PANORAMAS)
        raise UserError(f"{path} is neither a file nor a light of ours; the lights are: {names}")
    if path.suffix.lower() == ".json":
        return _environment_of(_light_from_json(path))
    try:
        radiance = torch.from_numpy(read_environment(path)).clamp(min=0)
        raw = Lighting(project_environment(radiance))
        light = with_mean_shading(raw)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Environment(light, radiance * (light.sh[0].sum() / raw.sh[0].sum()))


def _environment_of(lighting: Lighting) -> Environment:
    """The light with the panorama that its coefficients tell, without what is below 0."""
    directions, _ = panorama_directions(_SH_ROWS)
    sh = lighting.sh.detach().float()
    return Environment(lighting, (sh_basis(directions.float()) @ sh).clamp(min=0))


def write_radiance_hdr(path: str | Path, radiance: Float[np.ndarray, "h w 3"]) -> None:
    """Write linear radiance as a Radiance RGBE picture, run-length coded where its width allows.

    8 bits of mantissa: within 1/256 of each pixel's largest channel.

    Raises:
        ValueError: negative or undefined radiance.
        OSError: the file cannot be written.
    """
    from lifemask.graphics.meshio.scene import write_atomic

    if not np.isfinite(radiance).all() or radiance.min() < 0:
        raise ValueError("radiance must be finite and not negative")
    height, width = radiance.shape[:2]
    largest = radiance.max(axis=2)
    mantissa, exponent = np.frexp(np.maximum(largest, 1e-32))
    scale = np.where(largest > 1e-32, mantissa * 256 / np.maximum(largest, 1e-32), 0)
    pixels = np.concatenate([radiance * scale[..., None], (exponent + 128)[..., None]], axis=2)
    rgbe = np.where(largest[..., None] > 1e-32, np.round(pixels), 0).clip(0, 255).astype(np.uint8)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    if not 8 <= width < 1 << 15:
        write_atomic(path, head + rgbe.tobytes())
        return
    mark = bytes((2, 2, width >> 8, width & 255))
    rows = (mark + b"".join(_run_lengths(channel) for channel in row.T) for row in rgbe)
    write_atomic(path, head + b"".join(rows))


def _run_lengths(row: UInt8[np.ndarray, " w"]) -> bytes:
    """A channel of a row: runs of 4 and more as (128 + count, value), else (count, values)."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1, [len(row)]]).tolist()
    out, literal = bytearray(), bytearray()

    def flush() -> None:
        for at in range(0, len(literal), 128):
            part = literal[at : at + 128]
            out.extend(bytes((len(part),)) + part)
        literal.clear()

    for start, stop in pairwise(starts):
        count = stop - start
        if count < 4:
            literal.extend(row[start:stop].tobytes())
            continue
        flush()
        while count:
            part = min(count, 127)
            out.extend((128 + part, int(row[start])))
            count -= part
    flush()
    return bytes(out)


def read_environment(path: Path) -> Float[np.ndarray, "h w 3"]:
    """A panorama as linear radiance; pictures of 8 bits are taken as sRGB.

    Raises:
        UserError: the file cannot be read.
    """
    readers = {".hdr": read_radiance_hdr, ".pic": read_radiance_hdr, ".exr": _read_exr}
    return readers.get(path.suffix.lower(), _read_picture)(path)


def read_radiance_hdr(path: Path) -> Float[np.ndarray, "h w 3"]:
    """A Radiance RGBE picture (`.hdr`), run-length coded or flat, rows from the top.

    Source: Ward, "Real pixels", Graphics Gems II; a pixel is mantissa / 256 * 2^(exponent - 128).

    Raises:
        UserError: the file cannot be read, or is no such picture.
    """
    try:
        data = path.read_bytes()
        header_end = data.index(b"\n\n") + 2
        if not data.startswith((b"#?RADIANCE", b"#?RGBE")):
            raise ValueError("the signature is missing")
        size_end = data.index(b"\n", header_end)
        y_axis, height, x_axis, width = data[header_end:size_end].split()
        if (y_axis, x_axis) != (b"-Y", b"+X"):
            raise ValueError("its rows do not run from the top left")
        rgbe = _decode_rgbe(data, size_end + 1, int(height), int(width))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is no Radiance HDR picture ({error})") from error
    scale = np.ldexp(np.float32(1 / 256), rgbe[..., 3].astype(np.int32) - 128)
    return np.where(rgbe[..., 3:] > 0, rgbe[..., :3] * scale[..., None], 0).astype(np.float32)


def _decode_rgbe(data: bytes, at: int, height: int, width: int) -> np.ndarray:
    if height < 1 or width < 1 or height * width > _MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels")
    coded = data[at : at + 2] == b"\x02\x02" and 8 <= width < 1 << 15
    if not coded:
        flat = np.frombuffer(data, np.uint8, height * width * 4, at)
        return flat.reshape(height, width, 4)
    rows = np.empty((height, 4, width), np.uint8)
    for row in rows:
        if data[at : at + 4] != bytes((2, 2, width >> 8, width & 255)):
            raise ValueError("a row is damaged")
        at += 4
        for channel in row:
            at = _decode_run_lengths(data, at, channel)
    return rows.transpose(0, 2, 1)


def _decode_run_lengths(data: bytes, at: int, out: np.ndarray) -> int:
    """Fill one channel of a row; returns where the next one starts."""
    filled = 0
    while filled < len(out):
        count = data[at]
        if count > 128:
            count -= 128
            out[filled : filled + count] = data[at + 1]
            at += 2
        else:
            out[filled : filled + count] = np.frombuffer(data, np.uint8, count, at + 1)
            at += 1 + count
        if count == 0:
            raise ValueError("an empty run")
        filled += count
    return at


def _read_exr(path: Path) -> Float[np.ndarray, "h w 3"]:
    try:
        import OpenEXR  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{path}: reading .exr needs: pip install OpenEXR") from error
    try:
        with OpenEXR.File(str(path)) as exr:
            channels = exr.channels()
            pixels = channels["RGB" if "RGB" in channels else "RGBA"].pixels
    except Exception as error:  # the binding raises plain exceptions of many kinds
        raise UserError(f"{path} cannot be read as an OpenEXR picture") from error
    return np.ascontiguousarray(pixels[..., :3], dtype=np.float32)


def _read_picture(path: Path) -> Float[np.ndarray, "h w 3"]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # decoders raise errors of many kinds
        raise UserError(f"{path} cannot be read as a picture of light") from error
    return srgb_to_linear(torch.from_numpy(pixels)).numpy()


def _light_from_json(path: Path) -> Lighting:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content = content.get("light_sh", content.get("sh"))
        sh = torch.tensor(content, dtype=torch.float32)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds no light: expected 9 x 3 numbers") from error
    if sh.shape != (9, 3) or not bool(sh.isfinite().all()):
        raise UserError(f"{path} holds no light: expected 9 x 3 numbers")
    return Lighting(sh)
