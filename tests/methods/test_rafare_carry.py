"""A free surface carried onto the head: what it must keep, what it must take, and where."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lifemask.facemodel import load_face_model
from lifemask.facemodel.detail import displaced
from lifemask.faces.parsing import Regions
from lifemask.graphics.camera import (
    orthographic_camera,
    pinhole_camera,
    project,
    rotation_from_euler_deg,
    unproject,
)
from lifemask.graphics.mesh import vertex_normals
from lifemask.graphics.subdivide import refine
from lifemask.methods._rafare_carry import (
    CarryConfig,
    NoSurfaceError,
    carry_surface,
    free_geometry,
)
from lifemask.methods._rafare_carry_layout import carry_layout
from lifemask.methods._rafare_carry_parts import _ball
from lifemask.types import REGION_NAMES, FreeSurface, Geometry, ModelParams

MODEL = load_face_model()
TOPOLOGY = MODEL.topology
FACE = TOPOLOGY.regions["face"]
CONFIG = CarryConfig(map_size=512)
CHEEK = torch.tensor([41.5, -13.0, 95.5])


def camera(kind="orthographic", yaw_deg=12.0):
    rotation = rotation_from_euler_deg(torch.tensor([4.0, yaw_deg, -3.0]))
    if kind == "orthographic":
        return orthographic_camera(rotation, 2.5, torch.tensor([300.0, 320.0]))
    shift = torch.tensor([5.0, -4.0, -520.0])
    return pinhole_camera(rotation, shift, 1300.0, torch.tensor([300.0, 320.0]))


def head(seed=None, kind="orthographic", yaw_deg=12.0, **expression) -> Geometry:
    """A head of the model, the mean one without a seed."""
    rng = torch.Generator().manual_seed(seed or 0)
    identity = torch.randn(MODEL.identity_size, generator=rng) * (seed is not None)
    activations = torch.zeros(len(MODEL.expression_names))
    for name, value in expression.items():
        activations[MODEL.expression_names.index(name)] = value
    vertices = MODEL(identity, activations)
    return Geometry(
        vertices, TOPOLOGY.faces, camera(kind, yaw_deg), MODEL.name,
        ModelParams(identity, activations), MODEL.landmarks(vertices, "ict68"),
    )  # fmt: skip


def surface_of(geometry, height=None, times=2, keep=None, shift_px=0.0) -> FreeSurface:
    """The rounded face of a head and its eyeballs as a free surface.

    `height` (v, 3) mm -> (v,) moves it along its normals; `keep` chooses faces by their middles.
    """
    shown = (FACE | TOPOLOGY.regions["eyeballs"])[TOPOLOGY.faces.long()].all(1)
    fine = refine(geometry.vertices_mm, TOPOLOGY.faces, TOPOLOGY.uvs, TOPOLOGY.faces_uv, times)
    points = fine.vertices
    if height is not None:
        points = points + height(points)[:, None] * vertex_normals(points, fine.faces)
    faces = fine.faces[shown[fine.parent]]
    if keep is not None:
        faces = faces[keep(points[faces.long()].mean(1))]
    px = project(points, geometry.camera) + torch.tensor([0.0, 0.0, shift_px])
    return FreeSurface(px, faces)


def bump(points, mm=3.0):
    return mm * torch.exp(-(((points - CHEEK).norm(dim=-1) / 14) ** 2))


def moves(geometry, surface, **options):
    carried = carry_surface(geometry, surface, MODEL, options.pop("config", CONFIG), **options)
    assert torch.allclose(carried.vertices_mm, geometry.vertices_mm + carried.detail.offsets_mm)
    return carried.detail.offsets_mm, carried


@pytest.fixture(scope="module")
def bumped():
    """The mean head, and what a bump on its cheek moves."""
    geometry = head()
    return geometry, *moves(geometry, surface_of(geometry, bump))


@pytest.mark.parametrize("kind", ["orthographic", "pinhole"])
def test_a_surface_like_the_head_changes_nothing_wherever_it_lies_in_depth(kind):
    """The rounded face of the head itself, shifted along the view."""
    geometry = head(3, kind, mouthSmileLeft=0.4)
    # a pinhole's surface shrinks or grows when it is shifted, and is another one then
    shift_px = 40.0 if kind == "orthographic" else 0.0
    offsets, carried = moves(geometry, surface_of(geometry, shift_px=shift_px))
    assert offsets.norm(dim=1).max() < 0.05
    assert carried.detail.displacement_mm.abs().max() < 0.06
    assert torch.equal(carried.params.identity, geometry.params.identity)
    assert carried.camera.model == kind
    assert (carried.landmarks68_mm - geometry.landmarks68_mm).norm(dim=1).max() < 0.05
    aligned = unproject(carried.surface.vertices_px, geometry.camera)
    original = unproject(surface_of(geometry).vertices_px, geometry.camera)
    assert (aligned - original).norm(dim=1).max() < 0.05


def test_a_bump_on_the_cheek_is_taken_and_the_rest_stays(bumped):
    geometry, offsets, _ = bumped
    normals = vertex_normals(geometry.vertices_mm, TOPOLOGY.faces)
    found = (offsets * normals).sum(1)
    wanted = bump(geometry.vertices_mm)
    on_cheek = FACE & (wanted > 0.5)
    assert on_cheek.sum() > 20 and found[on_cheek].max() > 2.7
    assert (found - wanted)[on_cheek].abs().max() < 0.3
    beyond = ~FACE & (wanted < 0.01)
    assert offsets[beyond].norm(dim=1).max() < 0.1
    assert offsets[TOPOLOGY.regions["ears"] | TOPOLOGY.regions["scalp"]].abs().max() < 0.1


def test_a_head_takes_the_share_of_a_surface_that_is_believed(bumped):
    geometry, whole, carried = bumped
    surface = surface_of(geometry, bump)
    part, some = moves(geometry, replace(surface, share=0.4))
    assert torch.allclose(part, 0.4 * whole, atol=0.05)
    assert torch.equal(some.surface.vertices_px, carried.surface.vertices_px)
    assert some.surface.share == 0.4 and carried.surface.share == 1.0
    none, bare = moves(geometry, replace(surface, share=0.0))
    assert none.abs().max() < 0.05
    # the fine form is that above the whole of the coarse one, however much of that is taken
    rippled = surface_of(geometry, lambda p: bump(p) + 0.3 * torch.sin(p[:, 1] * 2), 3)
    fine = [moves(geometry, replace(rippled, share=s))[1].detail for s in (1.0, 0.4)]
    assert fine[0].displacement_mm.abs().max() > 0.1
    assert torch.equal(fine[0].displacement_mm, fine[1].displacement_mm)
    assert torch.equal(fine[0].known, fine[1].known) and bare.detail.known.max() == 1


def test_where_it_lies_in_depth_does_not_matter(bumped):
    geometry, here, _ = bumped
    there, _ = moves(geometry, surface_of(geometry, bump, shift_px=-150.0))
    assert (here - there).norm(dim=1).max() < 0.02


def test_ripples_too_fine_for_the_vertices_are_in_the_map():
    def ripple(points):
        return 0.25 * torch.sin(points[:, 0] * (2 * np.pi / 4.5))

    geometry = head(yaw_deg=0.0)
    config = CarryConfig(map_size=1024)
    offsets, carried = moves(geometry, surface_of(geometry, ripple, times=3), config=config)
    layout = carry_layout(MODEL, 1024)
    points, _ = layout.smooth_face(geometry.vertices_mm)
    sure = layout.atlas.gather(carried.detail.known[None])[:, 0] > 0.95
    sure &= (points[:, 1] > 50) & (points[:, 0].abs() < 40)  # the forehead, which looks ahead
    found = layout.atlas.gather(carried.detail.displacement_mm[None])[:, 0][sure]
    assert len(found) > 1000
    assert np.corrcoef(found, ripple(points[sure]))[0, 1] > 0.9
    assert 0.6 < found.std() / ripple(points[sure]).std() < 1.2
    assert offsets[FACE].norm(dim=1).quantile(0.95) < 0.1
    fine = displaced(MODEL, carried.vertices_mm, carried.detail.displacement_mm)
    assert fine.vertices.isfinite().all()


def test_another_person_is_approached_and_holes_are_filled_smoothly():
    """From a guide with another identity; the second surface lacks a cheek and the forehead."""
    guide, truth = head(1, jawOpen=0.2), head(7, jawOpen=0.2)
    truth = replace(truth, camera=guide.camera)
    layout = carry_layout(MODEL, CONFIG.map_size)
    sure = (layout.trust > 0.9) & (vertex_normals(guide.vertices_mm, TOPOLOGY.faces)[:, 2] > 0.5)

    def distance(geometry):
        target = unproject(geometry.surface.vertices_px, guide.camera)
        near = target[geometry.surface.faces.unique().long()]
        return torch.cdist(geometry.vertices_mm[sure], near).amin(1)

    def whole(geometry):
        return replace(geometry, surface=aligned.surface)

    _, aligned = moves(guide, surface_of(truth))
    assert distance(aligned).median() < 0.5 * distance(whole(guide)).median()

    def holed(middles):
        return ((middles - CHEEK).norm(dim=1) > 18) & (middles[:, 1] < 55)

    offsets, _ = moves(guide, surface_of(truth, keep=holed))
    edges = TOPOLOGY.faces.long()[FACE[TOPOLOGY.faces.long()].all(1)][:, :2]
    step = (offsets[edges[:, 0]] - offsets[edges[:, 1]]).norm(dim=1)
    length = (guide.vertices_mm[edges[:, 0]] - guide.vertices_mm[edges[:, 1]]).norm(dim=1)
    assert offsets.isfinite().all() and offsets.norm(dim=1).max() <= CONFIG.max_move_mm + 1e-3
    assert (step[length > 1.5] / length[length > 1.5]).max() < 1.0  # no face turns over


def test_lids_stay_on_the_eyeballs():
    guide, truth = head(1), replace(head(9), camera=camera())
    offsets, carried = moves(guide, surface_of(truth))
    for eye in carry_layout(MODEL, CONFIG.map_size).eyes:
        ball = offsets[eye.ball]
        assert (ball - ball[0]).abs().max() < 1e-5 and ball[0].norm() > 0.3
        center, radius = _ball(eye, guide.vertices_mm)
        lids = (TOPOLOGY.regions["eyes"] & FACE).nonzero()[:, 0]
        lids = lids[(guide.vertices_mm[lids] - center).norm(dim=1) < 2 * radius]
        before = (guide.vertices_mm[lids] - center).norm(dim=1)
        after = (carried.vertices_mm[lids] - center - ball[0]).norm(dim=1)
        assert (after - before.clamp(max=radius)).min() > -1e-3
        rim = (offsets[eye.rim] - ball[0]).norm(dim=1)
        assert rim.max() < 1.0  # the edge goes with the ball


def test_what_regions_hide_is_not_believed(bumped):
    geometry, open_, _ = bumped
    probabilities = torch.zeros(9, 64, 64)
    probabilities[REGION_NAMES.index("skin")] = 1
    half = torch.arange(64) >= 32 + 4
    hair, skin = REGION_NAMES.index("hair"), REGION_NAMES.index("skin")
    probabilities[hair][:, half], probabilities[skin][:, half] = 1.0, 0.0
    middle = project(geometry.vertices_mm[FACE].mean(0, keepdim=True), geometry.camera)[0]
    regions = Regions(probabilities, (float(middle[0]), float(middle[1])), 700.0)
    config = replace(CONFIG, mirror=0.0)
    hidden, carried = moves(geometry, surface_of(geometry, bump), regions=regions, config=config)
    bare = probabilities.clone()
    bare[hair], bare[skin] = 0.0, 1.0
    regions = replace(regions, probabilities=bare, glasses=half.float().expand(64, 64))
    worn, _ = moves(geometry, surface_of(geometry, bump), regions=regions, config=config)
    assert torch.equal(worn, hidden)
    assert open_.norm(dim=1).max() > 2.5 and hidden.norm(dim=1).max() < 0.5
    assert carried.detail.known.sum() > 0


def test_the_hidden_side_follows_the_other():
    geometry = head(yaw_deg=85.0)

    def both(points):
        return bump(points) + bump(points * torch.tensor([-1.0, 1.0, 1.0]))

    offsets, _ = moves(geometry, surface_of(geometry, both))
    at = (geometry.vertices_mm - CHEEK).norm(dim=1).argmin()
    other = TOPOLOGY.mirror[at].long()
    hidden, seen = sorted((float(offsets[at].norm()), float(offsets[other].norm())))
    assert seen > 2.0 and hidden > 0.4 * seen
    plain, _ = moves(geometry, surface_of(geometry, both), config=replace(CONFIG, mirror=0.0))
    assert min(float(plain[at].norm()), float(plain[other].norm())) < hidden


def test_a_scrap_of_surface_is_refused():
    geometry = head()
    scrap = surface_of(geometry, keep=lambda middles: middles[:, 1] > 70)
    with pytest.raises(NoSurfaceError, match="--detail none"):
        carry_surface(geometry, scrap, MODEL, CONFIG)
    with pytest.raises(NoSurfaceError):
        free_geometry(geometry, scrap, MODEL)


def test_the_bare_surface_lies_on_the_head_with_its_landmarks():
    geometry = head(4)
    free = free_geometry(geometry, surface_of(geometry, shift_px=77.0), MODEL)
    assert free.model == "" and free.params is None and free.detail is None
    original = unproject(surface_of(geometry).vertices_px, geometry.camera)
    assert (free.vertices_mm - original).norm(dim=1).max() < 0.05
    away = (free.landmarks68_mm - geometry.landmarks68_mm).norm(dim=1)
    assert away[17:].median() < 0.3
