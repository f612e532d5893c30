"""The gap of pairs filled by a network: which pixels, which weights, what a manifest says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.test_pairs_compose import disc, photo, shot
from fake_pairs import create_noise
from fake_renders import make_data
from lifemask.assets import UserError, sha256
from lifemask.data._pairs_blend import harmonic_fill
from lifemask.data._pairs_compose import choose_layers, compose
from lifemask.data._pairs_inpaint import Inpainter, create_fill, load_inpainter
from lifemask.data._pairs_run import run_pairs
from lifemask.data._synthetic_regions import SKIN
from lifemask.data.pairs import PairsConfig
from lifemask.nn.inpaint_net import InpaintNet, InpaintNetConfig
from lifemask.training.inpaint_export import export_inpaint

SIZE = 64
CONFIG = PairsConfig(seed=1, shard_size=4)


def network() -> InpaintNet:
    torch.manual_seed(0)
    net = InpaintNet(InpaintNetConfig(SIZE, (8, 16), (2,)))
    torch.nn.init.normal_(net.told.weight, 0.0, 0.1)
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the weights of both families."""
    place = tmp_path_factory.mktemp("weights")
    for family in ("open", "research"):
        export_inpaint(
            network().state_dict(), network().config, place, f"inpaint-{family}", {"tag": family}
        )
    return place


@pytest.fixture
def net(folder) -> PairsConfig:
    return replace(CONFIG, inpaint="net", inpaint_weights=str(folder))


@pytest.mark.parametrize("blend", ["poisson", "paste"])
def test_the_rest_of_the_photo_keeps_its_bytes(net, blend):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    fitted, new = photo(image=image), shot(disc(12))
    layers = choose_layers(fitted, new, SKIN)
    out = compose(fitted, new, layers, blend, create_fill(net))
    changed = layers.swapped | layers.gap
    assert layers.gap.sum() > 100 and np.array_equal(out[~changed], image[~changed])
    smooth = compose(fitted, new, layers, blend)
    assert np.array_equal(smooth, compose(fitted, new, layers, blend, harmonic_fill))
    assert (out[layers.gap] != smooth[layers.gap]).any(-1).mean() > 0.9
    again = compose(fitted, new, layers, blend, create_fill(net))
    assert np.array_equal(out, again), "the same bytes every time"


def test_the_gap_does_not_take_from_either_face(net):
    fill, rng = create_fill(net), np.random.default_rng(1)
    image = rng.random((SIZE, SIZE, 3))
    hole, known = disc(19) & ~disc(12), ~disc(19)
    found = fill(image, hole, known)
    assert np.array_equal(found[~hole], image[~hole]) and found.dtype == np.float64
    other = np.where(known[..., None], image, rng.random(image.shape))
    assert np.array_equal(fill(other, hole, known)[hole], found[hole])
    assert (found[hole] >= 0).all() and (found[hole] <= 1).all()


def test_any_size_and_nothing_to_do():
    fill, image = Inpainter(network()), np.random.default_rng(0).random((37, 51, 3))
    hole = np.zeros((37, 51), bool)
    assert np.array_equal(fill(image, hole, ~hole), image)
    hole[30:, 40:] = True
    assert np.array_equal(fill(image, hole, np.zeros_like(hole)), image)
    found = fill(image, hole, ~hole)
    assert found.shape == image.shape and np.array_equal(found[~hole], image[~hole])
    assert (found != image)[hole].all()


def test_without_a_network_pairs_are_filled_as_before():
    assert create_fill(CONFIG) is harmonic_fill


def test_what_is_missing_or_damaged_is_told(net, folder, tmp_path, monkeypatch):
    remedy = "lifemask train inpaint.*--inpaint-weights, or use --inpaint harmonic"
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=rf"no inpaint-open\.safetensors in .*{remedy}"):
        create_fill(replace(net, inpaint_weights=""))
    shutil.copy(folder / "inpaint-open.safetensors", tmp_path)
    with pytest.raises(UserError, match=f"no readable card.*{remedy}"):
        create_fill(replace(net, inpaint_weights=""))
    shutil.copy(folder / "inpaint-open.json", tmp_path)
    assert isinstance(create_fill(replace(net, inpaint_weights="")), Inpainter)
    weights = tmp_path / "inpaint-open.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"sha256 differs.*{remedy}"):
        load_inpainter(weights)
    with pytest.raises(UserError, match="both or neither"):
        replace(CONFIG, inpaint_weights=str(folder))
    with pytest.raises(UserError, match="unknown inpaint 'telea'; valid: harmonic, net"):
        replace(CONFIG, inpaint="telea")  # pyright: ignore[reportArgumentType]


def test_pairs_keep_to_the_licence_of_the_network(net, folder, tmp_path):
    for suffix in ("safetensors", "json"):
        shutil.copy(folder / f"inpaint-research.{suffix}", tmp_path / f"inpaint-open.{suffix}")
    with pytest.raises(UserError, match="not of the open family"):
        create_fill(replace(net, inpaint_weights=str(tmp_path)))
    assert isinstance(create_fill(replace(net, photos="aflw21")), Inpainter)
    (folder.parent / "only").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"no inpaint-research\.safetensors"):
        create_fill(replace(net, photos="aflw21", inpaint_weights=str(folder.parent / "only")))


def test_the_manifest_keeps_to_the_weights_not_to_their_place(net, folder, tmp_path):
    data = make_data(tmp_path / "data")

    def go(config, place="out", count=4):
        return run_pairs(config, tmp_path / place, count, data, create=create_noise)

    plain = go(CONFIG, "plain")["settings"]
    assert plain["inpaint"] == "harmonic"
    assert not {"inpaint_weights", "inpaint_sha256"} & plain.keys(), "as folders made before"
    settings = go(net)["settings"]
    assert settings["inpaint_sha256"] == sha256(folder / "inpaint-open.safetensors")
    assert "inpaint_weights" not in settings and str(folder) not in json.dumps(settings)
    elsewhere = shutil.copytree(folder, tmp_path / "moved")
    go(replace(net, inpaint_weights=str(elsewhere)), count=6)
    other = network()
    torch.nn.init.normal_(other.told.weight, 0.0, 0.2)
    export_inpaint(other.state_dict(), other.config, elsewhere, "inpaint-open", {"tag": "open"})
    with pytest.raises(UserError, match="another run.*inpaint_sha256.*new folder"):
        go(replace(net, inpaint_weights=str(elsewhere)), count=6)
    with pytest.raises(UserError, match="no inpaint-open"):
        go(replace(net, inpaint_weights=str(tmp_path / "none")), "fresh")
    assert not (tmp_path / "fresh").exists()


def test_the_command_takes_it(tmp_path, capsys):
    from lifemask.apps.cli import main

    data = make_data(tmp_path / "data")
    words = ["pairs", "-o", str(tmp_path / "out"), "--count", "2", "--data", str(data)]
    for more, told in (
        (["--inpaint", "telea"], "valid: harmonic, net"),
        (["--inpaint", "net", "--inpaint-weights", str(tmp_path)], "lifemask train inpaint"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        assert stopped.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
