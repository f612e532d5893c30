"""Numpy arrays from the inert records that `_pickle` reads, by explicit decoding of their bytes."""

from __future__ import annotations

import io
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lifemask.assets import AssetError
from lifemask.facemodel._pickle import PERSISTENT, Record, read_pickle

MAX_ELEMENTS = 2**29
MAX_FILLED = 2**25  # of arrays that may be larger than their bytes: sparse ones, views of tensors
MAX_LIST = 2**16
MAX_DEPTH = 4
_DTYPE = re.compile(r"[biuf][1248]|f16|S\d{1,4}|U\d{1,4}")
_TORCH = {"LongStorage": "i8", "IntStorage": "i4", "FloatStorage": "f4", "DoubleStorage": "f8"}


def to_array(value: Any, what: str) -> np.ndarray:
    """A numeric (or string) array from an inert value.

    Args:
        value: a record of a numpy array or scalar, scipy sparse matrix (made dense), chumpy
            array or torch tensor, or nested lists of numbers.
        what: what messages call it.

    Raises:
        AssetError: it is something else, or its parts do not fit together.
    """
    try:
        return _array(value, 0)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise AssetError(f"{what} is not an array: {error}") from error


def to_dict(value: Any, what: str) -> dict[Any, Any]:
    """A dict from an inert value: itself, an OrderedDict, or the only element of an object array.

    Raises:
        AssetError: it is something else.
    """
    if isinstance(value, Record) and value.name.name == "_reconstruct":
        content = value.state[4] if isinstance(value.state, tuple) and len(value.state) > 4 else ()
        value = content[0] if isinstance(content, list) and len(content) == 1 else None
    if isinstance(value, Record) and value.name.name == "OrderedDict":
        given = value.args[0] if value.args else []
        pairs = [*(given if isinstance(given, list) else []), *value.items]
        try:
            value = {str(key): entry for key, entry in pairs}
        except (TypeError, ValueError):
            value = None
    if not isinstance(value, dict):
        raise AssetError(f"{what} does not hold a table of named arrays")
    return value


def read_pickle_file(path: Path) -> Any:
    """The inert content of a pickle file, or of a `.npy` file that holds a pickled object.

    Raises:
        AssetError: the file is missing, damaged, too large, or holds what is refused.
    """
    from lifemask.facemodel._readers import read_bytes

    data = read_bytes(path)
    if data[:6] == b"\x93NUMPY":
        return _read_npy(data, path.name)
    return read_pickle(data, path.name)


def _read_npy(data: bytes, source: str) -> Any:
    """The pickle behind the header of an object array, or the array itself."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0
        if version[0] > 1:
            reader = np.lib.format.read_array_header_2_0
        _, _, dtype = reader(stream)
        if not dtype.hasobject:
            stream.seek(0)
            return np.load(stream, allow_pickle=False)
    except ValueError as error:
        raise AssetError(f"{source} is not a readable npy file: {error}") from error
    return read_pickle(stream, source)


def _array(value: Any, depth: int) -> np.ndarray:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | int | float | np.generic):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        return _from_list(value, depth)
    if not isinstance(value, Record):
        raise ValueError(f"a {type(value).__name__}")
    name = value.name.name
    if name == "_reconstruct":
        return _ndarray(value)
    if name == "scalar":
        dtype, content = value.args
        return _decoded(_bytes(content), _dtype(dtype), (), False)
    if name == "_frombuffer":
        content, dtype, shape, order = value.args
        return _decoded(_bytes(content), _dtype(dtype), shape, order == "F")
    if name in ("csc_matrix", "csr_matrix"):
        return _dense(value, name == "csr_matrix", depth)
    if name == "_reconstructor":  # protocols 0 and 1: (class, base, None), then the state
        return _array(Record(value.args[0], (), value.state), depth + 1)
    if name == "Ch":
        return _array(value.state["x"], depth + 1)
    if name == "_rebuild_tensor_v2":
        return _tensor(value)
    raise ValueError(str(value.name))


def _from_list(value: list[Any] | tuple[Any, ...], depth: int) -> np.ndarray:
    """Lists of numbers or of arrays of one shape, nested at most three deep."""
    if depth >= MAX_DEPTH:
        raise ValueError("lists nested too deeply")
    if sum(len(e) if isinstance(e, list | tuple) else 1 for e in value) > MAX_LIST:
        raise ValueError("a list that is too long")
    return np.stack([_array(entry, depth + 1) for entry in value]) if value else np.zeros(0)


def _dtype(record: Any) -> np.dtype:
    """A plain numeric or string dtype; objects, records and dates are refused."""
    if not isinstance(record, Record) or record.name.key != ("numpy", "dtype"):
        raise ValueError("a dtype of an unknown form")
    code = record.args[0]
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError(f"dtype {code!r} is refused")
    order = "="
    if record.state is not None:
        order = record.state[1]
        order = order.decode("latin-1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(record.state[i] is not None for i in (2, 3, 4)):
            raise ValueError(f"dtype {code!r} with fields is refused")
    return np.dtype(code).newbyteorder(order)


def _bytes(value: Any) -> bytes:
    """Bytes from bytes, a Python 2 string, or `_codecs.encode(text, "latin1")`."""
    if isinstance(value, Record) and value.name.name in ("encode", "bytes", "bytearray"):
        text, *encoding = value.args or (b"",)
        if encoding and str(encoding[0]).replace("-", "").lower() not in ("latin1", "iso88591"):
            raise ValueError("bytes in an unknown encoding")
        value = text
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise ValueError("an array without bytes")


def _ndarray(record: Record) -> np.ndarray:
    if not isinstance(record.state, tuple) or len(record.state) != 5:
        raise ValueError("an array without content")
    _, shape, dtype, fortran, content = record.state
    return _decoded(_bytes(content), _dtype(dtype), shape, bool(fortran))


def _decoded(content: bytes, dtype: np.dtype, shape: Any, fortran: bool) -> np.ndarray:
    shape = _shape(shape)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes do not fill {shape} of {dtype}")
    flat = np.frombuffer(content, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


def _shape(shape: Any, most: int = MAX_ELEMENTS) -> tuple[int, ...]:
    if not isinstance(shape, tuple | list) or len(shape) > 6:
        raise ValueError("a shape of an unknown form")
    if any(not isinstance(n, int) or n < 0 for n in shape) or math.prod(shape) > most:
        raise ValueError(f"a shape that is refused: {str(shape)[:60]}")
    return tuple(shape)


def _dense(record: Record, by_rows: bool, depth: int) -> np.ndarray:
    """The dense matrix of a scipy csc or csr matrix; every index is checked."""
    state = record.state
    rows, columns = _shape(state["_shape"] if "_shape" in state else state["shape"], MAX_FILLED)
    data, indices, starts = (
        _array(state[k], depth + 1).ravel() for k in ("data", "indices", "indptr")
    )
    lines, width = (rows, columns) if by_rows else (columns, rows)
    counts = np.diff(starts)
    if len(starts) != lines + 1 or (counts < 0).any() or starts[0] != 0:
        raise ValueError("a sparse matrix with wrong starts")
    if not len(data) == len(indices) == starts[-1]:
        raise ValueError("a sparse matrix with wrong counts")
    if len(indices) and not (0 <= indices.min() and indices.max() < width):
        raise ValueError("a sparse matrix with an index outside")
    out = np.zeros((lines, width), dtype=np.float64)
    np.add.at(out, (np.repeat(np.arange(lines), counts), indices.astype(np.int64)), data)
    return out if by_rows else out.T


def _tensor(record: Record) -> np.ndarray:
    """A torch tensor whose storage was pickled as the bytes of an old-style torch file."""
    storage, offset, size, stride = record.args[:4]
    if not isinstance(storage, Record) or storage.name.name != "_load_from_bytes":
        raise ValueError("a tensor without its bytes")
    flat = _storage(_bytes(storage.args[0]))
    shape, steps = _shape(size, MAX_FILLED), _shape(stride)
    last = offset + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    if not isinstance(offset, int) or offset < 0 or 0 in shape or last >= len(flat):
        raise ValueError("a tensor that leaves its storage")
    index = np.full(shape, offset, dtype=np.int64)
    for axis, step in enumerate(steps):
        grid = [1] * len(shape)
        grid[axis] = shape[axis]
        index += (np.arange(shape[axis]) * step).reshape(grid)
    return flat[index]


def _storage(data: bytes) -> np.ndarray:
    """The one storage of an old-style (not zip) torch file."""
    stream = io.BytesIO(data)
    for _ in range(3):  # magic number, protocol, system
        read_pickle(stream, "a torch storage")
    content = read_pickle(stream, "a torch storage", persistent=True)
    read_pickle(stream, "a torch storage")  # keys
    if not isinstance(content, Record) or content.name is not PERSISTENT:
        raise ValueError("a torch file without a storage")
    code = _TORCH[content.args[0][1].name]
    (count,) = struct.unpack("<q", stream.read(8))
    body = stream.read()
    if count * int(code[1]) != len(body):
        raise ValueError("a torch storage of another length")
    return np.frombuffer(body, dtype=f"<{code}")
