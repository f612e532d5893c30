"""The binary files of eos (C++ library `cereal`), read by an explicit, bounded parser.

A `MorphableModel` is: uint32 version, shape PCA, colour PCA; from version 2 an optional expression
model (PCA or blendshapes); from version 3 optional landmark names; texture coordinates; from
version 4 the triangles of those. Everything is little-endian without padding: a matrix is int32
rows, int32 columns and column-major floats; a vector is a uint64 count and its elements; an
optional is one byte that is 1 where it is empty; a variant is an int32 index.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lifemask.assets import AssetError

VERSIONS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Pca:
    """mean (n,), orthonormal basis (n, k), variances (k,), triangles (f, 3)."""

    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray
    triangles: np.ndarray

    @property
    def scaled(self) -> np.ndarray:
        """The basis (n, k) times its standard deviations."""
        return self.basis * np.sqrt(np.maximum(self.variance, 0))


@dataclass(frozen=True)
class EosModel:
    """A morphable model of eos.

    Attributes:
        shape: identity.
        colour: empty for a model of shape only.
        expression: a PCA, blendshapes by name, or None.
        landmarks: vertex by name.
        uvs: (t, 2), v down.
        faces_uv: (f, 3), empty where uvs belong to vertices.
    """

    shape: Pca
    colour: Pca
    expression: Pca | dict[str, np.ndarray] | None
    landmarks: dict[str, int]
    uvs: np.ndarray
    faces_uv: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))


class _Reader:
    """A cursor over bytes that never reads past the end."""

    def __init__(self, data: bytes, source: str):
        self.data = data
        self.at = 0
        self.source = source

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise AssetError(f"{self.source} ends too early: it is damaged or no file of eos")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def count(self, smallest: int) -> int:
        """A uint64 count of elements of at least so many bytes, bounded by what is left."""
        count = self.number("Q")
        if count * smallest > len(self.data) - self.at:
            raise AssetError(f"{self.source} ends too early: it is damaged or no file of eos")
        return count

    def matrix(self) -> np.ndarray:
        rows, columns = self.number("i"), self.number("i")
        if rows < 0 or columns < 0:
            raise AssetError(f"{self.source} has a matrix of negative size: it is damaged")
        flat = np.frombuffer(self.take(4 * rows * columns), "<f4")
        return flat.reshape((rows, columns), order="F").astype(np.float32)

    def text(self) -> str:
        try:
            return self.take(self.count(1)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise AssetError(f"{self.source} has a name that is no text: it is damaged") from error

    def rows(self, code: str, width: int) -> np.ndarray:
        size = np.dtype(code).itemsize * width
        count = self.count(size)
        return np.frombuffer(self.take(count * size), code).reshape(count, width)

    def pca(self) -> Pca:
        mean, basis = self.matrix().reshape(-1), self.matrix()
        variance = self.matrix().reshape(-1)
        triangles = self.rows("<i4", 3).astype(np.int64)
        if basis.shape != (len(mean), len(variance)) or len(mean) % 3:
            raise AssetError(f"{self.source}: mean, basis and variances do not fit together")
        return Pca(mean, basis, variance, triangles)

    def blendshapes(self) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for _ in range(self.count(16)):
            name = self.text()
            out[name] = self.matrix().reshape(-1)
        return out

    def optional(self, read: Callable[[], Any]) -> Any:
        return None if self.number("B") else read()

    def expression(self) -> Pca | dict[str, np.ndarray]:
        kind = self.number("i")
        if kind not in (0, 1):
            raise AssetError(f"{self.source} has an expression model of unknown kind {kind}")
        return self.blendshapes() if kind else self.pca()

    def names(self) -> dict[str, int]:
        return {self.text(): self.number("i") for _ in range(self.count(12))}

    def end(self) -> None:
        left = len(self.data) - self.at
        if left:
            raise AssetError(f"{self.source} has {left} bytes too many: it is no file of eos")


def read_eos_model(data: bytes, source: str) -> EosModel:
    """A morphable model from the content of a `.bin` file of eos.

    Raises:
        AssetError: it is damaged, another kind of file, or of an unknown version.
    """
    reader = _Reader(data, source)
    version = reader.number("I")
    if version not in VERSIONS:
        raise AssetError(f"{source} is no model of eos, or of an unknown version ({version})")
    shape, colour = reader.pca(), reader.pca()
    expression = reader.optional(reader.expression) if version >= 2 else None
    names = reader.optional(reader.names) if version >= 3 else None
    uvs = reader.rows("<f8", 2)
    faces_uv = reader.rows("<i4", 3).astype(np.int64) if version >= 4 else np.zeros((0, 3), int)
    reader.end()
    return EosModel(shape, colour, expression, names or {}, uvs, faces_uv)


def read_blendshapes(data: bytes, source: str) -> dict[str, np.ndarray]:
    """Blendshapes (n,) by name from the content of `expression_blendshapes_3448.bin`.

    Raises:
        AssetError: it is damaged or another kind of file.
    """
    reader = _Reader(data, source)
    out = reader.blendshapes()
    reader.end()
    return out
