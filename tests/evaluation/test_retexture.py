"""Scores of appearance methods: the truth is perfect, faults show where they are."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.evaluation import _retexture_cases as cases_of
from lifemask.evaluation import _retexture_dressers as dressers
from lifemask.evaluation._albedo_errors import beard_errors
from lifemask.evaluation._retexture_cases import face_texels, held_out_heads, lit_heads
from lifemask.evaluation._retexture_dressers import create_dresser
from lifemask.evaluation.recogniser import (
    IdentityPair,
    cosines,
    identity_scores,
    load_recogniser,
)
from lifemask.evaluation.retexture import (
    Judged,
    answers_of,
    difference,
    judged,
    rerender,
    score,
    score_case,
    true_answer,
)
from lifemask.facemodel import load_face_model
from lifemask.graphics.lighting import ambient_light
from lifemask.methods.retexture import load_retexturer
from lifemask.types import Appearance

HEADS, LIGHTS = 2, 2


@pytest.fixture(scope="module")
def cases():
    generator = small_generator(load_face_model("lifemask"), seed=900_000_000, size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases_of, "CHART_PX", 64)
        patch.setattr(dressers, "SIZE", 256)
        yield list(lit_heads(generator, HEADS, LIGHTS))


def test_cases_differ_by_light_alone(cases):
    for case in cases:
        assert case.photos.shape == (LIGHTS, 3, 64, 64) and case.truth is not None
        assert not case.photos[0].equal(case.photos[1])
        assert not case.truth.lights[0].equal(case.truth.lights[1])
        assert 0.15 <= float(case.visible[case.mask].float().mean()) <= 1
        assert int(case.pixels.sum()) > 100
        assert bool((case.truth.albedo[:, case.mask] > 0).all())
    assert not cases[0].truth.albedo.equal(cases[1].truth.albedo)


def test_the_face_is_symmetric_and_excludes_eyes_and_mouth(cases):
    case = cases[0]
    mask = face_texels(case.model, case.chart)
    assert mask.equal(mask.flip(-1))
    assert 0.5 < float(mask[case.chart.inside].float().mean()) < 0.9
    assert bool((case.mask & ~mask).sum() == 0)


def test_the_truth_scores_perfectly(cases):
    values = score_case(cases[0], true_answer)
    for name in ("rmse", "rmse_visible_raw", "hue_deg", "spread_ratio"):
        assert values[name] == pytest.approx(0, abs=1e-6)
    assert values["relight_psnr_db"] == pytest.approx(100)
    assert math.isnan(values["seam_chart"])
    assert values["spread_photo"] > 0


def test_beards_are_the_truth_where_they_are_seen_and_not_of_the_mask():
    generator = small_generator(load_face_model("lifemask"), seed=900_000_000, size=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases_of, "CHART_PX", 64)
        case = next(lit_heads(generator, 1, 1, bearded=True))
    assert case.truth is not None and case.beard is not None
    assert case.beard.float().mean() > 0.02
    assert not (case.beard & case.mask).any()
    values = score_case(case, true_answer)
    assert values["rmse_beard"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(values["beard_kept"]) or values["beard_kept"] == pytest.approx(1)


def test_a_beard_that_is_shaved_off_is_charged():
    truth = torch.full((3, 8, 8), 0.5)
    beard = torch.zeros(8, 8, dtype=torch.bool)
    beard[:4] = True
    truth[:, beard] = 0.05
    half = torch.where(beard, 0.5 * 0.1**0.5, 0.5).expand(3, 8, 8)
    kept = [beard_errors(a, truth, beard, ~beard)["beard_kept"]
            for a in (truth * 0.7, half, torch.full((3, 8, 8), 0.3))]  # fmt: skip
    assert kept == pytest.approx([1, 0.5, 0], abs=1e-4)
    errors = [beard_errors(a, truth, beard, ~beard)["rmse_beard"] for a in (truth * 0.7, half)]
    assert errors == pytest.approx([0, 0.5 * 0.1**0.5 - 0.05], abs=1e-4)
    assert math.isnan(beard_errors(truth, truth * 0 + 0.5, beard, ~beard)["beard_kept"])


def test_errors_are_charged_to_what_is_wrong(cases):
    case = cases[0]
    hidden = case.mask & ~case.visible

    def spoiled(case, index):
        albedo = case.truth.albedo.clone()
        albedo[0, hidden] += 0.1
        return Judged(albedo, case.truth.lights[index])

    values = score_case(case, spoiled)
    assert values["rmse_visible_raw"] == pytest.approx(0, abs=1e-6)
    assert values["rmse_hidden_raw"] == pytest.approx(0.1 / math.sqrt(3), rel=1e-3)
    assert values["hue_deg"] > 0.5


def test_detail_light_that_is_everywhere_the_same_is_the_one_light(cases):
    case = cases[0]
    one = Judged(case.truth.albedo, case.truth.lights[0])
    own = one.light.T.reshape(27, 1, 1).expand(27, 16, 16)
    detailed = replace(one, detail=own)
    assert rerender(case, 0, detailed).allclose(rerender(case, 0, one), atol=1e-5)
    assert rerender(case, 0, one)[:, ~case.pixels].equal(case.photos[0][:, ~case.pixels])


def test_rerendering_the_truth_beats_a_flat_light(cases):
    case = cases[0]
    flat = Judged(case.truth.albedo, ambient_light(1.0).sh)
    gap = [
        float((rerender(case, 0, a) - case.photos[0])[:, case.pixels].abs().mean())
        for a in (true_answer(case, 0), flat)
    ]
    assert gap[0] < gap[1]


def test_a_texture_over_the_models_coordinates_is_read_on_the_chart(cases):
    case, size = cases[0], 256
    place = (torch.arange(size) + 0.5) / size
    texture = torch.stack((place.expand(size, size), place.flip(0)[:, None].expand(size, size)))
    texture = torch.cat((texture, texture[:1]))
    albedo = judged(Appearance(texture, ambient_light(1.0)), case).albedo
    assert case.chart.gather(albedo)[:, :2].allclose(case.chart.model_uv, atol=2e-3)


def test_baselines_answer_and_the_photo_keeps_its_light(cases):
    model = cases[0].model
    answers = {name: answers_of(create_dresser(name, model)) for name in ("photo", "prior")}
    result = score(cases, answers | {"truth": true_answer})
    assert (result["heads"], result["pictures"]) == (HEADS, HEADS * LIGHTS)
    photo, prior = (result["methods"][name] for name in answers)
    assert photo["spread_ratio"]["mean"] == pytest.approx(1.0, abs=0.25)
    assert prior["spread_ratio"]["mean"] < photo["spread_ratio"]["mean"]
    assert photo["rerender_psnr_db"]["mean"] > prior["rerender_psnr_db"]["mean"]
    assert photo["completeness"]["mean"] > 0.5 and prior["completeness"]["mean"] == 1
    gap = difference(result, "truth", "photo", "rmse")
    assert gap["mean"] == pytest.approx(-photo["rmse"]["mean"], abs=1e-3)
    with pytest.raises(UserError, match="valid: photo"):
        create_dresser("nothing", model)


def test_a_networks_prior_is_its_own_maps_albedo_under_one_light(cases):
    """Sampled from the texture it is what the network said before its refinement."""
    case = cases[0]
    look = load_retexturer("open", case.model)
    _, said = look.explain(case.photos[0], case.geometry, case.regions)
    answer = answers_of(create_dresser("prior-open", case.model))(case, 0)
    assert torch.equal(answer.light, said.light[0])
    times = look.chart.size // case.chart.size
    maps = [answer.albedo, *(avg_pool2d(x[0], times) for x in (said.prior, said.albedo))]
    own, wanted, refined = (case.chart.gather(x) for x in maps)
    assert float((own - wanted).abs().median()) < 0.3 * float((own - refined).abs().median())


def test_seeds_of_training_are_refused(tmp_path):
    with pytest.raises(UserError, match="not held out"):
        held_out_heads(tmp_path, 1, 1, seed=5)


def test_identity_by_a_recogniser_of_brightness(cases):
    points = np.array([[float(i % 8), float(i // 8)] for i in range(68)])
    other = [np.full((8, 8, 3), 40 + 100 * k, np.uint8) for k in range(HEADS)]
    pairs = [IdentityPair(c, points, o, points) for c, o in zip(cases, other, strict=True)]

    def embed(image, points68):
        assert image.dtype == np.uint8 and points68.shape == (68, 2)
        return np.append(np.quantile(image, np.linspace(0, 1, 9)) - 100, 1.0)

    def black(case, index):
        return Judged(torch.zeros(3, 4, 4), ambient_light(1.0).sh)

    found = identity_scores(embed, pairs, {"truth": true_answer, "black": black})
    assert found["people"] == HEADS
    truth, dark = (found["methods"][name]["photo"]["mean"] for name in ("truth", "black"))
    assert dark < truth <= 1
    assert cosines([np.array([1.0, 0])], [np.array([1.0, 1])])[0] == pytest.approx(0.5**0.5)


def test_a_missing_recogniser_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(UserError, match="pip install dlib_bin"):
        load_recogniser()


def test_white_skin_in_even_light_is_drawn_by_its_radiance(cases):
    case = cases[0]
    white = Judged(torch.ones(3, 4, 4), ambient_light(0.5).sh)
    drawn = rerender(case, 0, white)[:, case.pixels]
    assert drawn.allclose(torch.tensor(0.7354), atol=1e-3)
