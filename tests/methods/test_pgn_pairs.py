"""The pair terms of PGN: each pulls a wrong pose right, tells people apart, and can be switched."""

import dataclasses
import math
from dataclasses import replace

import pytest
import roma
import torch
from torch import Tensor, nn

from helpers.pair_heads import SIZE, frame, look, person, photograph, pose, posed, seen_frame
from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.base import FaceModel
from lifemask.faces.parsing import load_parser
from lifemask.graphics.lighting import studio_light
from lifemask.methods import _pgn_pairs
from lifemask.methods._pgn_pairs import (
    FACE_REGIONS,
    FrozenParser,
    PairConfig,
    PairTerms,
    displaced,
    load_frozen_parser,
    photometric,
    region_divergence,
)
from lifemask.methods._pgn_swap import PosedFrames, Swapped, swap
from lifemask.nn.census_flow import Flow, census_flow
from lifemask.types import REGION_NAMES

TERMS = ("photometric", "flow", "semantic")
OFF = PairConfig(photometric=0.0, flow=0.0, semantic=0.0)
LEFT, RIGHT = pose(-12.0, 2.0), pose(13.0, -3.0)


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return load_face_model()


@pytest.fixture(scope="module")
def faces(model: FaceModel) -> Tensor:
    return model.topology.faces


@pytest.fixture(scope="module")
def counted(model: FaceModel) -> Tensor:
    return model.topology.regions["face"]


@pytest.fixture(scope="module")
def parser() -> FrozenParser:
    return load_frozen_parser()


@pytest.fixture(scope="module")
def pair(model: FaceModel) -> tuple[PosedFrames, PosedFrames]:
    return seen_frame(model, 1, LEFT), seen_frame(model, 1, RIGHT)


def only(term: str, **settings) -> PairConfig:
    return replace(OFF, **{term: 1.0}, **settings)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# what each term mends


def error_px(model: FaceModel, found: Tensor, true: Tensor) -> float:
    """Mean distance of the face's vertices in crop px."""
    face = model.topology.regions["face"]
    return float((found - true)[0, face, :2].norm(dim=-1).mean()) * SIZE / 2


@pytest.mark.parametrize("wrong", ["source", "target"])
@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_mends_a_pose(model, faces, counted, parser, term, wrong) -> None:
    """3 degrees and 2 px; 50 steps leave less than a third (asked for: 70 %, L_s 90 %)."""
    vertices = person(model, 1)
    poses = {"source": LEFT, "target": RIGHT}
    frames = {
        k: frame(vertices, photograph(model, vertices, look(1), p), p) for k, p in poses.items()
    }
    axis = torch.nn.functional.normalize(torch.tensor([0.5, 1.0, -0.7]), dim=0)
    turn = (math.radians(3) * axis).requires_grad_()
    shift = (torch.tensor([0.8, 0.6]) * 2 * 2 / SIZE).requires_grad_()
    terms = PairTerms(only(term, occluders=False), parser)

    def moved() -> Tensor:
        rotation = roma.rotvec_to_rotmat(turn)
        assert isinstance(rotation, Tensor)
        return posed(vertices, poses[wrong].moved(rotation, shift))

    before = error_px(model, moved().detach(), frames[wrong].vertices)
    optimizer = torch.optim.Adam((turn, shift), lr=5e-3)
    for _ in range(50):
        seen = {**frames, wrong: replace(frames[wrong], vertices=moved())}
        optimizer.zero_grad()
        total(terms(seen["source"], seen["target"], faces, counted)).backward()
        optimizer.step()
    after = error_px(model, moved().detach(), frames[wrong].vertices)
    assert before > 2.0
    assert after < 0.33 * before


def test_equal_frames_cost_nothing(pair, faces, counted, parser) -> None:
    config = replace(only("photometric"), flow=1.0, semantic=1.0)
    terms = PairTerms(config, parser)(pair[0], pair[0], faces, counted)
    assert set(terms) == set(TERMS)
    for value in terms.values():
        assert abs(float(value)) < 1e-3


@pytest.mark.parametrize("lights", [("soft", "soft"), ("soft", "key")])
def test_other_people_cost_more(model, faces, counted, parser, lights) -> None:
    """Same poses and lights, the true geometry of each frame; only the people differ."""
    first, second = (studio_light(name) for name in lights)
    config = replace(only("photometric"), flow=1.0, semantic=1.0)
    terms = PairTerms(config, parser)
    costs = {True: dict.fromkeys(TERMS, 0.0), False: dict.fromkeys(TERMS, 0.0)}
    for a, b in ((1, 1), (2, 2), (1, 2), (2, 1)):
        source, target = seen_frame(model, a, LEFT, first), seen_frame(model, b, RIGHT, second)
        for name, value in terms(source, target, faces, counted).items():
            costs[a == b][name] += float(value)
    for name in ("photometric", "flow"):
        assert costs[False][name] > 1.3 * costs[True][name]


def test_the_wrong_shape_costs_more(model, faces, counted) -> None:
    """The geometry of somebody else on both frames of a person."""
    terms = PairTerms(only("photometric"))
    frames = [seen_frame(model, 1, at) for at in (LEFT, RIGHT)]
    others = [
        replace(f, vertices=posed(person(model, 2), p))
        for f, p in zip(frames, (LEFT, RIGHT), strict=True)
    ]
    right, wrong = (float(total(terms(*two, faces, counted))) for two in (frames, others))
    assert wrong > 1.5 * right


# switches


@pytest.mark.parametrize("term", TERMS)
def test_a_switch_changes_the_total(pair, faces, counted, parser, term) -> None:
    whole = PairTerms(PairConfig(), parser)(*pair, faces, counted)
    less = PairTerms(replace(PairConfig(), **{term: 0.0}), parser)(*pair, faces, counted)
    assert set(whole) == set(TERMS) and set(less) == set(TERMS) - {term}
    assert float(total(less)) < float(total(whole))
    for name, value in less.items():
        assert torch.allclose(value, whole[name], rtol=1e-4)
    twice = replace(PairConfig(), **{term: 2 * getattr(PairConfig(), term)})
    more = PairTerms(twice, parser)(*pair, faces, counted)
    assert torch.allclose(more[term], 2 * whole[term], rtol=1e-4)


@pytest.mark.parametrize("setting", [{"truncate": 0.01}, {"light": "none"}, {"size": 96}])
def test_a_setting_changes_the_total(pair, faces, counted, setting) -> None:
    plain, other = (
        PairTerms(only("photometric", **s))(*pair, faces, counted) for s in ({}, setting)
    )
    assert abs(float(total(other) / total(plain)) - 1) > 0.02


class Counting(nn.Module):
    """A parser of one answer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, crops: Tensor) -> Tensor:
        self.calls += 1
        return crops.mean(1, keepdim=True) * torch.arange(9.0).view(1, 9, 1, 1)


def test_what_is_off_is_not_computed(pair, faces, counted, monkeypatch) -> None:
    def forbidden(*_args, **_settings):
        raise AssertionError("called")

    monkeypatch.setattr(_pgn_pairs, "load_flow", forbidden)
    counting = Counting()
    terms = PairTerms(only("photometric", occluders=False), counting)
    assert set(terms(*pair, faces, counted)) == {"photometric"} and counting.calls == 0
    monkeypatch.setattr(_pgn_pairs, "swap", forbidden)
    nothing = PairTerms(OFF, counting)
    assert not nothing.active and nothing(*pair, faces, counted) == {} and counting.calls == 0
    blind = PairTerms(only("semantic"))
    assert not blind.active and blind(*pair, faces, counted) == {}


def test_regions_need_a_parser_and_the_rest_does_not(pair, faces, counted) -> None:
    assert set(PairTerms(PairConfig())(*pair, faces, counted)) == {"photometric", "flow"}


def test_an_unknown_flow_backend_is_a_users_error() -> None:
    with pytest.raises(UserError, match="valid: census, raft"):
        PairTerms(PairConfig(flow_backend="farneback"))
    assert PairTerms(PairConfig(flow_backend="farneback", flow=0.0)).flow is None


# what hides the face


class Curtain(nn.Module):
    """A parser that sees background where the image is green, skin elsewhere."""

    def forward(self, crops: Tensor) -> Tensor:
        green = (crops[:, 1] > crops[:, 0] + 0.2) & (crops[:, 1] > crops[:, 2] + 0.2)
        ids = torch.where(green, REGION_NAMES.index("background"), REGION_NAMES.index("skin"))
        return 20 * nn.functional.one_hot(ids, 9).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("hidden", [0, 1])
def test_occluders_are_left_out_of_either_frame(model, pair, faces, counted, hidden) -> None:
    painted = pair[hidden].crops.clone()
    painted[:, :, 60:, :] = torch.tensor([0.1, 0.9, 0.1]).view(1, 3, 1, 1)
    frames = list(pair)
    frames[hidden] = replace(frames[hidden], crops=painted)
    clean, told, blind = (
        float(total(PairTerms(only("photometric", occluders=o), Curtain())(*two, faces, counted)))
        for two, o in ((pair, True), (frames, True), (frames, False))
    )
    assert max(clean, told) < 0.1 * blind
    assert set(FACE_REGIONS) < set(REGION_NAMES)


def test_given_trust_is_kept(pair, faces, counted) -> None:
    nothing = replace(pair[0], trust=torch.zeros(1, 1, 8, 8))
    terms = PairTerms(replace(PairConfig(), semantic=0.0), Curtain())
    for value in terms(nothing, pair[1], faces, counted).values():
        assert float(value) == 0


# formulas


def swapped_of(image: Tensor, reference: Tensor, mask: Tensor) -> Swapped:
    return Swapped(image, mask, reference)


def test_photometric_is_its_formula_and_keeps_gradients_below_the_truncation() -> None:
    reference = torch.full((1, 3, 8, 8), 0.2)
    image = reference.clone()
    image[..., :2] += 0.1
    image[..., 2:4] += 0.7
    image.requires_grad_()
    mask = torch.ones(1, 8, 8)
    mask[..., 6:] = 0.0
    value = photometric(swapped_of(image, reference, mask))
    assert float(value.detach()) == pytest.approx((2 * 0.1 + 2 * 0.3) / 6, rel=1e-5)
    value.backward()
    assert image.grad is not None
    assert bool((image.grad[..., :2] > 0).all())
    assert float(image.grad[..., 2:].abs().sum()) == 0
    assert float(photometric(swapped_of(reference + 1, reference, 0 * mask))) == 0


def test_displaced_is_its_formula() -> None:
    def backend(moving: Tensor, fixed: Tensor, /) -> Flow:
        field = torch.stack((torch.full((1, 64, 64), 0.5), torch.full((1, 64, 64), -1.5)), 1)
        return Flow(field, torch.full((1, 64, 64), 0.25))

    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1.0
    images = torch.zeros(1, 3, 32, 32)
    value = displaced(swapped_of(images, images, mask), backend)
    assert float(value) == pytest.approx(0.5 * 0.25 * 2.0, rel=1e-3)


def test_displacement_grows_with_a_shift(pair, faces, counted) -> None:
    values = []
    for shift in (0.0, 1.0, 2.0):
        offset = torch.tensor([shift * 2 / 64, 0.0, 0.0])
        source = replace(pair[0], vertices=pair[0].vertices + offset)
        values.append(float(displaced(swap(source, pair[1], faces, 64, counted), census_flow)))
    assert values[0] < 0.3 * values[1] and values[1] < 0.8 * values[2]


def test_region_divergence_is_kullback_leibler() -> None:
    generator = torch.Generator().manual_seed(0)
    own, wanted = torch.randn(2, 2, 9, 16, 16, generator=generator).log_softmax(2)
    own.requires_grad_()
    wanted.requires_grad_()
    mask = torch.ones(2, 16, 16)
    value = region_divergence(own, wanted, mask)
    expected = nn.functional.kl_div(own, wanted, log_target=True, reduction="none").sum(1).mean()
    assert torch.allclose(value, expected)
    value.backward()
    assert own.grad is not None and wanted.grad is None
    assert float(region_divergence(wanted, wanted, mask).detach()) == 0


# the parser


@pytest.mark.parametrize("family", ["open", "research"])
def test_the_frozen_parser_is_the_shipped_one(pair, family) -> None:
    crops = nn.functional.interpolate(pair[0].crops, (256, 256), mode="bilinear")
    frozen = load_frozen_parser(family)
    found = frozen(crops).softmax(1)
    wanted = load_parser(family, "torch").predict_crops(crops)[:, :9]
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not found.requires_grad
    face = found[0, [REGION_NAMES.index(name) for name in FACE_REGIONS]].sum(0)
    assert face[80:200, 100:160].mean() > 0.7


def test_mixed_precision_and_channels_last_change_nothing(pair, faces, counted, parser) -> None:
    terms = PairTerms(PairConfig(), parser)
    plain = terms(*pair, faces, counted)
    other = [replace(f, crops=f.crops.contiguous(memory_format=torch.channels_last)) for f in pair]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms(other[0], other[1], faces, counted)
    for name, value in plain.items():
        assert torch.allclose(mixed[name], value, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same(pair, faces, counted) -> None:
    def there(frames: PosedFrames) -> PosedFrames:
        parts = (frames.vertices, frames.crops, frames.half_crops_per_mm)
        return PosedFrames(*(part.cuda() for part in parts))

    terms = PairTerms(PairConfig(), load_frozen_parser())
    plain = terms(*pair, faces, counted)
    other = terms.cuda()(there(pair[0]), there(pair[1]), faces.cuda(), counted.cuda())
    for name, value in plain.items():
        assert torch.allclose(other[name].cpu(), value, rtol=0.02, atol=1e-6)


def test_the_frozen_parser_stays_as_it_is(pair, faces, counted, parser) -> None:
    terms = PairTerms(only("semantic"), parser)
    terms.train()
    assert not any(module.training for module in parser.modules())
    assert not any(p.requires_grad for p in terms.parameters())
    before = {k: v.clone() for k, v in parser.state_dict().items()}
    vertices = pair[0].vertices.clone().requires_grad_()
    total(terms(replace(pair[0], vertices=vertices), pair[1], faces, counted)).backward()
    assert all(torch.equal(v, before[k]) for k, v in parser.state_dict().items())
    assert vertices.grad is not None and float(vertices.grad.abs().sum()) > 0


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="valid: open, research"):
        load_frozen_parser("closed")  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PairConfig().size = 3  # type: ignore[misc]
