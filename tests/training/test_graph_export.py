"""Graphs for weights that were shipped without."""

import json
import shutil

import pytest

from lifemask.assets import UserError, weights_folder
from lifemask.methods.rafare import load_rafare
from lifemask.training.graph_export import add_graphs


def test_weights_without_graphs_get_them(tmp_path, monkeypatch):
    for suffix in ("json", "safetensors"):
        shutil.copy(weights_folder() / f"rafare-open.{suffix}", tmp_path)
    shutil.copy(weights_folder() / "parser-open.safetensors", tmp_path)
    shutil.copy(weights_folder() / "parser-open.json", tmp_path)
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    digests = add_graphs("rafare-open")
    card = json.loads((tmp_path / "rafare-open.json").read_text())
    assert card["sha256"] == digests and len(digests) == 4
    assert load_rafare("open").networks.config.size == card["network"]["size"]
    with pytest.raises(UserError, match="valid: retexture, rafare"):
        add_graphs("parser-open")
