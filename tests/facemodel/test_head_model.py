import pytest
import torch

from lifemask.assets import AssetError
from lifemask.facemodel import FACE_MODELS, load_face_model
from lifemask.facemodel.landmarks import LANDMARK_SETS
from lifemask.facemodel.linear import LinearFaceModel, load_linear_model, pack_linear_model

ARKIT = """browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff
cheekSquintLeft cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight
eyeLookInLeft eyeLookInRight eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight
eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose
mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight mouthFunnel mouthLeft
mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker mouthRight
mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight
mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight
tongueOut""".split()
REFLECT = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def model() -> LinearFaceModel:
    loaded = load_face_model()
    assert isinstance(loaded, LinearFaceModel)
    return loaded


@pytest.fixture(scope="module")
def people(model) -> torch.Tensor:
    a = torch.randn(50, model.identity_size, generator=torch.Generator().manual_seed(7))
    return model(a, torch.zeros(50, 52))


def expressed(model, **activations) -> torch.Tensor:
    b = torch.zeros(len(model.expression_names))
    for name, value in activations.items():
        b[model.expression_names.index(name)] = value
    return model(torch.zeros(model.identity_size), b) - model.mean


def test_names_and_sizes(model):
    assert sorted(model.expression_names) == sorted(ARKIT)
    assert model.identity_size == 80
    assert model.topology.part_names == ("skin", "eyes", "teeth", "tongue")
    assert sorted(model.topology.face_part.unique().tolist()) == [0, 1, 2, 3]
    height = (model.mean.amax(0) - model.mean.amin(0))[1]
    assert 230 < height < 270, "millimetres"


def test_mean_face_is_symmetric_and_mirror_is_an_involution(model):
    mirror = model.topology.mirror
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))
    assert (model.mean[mirror] * REFLECT - model.mean).abs().max() < 1e-4
    faces = model.topology.faces
    reflected = mirror[faces].flip(1)
    own = {tuple(sorted(f)) for f in faces.tolist()}
    shared = sum(tuple(sorted(f)) in own for f in reflected.tolist())
    assert shared > 0.8 * len(faces)  # quads may be split along the other diagonal


def test_modes_are_symmetric_or_antisymmetric(model):
    mirrored = model.identity_basis[:, model.topology.mirror] * REFLECT
    sign = 1.0 - 2.0 * model.antisymmetric.float()
    assert (mirrored - sign[:, None, None] * model.identity_basis).abs().max() < 0.01


def test_modes_are_independent_and_sorted(model):
    """With unit coefficients a mode's size is its standard deviation in mm."""
    face = model.topology.regions["face"]
    flat = model.identity_basis[:, face].flatten(1).double()
    gram = flat @ flat.T
    size = gram.diagonal().sqrt()
    cosine = gram / size[:, None] / size
    off = cosine - torch.eye(80, dtype=torch.float64)
    assert off.abs().max() < 0.45  # exactly orthogonal only in the build's own weighting
    assert (size[:-1] >= 0.8 * size[1:]).all()
    rms = (flat.pow(2).sum() / face.sum()).sqrt()
    assert 4.0 < rms < 12.0, "people differ by some millimetres"


def test_opposite_expressions_are_mirror_images(model):
    names = model.expression_names
    for i, name in enumerate(names):
        other = name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")
        mirrored = model.expression_basis[i][model.topology.mirror] * REFLECT
        assert (mirrored - model.expression_basis[names.index(other)]).abs().max() < 0.02, name


def test_left_is_the_subjects_left(model):
    for name in ("eyeBlinkLeft", "mouthSmileLeft", "browDownLeft", "noseSneerLeft"):
        size = expressed(model, **{name: 1.0}).norm(dim=-1)
        x = model.mean[:, 0]
        assert (size * x).sum() / size.sum() > 5.0, name
    assert expressed(model, jawLeft=1.0)[model.topology.regions["chin"], 0].mean() > 3.0
    assert expressed(model, mouthRight=1.0)[model.topology.regions["lips"], 0].mean() < -3.0


def test_expressions_move_what_they_should(model):
    regions = model.topology.regions
    jaw = expressed(model, jawOpen=1.0)
    teeth = jaw[regions["teeth"]]
    upper = teeth.norm(dim=-1) < 0.01
    assert 0.3 < upper.float().mean() < 0.7, "only the lower row follows the jaw"
    assert teeth[~upper][:, 1].mean() < -10.0
    assert jaw[regions["tongue"]][:, 1].mean() < -5.0
    assert jaw[regions["forehead"]].norm(dim=-1).mean() < 0.2
    assert expressed(model, tongueOut=1.0)[regions["tongue"]][:, 2].max() > 15.0
    assert expressed(model, browInnerUp=1.0)[regions["brows"]][:, 1].mean() > 1.0


@pytest.mark.parametrize(
    ("name", "axis", "sign", "side"),
    [
        ("eyeLookUpLeft", 1, 1, 1),
        ("eyeLookDownRight", 1, -1, -1),
        ("eyeLookOutLeft", 0, 1, 1),
        ("eyeLookInLeft", 0, -1, 1),
        ("eyeLookOutRight", 0, -1, -1),
    ],
)
def test_gaze_turns_the_right_eyeball_the_right_way(model, name, axis, sign, side):
    iris = model.landmarks(expressed(model, **{name: 1.0}), "mediapipe478")[[473, 468]]
    own, other = (iris[0], iris[1]) if side > 0 else (iris[1], iris[0])
    assert sign * own[axis] > 5.0
    assert other.abs().max() < 1e-3


def _clearance(model, heads, ids, eye) -> torch.Tensor:
    """Distance of lid vertices from the eyeball's surface, along the ball's nearest direction."""
    centre = heads[:, eye].mean(1, keepdim=True)
    ball, lid = heads[:, eye] - centre, heads[:, ids] - centre
    cosine = torch.nn.functional.normalize(lid, dim=-1) @ torch.nn.functional.normalize(
        ball, dim=-1
    ).transpose(1, 2)
    radius = ball.norm(dim=-1).gather(1, cosine.argmax(-1).flatten(1))
    return lid.norm(dim=-1) - radius


def test_eyeballs_stay_behind_the_lids_of_fifty_people(model, people):
    regions = model.topology.regions
    left = model.mean[:, 0] > 0
    eye = (regions["eyeballs"] & left).nonzero()[:, 0]
    lids = regions["eyes"] & left & ~regions["eye_socket_interior"]
    front = model.mean[:, 2] > model.mean[eye, 2].mean() + 4.0
    ids = (lids & front).nonzero()[:, 0]
    gap = _clearance(model, people, ids, eye)
    assert gap.min() > -0.6, "the ball's mesh and the ellipsoid of its fit leave half a millimetre"
    assert gap.amin(1).median() > -0.2


def test_blink_closes_eyes_of_every_size(model):
    """The two lid margins of ict68 (37, 38 above 41, 40) meet within a millimetre."""
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(50, 80, generator=generator)
    b = torch.zeros(50, 52)
    b[:, model.expression_names.index("eyeBlinkRight")] = 1.0
    open_eye = model.landmarks(model(a, 0 * b), "ict68")
    closed = model.landmarks(model(a, b), "ict68")

    def aperture(points):
        return (points[:, [37, 38]] - points[:, [41, 40]])[..., 1].mean(1)

    assert aperture(open_eye).std() > 0.6
    assert aperture(closed).max() < 1.6
    assert aperture(closed).mean() < 0.5


def test_lips_are_closed_at_rest(model, people):
    points = model.landmarks(people, "ict68")
    gap = (points[:, [61, 62, 63]] - points[:, [67, 66, 65]])[..., 1]
    assert gap.abs().mean() < 1.5


@pytest.mark.parametrize(
    "name", ["ict68", "ibug68-3d-bfm", "aflw21", "mediapipe478", "lifemask392"]
)
def test_landmarks_lie_on_the_surface_and_mirror(model, name):
    embedding = model.landmark_embeddings[name]
    assert tuple(embedding.mirror.tolist()) == LANDMARK_SETS[name].flip
    assert (embedding.barycentric >= 0).all()
    assert torch.allclose(embedding.barycentric.sum(1), torch.ones(len(embedding.mirror)))
    points = model.landmarks(model.mean, name)
    assert (points[embedding.mirror] * REFLECT - points).abs().max() < 1e-3
    faces = {frozenset(f) for f in model.topology.faces.tolist()}
    edges = {
        frozenset((f[i], f[j])) for f in faces_list(model) for i, j in ((0, 1), (1, 2), (2, 0))
    }
    mirrored = {frozenset(f) for f in model.topology.mirror[model.topology.faces].tolist()}
    for corners in embedding.vertex_ids.tolist():
        support = frozenset(corners)
        assert support in faces or support in mirrored or support in edges or len(support) == 1


def faces_list(model):
    return model.topology.faces.tolist()


def test_dense_set_holds_the_68_sets_and_face_vertices(model):
    points = model.landmarks(model.mean, "lifemask392")
    assert torch.equal(points[:68], model.landmarks(model.mean, "ict68"))
    assert torch.equal(points[68:136], model.landmarks(model.mean, "ibug68-3d-bfm"))
    dense = model.landmark_embeddings["lifemask392"].vertex_ids[136:]
    assert (dense[:, 0] == dense[:, 1]).all() and len(dense[:, 0].unique()) == 256
    assert model.topology.regions["face"][dense[:, 0]].all()


def test_contour_lines_pass_the_jaw_from_behind(model):
    lines = model.contour.lines
    assert lines.shape == (17, 16)
    assert torch.equal(lines.flip(0), model.topology.mirror[lines])
    side = model.mean[lines[[1, 2, 3]]]
    assert (side[:, 0, 2] < side[:, -1, 2]).all()


def test_uvs_of_each_part_fill_the_unit_square_and_mirror(model):
    topology = model.topology
    assert topology.uvs.min() >= 0 and topology.uvs.max() <= 1
    assert len(topology.faces_uv.unique()) == len(topology.uvs), "no stored UV is unused"
    vertex_uv = torch.zeros(len(model.mean), 2)
    vertex_uv[topology.faces] = topology.uvs[topology.faces_uv]
    partner = vertex_uv[topology.mirror]
    eyes, face = topology.regions["eyeballs"], topology.regions["face"]
    ball = eyes & (topology.mirror != torch.arange(len(eyes)))
    assert (partner[ball, 0] + vertex_uv[ball, 0] - 1).abs().max() < 1e-5
    pairs = torch.stack((topology.faces.flatten(), topology.faces_uv.flatten()), 1).unique(dim=0)
    on_seam = torch.bincount(pairs[:, 0], minlength=len(face)) > 1
    face = face & ~on_seam & ~on_seam[topology.mirror]
    assert face.sum() > 1700
    # MakeHuman lays the face on its side (image left and right mirror in v), the throat upright.
    sums, gaps = (partner + vertex_uv)[face], (partner - vertex_uv)[face].abs()
    lying = (sums[:, 1] - sums[:, 1].median()).abs() + gaps[:, 0]
    upright = (sums[:, 0] - 0.7611).abs() + gaps[:, 1]
    assert torch.minimum(lying, upright).max() < 0.01
    assert (lying < 0.01).float().mean() > 0.98


def test_regions(model):
    regions = model.topology.regions
    wanted = """face narrow_face nose lips mouth eyes forehead chin cheeks brows ears neck scalp
    inner_mouth eye_socket_interior eyeballs teeth gums tongue""".split()
    assert set(wanted) <= set(regions)
    for name in wanted:
        mask = regions[name]
        assert mask.any(), name
        assert torch.equal(mask, mask[model.topology.mirror]), name
    assert (regions["narrow_face"] & ~regions["face"]).sum() == 0
    assert (regions["lips"] & ~regions["mouth"]).sum() < 60


def test_stored_precision(model, tmp_path):
    pack_linear_model(model, tmp_path / "again.safetensors")
    again = load_linear_model(tmp_path / "again.safetensors", "lifemask")
    a = torch.randn(4, 80, generator=torch.Generator().manual_seed(1))
    b = torch.rand(4, 52, generator=torch.Generator().manual_seed(2)) * 0.5
    assert (again(a, b) - model(a, b)).abs().max() < 0.02
    assert (tmp_path / "again.safetensors").stat().st_size < 5_000_000


def test_loading(tmp_path):
    assert load_face_model() is load_face_model()
    with pytest.raises(KeyError, match="known: lifemask"):
        load_face_model("nobody")
    with pytest.raises(AssetError, match="no head model at"):
        load_face_model("lifemask", tmp_path / "none.safetensors")
    with pytest.raises(AssetError, match="FaceXModel"):
        load_face_model("ict")
    assert "ict" in FACE_MODELS
