"""Meshes survive writing and reading; GLB files satisfy the Khronos validator and other readers."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lifemask.graphics import meshio
from lifemask.graphics.meshio import (
    Material,
    MeshFormatError,
    MeshPrimitive,
    MeshScene,
    MorphTarget,
)

REPO = Path(__file__).resolve().parents[2]
# two unit squares with a shared edge that is a UV seam, and a loose triangle with its own material
POSITIONS = np.array(
    [[0, 0, 0], [10, 0, 1], [20, 0, 0], [0, 10, 0], [10, 10, 1], [20, 10, 0],
     [0, 20, 5], [5, 20, 5], [0, 25, 5]], np.float32)  # fmt: skip
UVS = np.array(
    [[0, 0], [0.4, 0], [0.6, 0], [1, 0], [0, 0.7], [0.4, 0.7], [0.6, 0.7], [1, 0.7],
     [0, 0.8], [0.1, 0.8], [0, 1]], np.float32)  # fmt: skip
FACES = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]], np.int32)
FACES_UV = np.array([[0, 1, 5], [0, 5, 4], [2, 3, 7], [2, 7, 6]], np.int32)
POLYGONS = np.array([[0, 1, 4, 3], [1, 2, 5, 4]], np.int32)


def _scene(textures: bool = True) -> MeshScene:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=POSITIONS.shape).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    skin = Material("skin", pixels if textures else None, roughness=0.55)
    eyes = Material("eyes", None, (0.25, 0.5, 1.0), roughness=0.1, double_sided=True)
    moved = np.zeros_like(POSITIONS)
    moved[4] = [1, -2, 3]
    turned = np.zeros_like(POSITIONS)
    turned[4] = [0.1, 0.2, -0.1]
    return MeshScene(
        POSITIONS,
        (
            MeshPrimitive("skin", FACES, FACES_UV, skin, POLYGONS),
            MeshPrimitive(
                "eyes", np.array([[6, 7, 8]], np.int32), np.array([[8, 9, 10]], np.int32), eyes
            ),
        ),
        normals=normals,
        uvs=UVS,
        colors=rng.integers(0, 256, POSITIONS.shape, dtype=np.uint8),
        morph_targets={
            "jawOpen": MorphTarget(moved, turned),
            "nothing": MorphTarget(np.zeros_like(moved), np.zeros_like(moved)),
            "everything": MorphTarget(np.ones_like(moved), np.zeros_like(moved)),
        },
        morph_weights={"jawOpen": 0.5},
    )


def _corners(scene: MeshScene, primitive: int) -> tuple[np.ndarray, np.ndarray]:
    """What a face really is, whatever the indexing: corner positions and uvs."""
    part = scene.primitives[primitive]
    assert scene.uvs is not None and part.faces_uv is not None
    return scene.positions_mm[part.faces], scene.uvs[part.faces_uv]


def test_seam_vertices_are_split_and_others_are_not() -> None:
    vertex_ids, uv_ids, indices = meshio.split_seams(FACES, FACES_UV)
    assert np.array_equal(vertex_ids[indices], FACES) and np.array_equal(uv_ids[indices], FACES_UV)
    assert len(vertex_ids) == 8  # six vertices, two of them on the seam
    assert len(meshio.split_seams(FACES, None)[0]) == 6


def test_polygon_uvs_agree_with_the_triangles() -> None:
    expected = [[0, 1, 5, 4], [2, 3, 7, 6]]
    assert meshio.polygon_uvs(POLYGONS, FACES, FACES_UV).tolist() == expected
    triangle = np.array([[0, 1, 4, -1]], np.int32)
    assert meshio.polygon_uvs(triangle, FACES, FACES_UV).tolist() == [[0, 1, 5, -1]]
    with pytest.raises(ValueError, match="edge"):
        meshio.polygon_uvs(np.array([[0, 2, 5, 3]], np.int32), FACES, FACES_UV)
    assert meshio.polygons_of_part(POLYGONS, FACES[2:]).tolist() == [[1, 2, 5, 4]]


def test_glb_round_trip(tmp_path: Path) -> None:
    scene = _scene()
    meshio.write_mesh(scene, tmp_path / "a.glb")
    back = meshio.read_mesh(tmp_path / "a.glb")
    assert [p.name for p in back.primitives] == ["skin", "eyes"]
    for k in range(2):
        for ours, theirs in zip(_corners(scene, k), _corners(back, k), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
    material = back.primitives[0].material
    assert material is not None and material.texture is not None
    assert np.array_equal(material.texture, scene.primitives[0].material.texture)  # type: ignore
    assert back.primitives[1].material == scene.primitives[1].material
    assert list(back.morph_targets) == ["jawOpen", "nothing", "everything"]
    assert back.morph_weights == {"jawOpen": 0.5, "nothing": 0.0, "everything": 0.0}
    vertex_ids = np.concatenate([meshio.split_seams(FACES, FACES_UV)[0], [6, 7, 8]])
    assert scene.normals is not None and back.normals is not None
    np.testing.assert_allclose(back.normals, scene.normals[vertex_ids], atol=1e-6)
    for name, target in scene.morph_targets.items():
        read = back.morph_targets[name]
        np.testing.assert_allclose(
            read.positions_mm, target.positions_mm[vertex_ids], atol=1e-6, err_msg=name
        )
        np.testing.assert_allclose(read.normals, target.normals[vertex_ids], atol=1e-6)  # type: ignore


def test_glb_is_in_metres_with_the_texture_upright(tmp_path: Path) -> None:
    gl = pytest.importorskip("pygltflib")
    meshio.write_glb(_scene(), tmp_path / "a.glb")
    document = gl.GLTF2().load(str(tmp_path / "a.glb"))
    primitive = document.meshes[0].primitives[0]
    position = document.accessors[primitive.attributes.POSITION]
    assert position.max == pytest.approx([0.02, 0.01, 0.001])
    assert document.asset.generator.startswith("lifemask")
    assert document.meshes[0].extras["targetNames"] == ["jawOpen", "nothing", "everything"]
    back = meshio.decode_glb(meshio.encode_glb(_scene()))
    assert back.uvs is not None and back.uvs[0] == pytest.approx(UVS[0])  # v up again


def test_glb_vertex_colors_survive_the_linear_detour(tmp_path: Path) -> None:
    scene = _scene(textures=False)
    back = meshio.decode_glb(meshio.encode_glb(scene))
    assert scene.colors is not None and back.colors is not None
    vertex_ids = np.concatenate([meshio.split_seams(FACES, FACES_UV)[0], [6, 7, 8]])
    assert np.array_equal(back.colors, scene.colors[vertex_ids])


def test_unmoved_blendshapes_cost_no_data() -> None:
    still = {f"s{k}": MorphTarget(np.zeros_like(POSITIONS), None) for k in range(40)}
    moving = {k: MorphTarget(t.positions_mm + 1, None) for k, t in still.items()}
    few = len(meshio.encode_glb(replace(_scene(), morph_targets=still)))
    many = len(meshio.encode_glb(replace(_scene(), morph_targets=moving)))
    assert many - few > 40 * 10 * 12  # at least the displacements themselves


def test_glb_reader_applies_node_transforms() -> None:
    gl = pytest.importorskip("pygltflib")
    document = gl.GLTF2.load_from_bytes(meshio.encode_glb(_scene()))
    document.nodes[0].scale = [2.0, 2.0, 2.0]
    parent = gl.Node(children=[0], translation=[0.0, 0.5, 0.0], rotation=[0.0, 0.0, 1.0, 0.0])
    document.nodes.append(parent)
    document.scenes[0].nodes = [1]
    back = meshio.decode_glb(b"".join(document.save_to_bytes()))
    expected = POSITIONS[FACES] * [-2, -2, 2] + [0, 500, 0]
    np.testing.assert_allclose(back.positions_mm[back.primitives[0].faces], expected, atol=1e-4)
    moved = back.morph_targets["jawOpen"].positions_mm
    assert moved[np.abs(moved).sum(axis=1).argmax()] == pytest.approx([-2, 4, 6])


def test_trimesh_reads_the_glb(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    meshio.write_glb(_scene(), tmp_path / "a.glb", image_format="jpeg")
    loaded = trimesh.load_scene(tmp_path / "a.glb")
    assert sum(len(g.faces) for g in loaded.geometry.values()) == 5
    assert np.ptp(loaded.bounds, axis=0) == pytest.approx([0.02, 0.025, 0.005])
    skin = next(g for g in loaded.geometry.values() if len(g.faces) == 4)
    assert skin.visual.material.baseColorTexture.size == (8, 8)
    assert skin.visual.uv[:, 1].max() == pytest.approx(0.7)


def _validator() -> list[str]:
    node = shutil.which("node")
    modules = os.environ.get("GLTF_VALIDATOR", str(REPO / "build/validator/node_modules"))
    if node is None or not (Path(modules) / "gltf-validator").is_dir():
        pytest.skip("needs node and: npm install --no-save --prefix build/validator gltf-validator")
    return ["env", f"NODE_PATH={modules}", node, str(REPO / "tools/validate_glb.mjs")]


def _scene_with_maps() -> MeshScene:
    """The scene, its skin with a normal and a roughness texture of two sizes."""
    scene, rng = _scene(), np.random.default_rng(1)
    vectors = rng.normal(size=(16, 8, 3)) * [0.3, 0.3, 0] + [0, 0, 1]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    skin, eyes = scene.primitives
    assert skin.material is not None
    material = replace(
        skin.material,
        roughness=1.0,
        normal_texture=meshio.encode_normals(vectors),
        roughness_texture=rng.integers(60, 200, (4, 4), dtype=np.uint8),
    )
    return replace(scene, primitives=(replace(skin, material=material), eyes))


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_normal_and_roughness_textures_survive(tmp_path: Path, suffix: str) -> None:
    scene = _scene_with_maps()
    ours = scene.primitives[0].material
    written = meshio.write_mesh(scene, tmp_path / f"a.{suffix}")
    if suffix == "obj":
        assert {"a_skin_normal.png", "a_skin_roughness.png"} <= {p.name for p in written}
    back = meshio.read_mesh(tmp_path / f"a.{suffix}")
    theirs, eyes = (p.material for p in back.primitives)
    assert ours is not None and theirs is not None and eyes is not None
    assert np.array_equal(theirs.normal_texture, ours.normal_texture)  # type: ignore
    assert np.array_equal(theirs.roughness_texture, ours.roughness_texture)  # type: ignore
    assert np.array_equal(theirs.texture, ours.texture)  # type: ignore
    assert (theirs.roughness, theirs.metallic) == (1.0, 0.0)
    assert eyes.normal_texture is None and eyes.roughness_texture is None
    again = meshio.encode_glb(replace(back, name="head"))
    assert again == meshio.encode_glb(replace(back, name="head"))


def test_glb_maps_are_where_the_format_wants_them(tmp_path: Path) -> None:
    gl = pytest.importorskip("pygltflib")
    data = meshio.encode_glb(_scene_with_maps(), image_format="jpeg")
    document = gl.GLTF2.load_from_bytes(data)
    skin = document.materials[0]
    kinds = {i.name: i.mimeType for i in document.images}
    assert kinds == {
        "skin": "image/jpeg", "skin_normal": "image/png", "skin_roughness": "image/png"
    }  # fmt: skip
    packed = document.textures[skin.pbrMetallicRoughness.metallicRoughnessTexture.index].source
    view = document.bufferViews[document.images[packed].bufferView]
    blob = document.binary_blob()
    pixels = meshio.scene.decode_image(blob[view.byteOffset : view.byteOffset + view.byteLength])
    assert pixels[..., 0].min() == 255 and pixels[..., 2].max() == 0  # no occlusion, no metal
    assert pixels[..., 1].std() > 10
    skin, eyes = (p.attributes for p in document.meshes[0].primitives)
    assert eyes.TANGENT is None and document.accessors[skin.TANGENT].type == "VEC4"
    tangents = meshio.glb_read._Reader(*meshio.glb_read._split(data)).accessor(skin.TANGENT)
    normals = meshio.glb_read._Reader(*meshio.glb_read._split(data)).accessor(skin.NORMAL)
    np.testing.assert_allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((tangents[:, :3] * normals).sum(1), 0, atol=1e-5)
    assert set(np.abs(tangents[:, 3])) == {1}


def test_normals_are_coded_as_engines_decode_them() -> None:
    flat = np.zeros((2, 2, 3)) + [0, 0, 1.0]
    assert meshio.encode_normals(flat)[0, 0].tolist() == [128, 128, 255]
    assert np.array_equal(meshio.decode_normals(meshio.encode_normals(flat)), flat)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 9, 3)) + [0, 0, 3]
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    pixels = meshio.encode_normals(vectors)
    np.testing.assert_allclose(pixels / 255.0 * 2 - 1, vectors, atol=1 / 255 + 1e-9)
    np.testing.assert_allclose(meshio.decode_normals(pixels), vectors, atol=0.012)


def test_foreign_scales_other_uvs_and_metal_are_understood() -> None:
    gl = pytest.importorskip("pygltflib")
    document = gl.GLTF2.load_from_bytes(meshio.encode_glb(_scene_with_maps()))
    plain = meshio.decode_normals(_material_of(document).normal_texture)  # type: ignore
    document.materials[0].normalTexture.scale = 2.0
    scaled = meshio.decode_normals(_material_of(document).normal_texture)  # type: ignore
    np.testing.assert_allclose(
        scaled[..., 0] / scaled[..., 2], 2 * plain[..., 0] / plain[..., 2], atol=0.05
    )
    document.materials[0].normalTexture.texCoord = 1
    assert _material_of(document).normal_texture is None
    pbr = document.materials[0].pbrMetallicRoughness
    pbr.metallicFactor = 1.0
    assert _material_of(document).metallic == 0.0  # the texture's blue is 0
    pbr.metallicRoughnessTexture = pbr.baseColorTexture
    assert 0.2 < _material_of(document).metallic < 0.8


def _material_of(document) -> Material:
    """The first material after a detour through bytes."""
    material = meshio.decode_glb(b"".join(document.save_to_bytes())).primitives[0].material
    assert material is not None
    return material


@pytest.mark.parametrize("kind", ["full", "no targets", "vertex colours", "maps"])
def test_khronos_validator_has_nothing_to_say(tmp_path: Path, kind: str) -> None:
    command = _validator()
    scene = _scene_with_maps() if kind == "maps" else _scene(textures=kind != "vertex colours")
    if kind == "no targets":
        scene = replace(scene, morph_targets={}, normals=None)
    meshio.write_glb(scene, tmp_path / "a.glb")
    done = subprocess.run(
        [*command, str(tmp_path / "a.glb")], capture_output=True, text=True, check=False
    )
    report = json.loads(done.stdout)
    assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]
    assert done.returncode == 0


def test_obj_round_trip_keeps_order_quads_and_materials(tmp_path: Path) -> None:
    scene = _scene()
    written = meshio.write_obj(scene, tmp_path / "a.obj")
    assert sorted(p.name for p in written) == ["a.mtl", "a.obj", "a_skin.png"]
    back = meshio.read_obj(tmp_path / "a.obj")
    assert np.array_equal(back.positions_mm, scene.positions_mm)
    assert np.array_equal(back.colors, scene.colors)  # type: ignore
    np.testing.assert_allclose(back.normals, scene.normals, atol=1e-6)  # type: ignore
    for ours, theirs in zip(scene.primitives, back.primitives, strict=True):
        assert ours.name == theirs.name
        assert np.array_equal(ours.faces, theirs.faces)
        assert np.array_equal(ours.faces_uv, theirs.faces_uv)  # type: ignore
        assert theirs.material is not None and ours.material is not None
        assert theirs.material.color == pytest.approx(ours.material.color)
        assert theirs.material.roughness == pytest.approx(ours.material.roughness)
    assert np.array_equal(back.primitives[0].polygons, POLYGONS)  # type: ignore
    texture = back.primitives[0].material.texture  # type: ignore
    assert np.array_equal(texture, scene.primitives[0].material.texture)  # type: ignore


def test_obj_reader_takes_what_others_write(tmp_path: Path) -> None:
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0.5 2 0\nvt 0 0\nf -5//  -4 -3 \\\n -2 5\n"
    (tmp_path / "a.obj").write_text(text.replace("//", ""))
    back = meshio.read_obj(tmp_path / "a.obj")
    assert back.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert back.uvs is not None and back.primitives[0].faces_uv is None


@pytest.mark.parametrize("binary", [True, False])
def test_ply_round_trip(tmp_path: Path, binary: bool) -> None:
    scene = _scene()
    meshio.write_ply(scene, tmp_path / "a.ply", binary=binary)
    back = meshio.read_ply(tmp_path / "a.ply")
    assert np.array_equal(back.positions_mm, scene.positions_mm)
    assert np.array_equal(back.colors, scene.colors)  # type: ignore
    assert np.array_equal(back.normals, scene.normals)  # type: ignore
    assert np.array_equal(back.faces, scene.faces)


def test_ply_mixed_polygons_and_foreign_byte_order(tmp_path: Path) -> None:
    header = (
        "ply\nformat binary_big_endian 1.0\nelement vertex 5\nproperty double x\n"
        "property double y\nproperty double z\nelement face 2\n"
        "property list uchar int vertex_index\nend_header\n"
    )
    body = np.arange(15, dtype=">f8").tobytes()
    body += b"\3" + np.array([0, 1, 2], ">i4").tobytes()
    body += b"\4" + np.array([0, 2, 3, 4], ">i4").tobytes()
    (tmp_path / "a.ply").write_bytes(header.encode() + body)
    back = meshio.read_ply(tmp_path / "a.ply")
    assert back.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]
    assert np.array_equal(back.positions_mm.reshape(-1), np.arange(15))


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_damaged_files_say_so(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"a{suffix}"
    meshio.write_mesh(_scene(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    try:
        scene = meshio.read_mesh(path)
    except MeshFormatError as error:
        assert path.name in str(error) and "\n" not in str(error)
    else:
        assert suffix == ".obj"  # a text cut after a whole line is a whole file
        scene.check()


def test_wrong_scenes_and_names_are_refused(tmp_path: Path) -> None:
    scene = _scene()
    with pytest.raises(ValueError, match="normals"):
        meshio.write_glb(replace(scene, normals=scene.positions_mm[:3]), tmp_path / "a.glb")
    with pytest.raises(ValueError, match="undefined"):
        bad = np.full_like(POSITIONS, np.nan)
        meshio.write_ply(replace(scene, positions_mm=bad), tmp_path / "a.ply")
    with pytest.raises(ValueError, match="faces of 'skin'"):
        wrong = replace(scene.primitives[0], faces=FACES + 6)
        meshio.write_obj(replace(scene, primitives=(wrong,)), tmp_path / "a.obj")
    with pytest.raises(MeshFormatError, match=".stl"):
        meshio.write_mesh(scene, tmp_path / "a.stl")
    assert not list(tmp_path.iterdir())
