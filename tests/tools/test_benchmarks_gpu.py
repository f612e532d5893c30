"""The GPU's benchmark: refused without one, and the same truth from the engine it measures."""

import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(f"{folder}/gpu.py")
    finally:
        sys.path.remove(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(bench, tmp_path):
    with pytest.raises(SystemExit, match="no CUDA device"):
        bench["main"](["--device", "cuda", "--json", str(tmp_path / "x.json")])
    assert not list(tmp_path.iterdir())


def test_the_engine_agrees_with_the_kernels(bench, monkeypatch):
    from helpers.small_generator import small_generator
    from lifemask.data.torch_engine import TorchEngine
    from lifemask.facemodel import load_face_model

    generator = small_generator(load_face_model("lifemask"), size=64, shard_size=32)
    scope = bench["agreement"].__globals__
    monkeypatch.setitem(scope, "create_engine", lambda *_: TorchEngine(generator))
    monkeypatch.setitem(scope, "COMPARED", 4)
    found = bench["agreement"](Namespace(data=None, device="cpu", batch=4))
    assert found["images"] == 4
    assert found["pixels_of_another_region_percent"] < 0.5 and found["landmarks_px"] < 1e-3
    times = bench["parts"](Namespace(data=None, device="cpu", batch=4))
    assert times["draw_ms"] > 0 and times["render_ms"] > 0
