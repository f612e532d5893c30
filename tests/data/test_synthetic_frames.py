"""Several images of one person: what they share, what differs, and what the labels say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers.small_generator import small_generator
from lifemask.assets import UserError
from lifemask.data import _synthetic_kernels as kernels
from lifemask.data import _synthetic_look as look
from lifemask.data import _synthetic_sample as sampling
from lifemask.data.base import load_crops, load_render_cache, save_crops
from lifemask.data.synthetic import SyntheticConfig, write_cache
from lifemask.data.torch_engine import TorchEngine
from lifemask.facemodel import load_face_model

FRAMES, PEOPLE = 3, 10
OF_THE_FACE = [kernels.SKIN, kernels.EYE, kernels.TEETH, kernels.HAIR, kernels.BEARD, kernels.HAT,
               kernels.FRAME]  # fmt: skip
LAST_DRAWS = (223203075, 1275514750, 1516770797, 1078626731, 1141566823, 298100828)
"""Seeds of the noise of six images without `frames`, drawn after nearly all else."""


@pytest.fixture(scope="module")
def generator():
    settings = {"camera": "both", "shard_size": 15, "bank_size": 4}
    return small_generator(load_face_model("lifemask"), frames=FRAMES, **settings)


@pytest.fixture(scope="module")
def people(generator):
    """Scenes of each person, of two shards."""
    scenes = [scene for scene, _ in generator.scenes(range(FRAMES * PEOPLE))]
    return [scenes[k : k + FRAMES] for k in range(0, len(scenes), FRAMES)]


def others(people):
    """Pairs of neighbouring people's first frames."""
    return [(a[0], b[0]) for a, b in zip(people, people[1:], strict=False)]


def test_frames_share_identity_skin_and_outfit(people):
    for first, *rest in people:
        for scene in rest:
            assert np.array_equal(scene.identity, first.identity)
            assert scene.tone.skin == first.tone.skin and scene.age == first.age
            for name in ("lut", "mix", "plain"):
                assert np.array_equal(getattr(scene.tone, name), getattr(first.tone, name))
            assert replace(scene.outfit, occluders=()) == replace(first.outfit, occluders=())
            assert np.array_equal(scene.materials[OF_THE_FACE], first.materials[OF_THE_FACE])
    for a, b in others(people):
        assert not np.array_equal(a.identity, b.identity)
        assert not np.array_equal(a.tone.lut, b.tone.lut)
        assert not np.array_equal(a.materials[kernels.HAIR], b.materials[kernels.HAIR])


def test_hair_hat_and_glasses_are_the_same_things_on_each_frames_head(people):
    worn = (kernels.HAIR, kernels.HAT, kernels.BEARD)
    seen = set()
    for first, *rest in people:
        for scene in rest:
            for mesh, same in zip(first.props, scene.props, strict=False):
                kind = int(mesh.material[0])
                if kind in worn:
                    seen.add(kind)
                    assert np.array_equal(mesh.faces, same.faces)
                    assert np.array_equal(mesh.uv, same.uv), "the strands are the person's"
                elif kind == kernels.FRAME:
                    seen.add(kind)
                    size, again = (np.ptp(m.points[:, :2], axis=0) for m in (mesh, same))
                    np.testing.assert_allclose(size, again, rtol=0.15)
            assert (scene.lens is None) == (first.lens is None)
            if first.lens is not None:
                assert scene.lens.alpha == first.lens.alpha and scene.lens.sheen == first.lens.sheen
                assert np.array_equal(scene.lens.colour, first.lens.colour)
    assert {kernels.HAIR, kernels.FRAME} <= seen, "otherwise the comparison proves little"


def test_frames_differ_in_pose_expression_light_and_place(people):
    for scenes in people:
        for a, b in ((a, b) for k, a in enumerate(scenes) for b in scenes[:k]):
            assert np.abs(a.angles_deg - b.angles_deg).max() > 0.1
            assert not np.array_equal(a.gaze_deg, b.gaze_deg)
            assert not np.array_equal(a.light.sh, b.light.sh)
            assert not np.array_equal(a.exposure.gain, b.exposure.gain)
            assert a.faults.noise_seed != b.faults.noise_seed
            assert not np.array_equal(a.materials[kernels.CLOTH], b.materials[kernels.CLOTH])
    spread = [np.ptp([s.angles_deg[1] for s in scenes]) for scenes in people]
    assert np.median(spread) > 25, "yaws of one person lie apart"
    kinds = [{s.view.orthographic for s in scenes} for scenes in people]
    assert {True, False} in kinds, "the camera is each image's own"
    held = [{s.outfit.occluders for s in scenes} for scenes in people]
    assert any(len(h) > 1 for h in held)
    expressions = [len({s.expression.tobytes() for s in scenes}) for scenes in people]
    assert np.mean(expressions) > FRAMES - 0.5  # two may both be neutral


def test_an_image_depends_on_its_number_alone(generator, people):
    ((scene, _),) = generator.scenes([7])
    again = people[2][1]
    assert scene.index == again.index == 7 and scene.person == again.person == 2
    assert np.array_equal(scene.identity, again.identity)
    assert np.array_equal(scene.angles_deg, again.angles_deg)
    np.testing.assert_allclose(scene.points_mm, again.points_mm, atol=1e-3)
    assert scene.faults.noise_seed == again.faults.noise_seed


def test_one_frame_per_person_draws_as_without_the_setting():
    generator = small_generator(load_face_model("lifemask"), camera="both")
    assert generator.config.frames == 1
    scenes = list(generator.scenes(range(len(LAST_DRAWS))))
    assert [scene.faults.noise_seed for scene, _ in scenes] == list(LAST_DRAWS)
    model, names = generator.rig.model, generator.rig.model.expression_names
    for scene, banks in scenes:
        rng = np.random.default_rng([generator.config.seed, 0, scene.index])
        identity = sampling.random_identity(model.identity_size, rng)
        face = sampling.random_face(names, rng, model.expression_range)
        assert np.array_equal(scene.identity, identity) and scene.person == scene.index
        assert np.array_equal(scene.expression, face.expression)
        assert scene.view.orthographic == (rng.random() < 0.5)
        sampling.random_translation_mm(rng)
        assert scene.tone.skin == rng.integers(len(banks.skins))
        look.random_skin_tone(rng, 1.0, np.full((5, 3), 128, np.uint8))
        assert scene.outfit == look.random_outfit(rng)


def test_people_must_lie_in_one_shard():
    with pytest.raises(UserError, match="shard size 10 is no multiple of 4 frames"):
        SyntheticConfig(shard_size=10, frames=4)
    with pytest.raises(UserError, match="at least one image"):
        SyntheticConfig(frames=0)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache of two shards and a half of people of two images."""
    folder = tmp_path_factory.mktemp("cache")
    generator = small_generator(load_face_model("lifemask"), frames=2, size=32)
    write_cache(generator, folder, 9)
    return generator, folder


def test_caches_name_the_person_of_each_image(cached, tmp_path):
    _, folder = cached
    assert json.loads((folder / "header.json").read_text())["frames"] == 2
    crops = load_render_cache(folder)
    assert crops.person is not None and crops.person.dtype == np.int64 and crops.frame is None
    assert crops.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    later = load_render_cache(folder, slice(1, None)).person
    assert later is not None and later.tolist() == [2, 2, 3, 3, 4]
    with np.load(folder / "labels-0001.npz") as labels:
        assert np.array_equal(labels["identity"][0], labels["identity"][1])
        assert not np.array_equal(labels["identity"][1], labels["identity"][2])
        assert not np.array_equal(labels["rotation"][0], labels["rotation"][1])
    save_crops(crops.subset(np.array([8, 3])), tmp_path)
    stored = load_crops(tmp_path).person
    assert stored is not None and stored.tolist() == [4, 1]


def test_caches_without_people_are_read_without(cached, tmp_path):
    """Shards of before, alone or next to newer ones."""
    _, folder = cached
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with np.load(tmp_path / "labels-0000.npz") as labels:
        kept = {name: labels[name] for name in labels.files if name != "person"}
    np.savez(tmp_path / "labels-0000.npz", allow_pickle=False, **kept)
    crops = load_render_cache(tmp_path)
    assert crops.person is None and len(crops) == 9


def test_a_cache_keeps_to_its_number_of_frames(cached, tmp_path):
    generator, folder = cached
    write_cache(generator, folder, 9)
    for frames in (1, 4):
        other = replace(generator, config=replace(generator.config, frames=frames))
        with pytest.raises(UserError, match=rf"another run.*'frames': \(2, {frames}\)"):
            write_cache(other, folder, 9)
    header = json.loads((folder / "header.json").read_text())
    del header["frames"]  # as written before there was such a setting
    (tmp_path / "header.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"'frames': \(1, 2\)"):
        write_cache(generator, tmp_path, 9)
    single = replace(generator, config=replace(generator.config, frames=1))
    write_cache(single, tmp_path, 1)
    assert json.loads((tmp_path / "header.json").read_text())["frames"] == 1


def test_both_engines_name_the_person(generator):
    scenes, banks = zip(*generator.scenes([4, 5]), strict=True)
    batch = TorchEngine(generator).render(scenes, banks)
    assert [s.person for s in batch.samples()] == [1, 1]
    assert [s.person for s in generator.render([4, 6])] == [1, 2]
