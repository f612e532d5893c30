"""Photo to texture: light and tone found again, hidden sides completed, parts painted."""

from dataclasses import replace

import pytest
import torch

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import orthographic_camera, project, rotation_from_euler_deg
from lifemask.graphics.lighting import (
    ambient_light,
    lambert_transfer,
    linear_to_srgb,
    srgb_to_linear,
    transferred,
)
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.render import render
from lifemask.graphics.uv import unwrap
from lifemask.methods._texture_complete import _as_hair, hair_beside, hair_color
from lifemask.methods._texture_fill import create_mesh_smoother
from lifemask.methods._texture_layout import texture_layout
from lifemask.methods._texture_light import LUMINANCE, LightEstimate, estimate_light
from lifemask.methods._texture_parts import _BROWN_IRIS, eye_colors, iris_color
from lifemask.methods._texture_regions import clear_share
from lifemask.methods.texture import TextureConfig, texture_from_photo
from lifemask.pipeline import Pipeline, PipelineConfig
from lifemask.types import REGION_NAMES, Appearance, Geometry, Lighting

SIZE, PHOTO = 256, 224
CONFIG = TextureConfig(size=SIZE, part_size=64)
LIGHT = Lighting(
    torch.tensor([[3.4, 0.3, 0.5, 0.9, 0.0, 0.1, 0.05, 0.0, 0.1]]).T
    * torch.tensor([[1.05, 1.0, 0.9]])
)


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load_face_model()


def _geometry(model: FaceModel, yaw_deg: float) -> Geometry:
    with torch.no_grad():
        head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))
    camera = orthographic_camera(rotation, 0.85, torch.tensor([PHOTO / 2, PHOTO / 2 + 8.0]))
    return Geometry(head, model.topology.faces, camera, "lifemask")


def _photo(
    model: FaceModel, geometry: Geometry, skin: torch.Tensor, light: Lighting
) -> torch.Tensor:
    """(3, h, w) sRGB of the head in one colour on a blue wall."""
    topology = model.topology
    textures = [skin.view(1, 3, 1, 1).expand(1, 3, 2, 2)] * len(topology.part_names)
    wall = torch.tensor([0.1, 0.2, 0.7]).view(3, 1, 1).expand(3, PHOTO, PHOTO)
    picture = render(
        geometry.vertices_mm[None],
        topology.faces,
        geometry.camera,
        PHOTO,
        PHOTO,
        uvs=topology.uvs,
        faces_uv=topology.faces_uv,
        albedo=textures,
        face_part=topology.face_part,
        lighting=light,
        background=wall,
    )
    return linear_to_srgb(picture.image[0]).clamp(0, 1)


@pytest.fixture(scope="module")
def turned(model: FaceModel) -> tuple[Geometry, Appearance]:
    """A head turned by 35 degrees under coloured side light, and its texture."""
    geometry = _geometry(model, 35.0)
    photo = _photo(model, geometry, torch.tensor([0.42, 0.25, 0.17]), LIGHT)
    return geometry, texture_from_photo(photo, geometry, model, CONFIG)


def test_the_texture_is_complete_and_physical(turned: tuple[Geometry, Appearance]) -> None:
    appearance = turned[1]
    assert appearance.albedo.shape == (3, SIZE, SIZE)
    assert bool(appearance.albedo.isfinite().all())
    assert float(appearance.albedo.min()) > 0 and float(appearance.albedo.max()) <= 1
    assert appearance.visible is not None and 0 < float(appearance.visible.float().mean()) < 0.5
    for texture in appearance.part_albedo.values():
        assert texture.shape == (3, 64, 64) and bool(texture.isfinite().all())


def test_nothing_of_the_background_gets_into_the_texture(
    turned: tuple[Geometry, Appearance],
) -> None:
    red, _, blue = turned[1].albedo
    assert bool((blue < red * 1.05).all())


def test_side_light_is_taken_out(model: FaceModel, turned: tuple[Geometry, Appearance]) -> None:
    """Albedo of a uniform head under side light varies far less than its picture does."""
    from lifemask.methods._texture_layout import texture_layout

    layout = texture_layout(model, CONFIG.size, CONFIG.part_size, CONFIG.gutter_px)
    skin = (layout.texel_core > 0.9) & turned[1].visible.reshape(-1)[layout.atlas.flat_ids]  # type: ignore[union-attr]
    albedo = layout.atlas.gather(turned[1].albedo)[skin]
    spread = float(albedo.std(0).div(albedo.mean(0)).max())
    assert spread < 0.12
    hue = albedo.mean(0) / albedo.mean()
    truth = torch.tensor([0.42, 0.25, 0.17])
    torch.testing.assert_close(hue, truth / truth.mean(), atol=0.15, rtol=0)


def test_same_photo_gives_the_same_texture(model: FaceModel) -> None:
    geometry = _geometry(model, 0.0)
    photo = _photo(model, geometry, torch.tensor([0.2, 0.11, 0.07]), LIGHT)
    first = texture_from_photo(photo, geometry, model, CONFIG)
    second = texture_from_photo(photo, geometry, model, CONFIG)
    assert torch.equal(first.albedo, second.albedo)


def test_a_head_outside_the_photo_still_gets_a_plausible_skin(model: FaceModel) -> None:
    geometry = _geometry(model, 0.0)
    away = replace(geometry.camera, translation=torch.tensor([5000.0, 0.0, 0.0]))
    photo = torch.rand(3, 40, 40)
    appearance = texture_from_photo(photo, replace(geometry, camera=away), model, CONFIG)
    assert not bool(appearance.visible.any())  # type: ignore[union-attr]
    red, green, blue = appearance.albedo.mean((1, 2))
    assert bool(red > green) and bool(green > blue)


def test_another_topology_is_refused(model: FaceModel) -> None:
    geometry = _geometry(model, 0.0)
    wrong = replace(geometry, vertices_mm=geometry.vertices_mm[:100])
    with pytest.raises(ValueError, match="topology"):
        texture_from_photo(torch.rand(3, 40, 40), wrong, model, CONFIG)


def test_light_and_tone_of_synthetic_skin_are_found_despite_outliers() -> None:
    generator = torch.Generator().manual_seed(3)
    normals = torch.nn.functional.normalize(
        torch.randn(4000, 3, generator=generator) + torch.tensor([0.0, 0.0, 1.2]), dim=-1
    )
    normals = normals[normals[:, 2] > 0.2]
    transfer = lambert_transfer(normals)
    tone = torch.tensor([0.35, 0.20, 0.13]).log()
    colors = tone.exp() * (transfer @ LIGHT.sh)
    colors = colors * torch.exp(0.05 * torch.randn(len(colors), 1, generator=generator))
    colors[::7] *= 0.15  # hair, shadow
    zero, ones = torch.zeros(len(colors), 3), torch.ones(len(colors))
    tones = torch.tensor([[0.7, 0.4, 0.3], [0.15, 0.05, 0.02], [0.4, 0.22, 0.14]]).log()
    found = estimate_light(colors, transfer, zero, zero, ones, tones)
    luminance = torch.tensor(LUMINANCE)
    truth, ours = (transfer @ LIGHT.sh) @ luminance, (transfer @ found.lighting.sh) @ luminance
    ratio = ours / truth
    assert float(ratio.std() / ratio.mean()) < 0.05  # shape of the light
    assert abs(float((found.tone - tone) @ luminance)) < 0.3  # exposure is ambiguous
    assert found.residual < 0.15


def test_darker_light_on_the_same_skin_is_partly_blamed_on_the_photo() -> None:
    """With a dark white point an underexposed photo darkens the tone less."""
    normals = torch.nn.functional.normalize(torch.randn(2000, 3).abs(), dim=-1)
    transfer, tone = lambert_transfer(normals), torch.tensor([0.45, 0.28, 0.19])
    zero, ones = torch.zeros(2000, 3), torch.ones(2000)
    tones = torch.tensor([[0.7, 0.4, 0.3], [0.15, 0.05, 0.02], [0.4, 0.22, 0.14]]).log()
    colors = 0.3 * tone * (transfer @ ambient_light().sh)
    dim = estimate_light(colors, transfer, zero, zero, ones, tones, white_point=0.25)
    full = estimate_light(colors, transfer, zero, zero, ones, tones, white_point=1.0)
    assert float((dim.tone - full.tone).min()) > 0.15


def test_the_mesh_field_interpolates_and_extends_smoothly(model: FaceModel) -> None:
    geometry = _geometry(model, 0.0)
    faces = model.topology.faces[model.topology.face_part == 0]
    smoother = create_mesh_smoother(
        geometry.vertices_mm, faces, torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3)
    )
    weights = (geometry.vertices_mm[:, 0] > 0).float()
    constant = smoother.solve(torch.full((len(weights), 1), 0.4), weights, 1.0, decay=1e-9)
    ids = faces.unique().long()
    torch.testing.assert_close(
        constant[ids], torch.full_like(constant[ids], 0.4), atol=1e-3, rtol=0
    )
    values = torch.rand(len(weights), 1)
    field = smoother.solve(values, weights, 1.0)
    assert float(field.min()) >= 0 and float(field.max()) <= float(values.max())


def test_eyes_have_dark_pupils_in_coloured_irises_in_light_sclera(model: FaceModel) -> None:
    from lifemask.graphics.uv import create_uv_atlas
    from lifemask.methods._texture_parts import LIMBUS_DEG, PUPIL_DEG, _eye_angles

    topology, head = model.topology, _geometry(model, 0.0).vertices_mm
    mask = topology.face_part == topology.part_names.index("eyes")
    atlas = create_uv_atlas(topology.uvs, topology.faces_uv, topology.faces, 128, face_mask=mask)
    colors = eye_colors(atlas, head, torch.tensor([0.08, 0.04, 0.02]))
    angle = _eye_angles(atlas, head)[0]
    light = colors.mean(-1)
    pupil, iris = light[angle < PUPIL_DEG - 2], light[(angle > 12) & (angle < 18)]
    sclera = light[(angle > LIMBUS_DEG + 4) & (angle < LIMBUS_DEG + 10)]
    assert float(pupil.max()) < 0.02 < float(iris.median()) < 0.1 < float(sclera.median())


def test_an_iris_behind_dark_glass_is_brown_whatever_the_glass_shows(model: FaceModel) -> None:
    parts = texture_layout(model, SIZE, 64, 6).parts
    geometry = _geometry(model, 0.0)
    camera = replace(geometry.camera, scale=geometry.camera.scale * 3)
    geometry = replace(geometry, camera=camera)
    levels = torch.rand(1, PHOTO, PHOTO, generator=torch.Generator().manual_seed(0))
    blue = (0.2 + 0.8 * levels) * torch.tensor([0.05, 0.1, 0.3]).view(3, 1, 1)
    clear = _everywhere("skin", torch.zeros(PHOTO, PHOTO, dtype=torch.bool))
    dark = replace(clear, glasses=torch.ones(PHOTO, PHOTO))
    found = [iris_color(blue, geometry, parts.eyes, LIGHT, parts.mean_mm, r)
             for r in (None, clear, dark)]  # fmt: skip
    assert torch.equal(found[0], found[1]) and found[0][2] > found[0][0]
    assert torch.equal(found[2], torch.tensor(_BROWN_IRIS))


def _everywhere(name: str, where: torch.Tensor) -> Regions:
    """Maps of a photo of this file: `name` where `where` (h, w) is set, skin elsewhere."""
    classes = torch.where(where, REGION_NAMES.index(name), REGION_NAMES.index("skin"))
    maps = torch.nn.functional.one_hot(classes, 9).permute(2, 0, 1).float()
    middle = (PHOTO - 1) / 2
    return Regions(maps, (middle, middle), float(PHOTO))


@pytest.fixture(scope="module")
def covered(model: FaceModel) -> tuple[Geometry, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A frontal head, its photo, the photo with a hand's colour on a cheek, and where that is."""
    geometry = _geometry(model, 0.0)
    photo = _photo(model, geometry, torch.tensor([0.42, 0.25, 0.17]), LIGHT)
    nose = int(geometry.vertices_mm.argmax(0)[2])
    u, v, _ = project(geometry.vertices_mm, geometry.camera)[nose].round().int().tolist()
    where = torch.zeros(PHOTO, PHOTO, dtype=torch.bool)
    where[v - 8 : v + 30, u + 14 : u + 44] = True
    hidden = torch.where(where, photo * torch.tensor([0.7, 0.62, 0.6]).view(3, 1, 1), photo)
    return geometry, photo, hidden, where


@pytest.mark.parametrize("name", ["background", "hair", "mouth_interior"])
def test_what_the_regions_call_hidden_stays_out_of_the_texture(model, covered, name) -> None:
    """A hand of nearly the skin's colour fools the colours alone, but not the maps."""
    geometry, photo, hidden, where = covered
    clean, fooled, told = (
        texture_from_photo(p, geometry, model, CONFIG, regions).albedo
        for p, regions in ((photo, None), (hidden, None), (hidden, _everywhere(name, where)))
    )
    worst = [float((t - clean).abs().flatten().quantile(0.999)) for t in (fooled, told)]
    assert worst[0] > 0.05 and worst[1] < 0.5 * worst[0], worst


def test_regions_that_hide_nothing_change_nothing(model, covered) -> None:
    geometry, photo, _, where = covered
    without = texture_from_photo(photo, geometry, model, CONFIG)
    clear = texture_from_photo(
        photo, geometry, model, CONFIG, _everywhere("nose", torch.zeros_like(where))
    )
    torch.testing.assert_close(clear.albedo, without.albedo, atol=1e-5, rtol=0)


def test_hair_hides_skin_but_not_the_scalp_that_wears_it_and_glasses_hide_both() -> None:
    maps = torch.zeros(9, 4, 4)
    maps[REGION_NAMES.index("hair")] = 1
    regions = Regions(maps, (1.5, 1.5), 4.0)
    points = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [50.0, 1.0]])
    scalp = torch.tensor([0.0, 1.0, 0.5, 0.0])
    assert clear_share(points, regions, scalp).tolist() == pytest.approx([0, 1, 0.5, 1])
    cloth = Regions(maps.roll(1, 0), (1.5, 1.5), 4.0)  # background
    assert clear_share(points, cloth, scalp).tolist() == [0, 0, 0, 1]
    skin = Regions(maps.roll(REGION_NAMES.index("skin") - REGION_NAMES.index("hair"), 0),
                   (1.5, 1.5), 4.0)  # fmt: skip
    assert clear_share(points, skin, scalp).tolist() == [1, 1, 1, 1]
    behind = replace(skin, glasses=torch.ones(4, 4))
    assert clear_share(points, behind, scalp).tolist() == [0, 0, 0, 1]


def test_what_hides_is_wider_if_asked():
    """Places as near to hair as that count as hair on all four sides, those further away do not."""
    maps = torch.zeros(9, 20, 20)
    maps[REGION_NAMES.index("hair"), 8:12, 8:12] = 1
    regions = Regions(maps, (50.0, 50.0), 100.0)
    near = torch.tensor([[50.0, 50.0]] * 4) + 16 * torch.tensor(
        [[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]
    )
    bare = torch.zeros(4)
    assert clear_share(near, regions, bare).tolist() == [1, 1, 1, 1]
    assert clear_share(near, regions, bare, 0.08).tolist() == [0, 0, 0, 0]
    assert clear_share(near + (near - 50), regions, bare, 0.08).tolist() == [1, 1, 1, 1]


def test_hair_takes_its_colour_from_the_photo_where_the_scalp_shows_too_little(model) -> None:
    geometry = _geometry(model, 0.0)
    photo = _photo(model, geometry, torch.tensor([0.42, 0.25, 0.17]), LIGHT)
    where = torch.zeros(PHOTO, PHOTO, dtype=torch.bool)
    where[:, :40] = True  # beside the head
    colors = {}
    for name, rgb in {"blond": (0.75, 0.62, 0.42), "hat": (0.1, 0.3, 0.8)}.items():
        photo[:, where] = torch.tensor(rgb)[:, None]
        linear = srgb_to_linear(photo)
        layout = texture_layout(model, CONFIG.size, CONFIG.part_size, CONFIG.gutter_px)
        seen = unwrap(linear, geometry.vertices_mm, geometry.camera, layout.atlas)
        hidden = replace(seen, visible=seen.visible & (layout.prior.scalp < 0.5))
        light = LightEstimate(LIGHT, torch.zeros(3), 0.0, 1)
        transfer = layout.atlas.interpolate(
            lambert_transfer(vertex_normals(geometry.vertices_mm, geometry.faces))
        )
        beside = hair_beside(linear, hidden, _everywhere("hair", where), transfer, light)
        skin = torch.ones(len(layout.atlas))
        colors[name] = hair_color(linear.new_zeros(len(layout.atlas), 3), hidden, skin, layout,
                                   "auto", beside)  # fmt: skip
        assert beside is not None
        shade = transferred(transfer[hidden.visible], LIGHT.sh).mean(0)
        torch.testing.assert_close(beside * shade, srgb_to_linear(torch.tensor(rgb)))
    blond, hat = colors["blond"].exp(), colors["hat"].exp()
    assert blond[0] > 0.15 and blond[0] > blond[1] > blond[2]
    torch.testing.assert_close(hat, torch.tensor([0.030, 0.020, 0.014]))  # brown for want of better


BLOND, BLACK, BLUE = (torch.tensor(c) for c in ((0.24, 0.17, 0.09), (0.01,) * 3, (0.1, 0.2, 0.7)))


def _scalp_color(
    model: FaceModel,
    fringe: torch.Tensor,
    scalp: torch.Tensor,
    maps: bool = True,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """Linear colour (3,) of the hair on a head that shows no skin.

    Every other texel of the face has the colour `fringe`, and the maps call it hair; all else has
    the colour `scalp`, and no map reaches it.
    """
    layout = texture_layout(model, CONFIG.size, CONFIG.part_size, CONFIG.gutter_px)
    vertices, camera = (geometry := _geometry(model, 0.0)).vertices_mm, geometry.camera
    seen = unwrap(torch.zeros(3, PHOTO, PHOTO), vertices, camera, layout.atlas)
    told = (layout.texel_core > 0.5) & (torch.arange(len(layout.atlas)) % 2 == 0)
    points = torch.where(told[:, None], PHOTO / 2, 2.0 * PHOTO).expand(-1, 3)
    regions = _everywhere("hair", torch.ones(PHOTO, PHOTO, dtype=torch.bool)) if maps else None
    unlit, skin = torch.where(told[:, None], fringe, scalp), torch.zeros(len(told))
    color = hair_color(unlit, replace(seen, points=points), skin, layout, "auto", beside, regions)
    assert color is not None
    return color.exp()


@pytest.mark.parametrize(
    ("color", "hair"),
    [
        ((0.010, 0.003, 0.002), True),  # black in warm light
        ((0.004, 0.004, 0.012), True),  # black, bluish
        ((0.030, 0.020, 0.014), True),
        ((0.35, 0.25, 0.15), True),
        ((0.20, 0.20, 0.19), True),  # grey
        ((0.05, 0.01, 0.01), False),  # a dark red cap
        ((0.02, 0.05, 0.30), False),  # a blue one
    ],
)
def test_colours_of_hair(color, hair):
    found = _as_hair(torch.tensor(color))
    assert (found is not None) == hair
    if found is not None:
        assert found.exp().max() < 0.5 and found.exp().min() >= 0.0079


def test_a_fringe_tells_the_colour_of_the_hair_before_the_scalp_does(model) -> None:
    """Behind the scalp's texels may be a dark wall, if the head is less high than it seems."""
    torch.testing.assert_close(_scalp_color(model, BLOND, BLACK), BLOND)
    torch.testing.assert_close(_scalp_color(model, BLOND, BLACK, maps=False), BLACK)


def test_a_hat_called_hair_gives_way_to_what_can_be_hair(model) -> None:
    torch.testing.assert_close(_scalp_color(model, BLUE, BLOND), BLOND)
    torch.testing.assert_close(_scalp_color(model, BLUE, BLUE, beside=BLOND), BLOND)
    brown = torch.tensor([0.030, 0.020, 0.014])
    torch.testing.assert_close(_scalp_color(model, BLUE, BLUE), brown)


@pytest.mark.parametrize("bar", [0.0, 1.0])
def test_bars_around_a_photo_do_not_change_the_texture(model, bar: float) -> None:
    """A photo cut above the brows, its fringe blond; the maps take the bars for hair."""
    geometry = _geometry(model, 0.0)
    photo = _photo(model, geometry, torch.tensor([0.42, 0.25, 0.17]), LIGHT)
    nose = int(geometry.vertices_mm.argmax(0)[2])
    top = int(project(geometry.vertices_mm, geometry.camera)[nose, 1]) - 60
    hair = (torch.arange(PHOTO) < top + 25)[:, None].expand(PHOTO, PHOTO)
    photo = torch.where(hair, torch.tensor([0.75, 0.62, 0.42])[:, None, None], photo)
    grain = torch.rand(PHOTO, PHOTO, generator=torch.Generator().manual_seed(0))
    photo = photo * (0.85 + 0.15 * grain)  # or the wall, of one colour, were a bar itself
    framed = photo.clone()
    framed[:, :top] = bar
    framed[:, :, :40] = bar
    alone = _dressed(model, geometry, photo[:, top:, 40:], hair, (40.0, float(top)))
    inside = _dressed(model, geometry, framed, hair, (0.0, 0.0))
    torch.testing.assert_close(inside, alone, atol=1e-4, rtol=0)
    layout = texture_layout(model, CONFIG.size, CONFIG.part_size, CONFIG.gutter_px)
    red, _, blue = layout.atlas.gather(inside)[layout.prior.scalp > 0.9].median(0).values
    assert float(red) > 0.15 and float(red) > 1.5 * float(blue)


def _dressed(model, geometry, photo, hair, origin: tuple[float, float]) -> torch.Tensor:
    """Albedo of a head in a part of the photo that begins at `origin` (u, v)."""
    camera = geometry.camera
    camera = replace(camera, translation=camera.translation - torch.tensor([*origin, 0.0]))
    regions = _everywhere("hair", hair)
    center = tuple(c - o for c, o in zip(regions.center_px, origin, strict=True))
    pipeline = Pipeline(PipelineConfig(texture="photo", appearance=CONFIG), model=model)
    picture = (photo.permute(1, 2, 0) * 255).round().byte().numpy()
    seen = replace(geometry, camera=camera)
    appearance = pipeline.dress(picture, seen, replace(regions, center_px=center))
    assert appearance is not None
    return appearance.albedo
