"""How far heads should move that carry a surface: the share that least squares gives."""

import numpy as np
import pytest
import torch

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.training.rafare_share import FACE, Lacks, best_share, lacks_of


def test_the_share_is_what_holds_of_what_was_added():
    rng = np.random.default_rng(1)
    heads = []
    for _ in range(30):
        true, noise = rng.normal(0, 1.5, 400), rng.normal(0, 1.0, 400)
        heads.append(Lacks(true, 0.5 * true + noise))
    share, errors = best_share(heads)
    # E[true (true / 2 + noise)] / E[(true / 2 + noise)^2] = 1.125 / 1.5625
    assert share == pytest.approx(0.72, abs=0.03)
    assert errors["share"] < errors["surface"] < errors["guide"]
    for other in (share - 0.1, share + 0.1):
        rest = np.concatenate([h.wanted - other * h.given for h in heads])
        assert np.sqrt((rest**2).mean()) > errors["share"]


def test_a_surface_that_is_right_is_taken_whole():
    values = np.array([1.0, -2.0, 0.5])
    share, errors = best_share([Lacks(values, values)])
    assert share == pytest.approx(1.0) and errors["surface"] == pytest.approx(0.0)


def test_without_heads_there_is_no_share():
    with pytest.raises(UserError, match="no head of the model"):
        best_share([])
    with pytest.raises(UserError, match="added nothing"):
        best_share([Lacks(np.ones(3), np.zeros(3))])


def test_place_and_size_do_not_count():
    """Half of the way from one head to another is measured as a half, wherever the heads stand."""
    model = load_face_model()
    still = torch.zeros(len(model.expression_names))
    with torch.no_grad():
        guide = model(torch.zeros(model.identity_size), still)
        truth = model(torch.randn(model.identity_size, generator=torch.manual_seed(3)), still)
    halfway = (guide + truth) / 2
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.manual_seed(4)))[0]
    turn = turn * torch.linalg.det(turn).sign()
    face, faces = model.topology.regions[FACE], model.topology.faces.long()
    here = lacks_of(guide, halfway, truth, face, faces)
    away = lacks_of(0.8 * guide @ turn.T + 5, 0.8 * halfway @ turn.T + 5, truth, face, faces)
    np.testing.assert_allclose(here.wanted, away.wanted, atol=1e-3)
    np.testing.assert_allclose(here.given, away.given, atol=1e-3)
    share, errors = best_share([here])
    assert share == pytest.approx(2.0, abs=0.1) and errors["share"] < 0.1 * errors["guide"]
