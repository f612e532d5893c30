"""Priors of the learned texture: one call for all kinds, plausible colours, clear errors."""

import pytest
import torch

from helpers import face_model_files as toy
from lifemask import assets
from lifemask.assets import AssetError, UserError
from lifemask.facemodel import load_face_model
from lifemask.facemodel.convert import convert
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.graphics.lighting import srgb_to_linear
from lifemask.methods._retexture_chart import create_texture_chart
from lifemask.methods._retexture_prior import (
    DARKEST,
    LIGHTEST,
    PCA,
    VAE,
    LinearPrior,
    load_albedo_vae,
    load_prior,
    resized,
)

SIZE = 32
LUMINANCE = torch.tensor([0.2126, 0.7152, 0.0722])


@pytest.fixture(scope="module")
def model():
    return load_face_model()


@pytest.fixture(scope="module")
def bfm_folder(tmp_path_factory):
    """Converted toy BFM files whose colours are all middle grey on the mean."""
    folder = tmp_path_factory.mktemp("bfm")
    truth = toy.write_bfm2009(folder)
    toy.write_3ddfa(folder, truth["points"], truth["faces"])
    (folder / "models").mkdir()
    convert("bfm2009", [folder], folder / "models" / "bfm2009.npz")
    return folder / "models"


@pytest.mark.parametrize("kind", ["vae", "pca", "constant"])
@pytest.mark.parametrize("size", [SIZE, 128])
def test_shapes_and_ranges(kind, size, model):
    prior = load_prior(kind, size, model)
    assert prior.size == size
    with torch.no_grad():
        albedo = prior(torch.randn(3, prior.latent, generator=torch.Generator().manual_seed(1)))
    assert albedo.shape == (3, 3, size, size)
    assert DARKEST <= albedo.min() and albedo.max() <= LIGHTEST


@pytest.mark.parametrize("kind", ["vae", "pca", "constant"])
def test_colours_are_those_of_skin(kind, model):
    """Codes drawn from the normal: red over green over blue, from dark to light; lips redder."""
    prior = load_prior(kind, SIZE, model)
    with torch.no_grad():
        z = torch.randn(48, prior.latent, generator=torch.Generator().manual_seed(0))
        albedo = prior(z)
    cheek = albedo[:, :, 15:20, 4:7].mean((2, 3))
    natural = (cheek[:, 0] > cheek[:, 1]) & (cheek[:, 1] > 0.8 * cheek[:, 2])
    assert natural.float().mean() > 0.9
    tone = cheek @ LUMINANCE
    assert tone.quantile(0.1) < 0.11 and tone.quantile(0.9) > 0.22
    mean = albedo.mean(0)
    red = mean[0] / mean[1]
    assert red[21:23, 13:19].mean() > 1.05 * red[15:20, 4:7].mean()


@pytest.mark.parametrize("kind", ["vae", "pca", "constant"])
def test_gradients_reach_the_code_and_batches_are_their_items(kind, model):
    prior = load_prior(kind, SIZE, model)
    z = torch.randn(2, prior.latent).requires_grad_()
    albedo = prior(z)
    torch.testing.assert_close(albedo[1:], prior(z[1:]))
    albedo.mean().backward()
    assert z.grad is not None and bool((z.grad != 0).any())


def test_constant_is_one_tone_over_the_mean_face(model):
    """Its three modes change all texels by nearly the same factor per channel."""
    prior = load_prior("constant", SIZE, model)
    assert isinstance(prior, LinearPrior) and prior.latent == 3
    inside = create_texture_chart(model, SIZE).inside
    change = prior.basis[..., inside]
    assert (change.std(-1) < 0.3 * change.norm(dim=1).mean(-1).max()).all()


def test_a_size_other_than_the_trained_one_is_the_same_map(model):
    z = torch.randn(1, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        fine, coarse = (load_prior("vae", size, model)(z) for size in (256, 64))
    assert (resized(fine, 64) - coarse).abs().mean() < 0.01


def test_the_encoder_finds_the_code_of_a_sample():
    vae = load_albedo_vae()
    z = 0.7 * torch.randn(8, vae.latent, generator=torch.Generator().manual_seed(4))
    albedo = vae.decode(z)
    again = vae.decode(vae.encode(albedo)[0])
    assert (again - albedo).abs().mean() < 0.3 * (albedo - albedo.mean(0)).abs().mean()


def test_bfm_on_our_chart_and_on_its_own(bfm_folder, monkeypatch, model):
    monkeypatch.setenv(assets.MODELS_ENV, str(bfm_folder))
    own = load_face_model("bfm2009")
    for face in (model, own):
        prior = load_prior("bfm", SIZE, face)
        assert isinstance(prior, LinearPrior) and prior.latent == 3
        grey = prior(torch.zeros(1, 3))
        torch.testing.assert_close(
            grey, srgb_to_linear(torch.full_like(grey, 0.5)), rtol=1e-4, atol=0
        )
        assert prior(torch.ones(1, 3)).std() > 0


def test_bfm_without_colours(bfm_folder, monkeypatch, model):
    source = load_face_model("bfm2009", bfm_folder)
    assert isinstance(source, LinearFaceModel)
    source.albedo_mean = None
    with pytest.raises(UserError, match="has no colours"):
        load_prior("bfm", SIZE, source)


def test_what_is_missing_is_named(tmp_path, monkeypatch, model, bfm_folder):
    monkeypatch.setenv(assets.MODELS_ENV, str(tmp_path))
    with pytest.raises(AssetError, match="lifemask assets convert bfm2009") as error:
        load_prior("bfm", SIZE, model)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown prior 'gan'; valid: vae, pca"):
        load_prior("gan", SIZE, model)  # pyright: ignore[reportArgumentType]
    other = load_face_model("bfm2009", bfm_folder)
    for kind in ("vae", "pca"):
        with pytest.raises(UserError, match="choose prior constant"):
            load_prior(kind, SIZE, other)
    assert load_prior("constant", SIZE, other)(torch.zeros(1, 3)).shape == (1, 3, SIZE, SIZE)
    monkeypatch.setenv(assets.WEIGHTS_ENV, str(tmp_path))
    with pytest.raises(AssetError, match=f"{VAE}.safetensors is missing"):
        load_prior("vae", SIZE, model)
    (tmp_path / f"{PCA}.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(AssetError, match="damaged"):
        load_prior("pca", SIZE, model)


def test_smaller_maps_of_the_autoencoder_are_its_own_resized(model):
    codes = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = resized(load_albedo_vae().decode(codes), SIZE).clamp(DARKEST, LIGHTEST)
        torch.testing.assert_close(load_prior("vae", SIZE, model)(codes), wanted)
