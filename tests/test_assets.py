"""The table of assets: digests, cards, and clear errors."""

import hashlib
import json

import pytest

from lifemask import assets
from lifemask.assets import AssetError, UserError


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights folder with one good file and its card."""
    monkeypatch.setenv(assets.WEIGHTS_ENV, str(tmp_path))
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    card = {
        "summary": "A network.",
        "kind": "landmarker",
        "licence": "Apache-2.0",
        "tag": "open",
        "sources": ["synthetic heads"],
        "sha256": {"net.safetensors": digest},
        "measured": {"nme": 3.2},
    }
    (tmp_path / "net.json").write_text(json.dumps(card))
    return tmp_path


def test_good_file(weights):
    assert assets.weights_path("net") == weights / "net.safetensors"
    assert assets.weights_path("net.safetensors") == weights / "net.safetensors"
    assert all(problem == "" for _, _, problem in assets.verify())


def test_missing_file_lists_what_is_there(weights):
    with pytest.raises(AssetError, match=r"other\.safetensors is missing.*net\.safetensors"):
        assets.weights_path("other")
    assert issubclass(AssetError, UserError)


@pytest.mark.parametrize("content", [b"", b"weight", b"Weights"])
def test_damaged_file(weights, content):
    assets.weights_path("net")
    (weights / "net.safetensors").write_bytes(content)
    with pytest.raises(AssetError, match="empty|damaged") as error:
        assets.weights_path("net")
    assert "\n" not in str(error.value)
    assert [p for _, n, p in assets.verify() if n == "net.safetensors"] != [""]


def test_damaged_card(weights):
    (weights / "net.json").write_text("{")
    with pytest.raises(AssetError, match=r"card .*net\.json is damaged"):
        assets.weights_path("net")


def test_card_with_one_digest(weights):
    digest = hashlib.sha256(b"weights").hexdigest()
    (weights / "net.json").write_text(json.dumps({"sha256": digest}))
    assert assets.weights_path("net").is_file()
    (weights / "net.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(AssetError, match="damaged"):
        assets.weights_path("net")


def test_the_parts_of_a_network_share_its_card(weights):
    card = json.loads((weights / "net.json").read_text())
    (weights / "net.part.onnx").write_bytes(b"graph")
    card["sha256"]["net.part.onnx"] = hashlib.sha256(b"graph").hexdigest()
    (weights / "net.json").write_text(json.dumps(card))
    assert assets.weights_path("net.part.onnx") == weights / "net.part.onnx"
    assert set(assets.assets()[0].files) == {"net.safetensors", "net.part.onnx"}
    (weights / "net.part.onnx").write_bytes(b"grasp")
    with pytest.raises(AssetError, match=r"net\.part\.onnx is damaged"):
        assets.weights_path("net.part.onnx")


def test_markdown_names_every_asset(weights):
    text = assets.assets_markdown()
    for asset in assets.assets():
        assert f"**{asset.name}**" in text and f"## {asset.name}" in text
    assert "synthetic heads" in text and "nme: 3.2" in text


def test_detector_file_is_the_one_we_know():
    path = assets.package_file("centerface")
    assert assets.sha256(path) == assets.EXTERNAL[0].files["centerface.onnx"]


def test_committed_weights_match_their_cards():
    for asset in assets.assets():
        for file_name, digest in asset.files.items():
            assert len(digest) == 64, f"the card of {asset.name} lacks the sha256 of {file_name}"
    assert [(a.name, n, p) for a, n, p in assets.verify() if p] == []
