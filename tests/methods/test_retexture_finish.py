"""From the map to the head's texture: complete, without a step, with the photo's detail."""

import pytest
import torch

from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import orthographic_camera, rotation_from_euler_deg
from lifemask.graphics.lighting import linear_to_srgb
from lifemask.graphics.render import render
from lifemask.graphics.uv import sample_uv
from lifemask.methods._retexture_finish import (
    FinishConfig,
    _MapPlace,
    like_skin,
    with_hidden,
)
from lifemask.methods._texture_complete import DARKEST, assemble, physical
from lifemask.methods._texture_layout import texture_layout
from lifemask.methods._texture_light import LightEstimate
from lifemask.methods.retexture import (
    RetextureConfig,
    RetexturePredictConfig,
    Retexturer,
    create_retexture,
)
from lifemask.types import REGION_NAMES, Appearance, Geometry, Lighting

SIZE, PHOTO = 256, 320
FINE = 512
FINISH = FinishConfig(size=SIZE, part_size=64)
LIGHT = Lighting(torch.tensor([[3.4, 0.3, 0.5, 0.9, 0.0, 0.1, 0.05, 0.0, 0.1]]).T.expand(9, 3))
SKIN = torch.tensor([0.42, 0.25, 0.17])


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load_face_model()


@pytest.fixture(scope="module")
def dress(model: FaceModel) -> Retexturer:
    """An untrained network: its albedo is its own start, the unlit photo and a mean skin."""
    torch.manual_seed(0)
    config = RetextureConfig(size=64, base=8, blocks=1, look=8, prior="constant")
    return Retexturer(create_retexture(config, model), model, RetexturePredictConfig(FINISH))


def _geometry(model: FaceModel, yaw_deg: float) -> Geometry:
    with torch.no_grad():
        head = model(torch.zeros(model.identity_size), torch.zeros(len(model.expression_names)))
    rotation = rotation_from_euler_deg(torch.tensor([0.0, yaw_deg, 0.0]))
    camera = orthographic_camera(rotation, 1.2, torch.tensor([PHOTO / 2, PHOTO / 2 + 8.0]))
    return Geometry(head, model.topology.faces, camera, "lifemask")


def _photo(model: FaceModel, geometry: Geometry, texture: torch.Tensor) -> torch.Tensor:
    """(3, h, w) sRGB of the head in a texture (3, n, n) or a colour (3,)."""
    topology = model.topology
    if texture.ndim == 1:
        texture = texture[:, None, None].expand(3, 8, 8)
    picture = render(
        geometry.vertices_mm[None], topology.faces, geometry.camera, PHOTO, PHOTO,
        albedo=texture[None], uvs=topology.uvs, faces_uv=topology.faces_uv, lighting=LIGHT,
        background=torch.tensor([0.2, 0.3, 0.5]).view(3, 1, 1).expand(3, PHOTO, PHOTO),
    )  # fmt: skip
    return linear_to_srgb(picture.image[0]).clamp(0, 1)


@pytest.mark.parametrize("yaw_deg", [0.0, 50.0])
def test_a_head_is_complete_and_plausible(model: FaceModel, dress: Retexturer, yaw_deg: float):
    geometry = _geometry(model, yaw_deg)
    found = dress(_photo(model, geometry, SKIN), geometry)
    assert found.albedo.shape == (3, SIZE, SIZE)
    assert bool(found.albedo.isfinite().all())
    atlas = texture_layout(model, SIZE, 64, 6).atlas
    luminance = atlas.gather(found.albedo) @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert float(((luminance > 0.01) & (luminance < 0.99)).float().mean()) > 0.999
    assert set(found.part_albedo) == {"eyes", "teeth", "tongue"}
    assert found.detail_light is not None and found.detail_light.shape[0] == 27


def test_no_texel_of_a_texture_is_darker_than_a_rough_surface_can_be(model: FaceModel):
    layout = texture_layout(model, SIZE, 64, 6)
    light = LightEstimate(LIGHT, SKIN.log(), float("nan"), 0)
    soot = torch.zeros(len(layout.atlas.gather(torch.zeros(3, SIZE, SIZE))), 3)
    found = layout.atlas.gather(assemble(soot, light, layout))
    luminance = found @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert float(luminance.min()) == pytest.approx(DARKEST)
    assert float((luminance > DARKEST * 1.01).float().mean()) < 0.01  # all but the mouth's inside


def test_what_is_light_enough_stays_and_black_becomes_grey():
    rows = torch.tensor([[0.4, 0.2, 0.1], [0.0, 0.0, 0.0], [0.012, 0.004, 0.0]])
    out = physical(rows)
    assert torch.equal(out[0], rows[0])
    assert torch.allclose(out[1], torch.full((3,), DARKEST))
    assert torch.allclose(out[2, 0] - out[2, 1], rows[2, 0] - rows[2, 1])  # the hue's direction


def test_hidden_skin_has_the_other_sides_detail(dress: Retexturer):
    chart = dress.chart
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, chart.size, chart.size, generator=generator).mul(0.05).exp()
    left = torch.arange(chart.size).expand(chart.size, -1) < chart.size // 2
    albedo = torch.where(left, 0.3 * noise, torch.tensor(0.3))
    out = with_hidden(albedo, left.float(), chart)
    hidden = (~left & chart.inside)[:, chart.size * 5 // 8 :]
    fine = out[:, :, chart.size * 5 // 8 :].log()[:, hidden]
    other = albedo.flip(-1)[:, :, chart.size * 5 // 8 :].log()[:, hidden]
    assert 1.0 < float(fine.std() / other.std()) < 1.3
    assert float(torch.corrcoef(torch.stack((fine.flatten(), other.flatten())))[0, 1]) > 0.95
    assert torch.allclose(out[:, left & chart.inside], albedo[:, left & chart.inside], rtol=1e-4)


def test_the_same_photo_gives_the_same_texture(model: FaceModel, dress: Retexturer):
    geometry = _geometry(model, 30.0)
    photo = _photo(model, geometry, SKIN)
    first, second = (dress(photo, geometry).albedo for _ in range(2))
    assert bool((first == second).all())


def test_the_map_ends_without_a_step(model: FaceModel, dress: Retexturer):
    layout = texture_layout(model, SIZE, 64, 6)
    place = _MapPlace.create(dress.chart, layout)
    head = _geometry(model, 0.0).vertices_mm
    points = torch.cat((layout.atlas.interpolate(head), place.weight[:, None]), 1)
    step = points[1:] - points[:-1]
    within = dress.chart.in_map[layout.atlas.face_ids.long()]
    beside = (layout.atlas.rows[1:] == layout.atlas.rows[:-1]) & (step[:, :3].norm(dim=1) < 5)
    beside &= within[1:] & within[:-1]
    assert float(step[beside, 3].abs().max()) < 0.4
    border = (place.uv - 0.5).abs().amax(1) > 0.485
    assert float(place.weight[border].max()) < 0.01  # the rest takes over at the outer rim
    assert float((place.weight > 0.99).float().mean()) > 0.15


def test_hair_around_the_face_does_not_darken_its_rim(model: FaceModel, dress: Retexturer):
    """Black hair wherever the map does not count in full, which the regions know."""
    layout = texture_layout(model, SIZE, 64, 6)
    place = _MapPlace.create(dress.chart, layout)
    hair = torch.tensor([0.02, 0.015, 0.012])
    colors = torch.where((place.weight > 0.9)[:, None], SKIN, hair)
    geometry = _geometry(model, 0.0)
    bare = _photo(model, geometry, SKIN)
    photo = _photo(model, geometry, layout.atlas.scatter(colors))
    maps = torch.zeros(9, PHOTO, PHOTO)
    maps[REGION_NAMES.index("hair")] = ((photo - bare).abs().amax(0) > 0.02).float()
    found = dress(photo, geometry, Regions(maps, (PHOTO / 2 - 0.5,) * 2, float(PHOTO)))
    luminance = layout.atlas.gather(found.albedo) @ torch.tensor([0.2126, 0.7152, 0.0722])
    rim = (place.weight > 0.05) & (place.weight < 0.9) & (layout.prior.scalp < 0.05)
    skin = luminance[place.weight > 0.95].median()
    assert int(rim.sum()) > 300
    assert float(luminance[rim].quantile(0.02)) > 0.6 * float(skin)


def test_detail_finer_than_the_map_is_kept_where_visible(model: FaceModel, dress: Retexturer):
    geometry = _geometry(model, 0.0)
    stripes = torch.ones(3, FINE, FINE) * SKIN[:, None, None]
    stripes[:, :, ::6] *= 0.6
    stripes[:, :, 1::6] *= 0.6
    plain, detailed = (
        _fine(model, _dressed(dress, model, geometry, stripes, share)) for share in (0.0, 1.0)
    )
    assert detailed > 1.3 * plain


def _dressed(
    dress: Retexturer, model: FaceModel, geometry: Geometry, texture: torch.Tensor, share: float
) -> Appearance:
    finish = FinishConfig(size=FINE, part_size=64, detail=share)
    again = Retexturer(dress.network, model, RetexturePredictConfig(finish))
    return again(_photo(model, geometry, texture), geometry)


def _fine(model: FaceModel, found: Appearance) -> float:
    """Spread of the finest band of the cheeks' albedo."""
    layout = texture_layout(model, FINE, 64, 6)
    soft = torch.nn.functional.avg_pool2d(found.albedo[None], 5, 1, 2)[0]
    rows = layout.texel_core > 0.8
    return float((layout.atlas.gather(found.albedo - soft)[rows]).std())


def test_another_topology_is_refused(model: FaceModel, dress: Retexturer):
    geometry = _geometry(model, 0.0)
    fewer = Geometry(geometry.vertices_mm[:100], geometry.faces, geometry.camera, "lifemask")
    with pytest.raises(ValueError, match="topology"):
        dress(torch.rand(3, 64, 64), fewer)


def test_the_light_is_that_of_the_network(model: FaceModel, dress: Retexturer):
    geometry = _geometry(model, 20.0)
    photo = _photo(model, geometry, SKIN)
    _, said = dress.explain(photo, geometry)
    assert bool((dress(photo, geometry).lighting.sh == said.light[0]).all())
    sampled = sample_uv(said.albedo[0], torch.tensor([[0.5, 0.5]]))
    assert bool(((sampled > 0) & (sampled < 1)).all())


def test_a_tint_that_no_skin_has_is_held_back(dress: Retexturer):
    chart = dress.chart
    size = chart.size
    prior = SKIN[:, None, None].expand(3, size, size)
    fine = torch.randn(1, size, size, generator=torch.Generator().manual_seed(2)).mul(0.05).exp()
    skin = prior * fine
    assert torch.equal(like_skin(skin, prior, chart), skin)
    assert torch.equal(like_skin(skin * 0.7, prior, chart), skin * 0.7)  # another tone is no tint
    patch = torch.zeros(size, size, dtype=torch.bool)
    patch[size * 5 // 16 : size * 7 // 16, size // 4 : size * 3 // 4] = True
    patch &= chart.inside
    yellow = torch.where(patch, skin * torch.tensor([1.0, 1.3, 0.2])[:, None, None], skin)
    out = like_skin(yellow, prior, chart)

    def tint(albedo: torch.Tensor) -> torch.Tensor:
        middle = albedo[:, size * 3 // 8, size * 7 // 16 : size * 9 // 16].log()
        return (middle[1] - middle[2]).mean() - (SKIN[1] / SKIN[2]).log()

    assert float(tint(yellow)) > 1.5 and 0.3 < float(tint(out)) < 0.6
    weights = torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]
    assert torch.allclose((out * weights).sum(0), (yellow * weights).sum(0), rtol=1e-3)
    far = ~patch & chart.inside
    far[size // 4 : size // 2] = False
    assert torch.allclose(out[:, far], skin[:, far], rtol=1e-3)
