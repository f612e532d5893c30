"""Export of PGN: both engines agree, large weights are stored in half, cards tell, damage shows."""

import json
import shutil

import numpy as np
import pytest
import torch

from lifemask.assets import AssetError, weights_folder
from lifemask.facemodel import load_face_model
from lifemask.methods.pgn import ExportNet, PgnConfig, create_pgn, load_pgn
from lifemask.training import export
from lifemask.training.export import fuse_norms, halved, largest_difference, rounded, traced
from lifemask.training.pgn_export import export_pgn, onnx_bytes

pytest.importorskip("onnx")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZE = 48
TINY = PgnConfig("tiny", SIZE, map_size=32, widths=(16, 16, 16), hidden=32)
CARD = {"summary": "untrained", "kind": "pgn", "tag": "open", "licence": "test", "sources": []}


def lively(config: PgnConfig):
    """A network as after some training: no statistics or layers at their start."""
    torch.manual_seed(0)
    network = create_pgn(config, load_face_model())
    with torch.no_grad():
        for value in network.parameters():
            if not value.any():
                value.normal_(0, 0.02)
        for _ in range(3):
            network(torch.rand(4, 3, config.size, config.size))
    network.load_state_dict(rounded(network.state_dict()))
    return network.eval()


@pytest.mark.parametrize("config", [
    TINY,
    PgnConfig("tiny", SIZE, map_size=32, widths=(16, 16, 16), hidden=32, pose="regressed"),
    PgnConfig(),
    pytest.param(PgnConfig("resnet18_half", 120, widths=(64, 32, 16, 16)), marks=pytest.mark.slow),
    pytest.param(PgnConfig("resnet50", 120, widths=(64, 32, 16, 16)), marks=pytest.mark.slow),
])  # fmt: skip
def test_graph_and_torch_agree_for_every_batch_size(config) -> None:
    network = lively(config)
    inputs = {"crops": (3, config.size, config.size)}
    assert largest_difference(ExportNet(network), inputs, onnx_bytes(network), (1, 2, 5)) < 2e-3


def test_half_stored_weights_change_nothing_and_save_space() -> None:
    network = lively(PgnConfig())
    inputs = {"crops": (3, 112, 112)}
    plain = traced(ExportNet(fuse_norms(network)), inputs, "frames")
    small = halved(plain)
    assert len(small) < 0.65 * len(plain)
    import onnxruntime

    crops = np.random.default_rng(0).random((2, 3, 112, 112), np.float32)
    answers = [
        onnxruntime.InferenceSession(g, providers=["CPUExecutionProvider"]).run(
            None, {"crops": crops}
        )[0]
        for g in (plain, small)
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A weights folder with an untrained pgn-open."""
    folder = tmp_path_factory.mktemp("weights")
    for file in weights_folder().iterdir():
        if not file.name.startswith("pgn-"):
            (folder / file.name).symlink_to(file.resolve())
    network = lively(TINY)
    export_pgn(dict(network.state_dict()), TINY, load_face_model(), folder, "pgn-open", CARD)
    return folder


def test_both_engines_load_and_say_the_same(shipped, monkeypatch) -> None:
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    crops = torch.rand(3, 3, SIZE, SIZE)
    person = torch.tensor([0, 0, 1])
    one, other = (load_pgn("open", engine).predict_crops(crops, person) for engine in
                  ("onnx", "torch"))  # fmt: skip
    torch.testing.assert_close(one.position_map, other.position_map, atol=2e-3, rtol=0)
    torch.testing.assert_close(one.labels.rotation, other.labels.rotation, atol=5e-3, rtol=0)
    assert torch.equal(one.labels.identity[0], one.labels.identity[1])


def test_a_loaded_network_has_its_tables_from_the_file(shipped, monkeypatch) -> None:
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(shipped))
    loaded, made = load_pgn("open").net, lively(TINY)
    for name in ("mark_texels", "mark_weights", "skin_texels", "skin_weights", "inside"):
        torch.testing.assert_close(
            loaded.get_buffer(name).float(), made.get_buffer(name).float(), atol=2e-3, rtol=0
        )


@pytest.mark.parametrize("damage", ["card", "weights", "missing"])
def test_damaged_files_are_told_in_one_line(shipped, damage, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(shipped, folder, symlinks=True)
    if damage == "card":
        card = json.loads((folder / "pgn-open.json").read_text())
        card["network"]["petals"] = 3
        (folder / "pgn-open.json").write_text(json.dumps(card))
    elif damage == "weights":
        (folder / "pgn-open.safetensors").write_bytes(b"nothing")
    else:
        (folder / "pgn-open.onnx").unlink()
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(folder))
    with pytest.raises(AssetError) as caught:
        load_pgn("open")
    assert "\n" not in str(caught.value)


def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "largest_difference", lambda *_: 1.0)
    network = create_pgn(TINY, load_face_model())
    with pytest.raises(RuntimeError, match="away from torch"):
        export_pgn(dict(network.state_dict()), TINY, load_face_model(), tmp_path, "pgn-open", CARD)
    assert not list(tmp_path.iterdir())
