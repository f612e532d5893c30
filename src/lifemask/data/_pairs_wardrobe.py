"""What a face model needs to appear in pictures: its heads, skins, light and renderer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _pairs_head as heading
from lifemask.data import _pairs_render as rendering
from lifemask.data._pairs_fit import EXPAND
from lifemask.data._pairs_types import PairsConfig
from lifemask.data._pairs_warp import draw_warp_mm
from lifemask.data._synthetic_look import random_materials
from lifemask.data._synthetic_scene import Tone
from lifemask.data._synthetic_surroundings import Light
from lifemask.data.synthetic import Banks, Generator, SyntheticConfig, create_generator
from lifemask.types import REGION_NAMES

SOURCE_EXPAND = 1.5
"""Side of rendered photos in landmark squares: crops never reach over their edge by much."""


@dataclass(frozen=True)
class Wardrobe:
    """A face model with all that its pictures need.

    Attributes:
        kit: makes its heads.
        generator: whose skins, materials and light they get.
        dressed: for rendering.
        tones: (k, 3) log linear colours of its skins.
    """

    kit: heading.ModelKit
    generator: Generator
    dressed: rendering.Dressed
    tones: NDArray[np.float32]


@dataclass(frozen=True)
class Cast:
    """A person who is to be shown: a wardrobe and what was drawn from it.

    Attributes:
        wardrobe: of the face model; banks: skins of the shard.
        identity: (i,) coefficients.
        skin: number of the skin.
        detail_seed: of the relief.
    """

    wardrobe: Wardrobe
    banks: Banks
    identity: NDArray[np.float32]
    skin: int
    detail_seed: int

    @property
    def scalp(self) -> int:
        """Class of the skull in the skin's texture."""
        return REGION_NAMES.index("hair" if self.banks.scalp_hair[self.skin] else "skin")

    def parameters(
        self, expression: NDArray[np.float32], most_warp_mm: float = 0.0
    ) -> heading.HeadParameters:
        """The person with an expression, in numbers as a shard keeps them."""
        return heading.HeadParameters(
            self.wardrobe.kit.name, heading.stored(self.identity), heading.stored(expression),
            round(float(self.banks.skin_age[self.skin]), 6), self.detail_seed,
            draw_warp_mm(most_warp_mm, self.detail_seed),
        )  # fmt: skip

    def tone(self, rng: np.random.Generator) -> Tone:
        """A random tone of the skin."""
        rig, texture = self.wardrobe.generator.rig, self.banks.skins[self.skin]
        freedom = float(self.banks.skin_freedom[self.skin])
        return rendering.draw_tone(rig, texture, self.skin, freedom, rng)

    def shoot(
        self, placed: heading.PlacedHead, tone: Tone, gaze_deg: NDArray[np.float32], light: Light,
        complete: bool, rng: np.random.Generator,
    ) -> rendering.Shot:  # fmt: skip
        """The person's head in a crop; without `complete`, eyes and mouth are black holes."""
        materials = random_materials(rng, tone.plain, placed.parameters.age)
        materials = rendering.less_gloss(materials)
        if not complete:
            materials = rendering.without_insides(materials)
        skin, marks = self.banks.skins[self.skin], self.banks.marks[self.skin]
        look = rendering.Look(skin, marks, tone, materials, gaze_deg)
        wardrobe = self.wardrobe
        return rendering.shoot(wardrobe.generator, wardrobe.dressed, placed, look, light)


def create_wardrobe(name: heading.HeadName, config: PairsConfig, data: Path) -> Wardrobe:
    """Prepare a face model (a few seconds).

    Args:
        name: of the face model.
        config: settings of the run.
        data: folder with `skins/`, `hdri/` and, for "ict", `ict/`.

    Raises:
        UserError: materials or the model are missing.
    """
    kit = heading.create_kit(name, config.size, data)
    rendered = SyntheticConfig(
        seed=config.seed, size=round(config.size * SOURCE_EXPAND / EXPAND), expand=SOURCE_EXPAND,
        shard_size=config.shard_size, bank_size=config.bank_size,
    )  # fmt: skip
    generator = create_generator(rendered, data, kit.model)
    rows, columns = generator.rig.cheek_texels.T
    tones = np.log((generator.skins[:, rows, columns] ** 2.2).mean(1)).astype(np.float32)
    parents = heading.drawn_faces(kit.model, generator.rig)
    return Wardrobe(kit, generator, rendering.dress(generator.rig, parents, kit.times), tones)
