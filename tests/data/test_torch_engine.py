"""The batch engine against the CPU kernels: the same truth within stated tolerances.

Tolerances (docs/synthetic.md): at most 0.5 % of an image's pixels may differ in what they show
(edges round differently); where both show the same, depth agrees to 0.1 mm, normals to 0.01, albedo
and light to 1 %, uv to 1e-4, landmarks to 1e-3 px.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small_generator import small_generator
from lifemask.data._synthetic_photo import Faults, no_faults, photograph
from lifemask.data._synthetic_render import render_scene
from lifemask.data._synthetic_truth import create_maps, landmark_truth
from lifemask.data._torch_photo import _jpeg, photograph_batch
from lifemask.data.synthetic import render_samples
from lifemask.data.torch_engine import DeviceSamples, TorchEngine
from lifemask.facemodel import load_face_model

COUNT = 12


@pytest.fixture(scope="module")
def generator():
    return small_generator(load_face_model("lifemask"), camera="both")


@pytest.fixture(scope="module")
def pairs(generator):
    """Scenes with their banks; faults off, for they are compared on their own."""
    return [(replace(s, faults=no_faults()), b) for s, b in generator.scenes(range(COUNT))]


@pytest.fixture(scope="module")
def cpu(generator, pairs):
    return [render_scene(generator, banks, scene) for scene, banks in pairs]


@pytest.fixture(scope="module")
def batch(generator, pairs):
    scenes, banks = zip(*pairs, strict=True)
    return TorchEngine(generator).render(scenes, banks, maps=True, sets=("ict68", "vertices"))


def test_scenes_hold_props_glass_and_shadows(pairs):
    """Otherwise the comparison below would prove little."""
    outfits = [s.outfit for s, _ in pairs]
    assert any(o.hair != "none" for o in outfits) and any(o.glasses for o in outfits)
    assert any(s.light.shadows and s.light.key_colour.any() for s, _ in pairs)
    assert {s.view.orthographic for s, _ in pairs} == {True, False}


def test_images_and_labels_agree(batch, cpu):
    for k, (sample, _) in enumerate(cpu):
        np.testing.assert_allclose(batch.points[k].numpy(), sample.points, atol=1e-3)
        assert (batch.visible[k].numpy() != sample.visible).mean() < 0.01
        assert (batch.region[k].numpy() != sample.region).mean() < 0.005
        assert (batch.glasses[k].numpy() != sample.glasses).mean() < 0.001
        assert sample.glasses.any() == sample.flags[0]
        np.testing.assert_allclose(batch.gain[k].numpy(), sample.gain, rtol=5e-3)
        difference = np.abs(batch.images[k].numpy().astype(int) - sample.image)
        assert np.quantile(difference, 0.98) <= 2 and difference.mean() < 0.3


def test_maps_agree(generator, batch, cpu, pairs):
    mine = batch.maps.numpy()
    for k, ((scene, banks), (_, shot)) in enumerate(zip(pairs, cpu, strict=True)):
        wanted, got = create_maps(generator, banks, scene, shot), mine[k]
        same = got.material == wanted.material
        assert same.mean() > 0.995
        assert (got.model == wanted.model).mean() > 0.995
        seen = same & (wanted.material != 255)
        assert np.abs(got.depth_mm - wanted.depth_mm)[seen].max() < 0.5
        assert np.quantile(np.abs(got.depth_mm - wanted.depth_mm)[seen], 0.99) < 0.1
        assert np.quantile(np.abs(got.normals - wanted.normals)[seen], 0.99) < 0.01
        assert np.quantile(np.abs(got.albedo - wanted.albedo)[seen], 0.99) < 0.01
        for name in ("ambient", "key", "glass"):
            close = np.abs(getattr(got, name) - getattr(wanted, name)) < 0.01
            assert close.mean() > 0.99, name
        skin = seen & ~np.isnan(wanted.uv[..., 0])
        assert np.quantile(np.abs(got.uv - wanted.uv)[skin], 0.99) < 1e-4
        assert (np.abs(got.linear - wanted.linear).max(-1) > 0.01).mean() < 0.01


def test_landmark_sets_agree(generator, batch, cpu, pairs):
    for k, ((scene, _), (_, shot)) in enumerate(zip(pairs, cpu, strict=True)):
        wanted = landmark_truth(generator, scene, shot, ("ict68", "vertices"))
        for name, truth in wanted.items():
            got = batch.landmarks[name].numpy()[k]
            np.testing.assert_allclose(got.image_px, truth.image_px, atol=2e-3)
            np.testing.assert_allclose(got.camera_mm, truth.camera_mm, atol=1e-2)
            assert (got.visible != truth.visible).mean() < 0.01


def test_a_batch_is_its_images_one_by_one(generator, pairs, batch):
    engine = TorchEngine(generator)
    for k in (0, COUNT - 1):
        scene, banks = pairs[k]
        alone = engine.render([scene], [banks])
        assert torch.equal(alone.images[0], batch.images[k])
        assert torch.equal(alone.region[0], batch.region[k])


def test_streams_by_number_and_gives_samples(generator):
    engine = TorchEngine(generator)
    batches = list(engine.batches(range(5), batch=2, maps=True))
    assert [len(b.images) for b in batches] == [2, 2, 1]
    samples = [s for b in batches for s in b.samples()]
    for sample, wanted in zip(samples, generator.render(range(5)), strict=True):
        assert np.array_equal(sample.identity, wanted.identity)
        assert np.array_equal(sample.flags, wanted.flags)
        assert sample.maps.depth_mm.shape == wanted.image.shape[:2]


def picture(size=64):
    """A smooth picture with edges, linear (size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    rgb = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)], -1)
    rgb[20:40, 24:50] *= 0.2
    return rgb.astype(np.float32) ** 2


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({"vignette": 0.4, "gamma": 1.2, "contrast": 1.1, "saturation": 0.4}, 0.01),
        ({"motion_px": np.array([3.0, 1.4], np.float32)}, 0.01),
        ({"blur_px": 1.1}, 0.6),
        ({"small_px": 29}, 0.3),
        ({"small_px": 40, "bicubic": True}, 0.3),
        ({"jpeg": 40}, 1.2),
        ({"jpeg": 92}, 0.8),
    ],
)
def test_each_fault_of_a_camera_is_that_of_the_cpu(change, limit):
    """Mean absolute difference in grey levels; blur and JPEG are other algorithms."""
    faults: Faults = replace(no_faults(), **change)
    gain = np.array([1.1, 1.0, 0.9], np.float32)
    wanted = photograph(picture(), gain, faults).astype(float)
    plain = photograph(picture(), gain, no_faults()).astype(float)
    batch = torch.from_numpy(picture())[None].repeat(2, 1, 1, 1)
    both = photograph_batch(batch, torch.from_numpy(gain).expand(2, 3), [no_faults(), faults])
    got = both[1].numpy().astype(float)
    assert np.abs(both[0].numpy() - plain).mean() < 0.01
    assert np.abs(got - wanted).mean() < limit
    assert np.abs(wanted - plain).mean() > 2 * np.abs(got - wanted).mean()


def test_noise_has_the_strength_asked_for_and_its_own_seed():
    faults = replace(no_faults(), noise=8.0, noise_seed=4)
    grey = torch.full((2, 64, 64, 3), 0.2)
    gains = torch.ones(2, 3)
    a, b = (photograph_batch(grey, gains, [faults, replace(faults, noise_seed=5)]).float()
            for _ in range(2))  # fmt: skip
    assert torch.equal(a, b)
    assert not torch.equal(a[0], a[1])
    assert 7.4 < a[0].std() < 8.6


@pytest.mark.parametrize("quality", [10, 49, 50, 75, 95])
def test_jpeg_steps_are_those_of_the_library(quality):
    """A flat picture falls on a step of the table: exactly where the library puts it."""
    for level in (7, 100, 140, 201):
        flat = np.full((32, 32, 3), level, np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(flat).save(buffer, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(buffer))
        got = _jpeg(torch.from_numpy(flat.astype(np.float32))[None], [quality])[0].numpy()
        assert np.abs(got - wanted).max() <= 1


def test_a_shard_s_samples_come_from_the_device_in_order(generator):
    banks, indices = generator.banks(0), [2, 0, 3]
    found = list(DeviceSamples("cpu", batch=2)(generator, banks, indices, "maps", ("ict68",)))
    wanted = list(render_samples(generator, banks, indices, "maps", ("ict68",)))
    for a, b in zip(found, wanted, strict=True):
        assert np.array_equal(a.identity, b.identity)
        np.testing.assert_allclose(a.points, b.points, atol=1e-3)
        np.testing.assert_allclose(
            a.landmarks["ict68"].camera_mm, b.landmarks["ict68"].camera_mm, atol=1e-2
        )
        assert (a.maps.material != b.maps.material).mean() < 0.005
