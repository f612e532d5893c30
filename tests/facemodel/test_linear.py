import pytest
import torch

from lifemask.facemodel.base import LandmarkEmbedding, Topology
from lifemask.facemodel.linear import (
    GAIN_RANGE,
    JawContour,
    LinearFaceModel,
    load_linear_model,
    pack_linear_model,
)


@pytest.fixture
def small_model() -> LinearFaceModel:
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    topology = Topology(
        faces=torch.tensor([[0, 1, 2], [0, 2, 3], [3, 2, 4]]),
        uvs=torch.rand(5, 2, generator=generator),
        faces_uv=torch.tensor([[0, 1, 2], [0, 2, 3], [3, 2, 4]]),
        face_part=torch.tensor([0, 0, 1]),
        part_names=("skin", "eyes"),
        mirror=torch.tensor([1, 0, 2, 3, 4]),
        regions={"face": torch.tensor([True, True, False, True, False])},
        polygons=torch.tensor([[0, 1, 2, 3], [3, 2, 4, -1]]),
    )
    weights = torch.rand(3, 3, generator=generator)
    embedding = LandmarkEmbedding(
        torch.tensor([[0, 1, 2], [0, 2, 3], [3, 2, 4]]),
        weights / weights.sum(1, keepdim=True),
        torch.tensor([1, 0, 2]),
    )
    return LinearFaceModel(
        "small",
        random(5, 3),
        random(4, 5, 3),
        random(2, 5, 3),
        ("jawOpen", "eyeBlinkLeft"),
        topology,
        {"ict68": embedding},
        contour=JawContour(torch.tensor([[0, 1, 2]]), torch.tensor([8])),
        antisymmetric=torch.tensor([False, True, False, False]),
        expression_gain=torch.tensor([[0.0] * 4, [0.1, -0.2, 0.0, 0.3]]),
    )


def test_equals_the_formula(small_model):
    a, b = torch.randn(3, 4) * 0.3, torch.rand(3, 2)
    gain = (1 + a @ small_model.expression_gain.T).clamp(*GAIN_RANGE)
    expected = small_model.mean + torch.einsum("bi,ivc->bvc", a, small_model.identity_basis)
    expected = expected + torch.einsum("be,evc->bvc", b * gain, small_model.expression_basis)
    assert torch.allclose(small_model(a, b), expected, atol=1e-5)


def test_batch_equals_single_calls_and_broadcasts(small_model):
    a, b = torch.randn(2, 3, 4), torch.rand(2, 3, 2)
    together = small_model(a, b)
    assert together.shape == (2, 3, 5, 3)
    assert torch.allclose(together[1, 2], small_model(a[1, 2], b[1, 2]), atol=1e-5)
    assert torch.allclose(small_model(a[0, 0], b[0])[1], small_model(a[0, 0], b[0, 1]), atol=1e-5)


def test_short_vectors_are_padded_and_long_ones_refused(small_model):
    a = torch.tensor([0.5, -1.0])
    padded = torch.tensor([0.5, -1.0, 0.0, 0.0])
    assert torch.allclose(
        small_model(a, torch.tensor([0.3])), small_model(padded, torch.tensor([0.3, 0.0]))
    )
    with pytest.raises(ValueError, match="5 identity coefficients, the model has 4"):
        small_model(torch.zeros(5), torch.zeros(2))


def test_gradients(small_model):
    model = small_model.double()
    a = (torch.randn(2, 4, dtype=torch.float64) * 0.2).requires_grad_()
    b = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: model.landmarks(model(x, y), "ict68"), (a, b))


def test_file_round_trip(small_model, tmp_path):
    pack_linear_model(small_model, tmp_path / "small.safetensors")
    again = load_linear_model(tmp_path / "small.safetensors", "small")
    a, b = torch.randn(4), torch.rand(2)
    assert (again(a, b) - small_model(a, b)).abs().max() < 0.02
    assert again.expression_names == small_model.expression_names
    assert again.topology.part_names == small_model.topology.part_names
    for name in ("faces", "faces_uv", "face_part", "mirror", "polygons"):
        assert torch.equal(getattr(again.topology, name), getattr(small_model.topology, name))
    assert torch.equal(again.topology.regions["face"], small_model.topology.regions["face"])
    assert again.contour is not None and torch.equal(again.contour.lines, torch.tensor([[0, 1, 2]]))


def test_unknown_landmark_set_names_the_known_ones(small_model):
    with pytest.raises(KeyError, match="it has: ict68"):
        small_model.landmarks(small_model.mean, "flame")
