"""How strongly RAFaRe's normals carve: kappa by least squares on held-out development pairs.

    python -m lifemask.training.rafare_kappa --name rafare-open --pairs PAIRS --count 20

prints the number for `rafare_export --field '{"kappa": ...}'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lifemask.methods._rafare_carve import bump_map, fit_kappa
from lifemask.methods._rafare_integrate import front_depth
from lifemask.methods._rafare_view import Guide, create_view, face_mask
from lifemask.methods.rafare import RafarePredictConfig, RafarePredictor, load_rafare

_LEAST_NZ = 0.2


def residuals(
    predictor: RafarePredictor, pairs: Iterable[Any]
) -> Iterator[tuple[Float[Tensor, "s s"], Float[Tensor, "s s"]]]:
    """Bump and what `base + fine` lacks, (s, s) each, NaN off the face; see `fit_kappa`.

    Args:
        predictor: its networks are asked.
        pairs: with truth (`data.pairs.Pair`).
    """
    for pair in pairs:
        guide = Guide(torch.from_numpy(pair.guide_depth), torch.from_numpy(pair.guide_normals))
        surface = predictor.surface(pair.image, pair.region, guide, "fine")
        image = torch.from_numpy(pair.image).permute(2, 0, 1)[None].float() / 255
        region = torch.from_numpy(pair.region)
        view = create_view(image, region[None], guide.depth[None], guide.normals[None])
        normals = predictor.networks.look(view, "normals").normals
        assert normals is not None
        mask = face_mask(region)
        bump = bump_map(normals, mask, predictor.networks.config.field.kernel)
        found = torch.from_numpy(front_depth(surface, len(region))).float()
        truth, facing = torch.from_numpy(pair.depth), torch.from_numpy(pair.normals[..., 2])
        lacks = (found - truth) * facing
        known = mask & torch.isfinite(lacks) & (facing > _LEAST_NZ)
        lacks = lacks - lacks[known].median()
        yield bump, torch.where(known, lacks, torch.nan)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from rich.console import Console

    from lifemask.data.pairs import load_pairs

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="of the weights, without suffix")
    parser.add_argument("--pairs", type=Path, required=True, help="held-out development pairs")
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args(arguments)
    predictor = load_rafare("open", RafarePredictConfig(weights=options.name))
    pairs = load_pairs(options.pairs)
    some = (pairs[k] for k in range(min(options.count, len(pairs))))
    Console().print(f"kappa {fit_kappa(residuals(predictor, some)):.2e}")


if __name__ == "__main__":
    main()
