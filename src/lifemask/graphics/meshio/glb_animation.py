"""Keyframes of a mesh and its node in glTF 2.0: morph weights, rotation, translation, scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lifemask.graphics.meshio.scene import Animation, MeshFormatError, ViewCamera

PATHS = ("weights", "rotation", "translation", "scale")
_WIDTHS = {"rotation": 4, "translation": 3, "scale": 3}


@dataclass(frozen=True)
class Pose:
    """A mesh at one time.

    Attributes:
        weights: (m,) of the morph targets.
        rotation: (3, 3).
        translation_mm: (3,).
        scale: (3,).
    """

    weights: Float[np.ndarray, " m"]
    rotation: Float[np.ndarray, "3 3"]
    translation_mm: Float[np.ndarray, " 3"]
    scale: Float[np.ndarray, " 3"]

    def __call__(self, points_mm: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the mesh, blendshapes already added, where the node puts them; mm."""
        return (points_mm * self.scale) @ self.rotation.T + self.translation_mm


def pose_at(animation: Animation, time_s: float, targets: int = 0) -> Pose:
    """What a player shows at a time: keyframes mixed linearly, rotations along the great circle.

    Before the first keyframe and after the last one these are held.

    Args:
        animation: keyframes.
        time_s: seconds.
        targets: number of morph targets, for an animation without weights.
    """
    times = animation.times_s
    k = int(np.clip(np.searchsorted(times, time_s, side="right") - 1, 0, max(len(times) - 2, 0)))
    last = min(k + 1, len(times) - 1)
    length = times[last] - times[k]
    share = 0.0 if length <= 0 else float(np.clip((time_s - times[k]) / length, 0, 1))

    def mixed(rows: np.ndarray | None, rest: np.ndarray) -> np.ndarray:
        if rows is None:
            return rest
        return (1 - share) * rows[k].astype(np.float64) + share * rows[last]

    quaternion = np.array([0.0, 0, 0, 1])
    if animation.rotation_xyzw is not None:
        quaternion = _slerp(animation.rotation_xyzw[k], animation.rotation_xyzw[last], share)
    return Pose(
        mixed(animation.weights, np.zeros(targets)),
        _matrix(quaternion),
        mixed(animation.translation_mm, np.zeros(3)),
        mixed(animation.scale, np.ones(3)),
    )


def quaternions(rotation: Float[np.ndarray, "t 3 3"]) -> Float[np.ndarray, "t 4"]:
    """Unit quaternions (x, y, z, w) of rotations, each on the side of the one before."""
    import roma
    import torch

    rows = roma.rotmat_to_unitquat(torch.from_numpy(np.ascontiguousarray(rotation))).numpy().copy()
    flips = np.cumprod(np.where((rows[1:] * rows[:-1]).sum(1) < 0, -1.0, 1.0))
    rows[1:] *= flips[:, None]
    return rows


def add_animation(writer: Any, animation: Animation, node: int) -> None:
    """Add the keyframes to a file that is being written (`glb._Writer`).

    Args:
        writer: the writer.
        animation: keyframes.
        node: index of the node with the mesh.
    """
    import pygltflib as gl

    tracks = {
        "weights": animation.weights,
        "rotation": animation.rotation_xyzw,
        "translation": animation.translation_mm,
        "scale": animation.scale,
    }
    clip = gl.Animation(name=animation.name, channels=[], samplers=[])
    clock = _keyframes(writer, animation.times_s.astype("<f4"), bounds=True)
    for path, rows in tracks.items():
        if rows is None:
            continue
        rows = rows * 1e-3 if path == "translation" else rows
        flat = rows.reshape(-1) if path == "weights" else rows
        output = _keyframes(writer, np.ascontiguousarray(flat.astype("<f4")))
        clip.samplers.append(
            gl.AnimationSampler(input=clock, output=output, interpolation="LINEAR")
        )
        target = gl.AnimationChannelTarget(node=node, path=path)
        clip.channels.append(gl.AnimationChannel(sampler=len(clip.samplers) - 1, target=target))
    writer.gltf.animations.append(clip)


def add_camera(writer: Any, view: ViewCamera) -> int:
    """Add a perspective camera on the z axis that looks along -z; index of its node."""
    import pygltflib as gl

    distance = view.distance_mm * 1e-3
    lens = gl.Perspective(
        aspectRatio=view.aspect, yfov=view.yfov_rad, znear=max(distance / 100, 1e-3)
    )
    lens.zfar = distance * 10
    writer.gltf.cameras.append(gl.Camera(type="perspective", perspective=lens, name=view.name))
    place = [0.0, 0.0, distance]
    camera = len(writer.gltf.cameras) - 1
    writer.gltf.nodes.append(gl.Node(name=view.name, camera=camera, translation=place))
    return len(writer.gltf.nodes) - 1


def read_animation(path: str | Path) -> Animation | None:
    """The first animation of a GLB file on a node with a mesh; None if it has none.

    Tracks with keyframes of their own times are not read, nor are other interpolations than linear.

    Raises:
        MeshFormatError: not a GLB, or an animation that this reader does not know.
        OSError: the file cannot be read.
    """
    return decode_animation(Path(path).read_bytes())


def decode_animation(data: bytes) -> Animation | None:
    """An animation from the bytes of a GLB file, see `read_animation`."""
    from lifemask.graphics.meshio.glb_read import open_document

    document, accessor = open_document(data)
    if not document.get("animations"):
        return None
    clip = document["animations"][0]
    tracks: dict[str, np.ndarray] = {}
    inputs = set()
    for channel in clip["channels"]:
        sampler = clip["samplers"][channel["sampler"]]
        if sampler.get("interpolation", "LINEAR") != "LINEAR":
            raise MeshFormatError("only linear keyframes can be read")
        node = channel["target"].get("node")  # glTF lets it out for targets of extensions
        if node is not None and "mesh" in document["nodes"][node]:
            tracks[channel["target"]["path"]] = accessor(sampler["output"])
            inputs.add(sampler["input"])
    if not tracks:
        return None
    if len(inputs) != 1:
        raise MeshFormatError("tracks with keyframes of their own times cannot be read")
    times = accessor(inputs.pop()).reshape(-1).astype(np.float64)
    weights = tracks.get("weights")
    moved = tracks.get("translation")
    return Animation(
        times,
        None if weights is None else weights.reshape(len(times), -1),
        tracks.get("rotation"),
        None if moved is None else moved.astype(np.float64) * 1000,
        tracks.get("scale"),
        clip.get("name", "animation"),
    )


def _keyframes(writer: Any, rows: np.ndarray, *, bounds: bool = False) -> int:
    """An accessor of keyframes; their buffer views have no target."""
    entry = writer._accessor_entry(rows, bounds)
    entry.bufferView = writer.view(rows.tobytes())
    writer.gltf.accessors.append(entry)
    return len(writer.gltf.accessors) - 1


def _slerp(first: np.ndarray, last: np.ndarray, share: float) -> np.ndarray:
    a, b = first.astype(np.float64), last.astype(np.float64)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    dot = float(a @ b)
    b, dot = (b, dot) if dot >= 0 else (-b, -dot)
    if dot > 1 - 1e-10:
        mixed = (1 - share) * a + share * b
    else:
        angle = np.arccos(min(dot, 1.0))
        mixed = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return mixed / np.linalg.norm(mixed)


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    import roma
    import torch

    return roma.unitquat_to_rotmat(torch.from_numpy(quaternion)).numpy()
