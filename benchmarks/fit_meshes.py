"""How closely the head model's 80 modes fit heads it has not seen: a scan and ICT-FaceKit heads.

Run: python benchmarks/fit_meshes.py --data DATA [--json benchmarks/results/fit_meshes.json]

Iterative closest surface point: rigid motion and identity coefficients, scale fixed, with the
model's standard normal prior. The error is the mean distance of the vertices of region "face" to
the target's surface, in mm. The scan's millimetre scale comes from a similarity fit of the mean
head; the prior's weight was set on ICT heads, never on the scan.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import igl
import numpy as np

from lifemask.facemodel import load_face_model
from lifemask.facemodel.linear import LinearFaceModel
from lifemask.graphics.meshio import read_glb
from provenance import provenance, write_result

PRIOR_MM2 = 2.0  # weight of |a|^2 against squared distances in mm, summed over the face
POINT_SHARE = 0.1  # weight of point-to-point beside point-to-plane distances
ITERATIONS = 40
ICT_SEED = 20_260  # the build draws nothing from ICT's modes; any seed is held out
GUESS_MM_PER_M = 47.0  # a head's size in the scan file, which has no unit


@dataclass(frozen=True)
class Basis:
    """The face region of a model: mean (n, 3) and modes (k, n, 3) in mm."""

    mean: np.ndarray
    modes: np.ndarray


@dataclass(frozen=True)
class Surface:
    """A target: vertices (v, 3) in mm and triangles (f, 3)."""

    vertices: np.ndarray
    faces: np.ndarray

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance (n,), nearest surface points (n, 3) and their unit normals (n, 3)."""
        squared, face, nearest = igl.point_mesh_squared_distance(points, self.vertices, self.faces)
        corner = self.vertices[self.faces[face]]
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        return np.sqrt(np.maximum(squared, 0.0)), nearest, normal


@dataclass(frozen=True)
class Fit:
    """Result of a fit: distances (n,) in mm and coefficients (k,)."""

    distance_mm: np.ndarray
    coefficients: np.ndarray


def face_basis(model: LinearFaceModel, modes: int) -> Basis:
    """The model's face region with its first modes."""
    mask = model.topology.regions["face"]
    shapes = model.identity_basis[:modes, mask].double().numpy()
    return Basis(model.mean[mask].double().numpy(), shapes)


def skew(v: np.ndarray) -> np.ndarray:
    """Cross-product matrices (n, 3, 3) of vectors (n, 3)."""
    zero = np.zeros(len(v))
    x, y, z = v.T
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def fit_identity(basis: Basis, target: Surface, rotation: np.ndarray, shift: np.ndarray) -> Fit:
    """Gauss-Newton on closest points over rotation, shift and coefficients; scale fixed."""
    count = len(basis.modes)
    a = np.zeros(count)
    for _ in range(ITERATIONS):
        local = basis.mean + np.tensordot(a, basis.modes, 1)
        posed = local @ rotation.T + shift
        _, nearest, normal = target.closest(posed)
        turned = np.moveaxis(basis.modes @ rotation.T, 0, 2)
        columns = np.concatenate(
            [-skew(posed - shift), np.tile(np.eye(3), (len(posed), 1, 1)), turned], 2
        )
        residual = posed - nearest
        plane = np.einsum("nc,nck->nk", normal, columns)
        points = columns.reshape(-1, count + 6)
        gram = plane.T @ plane + POINT_SHARE * points.T @ points
        right = plane.T @ (normal * residual).sum(1) + POINT_SHARE * points.T @ residual.ravel()
        gram[6:, 6:] += PRIOR_MM2 * np.eye(count)
        right[6:] += PRIOR_MM2 * a
        step = np.linalg.solve(gram, -right)
        rotation = rodrigues(step[:3]) @ rotation
        shift = shift + step[3:6]
        a = a + step[6:]
    posed = (basis.mean + np.tensordot(a, basis.modes, 1)) @ rotation.T + shift
    return Fit(target.closest(posed)[0], a)


def rodrigues(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a rotation vector (3,)."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    k = skew(vector[None] / angle)[0]
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def similarity_icp(basis: Basis, target: Surface) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that lay the mean head on a target by its nearest points."""
    tip = target.vertices[target.vertices[:, 2].argmax()]
    scale, rotation = 1.0, np.eye(3)
    shift = tip - basis.mean[basis.mean[:, 2].argmax()]
    for _ in range(80):
        posed = scale * basis.mean @ rotation.T + shift
        distance, nearest, _ = target.closest(posed)
        keep = distance < max(2.0 * np.median(distance), 3.0)
        p, q = basis.mean[keep], nearest[keep]
        u, d, vt = np.linalg.svd((q - q.mean(0)).T @ (p - p.mean(0)))
        sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
        rotation = (u * sign) @ vt
        scale = float((d * sign).sum() / ((p - p.mean(0)) ** 2).sum())
        shift = q.mean(0) - scale * rotation @ p.mean(0)
    return scale, rotation, shift


def read_scan(path: Path) -> Surface:
    """The scan in about millimetres, with repeated vertices of texture seams merged."""
    scene = read_glb(path)
    faces = np.concatenate([part.faces for part in scene.primitives]).astype(np.int64)
    points = np.asarray(scene.positions_mm, dtype=np.float64) / 1000.0 * GUESS_MM_PER_M
    return Surface(points, faces)


def fit_scan(basis: Basis, path: Path) -> dict[str, float]:
    """Fits the scan; the scale is found once with the mean head and then fixed."""
    scan = read_scan(path)
    scale, rotation, shift = similarity_icp(basis, scan)
    target = Surface(scan.vertices / scale, scan.faces)
    fit = fit_identity(basis, target, rotation, shift / scale)
    return summary(fit) | {"scan_mm_per_unit": round(GUESS_MM_PER_M / scale, 3)}


def fit_ict(basis: Basis, path: Path, heads: int) -> dict[str, float]:
    """Fits neutral heads drawn from all 100 modes of ICT-FaceKit; mean over heads."""
    ict = load_face_model("ict", path)
    assert isinstance(ict, LinearFaceModel)
    rng = np.random.default_rng(ICT_SEED)
    stop = int(ict.topology.regions["eye_socket_R"].nonzero().max()) + 1
    faces = ict.topology.faces.numpy()
    faces = faces[(faces < stop).all(1)]
    fits = []
    for _ in range(heads):
        a = rng.standard_normal(ict.identity_size)
        shape = ict.mean.double().numpy() + np.tensordot(a, ict.identity_basis.double().numpy(), 1)
        target = Surface(shape[:stop], faces)
        fits.append(summary(fit_identity(basis, target, np.eye(3), np.zeros(3))))
    out = {key: round(float(np.mean([f[key] for f in fits])), 4) for key in fits[0]}
    return out | {"heads": heads, "worst_mean_mm": max(f["mean_mm"] for f in fits)}


def summary(fit: Fit) -> dict[str, float]:
    """Mean, median, 90th percentile in mm and the size of the coefficients."""
    d = fit.distance_mm
    return {
        "mean_mm": round(float(d.mean()), 4),
        "median_mm": round(float(np.median(d)), 4),
        "p90_mm": round(float(np.percentile(d, 90)), 4),
        "coefficient_rms": round(float(np.sqrt((fit.coefficients**2).mean())), 3),
    }


def main() -> None:
    """Fits all targets with 80, 60 and 40 modes and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scans/ and ict/")
    parser.add_argument("--heads", type=int, default=10, help="ICT heads")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/fit_meshes.json"))
    parser.add_argument("--card", type=Path, help="card to note the means of 80 modes in")
    options = parser.parse_args()
    model = load_face_model()
    assert isinstance(model, LinearFaceModel)
    table: dict[str, dict] = {}
    for modes in (80, 60, 40):
        basis = face_basis(model, modes)
        scan = fit_scan(basis, options.data / "scans" / "LeePerrySmith.glb")
        heads = fit_ict(basis, options.data / "ict" / "ict.npz", options.heads)
        table[f"modes_{modes}"] = {"LeePerrySmith": scan, "ict_held_out": heads}
        print(modes, "modes: scan", scan, "ICT", heads, flush=True)
    command = f"python benchmarks/fit_meshes.py --data DATA --heads {options.heads}"
    result = provenance(command) | {"benchmark": "fit_meshes", "results": table}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_result(options.json, result)
    if options.card is not None:
        card = json.loads(options.card.read_text(encoding="utf-8"))
        card["measured"]["fit_mean_mm"] = card_numbers(table["modes_80"])
        options.card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def card_numbers(fits: dict[str, dict]) -> dict[str, float]:
    """The mean distances in mm that the model's card quotes."""
    return {name: fit["mean_mm"] for name, fit in fits.items()}


if __name__ == "__main__":
    main()
