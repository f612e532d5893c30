"""Reading npz files that a user brings: arrays only, never pickles, one clear error."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy import ndarray

from lifemask.assets import UserError


def read_npz(path: str | Path, required: tuple[str, ...] = ()) -> dict[str, ndarray]:
    """All arrays of an npz file by name.

    Args:
        path: the file.
        required: names that must be present.

    Raises:
        UserError: no such file, not an npz, pickled content, or a required array is missing.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable npz file: {error}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}"
        )
    return arrays
