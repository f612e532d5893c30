"""Readers of the other formats face models come in: .mat, .h5, .obj and plain text; data only."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lifemask.assets import AssetError

MAX_BYTES = 2**31


def check_size(path: Path, limit: int = MAX_BYTES) -> None:
    """Raises AssetError where a file is missing, empty or larger than `limit` bytes."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror})") from error
    if size > limit:
        raise AssetError(f"{path} is larger than {limit >> 20} MiB: refused")
    if size == 0:
        raise AssetError(f"{path} is empty")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        AssetError: it is missing, unreadable, empty or larger.
    """
    check_size(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror})") from error


def source_files(sources: Iterable[Path]) -> list[Path]:
    """The files of a list of files and folders, folders one level deep, sorted, each once.

    Raises:
        AssetError: a path does not exist.
    """
    files: dict[Path, None] = {}
    for source in sources:
        if source.is_dir():
            files |= dict.fromkeys(sorted(p for p in source.iterdir() if p.is_file()))
        elif source.is_file():
            files[source] = None
        else:
            raise AssetError(f"{source} does not exist")
    return list(files)


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a Matlab file by name, shaped as Matlab shows them.

    Version 5 files are read by scipy, version 7.3 (HDF5) by h5py and transposed. The fields of a
    struct named "model" stand beside the others.

    Raises:
        AssetError: it is damaged, or the package for its version is missing.
    """
    check_size(path)
    with path.open("rb") as stream:
        start = stream.read(16)
    if start.startswith((b"MATLAB 7.3", b"\x89HDF")):
        arrays = read_hdf5(path)
        return {k.rsplit("/", 1)[-1]: v.T for k, v in arrays.items() if v.dtype.kind in "biuf"}
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise AssetError(f"{path.name} needs scipy: pip install 'lifemask[eval]'") from error
    try:
        content = loadmat(str(path), struct_as_record=True)
    except Exception as error:  # scipy raises many kinds on damaged files
        raise AssetError(f"{path} is not a readable .mat file: {error}") from error
    return _numeric(content)


def _numeric(content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    out = {k: v for k, v in content.items() if isinstance(v, np.ndarray) and v.dtype.kind in "biuf"}
    for value in content.values():
        fields = getattr(getattr(value, "dtype", None), "names", None)
        if fields and value.size == 1:
            record = value.reshape(-1)[0]
            out |= _numeric({name: record[name] for name in fields})
    return out


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The data sets of an HDF5 file by full name ("shape/model/mean"); text stays an object.

    Raises:
        AssetError: it is damaged, or h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise AssetError(f"{path.name} needs h5py: pip install 'lifemask[eval]'") from error
    check_size(path)
    out: dict[str, np.ndarray] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.size is not None:
            if node.external or node.is_virtual:
                raise AssetError(f"{path.name}: {name} lies in another file: refused")
            if node.size * max(node.dtype.itemsize, 1) > MAX_BYTES:
                raise AssetError(f"{path.name}: {name} is too large: refused")
            out[name] = np.asarray(node[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise AssetError(f"{path} is not a readable HDF5 file: {error}") from error
    return out


def read_npz(path: Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Those of an npz file's arrays that are wanted and there, by name; never pickled ones.

    Raises:
        AssetError: it is damaged or holds pickled objects.
    """
    check_size(path, 4 * MAX_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.file_size > MAX_BYTES and entry.filename.removesuffix(".npy") in wanted:
                    raise AssetError(f"{path}: {entry.filename} is too large: refused")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise AssetError(f"{path} is not a readable npz file: {error}") from error


def json_of(value: np.ndarray, what: str) -> Any:
    """JSON that a file stores as text, as bytes, or as an array of byte values.

    Raises:
        AssetError: it is not JSON.
    """
    content = value.reshape(-1)[0] if value.dtype.kind in "OSU" and value.size else value.tobytes()
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else str(content)
        return json.loads(text.rstrip("\0"))
    except (ValueError, AttributeError) as error:
        raise AssetError(f"{what} is not JSON: {error}") from error


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of a text file in a row.

    Raises:
        AssetError: it holds something else.
    """
    try:
        return np.array(read_bytes(path, 2**24).decode("ascii").split(), dtype=np.float64)
    except ValueError as error:
        raise AssetError(f"{path} should hold numbers only") from error


def read_obj_uvs(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (v, 3), uvs (t, 2) and corners (f, 3, 2) as (vertex, uv) ids of a triangle OBJ.

    Raises:
        AssetError: it has no uvs, or polygons of more than three corners.
    """
    points, uvs, faces = [], [], []
    try:
        for line in read_bytes(path, 2**28).decode("utf-8").splitlines():
            key, *words = line.split()[:5] or [""]
            if key == "v":
                points.append([float(x) for x in words[:3]])
            elif key == "vt":
                uvs.append([float(x) for x in words[:2]])
            elif key == "f":
                faces.append([[int(i) - 1 for i in word.split("/")[:2]] for word in words])
        corners = np.array(faces, dtype=np.int64)
    except ValueError as error:
        raise AssetError(f"{path} is not a readable OBJ: {error}") from error
    if not uvs or corners.ndim != 3 or corners.shape[1:] != (3, 2):
        raise AssetError(f"{path} should be an OBJ of triangles with texture coordinates")
    return np.array(points), np.array(uvs), corners
