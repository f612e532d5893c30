"""One photo to its heads on disk, in a worker process; whatever is wrong with it, an outcome."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifemask.assets import AssetError, UserError
from lifemask.batch.journal import Outcome, failure
from lifemask.batch.layouts import write_photo
from lifemask.batch.sources import Item, read_member
from lifemask.outputs import OutputError

if TYPE_CHECKING:
    from lifemask.batch.job import BatchJob, Reconstruct
    from lifemask.pipeline_input import Rgb

MAX_TRACE = 4000


class PhotoWorker:
    """Reconstructs photos one after the other; its networks are loaded once."""

    def __init__(self, job: BatchJob) -> None:
        """Load the networks.

        Raises:
            UserError: weights are missing, ...
        """
        self.job = job
        self.reconstruct: Reconstruct = job.pipeline()

    def __call__(self, item: Item) -> Outcome:
        """Write a photo's heads.

        Raises:
            AssetError, OutputError: no photo would work.
        """
        started, cpu = time.perf_counter(), time.process_time()

        def failed(kind: str, message: str, trace: str = "") -> Outcome:
            seconds = time.perf_counter() - started
            line = " ".join(message.split()) or kind
            return failure(item.key, item.source, kind, line, seconds, trace[-MAX_TRACE:])

        try:
            photo = read_item(item)
            heads = self.reconstruct(photo)
            size = write_photo(self.job, item, heads, photo)
        except (AssetError, OutputError):
            raise
        except UserError as error:
            return failed(kind_of(error, item), str(error))
        except MemoryError:
            return failed("memory", "the photo does not fit into memory; scale it down")
        except Exception as error:  # a fault of ours; the other photos still get their heads
            message = f"{type(error).__name__}: {error}"
            return failed("error", message, traceback.format_exc())
        seconds = time.perf_counter() - started
        spent = time.process_time() - cpu
        return Outcome(item.key, item.source, "done", len(heads), seconds, spent, size)


def set_up(job: BatchJob) -> PhotoWorker:
    """The state of a worker process."""
    return PhotoWorker(job)


def work(worker: PhotoWorker, item: Item, _report: Callable[[Any], None]) -> Outcome:
    """A worker process's task."""
    return worker(item)


def read_item(item: Item) -> Rgb:
    """A photo as upright uint8 RGB (H, W, 3).

    Raises:
        UserError: it is missing or no photo.
    """
    from lifemask.faces.image import PhotoError, load_image

    if not item.member:
        return load_image(item.path)
    try:
        data = read_member(item)
    except OSError as error:
        raise PhotoError(f"{item.source} cannot be read ({error.strerror or error})") from error
    handle, name = tempfile.mkstemp(suffix=Path(item.member).suffix, prefix="lifemask-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return load_image(name)
    except UserError as error:
        raise type(error)(str(error).replace(name, item.source)) from error
    finally:
        Path(name).unlink(missing_ok=True)


def kind_of(error: UserError, item: Item) -> str:
    """The kind of a failure that is the photo's own."""
    from lifemask.faces.choice import NoFaceError

    if isinstance(error, NoFaceError):
        return "no face"
    return "unreadable" if Path(item.path).exists() else "missing"
