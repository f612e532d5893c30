"""Random people, poses and cameras of the generator: plain numbers, no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lifemask.data._synthetic_scene import ORTHOGRAPHIC_MM, View
from lifemask.facemodel.gaze import LOOK_DEG

_GROUPS: tuple[tuple[str, ...], ...] = (
    ("jawopen",), ("jawopen",), ("jawopen", "mouthfunnel"), ("jawopen", "mouthupperup"),
    ("mouthsmile",), ("mouthsmile", "cheeksquint"), ("mouthsmile", "jawopen", "mouthupperup"),
    ("eyeblink",), ("eyeblink",), ("eyesquint",), ("eyewide", "browinnerup", "browouterup"),
    ("browdown",), ("browinnerup",), ("browouterup",), ("mouthfrown",), ("mouthpucker",),
    ("mouthfunnel",), ("mouthpress",), ("mouthstretch",), ("mouthlowerdown",), ("mouthdimple",),
    ("nosesneer", "browdown"), ("jawleft",), ("jawright",), ("jawforward",), ("cheekpuff",),
    ("mouthleft",), ("mouthright",), ("mouthrolllower", "mouthrollupper"), ("mouthshruglower",),
    ("mouthshrugupper",), ("mouthclose", "jawopen"), ("tongueout", "jawopen"),
)  # fmt: skip
_SMILES: tuple[tuple[str, ...], ...] = (
    ("mouthsmile",), ("mouthsmile", "cheeksquint", "mouthdimple"),
    ("mouthsmile", "mouthupperup", "cheeksquint"),
    ("mouthsmile", "mouthupperup", "mouthlowerdown", "cheeksquint"),
    ("mouthsmile", "jawopen", "mouthupperup", "cheeksquint"),
    ("mouthsmile", "jawopen", "mouthupperup", "mouthlowerdown", "mouthstretch", "eyesquint"),
)  # fmt: skip
EYES_APART_MM = 62.0


@dataclass(frozen=True)
class FaceDraw:
    """Expression (e,), head pose (3,) pitch, yaw, roll and gaze (2, 2), see `Scene`."""

    expression: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    gaze_deg: NDArray[np.float32]


def _key(name: str) -> tuple[str, str]:
    """ARKit name to (stem, side): ("eyeblink", "l"), ("jawopen", "")."""
    if name.endswith(("_L", "_R")):
        return name[:-2].lower(), name[-1].lower()
    for word in ("Left", "Right"):
        stem = name[: -len(word)]
        if name.endswith(word) and stem not in ("jaw", "mouth"):
            return stem.lower(), word[0].lower()
    return name.lower(), ""


@lru_cache(maxsize=4)
def _index(names: tuple[str, ...]) -> dict[tuple[str, str], int]:
    return {_key(n): i for i, n in enumerate(names)}


def random_face(
    names: tuple[str, ...],
    rng: np.random.Generator,
    ranges: tuple[tuple[float, float], ...] | None = None,
) -> FaceDraw:
    """Expression, pose and gaze; the lids follow the eyes where the model has eyeLook shapes.

    Args:
        names: of the model's expressions.
        rng: decides.
        ranges: (lowest, highest) of each expression (`FaceModel.expression_range`).
    """
    expression = random_expression(names, rng)
    if ranges is not None:
        expression = _in_ranges(expression, np.array(ranges, np.float32), rng)
    angles = random_angles_deg(rng)
    gaze = random_gaze_deg(angles, rng)
    index = _index(names)
    for side, (pitch, yaw) in zip(("l", "r"), gaze, strict=True):
        outward = yaw if side == "l" else -yaw
        vertical = ("eyelookup", "up") if pitch > 0 else ("eyelookdown", "down")
        for stem, degrees, full in (
            (vertical[0], abs(pitch), LOOK_DEG[vertical[1]]),
            ("eyelookout" if outward > 0 else "eyelookin", abs(outward), LOOK_DEG["side"]),
        ):
            if (stem, side) in index:
                expression[index[stem, side]] = min(degrees / full, 1.0)
    return FaceDraw(expression, angles, gaze)


def move_lids(
    expression: NDArray[np.float32], names: tuple[str, ...], rng: np.random.Generator
) -> None:
    """Draw the lids of activations (e,) anew, in place: a blink anywhere between open and shut.

    A quarter are shut; both eyes move together but for one face in eight. Eyes that close are not
    wide; some squint. A model without ARKit's lids stays as it is.
    """
    index = _index(names)
    if ("eyeblink", "l") not in index:
        return
    level = rng.uniform(0.9, 1.0) if rng.random() < 0.25 else rng.uniform(0.0, 1.0)
    squint = rng.beta(1, 3) if rng.random() < 0.4 else 0.0
    wide = rng.beta(1, 2) if level < 0.1 and rng.random() < 0.5 else 0.0
    wink = rng.random()
    for side in ("l", "r"):
        own = level + rng.normal(0, 0.03)
        if (wink < 1 / 16 and side == "l") or (wink > 15 / 16 and side == "r"):
            own = rng.uniform(0, 1)
        for stem, value in (("eyeblink", own), ("eyesquint", squint), ("eyewide", wide)):
            if (stem, side) in index:
                expression[index[stem, side]] = np.clip(value, 0, 1)


def _in_ranges(activations, ranges, rng) -> NDArray[np.float32]:
    """Activations (e,) stretched from [0, 1] to `ranges` (e, 2); signed ones are drawn anew."""
    low, high = ranges.T
    calm = 0.0 if rng.random() < 0.15 else rng.uniform(0.2, 1.2)
    signed = np.clip(rng.standard_normal(len(low)) * calm * high / 3, low, high)
    return np.where(low < 0, signed, low + activations * (high - low)).astype(np.float32)


def random_gaze_deg(
    angles_deg: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Pitch and yaw (2, 2) of the eyes at +x and at -x in the head's frame.

    Half of those who can look at the camera do; the rest look around, mostly near straight ahead.
    Both eyes converge on a point 30 cm to 5 m away.

    Args:
        angles_deg: (3,) pose of the head.
        rng: decides.
    """
    pitch, yaw = rng.normal(0, 6 if rng.random() < 0.65 else 14, 2) * [0.7, 1.0]
    x, y, z = rotation_from_angles(angles_deg)[2]  # the camera's direction seen from the head
    towards = np.rad2deg([np.arcsin(np.clip(y, -1, 1)), np.arctan2(x, z)])
    if rng.random() < 0.5 and abs(towards[0]) < 24 and abs(towards[1]) < 34:
        pitch, yaw = towards + rng.normal(0, 2, 2)
    distance = np.exp(rng.uniform(np.log(300), np.log(5000)))
    inward = np.rad2deg(np.arctan(EYES_APART_MM / 2 / distance))
    pitch, yaw = np.clip(pitch, -26, 24), np.clip(yaw, -33, 33)
    return np.array([[pitch, yaw - inward], [pitch, yaw + inward]], np.float32)


def random_expression(names: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """ARKit activations (len(names),) in [0, 1]: 15 % neutral, else coupled groups ~ Beta(1, 2).

    A quarter of the faces smile, most of them with their teeth: people in photos do. A group
    drives both sides together, with a little asymmetry in most cases and one side alone in some
    (winks, lopsided smiles). Gaze is not part of it, see `random_face`. A model whose names are
    not ARKit's gets one to five of its shapes at random.
    """
    index = _index(names)
    out = np.zeros(len(names), np.float32)
    if rng.random() < 0.15:
        return out
    smiles = rng.random() < 0.3
    if smiles:
        _drive(out, index, _SMILES[rng.integers(len(_SMILES))], rng.uniform(0.3, 1.0), rng)
    for group in rng.choice(len(_GROUPS), rng.integers(0 if smiles else 1, 5), replace=False):
        level = rng.beta(1, 2) if rng.random() < 0.85 else rng.uniform(0.5, 1)
        _drive(out, index, _GROUPS[group], level * (0.5 if smiles else 1.0), rng)
    free = [i for (stem, _), i in index.items() if not stem.startswith("eyelook")]
    known = any((stem, side) in index for stem in ("jawopen", "eyeblink") for side in ("", "l"))
    extra = rng.integers(0, 3) if known else rng.integers(1, 6)  # names that no group knows
    for k in rng.choice(free, min(extra, len(free)), replace=False):
        out[k] = max(out[k], rng.beta(1, 4) if known else rng.beta(1, 2))
    _calm_mouth(out, index)
    return np.clip(out, 0, 1)


def _drive(out, index, group, level, rng) -> None:
    """Raise a group's activations to about `level`, both sides together in five of six cases."""
    one_sided = rng.random()
    for stem in group:
        gain = level * rng.uniform(0.5, 1.2)
        for side in ("", "l", "r"):
            if (stem, side) not in index:
                continue
            share = 1.0 if side == "" else np.clip(rng.normal(1, 0.15), 0.4, 1.4)
            if (one_sided < 0.08 and side == "l") or (one_sided > 0.92 and side == "r"):
                share *= rng.uniform(0, 0.3)
            k = index[stem, side]
            out[k] = max(out[k], gain * share)


def _calm_mouth(out, index) -> None:
    """Keep the mouth whole.

    Lips meet no further than the jaw opens; shapes that would tear them are scaled down together.
    """
    if ("mouthclose", "") in index and ("jawopen", "") in index:
        close, jaw = index["mouthclose", ""], index["jawopen", ""]
        out[close] = min(out[close], out[jaw])
    mouth = [i for (stem, _), i in index.items() if stem.startswith("mouth")]
    total = out[mouth].sum()
    if total > 2.6:
        out[mouth] *= 2.6 / total


def random_identity(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Coefficients (size,) ~ N(0, 1), cut at 3."""
    return np.clip(rng.standard_normal(size), -3, 3).astype(np.float32)


def random_angles_deg(rng: np.random.Generator) -> NDArray[np.float32]:
    """(pitch, yaw, roll): 60 % of yaws uniform within 95°, the rest N(0, 25); wide tails else.

    The project's angles: yaw and pitch say where the nose points, roll turns the head about it.
    """
    yaw = rng.uniform(-95, 95) if rng.random() < 0.6 else np.clip(rng.normal(0, 25), -95, 95)
    wide = 26.0 if rng.random() < 0.2 else 13.0
    pitch = np.clip(rng.normal(0, wide), -55, 55)
    roll = np.clip(rng.normal(0, 28.0 if rng.random() < 0.15 else 13.0), -75, 75)
    return np.array([pitch, yaw, roll], np.float32)


def rotation_from_angles(angles_deg: NDArray[np.float32]) -> NDArray[np.float32]:
    """(3, 3) model to camera frame from (pitch, yaw, roll): `R = Ry(yaw) Rx(-pitch) Rz(-roll)`.

    A numpy twin of `graphics.camera.rotation_from_euler_deg` for one pose.
    """
    x, y, z = np.deg2rad(np.asarray(angles_deg, np.float64)) * [-1, 1, -1]
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_y @ about_x @ about_z).astype(np.float32)


def random_translation_mm(rng: np.random.Generator) -> NDArray[np.float32]:
    """Head position T (3,): distance log-uniform 45-300 cm, direction a few degrees off-axis."""
    distance = 10 * np.exp(rng.uniform(np.log(45), np.log(300)))
    off = np.clip(rng.normal(0, 0.08, 2), -0.25, 0.25) * distance
    return np.array([off[0], off[1], -distance], np.float32)


def draw_view(
    box_mm: NDArray[np.float32],
    angles_deg: NDArray[np.float32],
    orthographic: bool,
    size: int,
    expand: float,
    rng: np.random.Generator,
) -> View:
    """A camera at a random place that frames a face.

    Args:
        box_mm: (n, 3) landmarks that define the crop, model frame.
        angles_deg: (3,) pose of the head.
        orthographic: scaled orthographic, else pinhole.
        size: image side in px.
        expand: image side over the side of the nominal crop.
        rng: decides the distance and the angle off the axis of a pinhole.
    """
    rotation = rotation_from_angles(angles_deg)
    turned = box_mm @ rotation.T
    translation = random_translation_mm(rng)
    if orthographic:
        scale, center = _framed(turned[:, 0], -turned[:, 1], size, expand)
        far = np.array([0, 0, -ORTHOGRAPHIC_MM], np.float32)
        return View(True, rotation, far, scale, center)
    f_px, center = frame_face(turned + translation, size, expand)
    return View(False, rotation, translation, f_px, center)


def frame_face(
    points_camera: NDArray[np.float32], size: int, expand: float
) -> tuple[float, NDArray[np.float64]]:
    """Focal length in px and principal point (2,) that centre a face in a square image.

    The nominal crop is the 3DDFA square, side `sqrt(2) * max(w, h)` of the landmark box; the
    image shows `expand` times its side.

    Args:
        points_camera: (n, 3) mm, the landmarks that define the box ("ibug68-3d-bfm").
        size: image side in px.
        expand: image side over nominal side.
    """
    distance = -points_camera[:, 2].astype(np.float64)
    u, v = points_camera[:, 0] / distance, -points_camera[:, 1] / distance
    return _framed(u, v, size, expand)


def _framed(u: NDArray, v: NDArray, size: int, expand: float) -> tuple[float, NDArray[np.float64]]:
    """Scale and shift (2,) that put the box of points (u, v) where the nominal crop wants it."""
    side = np.sqrt(2) * max(np.ptp(u), np.ptp(v))
    scale = size / expand / side
    middle = np.array([u.max() + u.min(), v.max() + v.min()]) / 2
    return float(scale), (size - 1) / 2 - scale * middle.astype(np.float64)
