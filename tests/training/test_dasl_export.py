"""Export of 2DASL: both engines agree, weights round to fp16, cards tell, damage is refused."""

import json
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers import dasl_faces as toy
from lifemask.assets import AssetError, network_card, sha256, weights_folder
from lifemask.facemodel import load_face_model
from lifemask.methods.dasl import DaslConfig, DaslPredictConfig, ExportNet, create_dasl, load_dasl
from lifemask.training import dasl_export
from lifemask.training.dasl import TRAINABLE
from lifemask.training.dasl_export import export_dasl, onnx_bytes
from lifemask.training.dasl_export import main as export_main
from lifemask.training.export import fuse_norms, largest_difference
from lifemask.training.run import train_command
from lifemask.types import Face

pytest.importorskip("onnx")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZE = 48
MASK = toy.mask_model()


def lively(config=None, model=MASK):
    """A network as after some training: statistics, whitening and outputs are not trivial."""
    config = config or DaslConfig("tiny", SIZE)
    torch.manual_seed(0)
    network = create_dasl(config, model)
    network.head.set_whitening(torch.randn(50, network.head.size) * 0.5)
    network.regressor.weight.data.mul_(10)
    with torch.no_grad():
        for value in network.parameters():
            if not value.any():  # layers that begin silent
                value.normal_(0, 0.02)
        for _ in range(4):
            network(
                torch.rand(8, 3, config.size, config.size),
                torch.rand(8, 18, 2) - 0.5,
                torch.rand(8, 18) > 0.2,
            )
    return network.eval()


@pytest.mark.parametrize(("config", "model"), [
    (DaslConfig("tiny", SIZE), toy.mask_model),
    (DaslConfig("tiny", SIZE, pose="affine12", map="points"), toy.mask_model),
    (DaslConfig(), load_face_model),
    pytest.param(DaslConfig("resnet18_half", 120), load_face_model, marks=pytest.mark.slow),
    pytest.param(DaslConfig("resnet50", 120), load_face_model, marks=pytest.mark.slow),
])  # fmt: skip
def test_the_graph_equals_torch_for_every_batch_size(config, model):
    network = lively(config, model())
    inputs = {"crops": (3, config.size, config.size), "landmarks": (18, 3)}
    with torch.no_grad():
        spread = ExportNet(network)(torch.rand(4, *inputs["crops"]), torch.rand(4, 18, 3)).std(0)
    assert spread.max() > 0.01  # it looks at its inputs
    worst = largest_difference(ExportNet(network), inputs, onnx_bytes(network), (1, 2, 5))
    assert worst < 1e-3


def test_folded_norms_change_nothing_and_none_is_left_unfolded():
    network = lively()
    folded: Any = fuse_norms(network)  # pyright: ignore[reportArgumentType]
    crops, points, drawn = torch.rand(3, 3, SIZE, SIZE), torch.rand(3, 18, 2), torch.ones(3, 18) > 0
    with torch.no_grad():
        found, wanted = (n.regress(crops, points, drawn) for n in (folded, network))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_files_hold_the_same_rounded_network_and_a_card(tmp_path):
    network = lively()
    card = export_dasl(
        network.state_dict(), network.config, MASK, tmp_path, "dasl-toy", {"tag": "open"}
    )
    assert {p.name for p in tmp_path.iterdir()} == {
        "dasl-toy.safetensors", "dasl-toy.onnx", "dasl-toy.json"
    }  # fmt: skip
    stored = load_file(tmp_path / "dasl-toy.safetensors")
    assert stored.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        if value.dtype.is_floating_point:
            assert stored[name].dtype == torch.float16
            torch.testing.assert_close(stored[name].float(), value, atol=1e-6, rtol=6e-4)
    rounded = create_dasl(network.config, MASK).eval()
    rounded.load_state_dict(stored)
    inputs = {"crops": (3, SIZE, SIZE), "landmarks": (18, 3)}
    graph = (tmp_path / "dasl-toy.onnx").read_bytes()
    assert largest_difference(ExportNet(rounded), inputs, graph, (3,)) < 1e-4
    assert json.loads((tmp_path / "dasl-toy.json").read_text()) == json.loads(json.dumps(card))
    assert card["network"] == asdict(network.config)
    assert (card["face_model"], card["coefficients"]) == ("mask", network.head.size)
    assert all(sha256(tmp_path / f) == digest for f, digest in card["sha256"].items())


def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch):
    network = lively()
    other = lively()
    other.regressor.bias.data += 0.1
    graph = onnx_bytes(other)
    monkeypatch.setattr(dasl_export, "onnx_bytes", lambda _: graph)
    with pytest.raises(RuntimeError, match="away from torch's"):
        export_dasl(network.state_dict(), network.config, MASK, tmp_path / "w", "x", {})
    assert not (tmp_path / "w").exists()


# ------------------------------------------------------------------------------- shipped weights


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A weights folder with a tiny 2DASL of our head model, trained and exported by command."""
    folder = tmp_path_factory.mktemp("shipped")
    cache = toy.write_renders(folder / "cache", load_face_model())
    run, weights = folder / "run", folder / "weights"
    weights.mkdir()
    for name in ("head_model.safetensors", "head_model.json"):
        shutil.copy(weights_folder() / name, weights / name)
    words = ["--recipe", "smoke", "--cache", cache, "--run", run, "--no-progress"]
    words += ["--set", "optim.steps=2", "--set", "stage2=false", "--set", "threads=0"]
    train_command(TRAINABLE, [str(word) for word in words])
    metrics = folder / "metrics.json"
    metrics.write_text(json.dumps({"NME, renders": "3.1 %"}))
    told = ["--recipe", "lifemask train dasl", "--metrics", str(metrics), "--commit", "abc"]
    where = ["--run", str(run), "--folder", str(weights)]
    export_main([*where, *told, "--name", "dasl-open", "--family", "open"])
    return weights


@pytest.fixture
def weights(shipped, tmp_path, monkeypatch):
    """A copy of the folder that a test may spoil, in use."""
    folder = tmp_path / "weights"
    shutil.copytree(shipped, folder)
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(folder))
    return folder


def test_the_card_of_a_run(weights):
    card = json.loads((weights / "dasl-open.json").read_text())
    assert (card["kind"], card["tag"], card["licence"]) == ("dasl", "open", "Apache-2.0")
    assert (card["steps"], card["crops_seen"], card["commit"]) == (2, 8, "abc")
    assert card["measured"] == {"NME, renders": "3.1 %"} and card["seed"] == 0
    assert not any("research" in source for source in card["sources"])
    assert card["coefficients"] == 141 and card["face_model"] == "lifemask"
    assert network_card("dasl-open")["backbone"] == "tiny"


def test_both_engines_give_the_same_head(weights):
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    onnx, plain = load_dasl("open"), load_dasl("open", "torch")
    assert (onnx.tag, onnx.config, onnx.model.name) == ("open", plain.config, "lifemask")
    for source in ("self", "none"):
        config = DaslPredictConfig(source)
        one, other = (p(image, Face((30, 20, 80, 75), 0.9), config=config) for p in (onnx, plain))
        torch.testing.assert_close(one.vertices_mm, other.vertices_mm, atol=0.01, rtol=0)
        torch.testing.assert_close(
            one.camera.translation, other.camera.translation, atol=0.01, rtol=0
        )
    crops = torch.rand(5, 3, SIZE, SIZE)
    for count in (1, 2, 5):
        a, b = (p.predict_crops(crops[:count], repeats=2) for p in (onnx, plain))
        torch.testing.assert_close(a.identity, b.identity, atol=1e-3, rtol=0)
        assert a.identity.shape == (count, 80)


@pytest.mark.parametrize("name", ["dasl-open.safetensors", "dasl-open.onnx"])
@pytest.mark.parametrize("digest", ["old", "new"])
def test_damaged_files_are_told_in_a_line(weights, name, digest):
    path = weights / name
    path.write_bytes(path.read_bytes()[:-64] if digest == "old" else b"nonsense")
    if digest == "new":  # even a card that agrees does not make it a network
        card = json.loads((weights / "dasl-open.json").read_text())
        card["sha256"][name] = sha256(path)
        (weights / "dasl-open.json").write_text(json.dumps(card))
    with pytest.raises(AssetError, match=rf"{name}.*[Ii]nstall lifemask again") as error:
        load_dasl("open")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [
    {"colour": 1}, {"backbone": "huge"}, {"size": "large"}, {"backbone": "tiny", "pose": "free"},
    {"pose": "affine12"},
])  # fmt: skip
def test_a_card_that_describes_no_network_is_told_in_a_line(weights, change):
    path = weights / "dasl-open.json"
    card = json.loads(path.read_text())
    card["network"] |= change
    path.write_text(json.dumps(card))
    with pytest.raises(AssetError, match="install lifemask again") as error:
        load_dasl("open")
    assert "\n" not in str(error.value)


def test_missing_and_unknown_names(weights):
    with pytest.raises(AssetError, match=r"dasl-research\.safetensors is missing"):
        load_dasl("research")
    (weights / "dasl-open.onnx").unlink()
    with pytest.raises(AssetError, match=r"dasl-open\.onnx is missing"):
        load_dasl("open")
    assert load_dasl("open", "torch").tag == "open"  # needs no graph
    with pytest.raises(ValueError, match="unknown weights 'closed'; valid: open, research"):
        load_dasl("closed")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown engine 'jax'; valid: onnx, torch"):
        load_dasl("open", "jax")  # pyright: ignore[reportArgumentType]
