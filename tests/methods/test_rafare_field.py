import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.graphics.mesh import boundary_edges, face_areas
from lifemask.methods._rafare_field import FieldConfig, extract_surface, front_sheet
from lifemask.methods._rafare_lattice import Samples, box_filter, voxel_points


def sphere(points, centre=(0.0, 0.0, 0.0), radius=0.6):
    return torch.linalg.vector_norm(points - torch.tensor(centre), dim=-1) - radius


def lattice(grid):
    return voxel_points(torch.arange(grid**3), grid)


def everything(size=16):
    return torch.ones(size, size, dtype=torch.bool)


def oval(size):
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return (x / 0.5) ** 2 + ((y + 0.05) / 0.62) ** 2 < 1


def head(points):
    """A head with nose, folds and a thin blade: a distance that training clamped, not quite 1."""
    x, y, z = points.unbind(-1)
    skull = ((x / 0.62) ** 2 + (y / 0.8) ** 2 + ((z + 0.3) / 0.75) ** 2).sqrt() - 1
    nose = ((x / 0.7) ** 2 + (y + 0.05) ** 2 + (z - 0.45) ** 2).sqrt() - 0.14
    blade = torch.maximum((x - 0.2).abs() - 0.012, ((y - 0.2) ** 2 + (z - 0.4) ** 2).sqrt() - 0.2)
    d = torch.minimum(torch.minimum(0.6 * skull, nose), blade)
    d = d + 0.004 * torch.sin(25 * x) * torch.sin(23 * y) * torch.sin(21 * z)
    return d.clamp(-0.05, 0.04) + 0.004 * torch.sin(90 * x + 70 * z) * (d > 0.06)


def folds(points):
    return 4 * torch.sin(60 * points[:, 0]) * torch.sin(50 * points[:, 1])


class Counted:
    """A field that counts the points it was asked for, and remembers the largest call."""

    def __init__(self, field):
        self.field, self.points, self.most = field, 0, 0

    def __call__(self, points):
        self.points += len(points)
        self.most = max(self.most, len(points))
        return self.field(points)


class Stored:
    """The fine label of a field, stored as half floats on the lattice."""

    def __init__(self, field, grid, voxels):
        d = field(lattice(grid)).view(grid, grid, grid)
        self.grid, self.values = grid, (1000 * (d - box_filter(d, voxels))).half()

    def __call__(self, points):
        index = ((points + 1) * self.grid / 2).floor().long()
        return self.values[tuple(index.T)].float()


def fitted_sphere(vertices):
    """Centre and radius by linear least squares."""
    points = vertices.double().numpy()
    matrix = np.concatenate((2 * points, np.ones((len(points), 1))), 1)
    *centre, constant = np.linalg.lstsq(matrix, (points**2).sum(1), rcond=None)[0]
    return np.array(centre), np.sqrt(constant + np.square(centre).sum())


CENTRE = (0.03, -0.07, 0.05)


def test_distance_is_boxed_distance_plus_the_fine_label():
    d = head(lattice(40)).view(40, 40, 40)
    boxed = box_filter(d, 5)
    r = 1000 * (d - boxed)
    assert (boxed + r / 1000 - d).abs().max() < 1e-6


@pytest.mark.parametrize(("grid", "size", "evaluate"), [(48, 16, "full"), (96, 45, "band")])
def test_a_sphere_comes_back(grid, size, evaluate):
    def field(points):
        return sphere(points, CENTRE)

    config = FieldConfig(
        grid=grid, box=3 * 2 / grid, front=False, evaluate=evaluate, coarse=32, fine_scale=1e-3
    )
    mask, voxel = everything(size), 2 / grid
    surface = extract_surface(field, Stored(field, grid, 3), mask, config=config)
    centre, radius = fitted_sphere(surface.vertices)
    assert np.abs(centre - CENTRE).max() < 0.05 * voxel
    assert abs(radius - 0.6) < 0.1 * voxel
    assert (sphere(surface.vertices, CENTRE).abs() < 0.1 * voxel).all()
    blurred = extract_surface(field, None, mask, config=config)
    assert abs(fitted_sphere(blurred.vertices)[1] - 0.6) > abs(radius - 0.6)


def test_a_sphere_behind_a_mask_of_another_size_comes_back():
    def field(points):
        return sphere(points, CENTRE)

    config = FieldConfig(grid=37, box=0.0, coarse=20)
    surface = extract_surface(field, None, oval(45), config=config)
    assert (field(surface.vertices).abs() < 0.1 * 2 / 37).all()


def test_surfaces_point_outwards_and_have_no_degenerate_faces():
    def field(points):
        return sphere(points, (0.0, 0.0, 0.0), 0.625)  # its poles fall on samples

    config = FieldConfig(grid=40, box=0.0, front=False)
    surface = extract_surface(field, None, everything(), config=config)
    outward = torch.nn.functional.normalize(surface.vertices, dim=-1)
    assert ((surface.normals * outward).sum(-1) > 0.99).all()
    a, b, c = surface.vertices[surface.faces].double().unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.625**3, rel=0.02)
    assert len(boundary_edges(surface.faces)) == 0
    assert face_areas(surface.vertices, surface.faces).min() > 0
    assert len(surface.faces.unique()) == len(surface.vertices)


def test_a_plane_through_samples_has_no_degenerate_faces():
    def field(points):
        return points[:, 2] - 0.025  # a voxel's centre for 40

    config = FieldConfig(grid=40, box=0.0)
    surface = extract_surface(field, None, everything(), config=config)
    assert face_areas(surface.vertices, surface.faces).min() > 1e-4 * (2 / 40) ** 2
    assert (surface.vertices[:, 2] - 0.025).abs().max() < 2e-3 * 2 / 40
    assert (surface.normals[:, 2] > 0.99).all()


@pytest.mark.parametrize(("grid", "size"), [(96, 128), (90, 101)])
@pytest.mark.parametrize("carve", ["none", "divergence", "integrate"])
def test_band_and_full_agree(grid, size, carve):
    from scipy.spatial import KDTree

    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    wave = 0.3 * torch.sin(30 * axis)
    normals = torch.stack((wave.expand(size, size), wave[:, None].expand(size, size)), -1)
    normals = torch.cat((normals, (1 - normals.square().sum(-1, True)).sqrt()), -1)
    found, asked = [], []
    for evaluate in ("full", "band"):
        base, fine = Counted(head), Counted(folds)
        config = FieldConfig(grid=grid, box=3 * 2 / grid, evaluate=evaluate, coarse=32, carve=carve)
        found.append(extract_surface(base, fine, oval(size), normals, config=config))
        asked.append((base.points, fine.points))
    full, band = (surface.vertices.numpy() for surface in found)
    for a, b in ((full, band), (band, full)):
        assert KDTree(a).query(b)[0].max() < 0.1 * 2 / grid
    assert asked[1][0] < 0.7 * asked[0][0]
    assert asked[1][1] < 0.3 * asked[0][0]


def test_a_band_on_a_fine_lattice_asks_for_little():
    base, fine = Counted(head), Counted(folds)
    config = FieldConfig(grid=160, chunk=10_000)
    extract_surface(base, fine, oval(64), config=config)
    behind_the_mask = oval(160).float().mean() * 160**3
    assert base.points < 0.45 * behind_the_mask and fine.points < 0.2 * behind_the_mask
    assert max(base.most, fine.most) <= 10_000


def test_a_blade_thinner_than_a_coarse_cell_is_followed():
    def field(points):
        x, y, z = points.unbind(-1)
        rod = torch.maximum((x.square() + y.square()).sqrt() - 0.03, (z - 0.5).abs() - 0.4)
        return torch.minimum(sphere(points, (0.0, 0.0, -0.2), 0.4), rod)

    found = []
    for evaluate in ("full", "band"):
        config = FieldConfig(grid=96, box=0.0, evaluate=evaluate, coarse=12, band=0.0, front=False)
        found.append(extract_surface(field, None, everything(), config=config))
    assert torch.equal(found[0].vertices, found[1].vertices)
    assert found[1].vertices[:, 2].max() > 0.88


def test_the_size_of_a_call_changes_nothing():
    found = [
        extract_surface(head, folds, oval(64), config=FieldConfig(grid=64, coarse=24, chunk=chunk))
        for chunk in (999, 1_000_000)
    ]
    torch.testing.assert_close(found[0].vertices, found[1].vertices, atol=1e-5, rtol=0)


def test_no_fine_level_is_the_base_alone():
    mask = oval(40)

    def extract(level, **settings):
        return extract_surface(head, level, mask, config=FieldConfig(grid=48, **settings)).vertices

    alone = extract(None)
    assert torch.equal(extract(lambda points: torch.zeros(len(points))), alone)
    counted = Counted(folds)
    assert torch.equal(extract(counted, fine=False), alone) and counted.points == 0
    assert not torch.equal(extract(folds), alone)


def test_walls_of_mask_and_border_are_gone():
    """The block passes through every side of the cube: all faces but its front would be walls."""

    def field(points):
        return points[:, 2] - 0.1 - 0.1 * torch.sin(3 * points[:, 0])

    grid = 48
    config = FieldConfig(grid=grid, box=0.0, front=False, outer=0.05)
    for mask in (everything(), oval(64)):
        surface = extract_surface(field, None, mask, config=config)
        assert field(surface.vertices).abs().max() < 0.1 * 2 / grid
        assert (surface.normals[:, 2] > 0.5).all()
        assert surface.vertices[:, :2].abs().max() < 0.9
    inside = (surface.vertices[:, 0] / 0.6) ** 2 + ((surface.vertices[:, 1] + 0.05) / 0.72) ** 2
    assert inside.max() < 1.05 and inside.max() > 0.7


def test_floaters_and_bubbles_are_dropped():
    def field(points):
        face = sphere(points, (0.0, 0.0, -0.3), 0.6)
        bubble = sphere(points, (0.0, 0.1, -0.2), 0.15)
        floater = sphere(points, (0.1, 0.0, 0.6), 0.12)
        return torch.minimum(torch.maximum(face, -bubble), floater)

    config = FieldConfig(grid=48, box=0.0, front=False)
    surface = extract_surface(field, None, oval(48), config=config)
    assert sphere(surface.vertices, (0.0, 0.0, -0.3)).abs().max() < 0.1 * 2 / 48


def test_the_front_sheet_has_no_back_of_the_head():
    config = FieldConfig(grid=64, box=0.0)
    mask = oval(64)
    whole = extract_surface(head, None, mask, config=FieldConfig(grid=64, box=0.0, front=False))
    front = extract_surface(head, None, mask, config=config)
    assert whole.vertices[:, 2].min() < -0.8 and front.vertices[:, 2].min() > -0.4
    assert torch.equal(front_sheet(whole).vertices, front.vertices)
    # every vertex of the whole that faces the viewer and lies in front is kept
    kept = {tuple(row) for row in front.vertices.tolist()}
    seen = (whole.normals[:, 2] > 0.2) & (whole.vertices[:, 2] > 0)
    assert {tuple(row) for row in whole.vertices[seen].tolist()} <= kept


def test_what_a_user_can_mend_is_said():
    with pytest.raises(UserError, match="mask is empty"):
        extract_surface(head, None, torch.zeros(16, 16, dtype=torch.bool))
    small = FieldConfig(grid=24)
    for evaluate in ("full", "band"):
        config = FieldConfig(grid=24, evaluate=evaluate, coarse=12)
        with pytest.raises(UserError, match="no face surface"):
            extract_surface(lambda p: torch.ones(len(p)), None, everything(), config=config)
    with pytest.raises(UserError, match="no face surface"):  # inside everywhere: walls alone
        extract_surface(lambda p: -torch.ones(len(p)), None, everything(), config=small)
    with pytest.raises(ValueError, match="needs normals"):
        extract_surface(head, None, everything(), config=FieldConfig(carve="integrate"))
    with pytest.raises(ValueError, match="normals are"):
        extract_surface(head, None, everything(), torch.zeros(8, 8, 3))
    with pytest.raises(ValueError, match="a field gave"):
        extract_surface(lambda p: p, None, everything(), config=small)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_volumes_may_lie_on_a_gpu():
    mask = oval(64)
    config = FieldConfig(grid=64, coarse=24)
    there = extract_surface(head, folds, mask.cuda(), config=config)
    here = extract_surface(head, folds, mask, config=config)
    assert there.vertices.device.type == "cpu"
    torch.testing.assert_close(there.vertices, here.vertices, atol=1e-4, rtol=0)


def test_strands_at_the_rim_go_and_hidden_sides_inside_stay():
    from lifemask.methods._rafare_surface import peeled, with_smooth_rim

    steps = np.linspace(-1, 1, 41)
    x, y = np.meshgrid(steps, steps, indexing="ij")
    z = 0.4 * np.exp(-((x + 0.3) ** 2 + y**2) / 0.02)  # a nose with steep sides
    z = z - 8 * np.maximum(np.abs(x) - 0.8, 0)  # walls that fall off at the rim
    vertices = np.stack((x, y, z), -1).reshape(-1, 3)
    index = np.arange(41 * 41).reshape(41, 41)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    kept = peeled(vertices, faces)
    used = np.unique(kept)
    assert np.abs(vertices[used, 0]).max() < 0.86
    inside = (np.abs(vertices[:, :2]) < 0.7).all(1)
    assert np.isin(np.flatnonzero(inside), used).all()
    stairs = vertices.copy()
    stairs[index[0, ::2], 0] -= 0.05
    smooth = with_smooth_rim(stairs, faces)
    assert smooth[index[0, 5:-5], 0].std() < 0.1 * stairs[index[0, 5:-5], 0].std()
    np.testing.assert_array_equal(smooth[index[5:-5, 5:-5]], stairs[index[5:-5, 5:-5]])


def test_sharpening_moves_along_the_normals_by_the_bump():
    from lifemask.methods._rafare_field import sharpened
    from lifemask.methods._rafare_surface import create_surface

    corners = torch.tensor([[-0.5, -0.5, 0.2], [0.5, -0.5, 0.2], [0.5, 0.5, 0.2], [-0.5, 0.5, 0.2]])
    plane = create_surface(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    bump = torch.zeros(32, 32)
    bump[:16] = 3.0  # the upper half of the picture, so y > 0
    moved = sharpened(plane, bump, 0.01).vertices
    torch.testing.assert_close(moved[:, 2], torch.tensor([0.2, 0.2, 0.23, 0.23]))
    torch.testing.assert_close(moved[:, :2], corners[:, :2])


@pytest.mark.parametrize("box", [5, 9])
def test_every_second_voxel_is_enough_before_a_box(box):
    from scipy.spatial import KDTree

    found, asked = [], []
    for every in (1, 2):
        base = Counted(head)
        config = FieldConfig(grid=128, box=box * 2 / 128, every=every)
        found.append(extract_surface(base, folds, oval(128), config=config))
        asked.append(base.points)
    exact, halved = (surface.vertices.numpy() for surface in found)
    apart = KDTree(exact).query(halved)[0] * 64  # voxels
    assert apart.mean() < 0.03 and np.quantile(apart, 0.99) < 0.2
    assert asked[1] < 0.4 * asked[0]


def test_a_narrow_box_needs_every_voxel():
    found = [
        extract_surface(head, folds, oval(64), config=FieldConfig(grid=64, box=3 / 32, every=every))
        for every in (1, 2)
    ]
    assert torch.equal(found[0].vertices, found[1].vertices)


def test_samples_at_even_voxels_and_means_between():
    grid = 8
    x, y, z = torch.meshgrid(*(torch.arange(grid).float(),) * 3, indexing="ij")
    linear = 2 * x - y + 3 * z
    wanted = torch.zeros(grid, grid, grid, dtype=torch.bool)
    wanted[3:6, 2:4, 1:5] = True
    samples = Samples(grid, 2, wanted.device)
    asked = samples.missing(wanted)
    assert (asked.nonzero() % 2 == 0).all()
    samples.store(asked, linear[asked])
    torch.testing.assert_close(samples.everywhere()[wanted], linear[wanted])
    assert not samples.missing(wanted).any()
    last = torch.zeros_like(wanted)
    last[7, 7, 7] = True  # behind the last even sample its value is repeated
    samples.store(samples.missing(last), linear[6, 6, 6][None])
    assert samples.everywhere()[7, 7, 7] == linear[6, 6, 6]


def test_samples_at_every_voxel_are_what_is_stored():
    volume = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0))
    wanted = volume > 0.4
    samples = Samples(5, 1, wanted.device)
    assert torch.equal(samples.missing(wanted), wanted)
    samples.store(wanted, volume[wanted])
    assert torch.equal(samples.everywhere()[wanted], volume[wanted])
    assert not samples.missing(wanted).any()


def test_other_steps_than_one_and_two_are_refused():
    config = FieldConfig(grid=32, every=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="every is 1 or 2, not 3"):
        extract_surface(head, folds, oval(32), config=config)
