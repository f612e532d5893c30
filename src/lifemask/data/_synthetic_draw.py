"""Draws the scene of an image: pose, camera, clothes, light and the faults of the camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lifemask.data import _synthetic_hair as hairdo
from lifemask.data import _synthetic_hands as hands
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_look as look
from lifemask.data import _synthetic_photo as photo
from lifemask.data import _synthetic_props as props
from lifemask.data import _synthetic_sample as sampling
from lifemask.data import _synthetic_surroundings as around
from lifemask.data._synthetic_mesh import Mesh
from lifemask.data._synthetic_rig import HeadRig
from lifemask.data._synthetic_scene import Lens, Outfit, Scene, Tone, View

if TYPE_CHECKING:
    from lifemask.data.synthetic import Banks, Generator, SyntheticConfig

CHUNK = 50
"""Heads computed in one matrix product."""


@dataclass(frozen=True)
class Draws:
    """Random numbers of one image.

    Attributes:
        image: of what is drawn anew for each image.
        person: of what all images of a person share, from its start for each of them; the same
            generator as `image` where a person has one image.
    """

    image: np.random.Generator
    person: np.random.Generator

    @property
    def shared(self) -> bool:
        """Whether further images show the person."""
        return self.person is not self.image


def image_draws(config: SyntheticConfig, index: int) -> Draws:
    """The random numbers of an image, by its number in the run."""
    image = np.random.default_rng([config.seed, 0, index])
    if config.frames == 1:
        return Draws(image, image)
    return Draws(image, np.random.default_rng([config.seed, 3, index // config.frames]))


def draw_scenes(
    generator: Generator, banks: Banks, shard: int, indices: Sequence[int]
) -> Iterator[Scene]:
    """Scenes of a shard by their number in the run, in order.

    Each depends on the run's seed, its own number and its person's number alone, up to the
    rounding of batched matrix products in `head_mm` and `points_mm`.
    """
    import torch

    model, rig = generator.rig.model, generator.rig
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        draws = [image_draws(generator.config, i) for i in chunk]
        rngs = [d.image for d in draws]
        identity = np.stack(
            [sampling.random_identity(model.identity_size, d.person) for d in draws]
        )
        names, ranges = model.expression_names, model.expression_range
        people = [sampling.random_face(names, rng, ranges) for rng in rngs]
        for person, index in zip(people, chunk, strict=True):
            moving = np.random.default_rng([generator.config.seed, 4, index])
            if moving.random() < generator.config.lids:
                sampling.move_lids(person.expression, names, moving)
        expression = np.stack([person.expression for person in people])
        with torch.no_grad():
            heads = model(torch.from_numpy(identity), torch.from_numpy(expression))
            points, box, anatomy = (
                rig.landmarks(heads, name) for name in (rig.label_set, rig.box_set, rig.anatomy_set)
            )
        for k, draw in enumerate(draws):
            yield draw_scene(
                generator, banks, draw, shard, int(chunk[k]), identity[k], people[k],
                heads[k].numpy(), points[k], box[k], anatomy[k],
            )  # fmt: skip


def draw_scene(
    generator: Generator,
    banks: Banks,
    draws: Draws,
    shard: int,
    index: int,
    identity: NDArray[np.float32],
    face: sampling.FaceDraw,
    head_mm: NDArray[np.float32],
    points_mm: NDArray[np.float32],
    box_mm: NDArray[np.float32],
    landmarks68_mm: NDArray[np.float32],
) -> Scene:
    """Draw everything about one image.

    Args:
        generator: rig, props and settings.
        banks: skins and backgrounds of the shard.
        draws: the random numbers of the image and of its person, after the identity's.
        shard: whose banks they are.
        index: of the image in the run.
        identity: (i,) coefficients.
        face: expression, pose and gaze.
        head_mm: (v, 3) vertices, model frame.
        points_mm: (n, 3) landmarks that become the labels.
        box_mm: (68, 3) landmarks that define the crop.
        landmarks68_mm: (68, 3) landmarks that place glasses and hands.
    """
    config, rig, angles = generator.config, generator.rig, face.angles_deg
    rng, own = draws.image, draws.person
    orthographic = config.camera == "orthographic"
    if config.camera == "both":
        orthographic = bool(rng.random() < 0.5)
    view = sampling.draw_view(box_mm, angles, orthographic, config.size, config.expand, rng)
    skin = int(own.integers(len(banks.skins)))
    age = float(banks.skin_age[skin])
    tone = _tone(rig, banks, skin, own)
    outfit = look.random_outfit(own)
    if draws.shared:
        outfit = replace(outfit, occluders=look.random_outfit(rng).occluders)
    meshes, lens = _dress(generator, draws, outfit, head_mm, landmarks68_mm, box_mm, view)
    neck = generator.props.neck_anchor
    share = np.array([0.25, rng.uniform(0.2, 1.0), 0.25], np.float32)
    background, window = _background(banks, rng, config.size)
    return Scene(
        index=index,
        shard=shard,
        person=index // config.frames,
        identity=identity,
        expression=face.expression,
        age=age,
        angles_deg=angles,
        gaze_deg=face.gaze_deg,
        head_mm=head_mm,
        points_mm=points_mm,
        view=view,
        outfit=outfit,
        props=tuple(meshes),
        lens=lens,
        body_rotation=sampling.rotation_from_angles(angles * share),
        pivot_mm=generator.props.neck_mm + (head_mm[neck] - rig.mean_mm[neck]).mean(0),
        tone=tone,
        materials=_materials(draws, tone, age),
        light=around.draw_light(generator.surroundings, rng, window),
        background=background,
        card=around.draw_cut(len(banks.backgrounds.pictures), rng, config.size),
        exposure=photo.draw_exposure(rng),
        faults=photo.draw_faults(rng, config.size),
    )


def _materials(draws: Draws, tone: Tone, age: float) -> NDArray[np.float32]:
    """The person's materials; each frame of a person has clothes and held things of its own."""
    materials = look.random_materials(draws.person, tone.plain, age)
    if draws.shared:
        rows = [kernels.CLOTH, kernels.OBJECT]
        materials[rows] = look.random_materials(draws.image, tone.plain, age)[rows]
    return materials


def _tone(rig: HeadRig, banks: Banks, skin: int, rng: np.random.Generator) -> Tone:
    rows, columns = rig.cheek_texels.T
    colours = banks.skins[skin][rows, columns]
    lut, mix = look.random_skin_tone(rng, float(banks.skin_freedom[skin]), colours)
    linear = np.stack([lut[colours[:, c], c].mean() for c in range(3)])
    return Tone(skin, lut, mix, np.clip(mix @ linear, 0.003, 1).astype(np.float32))


def _background(banks: Banks, rng: np.random.Generator, size: int):
    """A cut, and (environment, yaw) where it shows the surroundings that also light the head."""
    cut = around.draw_cut(len(banks.backgrounds.pictures), rng, size)
    environment = int(banks.backgrounds.environment[cut.picture])
    if environment < 0 or cut.flip or rng.random() < 0.2:
        return cut, None
    return cut, (environment, float(banks.backgrounds.yaw[cut.picture]))


def _dress(
    generator: Generator, draws: Draws, outfit: Outfit, head, landmarks68, box_mm, view: View
) -> tuple[list[Mesh], Lens | None]:
    """The meshes of an outfit, and the glass of its glasses."""
    rig, kit, rng, own = generator.rig, generator.props, draws.image, draws.person
    meshes: list[Mesh] = []
    if outfit.hair != "none":
        meshes.append(hairdo.hair(kit.shell, rig, head, own, outfit.hair))
    if outfit.hat:
        meshes += hairdo.hat(kit.shell, rig, head, own)
    if outfit.beard:
        normals = np.empty_like(head)
        kernels.vertex_normals_into(head, rig.faces, normals)
        meshes.append(hairdo.beard(rig, kit.beards[outfit.beard], head, normals, own, outfit.beard))
    lens = None
    if outfit.glasses:
        frame, glass = props.glasses(kit, head, landmarks68, own)
        meshes.append(frame)
        lens = _lens(glass, outfit.glasses == "dark", own)
    meshes.append(props.shoulders(kit, head, rng))
    for kind in outfit.occluders:
        if kind == "hand":
            meshes += hands.hand_at_face(landmarks68, rng)
        elif kind == "object":
            meshes += hands.held_object(landmarks68, rng)
        else:
            span = generator.config.size / view.scale_px_per_mm
            meshes.append(hands.card(box_mm @ view.rotation.T, span, rng))
    return meshes, lens


def _lens(mesh: Mesh, dark: bool, rng: np.random.Generator) -> Lens:
    alpha = rng.uniform(0.6, 0.98) if dark else rng.uniform(0.0, 0.22)
    colour = rng.uniform(0.0, 0.12, 3) if dark else rng.uniform(0.0, 1.0) * np.ones(3)
    sheen = (float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.3, 1.0)))
    return Lens(mesh, float(alpha), colour.astype(np.float32), sheen, dark)
