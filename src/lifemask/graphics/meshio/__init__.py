"""Meshes to and from files: OBJ with MTL and PNG, PLY, and GLB with named blendshapes."""

from __future__ import annotations

from pathlib import Path

from lifemask.graphics.meshio.glb import encode_glb, write_glb
from lifemask.graphics.meshio.glb_animation import pose_at, quaternions, read_animation
from lifemask.graphics.meshio.glb_read import decode_glb, read_glb
from lifemask.graphics.meshio.obj import read_obj, write_obj
from lifemask.graphics.meshio.ply import read_ply, write_ply
from lifemask.graphics.meshio.scene import (
    Animation,
    Material,
    MeshFormatError,
    MeshPrimitive,
    MeshScene,
    MorphTarget,
    ViewCamera,
    decode_normals,
    encode_image,
    encode_normals,
    polygon_uvs,
    polygons_of_part,
    split_seams,
    write_atomic,
)

__all__ = [
    "Animation",
    "Material",
    "MeshFormatError",
    "MeshPrimitive",
    "MeshScene",
    "MorphTarget",
    "ViewCamera",
    "decode_glb",
    "decode_normals",
    "encode_glb",
    "encode_image",
    "encode_normals",
    "polygon_uvs",
    "polygons_of_part",
    "pose_at",
    "quaternions",
    "read_animation",
    "read_glb",
    "read_mesh",
    "read_obj",
    "read_ply",
    "split_seams",
    "write_atomic",
    "write_glb",
    "write_mesh",
    "write_obj",
    "write_ply",
]

_READERS = {".obj": read_obj, ".ply": read_ply, ".glb": read_glb}
_WRITERS = {".obj": write_obj, ".ply": write_ply, ".glb": write_glb}


def read_mesh(path: str | Path) -> MeshScene:
    """Read an .obj, .ply or .glb file, see `read_obj`, `read_ply`, `read_glb`.

    Raises:
        MeshFormatError: another ending, or a damaged file.
    """
    return _by_suffix(_READERS, path)(path)


def write_mesh(scene: MeshScene, path: str | Path) -> list[Path]:
    """Write an .obj, .ply or .glb file and return the files written.

    Raises:
        MeshFormatError: another ending.
    """
    return _by_suffix(_WRITERS, path)(scene, path)


def _by_suffix(table: dict, path: str | Path):
    suffix = Path(path).suffix.lower()
    if suffix not in table:
        known = ", ".join(table)
        raise MeshFormatError(f"{Path(path).name}: {suffix or 'no ending'} is not one of {known}")
    return table[suffix]
