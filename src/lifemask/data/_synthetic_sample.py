"""Random people, poses and cameras of the generator: plain numbers, no pictures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
_GAZE = ("eyelookup", "eyelookdown", "eyelookleft", "eyelookright")


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


def random_expression(names: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """ARKit activations (len(names),) in [0, 1]: 15 % neutral, else coupled groups ~ Beta(1, 2).

    A quarter of the faces smile, most of them with their teeth: people in photos do. A group
    drives both sides together, with a little asymmetry in most cases and one side alone in some
    (winks, lopsided smiles). Gaze moves the lids and both eyes coherently.
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
    _gaze(out, index, rng)
    for k in rng.choice(len(names), rng.integers(0, 3), replace=False):
        out[k] = max(out[k], rng.beta(1, 4))
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


def _gaze(out, index, rng) -> None:
    if rng.random() < 0.5:
        return
    level, kind = rng.beta(1.2, 2), _GAZE[rng.integers(4)]
    for side in ("l", "r"):
        if kind in ("eyelookup", "eyelookdown"):
            stem = kind
        else:  # looking to the person's left: left eye out, right eye in
            outward = (kind == "eyelookleft") == (side == "l")
            stem = "eyelookout" if outward else "eyelookin"
        if (stem, side) in index:
            out[index[stem, side]] = level


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
    """(pitch, yaw, roll): 60 % of yaws uniform within 95°, the rest N(0, 25); wide tails else."""
    yaw = rng.uniform(-95, 95) if rng.random() < 0.6 else np.clip(rng.normal(0, 25), -95, 95)
    wide = 26.0 if rng.random() < 0.2 else 13.0
    pitch = np.clip(rng.normal(0, wide), -55, 55)
    roll = np.clip(rng.normal(0, 28.0 if rng.random() < 0.15 else 13.0), -75, 75)
    return np.array([pitch, yaw, roll], np.float32)


def random_translation_mm(rng: np.random.Generator) -> NDArray[np.float32]:
    """Head position T (3,): distance log-uniform 45-300 cm, direction a few degrees off-axis."""
    distance = 10 * np.exp(rng.uniform(np.log(45), np.log(300)))
    off = np.clip(rng.normal(0, 0.08, 2), -0.25, 0.25) * distance
    return np.array([off[0], off[1], -distance], np.float32)


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
    side = np.sqrt(2) * max(np.ptp(u), np.ptp(v))
    f_px = size / expand / side
    middle = np.array([u.max() + u.min(), v.max() + v.min()]) / 2
    return float(f_px), (size - 1) / 2 - f_px * middle


def project(points_camera: NDArray, f_px: float, center_px: NDArray) -> NDArray[np.float32]:
    """Camera-frame points (n, 3) mm to (u, v, 1/distance), as the kernels take them."""
    inverse = 1.0 / -points_camera[:, 2]
    out = np.empty(points_camera.shape, np.float32)
    out[:, 0] = center_px[0] + f_px * points_camera[:, 0] * inverse
    out[:, 1] = center_px[1] - f_px * points_camera[:, 1] * inverse
    out[:, 2] = inverse
    return out
