"""The writer of held-out heads: one identity per person, everything else anew in each view."""

import pytest

import lifemask.data.synthetic as synthetic
from helpers.small_generator import small_generator
from lifemask.data.synthetic_heads import load_synthetic_heads, write_synthetic_heads
from lifemask.facemodel import load_face_model

HEADS, VIEWS = 2, 2


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    def create(config, data, photo_skins=None):
        """The writer's settings with skins and sky of noise, and small pictures."""
        assert config.held_out and photo_skins is None
        return small_generator(load_face_model("lifemask"), seed=config.seed, expand=config.expand)

    folder = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "create_generator", create)
        write_synthetic_heads(folder, folder, HEADS, VIEWS)
    return load_synthetic_heads(folder)


def test_a_person_keeps_the_identity_and_nothing_else(heads):
    assert len(heads) == HEADS * VIEWS and heads.person.tolist() == [0, 0, 1, 1]
    first, second, other, _ = (heads.truth(k) for k in range(len(heads)))
    assert first.neutral_mm.equal(second.neutral_mm)
    assert (second.neutral_mm - other.neutral_mm).abs().max() > 1
    assert (first.vertices_mm - second.vertices_mm).abs().max() > 0.1
    assert not first.camera.rotation.equal(second.camera.rotation)
    assert not first.lighting.sh.equal(second.lighting.sh)
    assert (first.albedo - second.albedo).abs().mean() > 0.001


def test_pictures_are_there_and_show_skin(heads):
    assert all(path.is_file() for path in heads.image_paths)
    assert len({path.read_bytes() for path in heads.image_paths}) == HEADS * VIEWS
    assert all(heads.truth(k).visible.float().mean() > 0.005 for k in range(len(heads)))
