"""Photos to upright RGB arrays, whatever their format, and one clear error for what is no photo."""

from __future__ import annotations

import logging
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from lifemask.assets import UserError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

MIN_SIDE_PX = 16
HEIF_SUFFIXES = (".heic", ".heif", ".hif")


class PhotoError(UserError):
    """A file that cannot be read as a photo."""


def load_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """A photo as upright 8-bit sRGB.

    EXIF orientation is applied; 16-bit and float data are reduced to 8 bits; grey, palette and
    CMYK become RGB; embedded colour profiles are converted to sRGB; transparent pixels are laid
    over white; of an animation the first frame is taken.

    Args:
        path: JPEG, PNG, TIFF, WebP, GIF, BMP, ... ; HEIC with the extra `lifemask[heic]`.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        PhotoError: no such file, a folder, unreadable, empty, not an image, truncated, smaller
            than 16 px, or so large (over 178 megapixels) that it may be a decompression bomb.
    """
    path = Path(path)
    data = _read_bytes(path)
    if path.suffix.lower() in HEIF_SUFFIXES:
        _register_heif(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # large photos and odd metadata are not the user's fault
            with Image.open(BytesIO(data)) as image:
                return _decode(image, path)
    except UnidentifiedImageError as error:
        raise PhotoError(f"{path} is not an image in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(
            f"{path} has more than 178 megapixels; scale it down (a decompression bomb?)"
        ) from error
    except PhotoError:
        raise
    except MemoryError as error:
        raise PhotoError(f"{path} does not fit into memory; scale it down") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise PhotoError(f"{path} is damaged or truncated ({_first_line(error)})") from error


def as_uint8_rgb(image: object) -> UInt8[np.ndarray, "h w 3"]:
    """A photo given in memory as upright 8-bit RGB.

    Args:
        image: a PIL image (EXIF orientation applied), or an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4): uint8, uint16, or float in [0, 1]; sRGB.

    Raises:
        PhotoError: another type or shape, or values out of range.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    from PIL import Image

    if isinstance(image, Image.Image):
        return _decode(image, Path("the given image"))
    raise PhotoError(f"expected a path, a PIL image or a numpy array, got {type(image).__name__}")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise PhotoError(f"{path} is a folder, not a photo: give {path}/*.jpg") from error
    except FileNotFoundError as error:
        raise PhotoError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise PhotoError(f"{path} cannot be read ({reason})") from error
    if not data:
        raise PhotoError(f"{path} is empty (0 bytes)")
    return data


def _register_heif(path: Path) -> None:
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise PhotoError(f"{path}: HEIC photos need: pip install 'lifemask[heic]'") from error
    register_heif_opener()


def _decode(image: Image.Image, name: Path) -> UInt8[np.ndarray, "h w 3"]:
    from PIL import ImageOps

    if min(image.size) < MIN_SIDE_PX:
        raise PhotoError(f"{name} is only {image.width} x {image.height} pixels")
    if getattr(image, "n_frames", 1) > 1:
        log.info("%s is animated or has several pages; the first is used", name)
        image.seek(0)
    image.load()
    image = ImageOps.exif_transpose(image)
    return np.ascontiguousarray(np.asarray(_to_rgb(_to_8_bit(image))))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Reduce the modes of more than 8 bits; full scale is 65535, or 1 for floats."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float32)
    values = values * 255 if image.mode == "F" and values.max() <= 1 else values
    values = values / 257 if image.mode.startswith("I") and values.max() > 255 else values
    return Image.fromarray(np.rint(np.clip(np.nan_to_num(values), 0, 255)).astype(np.uint8))


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    image = _to_srgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded colour profile; a broken profile is ignored, as viewers do."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower().replace(" ", ""):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, srgb, outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        log.info("colour profile ignored: %s", error)
        return image


def _from_array(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or min(array.shape[:2]) < MIN_SIDE_PX:
        raise PhotoError(f"an image array is (H, W, 3) with sides >= {MIN_SIDE_PX}; {array.shape}")
    values = _array_to_8_bit(array)
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    if values.shape[2] == 4:
        alpha = values[..., 3:].astype(np.float32) / 255
        values = np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(values)


def _array_to_8_bit(array: np.ndarray) -> UInt8[np.ndarray, "h w c"]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return np.rint(array / 257.0).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise PhotoError("a float image array holds finite values in [0, 1]")
        return np.rint(array * 255).astype(np.uint8)
    raise PhotoError(f"an image array is uint8, uint16 or float, not {array.dtype}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
