"""Random materials and skin tones of one image, and the choice of its props."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_kernels as kernels
from lifemask.data._synthetic_scene import Outfit
from lifemask.data._synthetic_skins import BLOOD, MELANIN
from lifemask.data._synthetic_surroundings import SRGB_TO_LINEAR

HAIR_STYLES = ("none", "cropped", "short", "bangs", "long", "behind", "big")


def random_outfit(rng: np.random.Generator) -> Outfit:
    """Draw the props: 88 % hair, 14 % hats, 18 % thick beards, 24 % glasses, 20 % occluders."""
    hat = rng.random() < 0.14
    weights = [0.3, 0.2, 0.2, 0, 0.2, 0.1, 0] if hat else [0.12, 0.12, 0.25, 0.14, 0.2, 0.1, 0.07]
    hair = str(rng.choice(HAIR_STYLES, p=weights))
    beard = str(rng.choice(["full", "goatee", "moustache"])) if rng.random() < 0.18 else ""
    glasses = str(rng.choice(["", "clear", "dark"], p=[0.76, 0.16, 0.08]))
    count = int(rng.integers(1, 3)) if rng.random() < 0.2 else 0
    kinds = rng.choice(["hand", "object", "card"], count, p=[0.4, 0.33, 0.27])
    return Outfit(hair, hat, beard, glasses, tuple(str(k) for k in kinds))


def _f(a) -> NDArray[np.float32]:
    return np.ascontiguousarray(a, np.float32)


SKIN_LOCUS = np.array(
    [[0.66, 0.47, 0.40], [0.56, 0.36, 0.28], [0.41, 0.24, 0.165], [0.29, 0.158, 0.10],
     [0.175, 0.087, 0.053], [0.095, 0.047, 0.030], [0.052, 0.028, 0.019]]
)  # fmt: skip
"""Linear colours of cheeks from very pale to very dark."""


def random_skin_tone(
    rng: np.random.Generator, freedom: float, cheek: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Table (256, 3) from texel value to linear albedo, and a colour matrix (3, 3).

    The cheek is brought to a colour that skin has, drawn evenly from very pale to very dark, with
    more or less blood; one in fourteen gets the colours of a drawing or a mask.

    Args:
        rng: decides the tone.
        freedom: 1 for CC0 skins, less for photos, whose own colour is mostly kept.
        cheek: (n, 3) texels of the cheek.
    """
    gamma = np.clip(rng.normal(1, 0.14, 3) * 0.2 + 0.8 * rng.normal(1, 0.12), 0.65, 1.4)
    lut = SRGB_TO_LINEAR[:, None] ** (1 + (gamma - 1) * freedom)
    own = np.array([lut[cheek[:, c], c].mean() for c in range(3)])
    place = rng.uniform(0, len(SKIN_LOCUS) - 1)
    knots = np.arange(len(SKIN_LOCUS))
    target = np.exp([np.interp(place, knots, np.log(SKIN_LOCUS[:, c])) for c in range(3)])
    target = target * np.exp(rng.normal(0, 0.1) * BLOOD + rng.normal(0, 0.05) * MELANIN)
    share = (rng.uniform(0.85, 1.0) if freedom >= 1 else rng.uniform(0, 0.5)) * freedom
    factor = (target / np.maximum(own, 0.01)) ** share
    hair = np.clip(lut / (0.6 * np.maximum(own, 0.01)), 0, 1) ** 0.5  # stays dark on paler skin
    lut = lut * factor ** np.where(factor > 1, hair, 1.0) * rng.lognormal(0, 0.06)
    mix = np.eye(3) + rng.normal(0, 0.015, (3, 3))
    if rng.random() < 0.07 * freedom:
        mix = 0.5 * np.eye(3) + 0.5 * rng.dirichlet(np.ones(3), 3)
        mix = mix * rng.uniform(0.5, 1.5, (3, 1))
    return _f(np.clip(lut, 0, 1.1)), _f(mix)


def _hair_colour(rng: np.random.Generator, age: float) -> NDArray[np.float64]:
    """Linear colour (3,): natural browns and blonds, grey with age, a few dyed."""
    kind = rng.random()
    if kind < 0.04:
        return rng.uniform(0.02, 0.7, 3)  # dyed
    if kind < 0.07 + 0.6 * np.clip((age - 0.45) * 2.2, 0, 1):
        return rng.uniform(0.12, 0.6) * rng.uniform(0.93, 1.04, 3) * np.array([1.02, 1, 0.97])
    dark = np.exp(rng.uniform(np.log(0.008), np.log(0.45)))
    ratio = np.array([1.0, rng.uniform(0.55, 0.85), rng.uniform(0.25, 0.65)])
    return dark * ratio ** (0.4 + 0.8 * min(1.0, dark * 6))


def random_materials(
    rng: np.random.Generator, plain_skin: NDArray[np.float32], age: float
) -> NDArray[np.float32]:
    """Material table (m, MATERIAL_SIZE) of one image.

    Args:
        rng: decides colours, patterns and gloss.
        plain_skin: (3,) linear colour of chest and hands.
        age: in [0, 1]; greys the hair and yellows the teeth.
    """
    m = np.zeros((len(kernels.MATERIALS), kernels.MATERIAL_SIZE), np.float32)
    gloss = rng.uniform(0.02, 0.22) if rng.random() < 0.85 else rng.uniform(0.2, 0.6)
    m[kernels.SKIN, 10:12] = gloss, rng.uniform(12, 60)
    iris = rng.choice([0, 1, 2], p=[0.6, 0.25, 0.15])
    base = ([0.06, 0.03, 0.015], [0.1, 0.16, 0.22], [0.1, 0.13, 0.06])[iris]
    m[kernels.EYE, 0:3] = np.array(base) * rng.uniform(0.4, 1.6, 3)
    m[kernels.EYE, 3:6] = rng.uniform(0.32, 0.62) * np.array([1, 0.96, 0.92])
    m[kernels.EYE, 6], m[kernels.EYE, 8] = rng.uniform(0.40, 0.5), rng.uniform(0.25, 0.55)
    m[kernels.EYE, 9:12] = rng.uniform(0, 1), rng.uniform(0.3, 1.1), rng.uniform(200, 500)
    m[kernels.MOUTH, 0:3] = np.array([0.25, 0.06, 0.05]) * rng.uniform(0.4, 1.4)
    m[kernels.MOUTH, 10:12] = 0.2, 40
    m[kernels.TEETH, 0:3] = rng.uniform(0.35, 0.68) * np.array([1, 0.96, 0.88 - 0.14 * age])
    m[kernels.TEETH, 10:12] = 0.3, 60
    colour = _hair_colour(rng, age)
    for index in (kernels.HAIR, kernels.BEARD):
        m[index, 0:3] = colour * (rng.uniform(0.6, 1.5) if index == kernels.BEARD else 1)
        m[index, 6] = 1.0 if index == kernels.HAIR else rng.uniform(0.55, 0.8)
        m[index, 7] = rng.uniform(0.02, 0.3) if index == kernels.HAIR else rng.uniform(0.1, 0.5)
        m[index, 8] = rng.uniform(50, 190)
        m[index, 9] = rng.uniform(0.3, 1.1)
        m[index, 10] = rng.uniform(0, 2.5) if index == kernels.HAIR else 0
        m[index, 13], m[index, 14] = rng.uniform(0, 900), rng.uniform(0, 9)
    for index in (kernels.CLOTH, kernels.HAT, kernels.OBJECT):
        m[index, 0:3] = _dyed(rng)
        m[index, 3:6] = _dyed(rng)
        m[index, 8] = rng.uniform(4, 40)
        m[index, 9] = rng.uniform(0, 0.3)
        m[index, 12:16] = rng.choice([0, 1, 2], p=[0.65, 0.2, 0.15]), rng.uniform(0, 900), (
            rng.random() < 0.6), rng.uniform(0.2, 0.8)  # fmt: skip
        m[index, 10:12] = rng.choice([0, rng.uniform(0, 0.3)]), 20
    m[kernels.OBJECT, 10:12] = rng.uniform(0, 0.9), rng.uniform(15, 120)
    m[kernels.FRAME, 0:3] = rng.choice([0.02, rng.uniform(0, 0.7)]) * rng.uniform(0.6, 1, 3)
    m[kernels.FRAME, 10:12] = rng.uniform(0, 1.5), 80
    for index in (kernels.SKIN_PLAIN, kernels.HAND):
        m[index, 0:3] = plain_skin
        m[index, 10:12] = gloss * 0.6, 20
    m[kernels.HAND, 0:3] *= rng.lognormal(0, 0.08, 3)
    return m


def _dyed(rng: np.random.Generator) -> NDArray[np.float64]:
    """Linear colour (3,) of cloth or plastic: a grey or black in half, else some hue."""
    value = np.exp(rng.uniform(np.log(0.012), np.log(0.75)))
    if rng.random() < 0.4:
        return value * rng.uniform(0.93, 1.07, 3)
    return np.clip(value * rng.dirichlet([1.2, 1.2, 1.2]) * 2.2, 0.004, 0.9)
