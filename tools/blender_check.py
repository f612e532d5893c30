"""Import a head into Blender, check that it arrived whole, and render it.

    blender --background --python tools/blender_check.py -- out/photo/head.glb picture.png

or, with Blender as a Python module (`pip install bpy`), without installing Blender:

    python tools/blender_check.py out/photo/head.glb picture.png

Prints one JSON line; exit status 1 when a check fails. The picture shows the head as in the photo,
the neutral head turned by 35 degrees, and the neutral head with its jaw open.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import bpy  # pyright: ignore[reportMissingImports]
from mathutils import Vector  # pyright: ignore[reportMissingImports]

SIDES = {
    "brow": "DownLeft DownRight InnerUp OuterUpLeft OuterUpRight",
    "cheek": "Puff SquintLeft SquintRight",
    "eye": "BlinkLeft BlinkRight LookDownLeft LookDownRight LookInLeft LookInRight LookOutLeft"
    " LookOutRight LookUpLeft LookUpRight SquintLeft SquintRight WideLeft WideRight",
    "jaw": "Forward Left Open Right",
    "mouth": "Close DimpleLeft DimpleRight FrownLeft FrownRight Funnel Left LowerDownLeft"
    " LowerDownRight PressLeft PressRight Pucker Right RollLower RollUpper ShrugLower ShrugUpper"
    " SmileLeft SmileRight StretchLeft StretchRight UpperUpLeft UpperUpRight",
    "nose": "SneerLeft SneerRight",
    "tongue": "Out",
}
ARKIT = {part + end for part, ends in SIDES.items() for end in ends.split()}
HEIGHT_M = (0.24, 0.36)
"""A head with its neck, from below the chin to the crown."""
SAMPLES = 48


def main(head: str, picture: str | None = None) -> int:
    """Check a head and render it; returns the exit status."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=str(Path(head).resolve()))
    mesh, found = inspect()
    problems = judge(found)
    if picture is not None and mesh is not None:
        render(mesh, Path(picture).resolve())
        found["picture"] = picture
    print(json.dumps({"blender": bpy.app.version_string, **found, "problems": problems}))
    return 1 if problems else 0


def inspect() -> tuple[object | None, dict]:
    """The mesh that was imported, and what there is to say about it; metres, Blender's axes."""
    kinds = sorted(o.type for o in bpy.data.objects)
    meshes = [o for o in bpy.data.objects if o.type == "MESH"]
    if len(meshes) != 1:
        return None, {"objects": kinds}
    (mesh,) = meshes
    corners = [mesh.matrix_world @ v.co for v in mesh.data.vertices]
    low, high = ([f(c[k] for c in corners) for k in range(3)] for f in (min, max))
    nose = min(corners, key=lambda c: c.y)
    keys = mesh.data.shape_keys.key_blocks if mesh.data.shape_keys else []
    return mesh, {
        "objects": kinds,
        "vertices": len(corners),
        "height_m": round(high[2] - low[2], 4),
        "width_m": round(high[0] - low[0], 4),
        "nose_m": [round(x, 4) for x in nose],
        "shape_keys": [k.name for k in keys[1:]],
        "set": {k.name: round(k.value, 4) for k in keys[1:] if k.value},
        "moved": sum(any((a.co - b.co).length > 1e-6
                         for a, b in zip(k.data, keys[0].data, strict=True)) for k in keys[1:]),
        "materials": {m.name: sorted(textures(m)) for m in mesh.data.materials},
    }  # fmt: skip


def textures(material: object) -> set[str]:
    """The sockets of a material's shader that a picture with pixels feeds."""
    shaders = [n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED"]
    return {
        socket.name
        for shader in shaders
        for socket in shader.inputs
        if any(picture_behind(link.from_node) for link in socket.links)
    }


def picture_behind(node: object) -> bool:
    """Whether a picture with pixels is this node, or feeds it."""
    if node.type == "TEX_IMAGE":
        return node.image is not None and min(node.image.size) > 0
    return any(picture_behind(link.from_node) for s in node.inputs for link in s.links)


def judge(found: dict) -> list[str]:
    """What is not as it should be, one line each."""
    if found["objects"] != ["MESH"]:
        return [f"objects {found['objects']}, not one mesh without an armature"]
    low, high = HEIGHT_M
    skin = found["materials"].get("skin", [])
    checks = {
        f"{found['height_m']} m tall, not {low} to {high}": low < found["height_m"] < high,
        f"nose at {found['nose_m']}: does not look along -y": abs(found["nose_m"][0]) < 0.02,
        f"{len(found['shape_keys'])} shape keys, not ARKit's 52": set(found["shape_keys"]) == ARKIT,
        f"only {found['moved']} shape keys move a vertex": found["moved"] == len(ARKIT),
        f"materials without colour texture: {found['materials']}": all(
            "Base Color" in sockets for sockets in found["materials"].values()
        ),
        f"the skin has {skin}, not relief and roughness too": {"Normal", "Roughness"} <= set(skin),
    }
    return [problem for problem, fine in checks.items() if not fine]


def render(mesh: object, picture: Path) -> None:
    """Draw three copies side by side with Cycles on the CPU."""
    step = 0.26
    for k, (turn, jaw) in enumerate(((0, None), (35, 0.0), (0, 1.0))):
        shown = mesh.copy()
        shown.data = mesh.data.copy()
        bpy.context.collection.objects.link(shown)
        shown.matrix_world = mesh.matrix_world.copy()
        shown.location.x += (k - 1) * step
        shown.rotation_mode = "XYZ"
        shown.rotation_euler.z += math.radians(turn)
        if jaw is not None:
            for key in shown.data.shape_keys.key_blocks[1:]:
                key.value = jaw if key.name == "jawOpen" else 0.0
    mesh.hide_render = True
    middle = sum((mesh.matrix_world @ Vector(c) for c in mesh.bound_box), Vector()) / 8
    add_lamp("key", middle + Vector((-0.6, -0.9, 0.5)), middle, 18)
    add_lamp("fill", middle + Vector((0.8, -0.8, 0.0)), middle, 5)
    add_lamp("rim", middle + Vector((0.3, 0.9, 0.6)), middle, 14)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type, camera.data.ortho_scale = "ORTHO", 3 * step
    camera.location = middle + Vector((0, -2, 0))
    camera.rotation_euler = (math.pi / 2, 0, 0)
    bpy.context.collection.objects.link(camera)
    scene = bpy.context.scene
    scene.camera, scene.render.engine = camera, "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", SAMPLES
    scene.render.resolution_x, scene.render.resolution_y = 960, 420
    scene.view_settings.view_transform = "Standard"
    scene.world = bpy.data.worlds.new("world")
    scene.world.color = (0.05, 0.05, 0.055)
    scene.render.filepath = str(picture)
    bpy.ops.render.render(write_still=True)


def add_lamp(name: str, place: Vector, target: Vector, watts: float) -> None:
    """An area lamp that looks at a place."""
    lamp = bpy.data.objects.new(name, bpy.data.lights.new(name, "AREA"))
    lamp.data.energy, lamp.data.size = watts, 0.5
    lamp.location = place
    lamp.rotation_euler = (target - place).to_track_quat("-Z", "Y").to_euler()
    bpy.context.collection.objects.link(lamp)


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    if not words:
        sys.exit(__doc__)
    sys.exit(main(*words))
