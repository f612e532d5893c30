"""From a run of the albedo prior to shipped weights: autoencoder, linear basis, and their cards.

    python -m lifemask.training.albedo_prior_export --run runs/albedo-prior --data DATA --cache MAPS

The cards carry the errors of both, and of one tone over the mean face, on maps of held-out skins.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lifemask.assets import sha256
from lifemask.data._albedo_cache import MapSettings, open_maps
from lifemask.graphics.lighting import linear_to_srgb, srgb_to_linear
from lifemask.methods._retexture_prior import PCA, VAE, LinearPrior, load_prior
from lifemask.nn.albedo_vae import AlbedoVae
from lifemask.training.albedo_prior import PCA_FILE, by_tone, face_texels
from lifemask.training.checkpoint import averaged_weights, read_state
from lifemask.training.export import LICENCES, rounded
from lifemask.training.run_log import git_commit

SOURCES = ("16 of the 20 MakeHuman skins (CC0), the other four held out",)
RECIPE = "lifemask train albedo-prior --recipe {} --data DATA --cache MAPS --run RUN"
SUMMARIES = {
    VAE: "Face albedo maps from codes of 64 numbers: a variational autoencoder, 128 texels.",
    PCA: "64 modes of log face albedo, 64 texels.",
}
Decoder = Callable[[Float[Tensor, "b 3 n n"]], Float[Tensor, "b 3 n n"]]


def export(run: Path, folder: Path, measured: Mapping[str, Mapping[str, float]]) -> None:
    """Write `albedo_vae` and `albedo_pca` (fp16) with cards.

    Args:
        run: of `lifemask train albedo-prior`.
        folder: where to write.
        measured: errors by name of the file.
    """
    state = read_state(run / "checkpoint.safetensors")
    recipe = state["recipe"]
    basis = load_file(run / PCA_FILE)
    tensors = {VAE: rounded(averaged_weights(run)), PCA: rounded(basis)}
    sizes = {
        VAE: recipe["net"],
        PCA: {"size": basis["mean"].shape[-1], "latent": len(basis["basis"])},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in values.items()}, path)
        card = {
            "name": name,
            "summary": SUMMARIES[name],
            "kind": "albedo prior",
            "tag": "open",
            "licence": LICENCES["open"],
            "sources": list(SOURCES),
            "recipe": RECIPE.format(recipe["name"]),
            "commit": git_commit(),
            "seed": recipe["seed"],
            "steps": state["step"],
            "maps": recipe["maps"],
            "network": sizes[name],
            "measured": {k: round(v, 4) for k, v in measured.get(name, {}).items()},
            "sha256": {path.name: sha256(path)},
        }
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        path.with_suffix(".json").write_text(text, encoding="utf-8")


@torch.no_grad()
def reconstruction_errors(
    decoders: Mapping[str, Decoder],
    maps: UInt8[ndarray, "b 3 n n"],
    inside: Bool[Tensor, "n n"],
    step: int = 32,
) -> dict[str, dict[str, float]]:
    """Errors of maps given back by several priors, over all maps and by third of skin tone.

    Args:
        decoders: by name; linear maps to the nearest linear maps that the prior has.
        maps: sRGB-coded.
        inside: texels that count.
        step: maps at a time.

    Returns:
        By name: "srgb" mean absolute difference of sRGB values, "linear" root mean square
        difference of linear albedo, each also "/dark", "/medium", "/light".
    """
    out = {}
    for name, decode in decoders.items():
        srgb, linear = [], []
        for start in range(0, len(maps), step):
            coded = torch.from_numpy(maps[start : start + step]).float() / 255
            wanted = srgb_to_linear(coded)
            found = decode(wanted)
            srgb.append((linear_to_srgb(found) - coded).abs()[..., inside].mean((1, 2)))
            linear.append((found - wanted)[..., inside].square().mean((1, 2)).sqrt())
        kinds = {"srgb": torch.cat(srgb).numpy(), "linear": torch.cat(linear).numpy()}
        out[name] = {k: v for kind, e in kinds.items() for k, v in by_tone(kind, e, maps).items()}
    return out


def fitted(prior: LinearPrior, inside: Bool[Tensor, "n n"]) -> Decoder:
    """Least squares of log albedo in a linear prior's codes."""
    basis = prior.basis[..., inside].flatten(1)

    def decode(linear: Tensor) -> Tensor:
        off = (linear.clamp(min=1e-3).log() - prior.mean)[..., inside].flatten(1)
        return prior(torch.linalg.lstsq(basis.T, off.T).solution.T)

    return decode


def measure(run: Path, data: Path, cache: Path) -> dict[str, dict[str, float]]:
    """`reconstruction_errors` of a run's two priors and of "constant" on maps of held-out skins."""
    from lifemask.facemodel import load_face_model

    recipe = read_state(run / "checkpoint.safetensors")["recipe"]
    size = recipe["net"]["size"]
    bank = open_maps(cache, data, MapSettings(size, recipe["held_out"], 0, True))
    network = AlbedoVae(**recipe["net"]).eval()
    network.load_state_dict({k: v.float() for k, v in rounded(averaged_weights(run)).items()})
    basis = {k: v.float() for k, v in load_file(run / PCA_FILE).items()}
    constant = load_prior("constant", size, load_face_model())
    assert isinstance(constant, LinearPrior)
    inside = face_texels(size)
    decoders: dict[str, Decoder] = {
        VAE: lambda maps: network.decode(network.encode(maps)[0]),
        PCA: fitted(LinearPrior(basis["mean"], basis["basis"], "log", size), inside),
        "constant": fitted(constant, inside),
    }
    return reconstruction_errors(decoders, bank[np.arange(len(bank))], inside)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Command line; returns what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with skins/ and hdri/")
    parser.add_argument("--cache", type=Path, required=True, help="where the albedo maps are kept")
    parser.add_argument("--folder", type=Path, default=Path("src/lifemask/weights"))
    options = parser.parse_args(arguments)
    measured = measure(options.run, options.data, options.cache)
    export(options.run, options.folder, measured)
    return measured


if __name__ == "__main__":
    main()
