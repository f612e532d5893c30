"""Our systems as benchmarks name them: weights, method, boxes, map, refinement, mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ours:
    """One of our systems.

    Attributes:
        weights: family, "open" or "research".
        method: "landmarker", "fit", "dasl", "pgn" or "rafare"; of meshes "mean" too.
        box: source of the face boxes, "official" or "detector".
        map: source of 2DASL's input map, "" for methods without one.
        refine: meshes: let the photo's colours refine the shape, as the product does.
        mesh: of RAFaRe: "head", "detailed" or "surface", see `lifemask predict`.
    """

    weights: str
    method: str
    box: str = "official"
    map: str = ""
    refine: bool = True
    mesh: str = "head"

    @property
    def label(self) -> str:
        """Method as the tables show it: "dasl (self), not refined"."""
        aside = self.map or ("" if self.mesh == "head" else self.mesh)
        method = f"{self.method} ({aside})" if aside else self.method
        return method if self.refine else f"{method}, not refined"

    @property
    def method_stem(self) -> str:
        """Method in file names: dasl-self-unrefined."""
        mesh, refined = "" if self.mesh == "head" else self.mesh, "" if self.refine else "unrefined"
        return "-".join(filter(None, (self.method, self.map, mesh, refined)))

    @property
    def stem(self) -> str:
        """The end of its result's file name: research-dasl-self-official."""
        return f"{self.weights}-{self.method_stem}-{self.box}"

    @property
    def name(self) -> list[str]:
        """Weights, method and box as the tables show them."""
        return [self.weights, self.label, self.box]

    @property
    def options(self) -> str:
        """Options of `lifemask predict` that run it."""
        chosen = f"--map {self.map} " if self.map else ""
        last = "" if self.refine else " --no-refine"
        last += "" if self.mesh == "head" else f" --mesh {self.mesh}"
        return f"--method {self.method} {chosen}--weights {self.weights} --box {self.box}{last}"

    def predict(self, dataset: str, data: Path, out: Path, threads: int = 1) -> Path:
        """Run it over a benchmark of points or of meshes; see `lifemask predict`."""
        from lifemask.evaluation.predict import predict
        from lifemask.evaluation.predict_meshes import MESH_DATASETS, predict_meshes

        given: dict[str, Any] = {"weights": self.weights, "method": self.method, "box": self.box}
        given |= {"threads": threads, "map_source": self.map or None}
        if dataset in MESH_DATASETS:
            given |= {"refine": self.refine} | ({} if self.mesh == "head" else {"mesh": self.mesh})
            return predict_meshes(dataset, data, out, **given)
        return predict(dataset, data, out, **given)
