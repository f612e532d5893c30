"""How far a head should move that carries RAFaRe's surface: by least squares on held-out pairs.

    python -m lifemask.training.rafare_share --weights open --pairs PAIRS --data DATA

prints the number for `rafare_export --share`. A surface and the head that guided it are both wrong,
in part independently of each other, so the best head lies between them. The pipeline reconstructs
the pictures of development pairs; true heads, guides and heads that carry the surface are meshes
of one model, so at every vertex of the face it is known what the guide lacks and what was added.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifemask.assets import UserError

FACE = "narrow_face"


@dataclass(frozen=True)
class Lacks:
    """What a guide lacks and what a surface added, along the true normals, in mm.

    Attributes:
        wanted: (n,) of the face's vertices.
        given: (n,).
    """

    wanted: NDArray[np.float64]
    given: NDArray[np.float64]


def best_share(found: Iterable[Lacks]) -> tuple[float, dict[str, float]]:
    """The share of what surfaces add that leaves the least square error.

    Args:
        found: of several heads.

    Returns:
        The share, and root mean square errors in mm: "guide", "surface" (all of it is taken), and
        "share".

    Raises:
        UserError: there is no head, or nothing was added.
    """
    rows = list(found)
    if not rows:
        raise UserError("no head of the model's own among the pairs; make some (--heads lifemask)")
    wanted, given = (np.concatenate([getattr(r, n) for r in rows]) for n in ("wanted", "given"))
    if not given.any():
        raise UserError("the surfaces added nothing to any head")
    share = float(wanted @ given / (given @ given))
    errors = {"guide": wanted, "surface": wanted - given, "share": wanted - share * given}
    return share, {name: float(np.sqrt((e**2).mean())) for name, e in errors.items()}


def lacks_of(guide: Tensor, carried: Tensor, truth: Tensor, face: Tensor, faces: Tensor) -> Lacks:
    """What is measured of one head, both meshes laid on the true one by a similarity.

    Args:
        guide: (v, 3) mm, before the surface was carried.
        carried: (v, 3) after it, the whole of it taken.
        truth: (v, 3) mm, of the same topology, in any frame.
        face: (v,) the vertices that count.
        faces: (f, 3) of the mesh.
    """
    from lifemask.evaluation.align import align_similarity
    from lifemask.graphics.mesh import vertex_normals

    normals = vertex_normals(truth, faces)[face].double().numpy()
    target = truth[face].double().numpy()

    def laid(points: Tensor) -> NDArray[np.float64]:
        own = points[face].double().numpy()
        return align_similarity(own, target)

    first, second = laid(guide), laid(carried)
    along = [((a - b) * normals).sum(1) for a, b in ((target, first), (second, first))]
    return Lacks(*along)


def measured(pairs: Sequence[Any], weights: Literal["open", "research"], data: Path | None,
             name: str = "") -> Iterator[Lacks]:  # fmt: skip
    """One row for each pair with a head of the pipeline's own model that can be reconstructed.

    Args:
        pairs: held out (`data.pairs.PairSet`).
        weights: family.
        data: folder with `ict/`, for heads of ICT-FaceKit; these are left out.
        name: other weights of RAFaRe than the family's.
    """
    from lifemask.data._pairs_fit import EXPAND
    from lifemask.data.pairs import true_head
    from lifemask.methods.rafare import RafarePredictConfig
    from lifemask.pipeline import Pipeline
    from lifemask.pipeline_config import PipelineConfig

    asked = RafarePredictConfig(share=1.0, weights=name)
    settings = PipelineConfig(
        weights=weights, method="rafare", texture="none", refine=False, mouth=False, eyes=False,
        rafare=asked, threads=1,
    )  # fmt: skip
    pipeline = Pipeline(settings)
    topology = pipeline.model.topology
    face, faces = topology.regions[FACE], topology.faces.long()
    for pair in (p for p in pairs if p.heads == pipeline.model.name):
        half, middle = pair.size / 2 / EXPAND, pair.size / 2 - 0.5
        box = (middle - half, middle - half, middle + half, middle + half)
        try:
            geometry = pipeline.reconstruct_face(pair.image, box).geometry
        except UserError:
            continue
        if geometry.detail is None:
            continue
        truth = true_head(pair, data).vertices_mm
        carried = geometry.vertices_mm
        yield lacks_of(carried - geometry.detail.offsets_mm, carried, truth, face, faces)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from rich.console import Console

    from lifemask.data.pairs import load_pairs

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", choices=("open", "research"), default="open")
    parser.add_argument("--name", default="", help="other weights than the family's")
    parser.add_argument("--pairs", type=Path, required=True, help="held-out development pairs")
    parser.add_argument("--data", type=Path, help="folder with ict/")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pairs = load_pairs(options.pairs)
    share, errors = best_share(measured(pairs, options.weights, options.data, options.name))
    told = ", ".join(f"{name} {value:.3f} mm" for name, value in errors.items())
    Console().print(f"share {share:.2f} (RMS errors: {told})")


if __name__ == "__main__":
    main()
