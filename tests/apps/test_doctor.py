"""`lifemask doctor`: what it finds, what it says of what is broken; it never falls over."""

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from lifemask.apps.cli import main
from lifemask.apps.doctor import Finding, examined, machine, packages, verdict_of
from lifemask.apps.doctor import weights as files
from lifemask.assets import UserError


def run(*words: str) -> int:
    try:
        main(["doctor", *words])
    except SystemExit as stop:
        return int(stop.code or 0)
    raise AssertionError("main ends the process")


def by_name(found) -> dict[str, Finding]:
    return {f.name: f for f in found}


def test_quick_is_ready_here_and_says_so(capsys):
    assert run("--quick", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)["result"]
    assert result["ready"] and result["verdict"] == "ready"
    names = {f["name"] for f in result["findings"]}
    assert {"lifemask", "Python", "processors", "memory", "cache", "torch", "onnxruntime",
            "numba", "ffmpeg", "video", "open", "research"} <= names  # fmt: skip
    assert captured.err.splitlines()[-1] == "ready"
    assert not [f for f in result["findings"] if f["state"] == "broken"]


def test_piped_output_is_plain(capsys):
    run("--quick")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "✓" not in out and "  ok     torch: " in out


def test_a_check_that_falls_over_is_a_finding_and_the_others_happen(capsys, monkeypatch):
    def burn():
        yield Finding("machine", "before", "ok", "fine")
        raise ZeroDivisionError("a\nbug")

    monkeypatch.setattr(machine, "processors", burn)
    assert run("--quick") == 1
    out = capsys.readouterr().out
    assert "broken processors: ZeroDivisionError: a bug" in out and "ok     before" in out
    assert "torch:" in out and "Traceback" not in out
    assert out.splitlines()[-1].startswith("not ready: processors; please report this")


def test_what_is_damaged_is_named_with_its_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIFEMASK_WEIGHTS", str(tmp_path))
    assert run("--quick") == 1
    assert "LIFEMASK_WEIGHTS" in capsys.readouterr().out.splitlines()[-1]
    for name, tag in (("net", "open"), ("other", "research")):
        (tmp_path / f"{name}.safetensors").write_bytes(b"weights")
        card = {"sha256": "0" * 64, "tag": tag}
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
    found = by_name(files.weights())
    assert found["net.safetensors"].state == "broken" and "sha256" in found["net.safetensors"].found
    assert found["other.safetensors"].state == "note"  # the defaults do not need it
    assert run("--quick") == 1
    assert "net.safetensors; remedy: install lifemask again" in capsys.readouterr().out


def test_packages_that_are_missing_or_old(monkeypatch):
    installed = {"numpy": "1.26.4", "torch": "2.5.1+cu124", "typer": "0.12"}

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    asked = ["numpy>=1.26", "torch>=2.6", "rich>=13", "typer>=0.12.0", "gradio>=6; extra == 'demo'"]
    monkeypatch.setattr(packages, "version", version)
    monkeypatch.setattr(packages, "requires", lambda name: asked)
    found = by_name(packages.required())
    assert set(found) == {"torch", "rich"}
    assert found["torch"].found == "torch 2.5.1+cu124 is older than 2.6"
    assert found["rich"].remedy == "pip install 'rich>=13'"
    (demo,) = packages.extras()
    assert demo.state == "absent" and demo.remedy == "pip install 'lifemask[demo]'"


def test_requirements_are_read_as_the_metadata_writes_them():
    lines = [
        "numpy>=1.26", 'ray[data]>=2.30; extra == "scale"', "anny; extra == 'build'",
        "torch<3,>=2.6 ; python_version > '3.8'", "pkg (>=1.0)", "plain",
    ]  # fmt: skip
    found = [(r.name, r.minimum, r.extra) for r in packages.requirements(lines)]
    assert found == [
        ("numpy", "1.26", ""), ("ray", "2.30", "scale"), ("anny", "", "build"),
        ("torch", "2.6", ""), ("pkg", "1.0", ""), ("plain", "", ""),
    ]  # fmt: skip


def test_versions_compare_by_number():
    assert packages.numbers("2.10.1+cpu") > packages.numbers("2.9")
    assert packages.numbers("0.12") == packages.numbers("0.12.0")
    assert packages.numbers("2!1.0") == packages.numbers("1") and packages.numbers("x") == ()


def test_limits_of_containers(tmp_path):
    assert machine.cpu_quota(tmp_path) is None and machine.memory_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("2000000000\n")
    assert machine.cpu_quota(tmp_path) == 1.5 and machine.memory_limit(tmp_path) == 2 * 10**9
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.cpu_quota(tmp_path) is None and machine.memory_limit(tmp_path) is None
    old = tmp_path / "old"  # cgroup v1
    for name, text in (("cpu/cpu.cfs_quota_us", "200000"), ("cpu/cpu.cfs_period_us", "100000"),
                       ("memory/memory.limit_in_bytes", str(2**63 - 4096))):  # fmt: skip
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(text)
    assert machine.cpu_quota(old) == 2 and machine.memory_limit(old) is None


def test_little_memory_is_told(monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: (4 * 10**9, 10**9))
    monkeypatch.setattr(machine, "memory_limit", lambda root: None)
    (found,) = machine.memory()
    assert found.state == "note" and "1.5 GB" in found.remedy


def test_no_folder_for_compiled_code_is_broken(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked / "cache"))
    found = by_name(machine.folders())["cache"]
    assert found.state == "broken" and found.remedy.startswith("export NUMBA_CACHE_DIR=")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert by_name(machine.folders())["cache"].state == "ok"


def test_the_verdict_names_what_is_broken_and_the_first_remedy():
    fine = Finding("a", "one", "ok", "")
    assert verdict_of([fine, replace(fine, state="absent")]).ready
    bad = [replace(fine, name="x", state="broken"),
           replace(fine, name="y", state="broken", remedy="do this")]  # fmt: skip
    verdict = verdict_of([fine, *bad])
    assert not verdict.ready and verdict.line == "not ready: x, y; remedy: do this"


def test_a_users_mistake_is_told_as_it_is():
    def look():
        raise UserError("device cuda is not available here; use --device cpu")

    (found,) = examined("g", "n", look)
    assert found.found == "device cuda is not available here; use --device cpu"
    assert run("--weights", "best") == 2


@pytest.fixture(scope="module")
def head():
    """The head of the portrait, and the portrait."""
    import lifemask
    from lifemask.apps.photos import sample_photo
    from lifemask.pipeline import PipelineConfig

    config = PipelineConfig(refine=False)
    return lifemask.reconstruct(sample_photo(), config), sample_photo()


def test_the_self_test_tells_a_good_head_from_bad_ones(head):
    from lifemask.apps.doctor import selftest
    from lifemask.graphics.camera import rotation_from_euler_deg

    good, photo = head
    geometry, camera = good.geometry, good.geometry.camera
    for check in (selftest.mesh, selftest.pose, selftest.landmarks):
        assert check(good).state == "ok", check(good)
    assert selftest.picture(good, photo).state == "ok"
    assert selftest.glb(good, {}).state == "ok"

    def with_camera(**changes):
        return replace(good, geometry=replace(geometry, camera=replace(camera, **changes)))

    turn = rotation_from_euler_deg(torch.tensor([0.0, 20.0, 0.0]))
    assert selftest.pose(with_camera(rotation=turn @ camera.rotation)).state == "broken"
    shifted = with_camera(translation=camera.translation + torch.tensor([15.0, 0, 0]))
    assert selftest.landmarks(shifted).state == "broken"
    assert selftest.picture(shifted, photo).state == "broken"
    flipped = np.ascontiguousarray(photo[::-1])
    assert selftest.picture(good, flipped).state == "broken"
    vertices = geometry.vertices_mm.clone()
    vertices[0, 0] = float("nan")
    broken = replace(good, geometry=replace(geometry, vertices_mm=vertices))
    assert selftest.mesh(broken).state == "broken"
    assert [f.state for f in examined("g", "GLB", lambda: [selftest.glb(broken, {})])] == ["broken"]
    bare = replace(good, model=None)  # no shapes, no textures
    assert selftest.glb(bare, {}).state == "broken"


@pytest.mark.slow
def test_the_whole_self_test(capsys):
    assert run("--json") == 0
    findings = by_name(
        Finding(**f) for f in json.loads(capsys.readouterr().out)["result"]["findings"]
        if f["group"] == "self-test"
    )  # fmt: skip
    assert set(findings) == {"mesh", "pose", "landmarks", "picture", "GLB", "speed", "memory"}
    stages = findings["speed"].values["stages"]
    assert {"detect", "landmarks", "geometry", "refine", "texture"} <= set(stages)
    assert sum(stages.values()) <= findings["speed"].values["seconds"]["next"] + 1e-2
