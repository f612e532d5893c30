"""One labelled render as files and back: picture, labels as json, maps as small integers.

Fields of `synthetic.Sample` need no entry here: arrays of the picture's height and width are
maps, large arrays travel beside them, all else goes to the json by its field's name.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lifemask.assets import UserError

SCHEMA = "lifemask-sample/1"
DECIMALS = 6
LARGE = 1200
"""Arrays of more numbers than this are stored as arrays, not as text."""

CODES = {
    "depth_mm": "steps", "normals": "unit", "uv": "fraction", "albedo": "srgb",
    "ambient": "share", "key": "share", "glass": "share", "linear": "half",
}  # fmt: skip
"""How float maps are stored where their values are in range; others travel as they are."""

DEPTH_STEP_MM = 1 / 64
NORMAL_STEPS = 127
UV_STEPS = 65534
JPEG_QUALITY = 95
PALETTE = (
    (230, 159, 0), (213, 94, 0), (0, 114, 178), (86, 62, 40), (240, 208, 178),
    (128, 0, 32), (204, 121, 167), (60, 60, 60), (0, 0, 0),
)  # fmt: skip
"""Colour (sRGB) of each region of `types.REGION_NAMES` in the palette picture."""

ImageFormat = Literal["jpg", "png"]


@dataclass(frozen=True)
class Record:
    """One sample as read back.

    Attributes:
        key: nine digits, the image's number in the run.
        image: (h, w, 3) uint8 sRGB.
        labels: every field of `synthetic.Sample` that is not a map, by name ("view/scale" is
            scale in view): float32 and bool arrays, numbers, text; "index" is the image's number.
        maps: (h, w, ...) "region" and the fields of `Sample.maps`, in the generator's units.
    """

    key: str
    image: NDArray[np.uint8]
    labels: Mapping[str, Any]
    maps: Mapping[str, NDArray]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dataclasses and dicts; None is left out.

    Tensors and numpy numbers become arrays and Python numbers; names are joined by "/".
    """
    if value is None:
        return
    if is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), _join(name, field.name))
    elif isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], _join(name, str(key)))
    elif hasattr(value, "detach"):
        yield name, value.detach().cpu().numpy()
    elif isinstance(value, np.generic):
        yield name, value.item()
    elif isinstance(value, (list, tuple)) and not all(isinstance(v, str) for v in value):
        yield name, np.asarray(value)
    else:
        yield name, value


def encode(sample: Any, index: int, image_format: ImageFormat = "jpg") -> dict[str, bytes]:
    """Files of a sample, by the suffix of their name, in the order they are stored.

    Args:
        sample: a dataclass with the field `image` (h, w, 3) uint8.
        index: the image's number in the run.
        image_format: "jpg" (quality 95, full colour resolution) or "png" (lossless).
    """
    labels: dict[str, Any] = {"schema": SCHEMA, "index": index}
    arrays: dict[str, NDArray] = {}
    palettes: dict[str, NDArray] = {}  # by suffix
    coding: dict[str, Any] = {}
    shape = sample.image.shape[:2]
    for name, value in leaves(sample):
        name = name.removeprefix("maps/")
        if name == "image":
            continue
        if not isinstance(value, np.ndarray):
            _nest(labels, name, value)
        elif value.shape[:2] == shape and name == "region":
            coding[name] = {"code": "palette", "file": f"{name}.png"}
            palettes[f"{name}.png"] = value
        elif value.shape[:2] == shape:
            arrays[name], coding[name] = _encode_map(name, value)
        elif value.size > LARGE:
            arrays[name], coding[name] = value, {"code": "array"}
        else:
            _nest(labels, name, _plain(value))
    labels["coding"] = coding
    files = {image_format: _picture(sample.image, image_format), "json": _json(labels)}
    if arrays:
        files["maps.npz"] = _npz(arrays)
    return files | {name: _palette_png(ids) for name, ids in palettes.items()}


def decode(key: str, files: Mapping[str, bytes]) -> Record:
    """A sample from its files.

    Args:
        key: its name.
        files: bytes by suffix, as `encode` gives them.

    Raises:
        UserError: a file is missing, damaged or of another version.
    """
    try:
        suffix = "jpg" if "jpg" in files else "png"
        stored = json.loads(files["json"])
        if stored.pop("schema") != SCHEMA:
            raise UserError(f"sample {key} is of another version than {SCHEMA}; write it again")
        coding = stored.pop("coding")
        labels = {name: _unplain(value) for name, value in leaves(stored)}
        maps: dict[str, NDArray] = {}
        arrays = _read_npz(files["maps.npz"]) if "maps.npz" in files else {}
        for name, how in coding.items():
            if how["code"] == "palette":
                maps[name] = _read_picture(files[how["file"]], None)
            elif how["code"] == "array":
                labels[name] = arrays[name]
            else:
                maps[name] = _decode_map(arrays[name], how)
        return Record(key, _read_picture(files[suffix], "RGB"), labels, maps)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"sample {key} is damaged ({error!r}); write its shard again") from error


def _join(outer: str, inner: str) -> str:
    return f"{outer}/{inner}" if outer else inner


def _nest(tree: dict[str, Any], name: str, value: Any) -> None:
    *outer, last = name.split("/")
    for part in outer:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _plain(value: NDArray) -> Any:
    """An array as json lists; numbers that are not finite become null."""
    if value.dtype.kind != "f":
        return value.tolist()
    rounded = np.round(value.astype(np.float64), DECIMALS)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    holes = rounded.astype(object)
    holes[~np.isfinite(rounded)] = None
    return holes.tolist()


def _unplain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fO":
        return value.astype(np.float32)
    return value


def _json(labels: dict[str, Any]) -> bytes:
    return json.dumps(labels, separators=(",", ":"), allow_nan=False).encode()


def _encode_map(name: str, value: NDArray) -> tuple[NDArray, dict[str, Any]]:
    """Small integers for a map of known meaning and range, and how to read them."""
    code = CODES.get(name) if value.dtype.kind == "f" else None
    if code == "steps":
        return _encode_depth(value)
    if code == "unit" and _within(value, -1.01, 1.01):
        codes = np.rint(np.nan_to_num(value) * NORMAL_STEPS).clip(-127, 127).astype(np.int8)
    elif code == "fraction" and _within(value, 0, 1):
        codes = np.rint(np.nan_to_num(value) * UV_STEPS).astype(np.uint16)
        codes[np.isnan(value)] = UV_STEPS + 1
    elif code == "share" and _within(value, 0, 1):
        codes = np.rint(np.nan_to_num(value) * 255).astype(np.uint8)
    elif code == "srgb" and _within(value, 0, 1):
        codes = _encode_srgb(np.nan_to_num(value))
    elif code == "half" and _within(value, -65504, 65504):
        codes = value.astype(np.float16)
    else:
        return value, {"code": "plain"}
    return codes, {"code": code}


def _within(value: NDArray, low: float, high: float) -> bool:
    finite = value[np.isfinite(value)]
    return bool(finite.size == 0 or (finite.min() >= low and finite.max() <= high))


def _encode_depth(depth: NDArray) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Steps of 1/64 mm above the nearest surface, coarser only if they did not fit; 0 is empty."""
    seen = np.isfinite(depth)
    near = float(np.floor(depth[seen].min())) if seen.any() else 0.0
    span = float(depth[seen].max()) - near if seen.any() else 0.0
    step = DEPTH_STEP_MM
    while span / step > 65533:
        step *= 2
    codes = np.zeros(depth.shape, np.uint16)
    codes[seen] = 1 + np.rint((depth[seen] - near) / step).astype(np.uint16)
    return codes, {"code": "steps", "offset": near, "step": step}


def _decode_map(codes: NDArray, how: Mapping[str, Any]) -> NDArray:
    code = how["code"]
    if code in ("plain", "array"):
        return codes
    if code == "steps":
        depth = how["offset"] + (codes.astype(np.float64) - 1) * how["step"]
        return np.where(codes == 0, np.nan, depth).astype(np.float32)
    if code == "unit":
        vectors = codes.astype(np.float32)
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / np.maximum(length, 1)
    if code == "fraction":
        values = codes.astype(np.float32) / UV_STEPS
        values[codes > UV_STEPS] = np.nan
        return values
    if code == "share":
        return codes.astype(np.float32) / 255
    if code == "half":
        return codes.astype(np.float32)
    if code == "srgb":
        return _srgb_tables()[0][codes]
    raise UserError(f"unknown coding {code!r} of a map; update lifemask")


def _linear_from_srgb(value: NDArray) -> NDArray[np.float32]:
    """IEC 61966-2-1."""
    low, high = value / 12.92, ((value + 0.055) / 1.055) ** 2.4
    return np.where(value <= 0.04045, low, high).astype(np.float32)


@cache
def _srgb_tables() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Linear value of each of the 256 levels, and the nearest level of linear i / 65535."""
    levels = _linear_from_srgb(np.arange(256) / 255)
    borders = _linear_from_srgb((np.arange(255) + 0.5) / 255)
    nearest = np.searchsorted(borders, np.arange(65536) / 65535).astype(np.uint8)
    return levels, nearest


def _encode_srgb(linear: NDArray) -> NDArray[np.uint8]:
    """Nearest of the 256 levels."""
    return _srgb_tables()[1][(linear * np.float32(65535) + np.float32(0.5)).astype(np.uint16)]


def _npz(arrays: Mapping[str, NDArray]) -> bytes:
    """An npz whose bytes depend on nothing but the arrays.

    Written by hand (APPNOTE.TXT 4.3) because zipfile has no run-length deflate, which takes half
    the time of level 1 and is a tenth larger on these maps.
    """
    out, directory = io.BytesIO(), io.BytesIO()
    for name, array in arrays.items():
        data = io.BytesIO()
        np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
        raw, path = data.getvalue(), f"{name}.npy".encode("ascii")
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_RLE)
        packed = deflate.compress(raw) + deflate.flush()
        sizes = zlib.crc32(raw), len(packed), len(raw), len(path), 0
        entry = struct.pack("<5H3I2H", 20, 0, zipfile.ZIP_DEFLATED, 0, 0x21, *sizes)  # 1980-01-01
        place = struct.pack("<3H2I", 0, 0, 0, 0o644 << 16, out.tell())
        directory.write(b"PK\1\2" + struct.pack("<H", 0x0314) + entry + place + path)
        out.write(b"PK\3\4" + entry + path + packed)
    listing, count = directory.getvalue(), len(arrays)
    end = struct.pack("<4H2IH", 0, 0, count, count, len(listing), out.tell(), 0)
    return out.getvalue() + listing + b"PK\5\6" + end


def _read_npz(data: bytes) -> dict[str, NDArray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _picture(image: NDArray[np.uint8], image_format: ImageFormat) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    if image_format == "jpg":
        Image.fromarray(image).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _palette_png(ids: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    from lifemask.types import REGION_NAMES

    assert len(PALETTE) == len(REGION_NAMES)
    picture = Image.fromarray(ids.astype(np.uint8))
    picture.putpalette([c for colour in PALETTE for c in colour])
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _read_picture(data: bytes, mode: str | None) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert(mode) if mode else picture).copy()
