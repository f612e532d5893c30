"""The demo's work: pipelines made once, and a photo with several methods into one result."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifemask.apps.photos import LICENCE, sample_photo
from lifemask.apps.web.heads import Made, Rgb, download_steps, shared_steps, show_steps
from lifemask.apps.web.settings import METHODS, DemoConfig
from lifemask.assets import AssetError, UserError
from lifemask.faces.choice import NoFaceError
from lifemask.graphics.meshio import write_atomic

log = logging.getLogger(__name__)

SET = "set.json"
MOST_METHODS = 3
SAMPLE_NAME = "astronaut.png"


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        share: of all its work, in [0, 1].
        text: what is being done.
        heads: how many heads the viewer can show by now.
        note: what went wrong with one of several methods, else "".
    """

    share: float
    text: str
    heads: int = 0
    note: str = ""


class Workshop:
    """Makes heads of photos; its networks are loaded once and shared by the methods."""

    def __init__(self, config: DemoConfig, pipelines: dict[tuple[str, str], Any] | None = None):
        """Make it; no network is loaded yet.

        Args:
            config: of the demo.
            pipelines: by method and weights, in place of our own, for tests.
        """
        self.config = config
        self._pipelines = dict(pipelines or {})
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def pipeline(self, method: str, weights: str):
        """The pipeline of a method; those of one family share all networks but the method's own.

        Raises:
            UserError: unknown names.
        """
        with self._lock:
            if (method, weights) not in self._pipelines:
                self._pipelines[method, weights] = self._create(method, weights)
            return self._pipelines[method, weights]

    def warm(self) -> None:
        """Load the default method's networks and compile its kernels, by a first head."""
        import tempfile

        try:
            with tempfile.TemporaryDirectory(prefix="lifemask-warm-") as folder:
                pipeline = self.pipeline("pgn", self.config.weights)
                made = Made()
                for _ in show_steps(pipeline, sample_photo(), Path(folder), "", made):
                    if self._ending.is_set():
                        return
        except Exception as error:  # the first photo will tell it to somebody
            log.warning("warming up failed: %s", error)

    def end(self) -> None:
        """Let `warm` stop after its present step."""
        self._ending.set()

    def make(
        self, photo: Rgb, name: str, methods: Sequence[str], weights: str, folder: Path
    ) -> Iterator[Progress]:
        """Make a head by each method, one folder each below `folder`, listed in `set.json`.

        The first head can be shown long before the last file is written: `set.json` says which
        heads are there (`heads`), and whether more will come (`complete`).

        Args:
            photo: (H, W, 3) uint8 RGB.
            name: its file name, for the record.
            methods: one to `MOST_METHODS` of `METHODS`.
            weights: family of networks.
            folder: there already, empty.

        Raises:
            UserError: no method made a head; the first one's reason.
        """
        chosen = check_methods(methods)
        done: list[str] = []
        failures: list[UserError] = []
        _write_set(folder, name, weights, done, False)
        for i, method in enumerate(chosen):
            begin, end = i / len(chosen), (i + 1) / len(chosen)
            middle = begin + 0.7 * (end - begin)
            label, own, made = METHODS[method][0], folder / method, Made()
            own.mkdir()
            several = f"{label}: " if len(chosen) > 1 else ""

            def say(text: str, several: str = several) -> str:
                return several + text

            try:
                pipeline = self.pipeline(method, weights)
                steps = show_steps(pipeline, photo, own, label, made)
                for share, text in shared_steps(steps, begin, middle, say):
                    yield Progress(share, text, len(done))
            except UserError as error:
                failures.append(error)
                yield Progress(end, "", len(done), f"{label}: {told(error)}")
                continue
            done.append(method)
            _write_set(folder, name, weights, done, False)
            yield Progress(middle, say("Packing the files"), len(done))
            steps = download_steps(made, photo, own, name)
            for share, text in shared_steps(steps, middle, end, say):
                yield Progress(share, text, len(done))
        _write_set(folder, name, weights, done, True)
        if not done:
            raise failures[0]
        yield Progress(1.0, "Done", len(done))

    def _create(self, method: str, weights: str):
        from lifemask.pipeline import Pipeline, PipelineConfig

        config = PipelineConfig(
            weights=weights,  # pyright: ignore[reportArgumentType]
            method=method,
            threads=self.config.threads,
        )
        pipeline = Pipeline(config)
        for (_, family), other in self._pipelines.items():
            if family == weights and isinstance(other, Pipeline):
                shared = ("detector", "landmarker", "eye_reader", "parser", "model", "retexturer")
                have = {name: vars(other)[name] for name in shared if name in vars(other)}
                vars(pipeline).update(have)
                break
        return pipeline


def read_upload(path: Path, config: DemoConfig) -> Rgb:
    """A photo that somebody sent, checked before it is decoded.

    Raises:
        UserError: too large, or not a photo; one line, with the file's name and no folder.
    """
    from lifemask.pipeline import read_photo

    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError("this photo has been deleted; choose it again") from error
    if size > config.max_upload_bytes:
        raise UserError(
            f"{path.name} has {size / 1e6:.1f} MB, more than the {config.max_upload_mb:g} MB that "
            "this page takes; scale it down"
        )
    _check_megapixels(path, config.max_megapixels)
    try:
        return read_photo(path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error


def check_methods(methods: Sequence[str]) -> list[str]:
    """The methods in the page's order, each once.

    Raises:
        UserError: none, too many, or an unknown one.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"unknown method {unknown[0]!r}; valid: {', '.join(METHODS)}")
    chosen = [name for name in METHODS if name in methods]
    if not chosen:
        raise UserError("choose a method first")
    if len(chosen) > MOST_METHODS:
        raise UserError(f"choose at most {MOST_METHODS} methods to compare")
    return chosen


def told(error: UserError) -> str:
    """An error in the words of the page, where an option of the command line means nothing."""
    text = str(error)
    if isinstance(error, AssetError):  # it names folders of the server
        log.warning("%s", text)
        return "the networks for this are not installed here; choose others (lifemask doctor)"
    if isinstance(error, NoFaceError) and text.startswith("no face found"):
        return "no face was found in this photo; try one in which the face is larger or turned less"
    return text


def licence_line(weights: str) -> str:
    """What the networks of a family may be used for."""
    return LICENCE.get(weights, "")


def _check_megapixels(path: Path, most: float) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = image.width * image.height / 1e6
    except Exception:  # read_photo says what is wrong with it
        return
    if pixels > most:
        raise UserError(
            f"{path.name} has {pixels:.0f} megapixels, more than {most:g}; scale it down"
        )


def _write_set(folder: Path, name: str, weights: str, heads: list[str], complete: bool) -> None:
    content = {"photo": name, "weights": weights, "licence": licence_line(weights)}
    content |= {"heads": list(heads), "complete": complete}
    write_atomic(folder / SET, json.dumps(content).encode())
