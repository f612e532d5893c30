"""The self-test: the sample portrait becomes a head, and what must hold of it is checked.

The portrait is scikit-image's `astronaut` (Eileen Collins, NASA, public domain). Where its eyes,
nose tip and chin are, and how the head is turned, was read off the picture by eye.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lifemask.apps.doctor.finding import Finding, examined
from lifemask.head import Head, render_head, to_picture
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.pipeline_input import Rgb

GROUP = "self-test"
PORTRAIT_PX = {
    "image-left eye": (202, 100),
    "image-right eye": (247, 102),
    "nose tip": (222, 124),
    "chin": (221, 172),
}
LANDMARKS = {
    "image-left eye": range(36, 42),
    "image-right eye": range(42, 48),
    "nose tip": range(30, 31),
    "chin": range(8, 9),
}
"""Members of iBUG-68 whose mean is the point."""
EYE_DISTANCE_PX = 45
YAW_DEG, ROLL_DEG = 0.0, 3.0
MOST_DEG = 8.0
EYE_CORNERS_MM = (80.0, 110.0)
"""Between the outer corners of an adult's eyes."""
MOST_DIFFERENCE, LEAST_CORRELATION = 0.16, 0.6
"""Of the drawn head and the photo inside the face: mean of sRGB in [0, 1], and of brightness."""
TARGETS = 52
STAGES = {
    "find_faces": "detect",
    "find_landmarks": "landmarks",
    "find_geometry": "geometry",
    "find_regions": "regions",
    "refine": "refine",
    "add_detail": "detail",
    "dress": "texture",
}
"""Methods of `Pipeline` that are timed, and what they are called."""
Result = TypeVar("Result")


class TimedPipeline(Pipeline):
    """A pipeline that keeps the seconds of each stage of the last photo."""

    def __init__(self, config: PipelineConfig, **given: Any) -> None:
        """As `Pipeline`."""
        super().__init__(config, **given)
        self.seconds: dict[str, float] = {}
        for method, stage in STAGES.items():
            setattr(self, method, self._timed(stage, getattr(self, method)))

    def _timed(self, stage: str, run: Callable[..., Result]) -> Callable[..., Result]:
        def timed(*given: Any, **options: Any) -> Result:
            with timing(self.seconds, stage):
                return run(*given, **options)

        return timed


@contextmanager
def timing(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Keep the wall-clock seconds of a block."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


def self_test(config: PipelineConfig, pipeline: TimedPipeline | None = None) -> Iterator[Finding]:
    """Reconstruct the portrait twice, check the head, and tell seconds and memory.

    Args:
        config: what is run.
        pipeline: in place of one made from `config`.
    """
    from lifemask.apps.photos import sample_photo

    photo, total = sample_photo(), {}
    pipeline = pipeline or TimedPipeline(config)
    with timing(total, "first"):
        (head,) = pipeline(photo)[:1]
    yield from examined(GROUP, "mesh", lambda: [mesh(head)])
    yield from examined(GROUP, "pose", lambda: [pose(head)])
    yield from examined(GROUP, "landmarks", lambda: [landmarks(head)])
    yield from examined(GROUP, "picture", lambda: [picture(head, photo)])
    yield from examined(GROUP, "GLB", lambda: [glb(head, total)])
    pipeline.seconds.clear()
    with timing(total, "next"):
        pipeline(photo)
    yield speed(total, pipeline.seconds)
    yield peak_memory()


def mesh(head: Head) -> Finding:
    """Finite, and of a head's size."""
    vertices = head.vertices_mm
    finite = bool(np.isfinite(vertices).all())
    points = head.landmarks68_mm
    width = float(np.linalg.norm(points[45] - points[36]))
    low, high = EYE_CORNERS_MM
    text = f"{len(vertices):,} vertices, outer eye corners {width:.0f} mm apart"
    values = {"vertices": len(vertices), "finite": finite, "eye_corners_mm": _plain(width)}
    fine = finite and low < width < high
    return _judged("mesh", fine, text if finite else f"{text}; not finite", values)


def pose(head: Head) -> Finding:
    """Turned as the portrait is."""
    angles = head.pose_deg
    off = max(abs(angles["yaw"] - YAW_DEG), abs(angles["roll"] - ROLL_DEG))
    text = f"yaw {angles['yaw']:+.1f}, roll {angles['roll']:+.1f} degrees"
    known = f"(known: {YAW_DEG:+.0f} and {ROLL_DEG:+.0f}, within {MOST_DEG:.0f})"
    values = {name: _plain(value) for name, value in angles.items()}
    return _judged("pose", off < MOST_DEG, f"{text} {known}", values)


def landmarks(head: Head) -> Finding:
    """Eyes, nose and chin where the portrait has them."""
    points = head.landmarks68_px
    off = {
        name: float(np.linalg.norm(points[list(LANDMARKS[name])].mean(0) - place))
        for name, place in PORTRAIT_PX.items()
    }
    worst = max(off, key=lambda name: off[name] if np.isfinite(off[name]) else np.inf)
    text = f"at most {off[worst]:.1f} px from where they are ({worst})"
    fine = off[worst] < 0.2 * EYE_DISTANCE_PX
    return _judged("landmarks", fine, text, {name: _plain(v) for name, v in off.items()})


def picture(head: Head, photo: Rgb) -> Finding:
    """Drawn over the photo it looks like the photo."""
    from skimage.draw import polygon2mask

    height, width = photo.shape[:2]
    image, mask = render_head(head, head.geometry.camera, height, width, supersample=1)
    drawn = np.asarray(to_picture(image, mask), dtype=np.float64) / 255
    outline = head.landmarks68_px[[*range(17), 26, 24, 19, 17]][:, ::-1]
    inside = polygon2mask((height, width), outline) & (mask.numpy() > 0.99)
    if not inside.any():
        return _judged("picture", False, "the head covers nothing of the face", {})
    seen, shown = photo[inside] / 255.0, drawn[inside]
    difference = float(np.abs(shown - seen).mean())
    alike = float(np.corrcoef(shown.mean(1), seen.mean(1))[0, 1])
    fine = difference < MOST_DIFFERENCE and alike > LEAST_CORRELATION
    text = f"drawn over the photo: difference {difference:.0%}, correlation {alike:.2f}"
    values = {"difference": _plain(difference), "correlation": _plain(alike)}
    return _judged("picture", fine, text, values)


def glb(head: Head, seconds: dict[str, float]) -> Finding:
    """The file reads back as it was written: vertices, 52 shapes by their names, textures."""
    from lifemask.export import neutral_and_deltas
    from lifemask.graphics.meshio import read_glb

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.glb"
        with timing(seconds, "export"):
            head.export(path)
        size, scene = path.stat().st_size, read_glb(path)
    names = tuple(scene.morph_targets)
    textured = all(p.material and p.material.texture is not None for p in scene.primitives)
    off = float("inf")
    if head.model is not None:
        neutral, _ = neutral_and_deltas(head.geometry, head.model)
        off = _farthest(scene.positions_mm, neutral.numpy())
    wrong = [
        text
        for fine, text in (
            (names == tuple(head.expression) and len(names) == TARGETS, f"{len(names)} shapes"),
            (textured, "a part without texture"),
            (off < 0.01, f"vertices {off:.3f} mm off"),
        )
        if not fine
    ]
    text = f"{size / 1e6:.1f} MB, {len(names)} ARKit shapes, textures, vertices as written"
    values = {"bytes": size, "targets": len(names), "textured": textured, "off_mm": _plain(off)}
    return _judged("GLB", not wrong, "; ".join(wrong) or text, values)


def speed(total: dict[str, float], stages: dict[str, float]) -> Finding:
    """Seconds of the first photo, of one after it, and of its stages."""
    parts = ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
    threads = torch.get_num_threads()
    text = (
        f"first photo {total['first']:.1f} s with loading, next {total['next']:.2f} s"
        f" ({parts}); {threads} thread{'s' * (threads > 1)} of torch"
    )
    values = {"seconds": {k: _plain(v) for k, v in total.items()},
              "stages": {k: _plain(v) for k, v in stages.items()}, "threads": threads}  # fmt: skip
    return Finding(GROUP, "speed", "ok", text, values=values)


def peak_memory() -> Finding:
    """The most memory that this process has taken."""
    size = peak_bytes()
    if size is None:
        return Finding(GROUP, "memory", "note", "not told by this system")
    return Finding(GROUP, "memory", "ok", f"{size / 1e9:.2f} GB at most", values={"bytes": size})


def peak_bytes() -> int | None:
    """The most memory that this process has taken, in bytes; None where that is not told."""
    import sys

    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _farthest(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest distance of a found vertex from its nearest wanted one; seams repeat vertices."""
    pieces, targets = torch.from_numpy(found).double().split(1024), torch.from_numpy(wanted)
    return float(max(torch.cdist(p, targets.double()).amin(1).max() for p in pieces))


def _judged(name: str, fine: bool, text: str, values: dict[str, Any]) -> Finding:
    return Finding(GROUP, name, "ok" if fine else "broken", text, values=values)


def _plain(value: float) -> float | None:
    """A number for JSON, rounded; None where it is none."""
    return round(float(value), 4) if np.isfinite(value) else None
