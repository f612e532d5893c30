"""Where trainings start from: runs, and shipped weights by name."""

import pytest
import torch
from torch import nn

from lifemask.assets import UserError
from lifemask.facemodel import load_face_model
from lifemask.nn.unet import UNet
from lifemask.training import dasl, pgn
from lifemask.training.checkpoint import save_checkpoint
from lifemask.training.dasl_recipes import cpu as dasl_cpu
from lifemask.training.parser import initial_weights
from lifemask.training.parser_recipes import cpu as parser_cpu
from lifemask.training.pgn_recipes import PGN
from lifemask.training.rafare import create_network
from lifemask.training.rafare_recipes import cpu as rafare_cpu
from lifemask.training.retexture import create_retexture, start_with
from lifemask.training.retexture_recipes import RETEXTURE
from lifemask.training.start import shipped_weights, starting_weights


@pytest.fixture(scope="module")
def model():
    return load_face_model()


def test_a_parser_starts_from_the_shipped_weights():
    recipe = parser_cpu("open")
    network = UNet(recipe.net)
    network.load_state_dict(initial_weights("parser-open", recipe))
    assert all(v.dtype == torch.float32 for v in network.parameters())


@pytest.mark.parametrize("part", ["base", "fine", "normals"])
def test_each_network_of_rafare_starts_from_its_part_of_the_shipped_weights(part):
    recipe = rafare_cpu(part)
    network = create_network(recipe.net, part)
    weights = starting_weights("rafare-open", "open", part)
    network.load_state_dict(weights)
    whole = shipped_weights("rafare-open")
    own = {name for name in whole if name.startswith(f"{part}.")}
    assert own == {f"{part}.{name}" for name in weights}
    for name, value in network.state_dict().items():
        assert torch.equal(value, whole[f"{part}.{name}"]), name


def test_the_other_methods_start_from_the_shipped_weights(model):
    recipe = RETEXTURE["cpu"]("open")
    network = create_retexture(recipe.net, model)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    start_with(network, starting_weights("retexture-open", "open"), "retexture-open")
    changed = [k for k, v in network.state_dict().items() if not torch.equal(v, before[k])]
    assert any(k.startswith("refine.") for k in changed)
    regressor = dasl.create_network(dasl_cpu("open"), model, None, "dasl-open")
    shipped = starting_weights("dasl-open", "open")
    assert torch.equal(regressor.state_dict()["head.white_mean"], shipped["head.white_mean"])
    pgn_net = pgn.create_network(PGN["cpu"]("open"), model, "pgn-open")
    shipped = starting_weights("pgn-open", "open")
    assert torch.equal(pgn_net.state_dict()["lift"], shipped["lift"])


def test_an_open_network_does_not_start_from_research_weights(tmp_path):
    assert starting_weights("parser-research", "research")
    with pytest.raises(UserError, match="parser-research was trained on research data"):
        starting_weights("parser-research", "open")
    network = nn.Linear(2, 2)
    modules = {"network": network, "averaged": network}
    optimizer = torch.optim.AdamW(network.parameters())
    save_checkpoint(tmp_path, modules, optimizer, {"step": 1, "recipe": {"family": "research"}})
    assert starting_weights(tmp_path, "research").keys() == {"weight", "bias"}
    with pytest.raises(UserError, match="was trained on research data"):
        starting_weights(tmp_path, "open")


def test_what_is_neither_a_run_nor_shipped_is_refused():
    with pytest.raises(UserError, match="train it first"):
        starting_weights("parser-nobody", "open")


def test_weights_joined_by_a_plus_are_averaged_and_keep_their_family(tmp_path):
    means = starting_weights("parser-open+parser-research", "research")
    first, second = (shipped_weights(f"parser-{f}") for f in ("open", "research"))
    for name, value in means.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (first[name] + second[name]) / 2)
        else:
            assert torch.equal(value, first[name])
    with pytest.raises(UserError, match="parser-research was trained on research data"):
        starting_weights("parser-open+parser-research", "open")
    with pytest.raises(UserError, match="cannot be averaged: .*different forms"):
        starting_weights("parser-open+landmarker-open", "open")
    named = tmp_path / "a+b"  # a run's folder may have a plus in its name
    named.mkdir()
    network = nn.Linear(2, 2)
    modules = {"network": network, "averaged": network}
    optimizer = torch.optim.AdamW(network.parameters())
    save_checkpoint(named, modules, optimizer, {"step": 1, "recipe": {"family": "open"}})
    assert starting_weights(named, "open").keys() == {"weight", "bias"}
