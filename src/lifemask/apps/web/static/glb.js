// Reads the GLB files that lifemask writes: one mesh, parts with textures, sparse morph targets.

const COMPONENTS = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
const ARRAYS = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };

/**
 * @typedef {object} Part
 * @property {string} name
 * @property {Float32Array} positions metres, neutral expression
 * @property {Float32Array} normals
 * @property {Float32Array|null} tangents four numbers each
 * @property {Float32Array|null} uvs
 * @property {Uint16Array|Uint32Array} indices
 * @property {{rows: Uint32Array, moved: Float32Array, turned: Float32Array}[]} targets
 * @property {object} material
 */

/** The content of a GLB file: {names, weights, parts}. Throws an Error with one plain line. */
export async function readGlb(buffer) {
  const header = new DataView(buffer);
  if (buffer.byteLength < 20 || header.getUint32(0, true) !== 0x46546c67) {
    throw new Error("this is not a GLB file");
  }
  const jsonLength = header.getUint32(12, true);
  const json = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 20, jsonLength)));
  const file = { json, buffer, start: 20 + jsonLength + 8 };
  const mesh = json.meshes[0];
  const names = (mesh.extras && mesh.extras.targetNames) || [];
  const materials = await Promise.all((json.materials || []).map((entry) => readMaterial(file, entry)));
  return {
    names,
    weights: names.map((_, i) => (mesh.weights ? mesh.weights[i] : 0)),
    parts: mesh.primitives.map((primitive) => readPart(file, primitive, materials)),
  };
}

function readPart(file, primitive, materials) {
  const read = (index) => (index === undefined ? null : dense(file, index));
  const { POSITION, NORMAL, TANGENT, TEXCOORD_0 } = primitive.attributes;
  const material = materials[primitive.material] || { name: "", color: [0.4, 0.4, 0.4], roughness: 0.6 };
  return {
    name: material.name,
    positions: read(POSITION),
    normals: read(NORMAL),
    tangents: read(TANGENT),
    uvs: read(TEXCOORD_0),
    indices: read(primitive.indices),
    targets: (primitive.targets || []).map((target) => readTarget(file, target)),
    material,
  };
}

/** A morph target as the rows that it moves, and by how much. */
function readTarget(file, target) {
  const accessor = file.json.accessors[target.POSITION];
  if (!accessor.sparse && accessor.bufferView === undefined) {
    return { rows: new Uint32Array(0), moved: new Float32Array(0), turned: new Float32Array(0) };
  }
  if (accessor.sparse) {
    const rows = sparseRows(file, accessor);
    const turned = target.NORMAL === undefined ? null : file.json.accessors[target.NORMAL];
    return {
      rows,
      moved: sparseValues(file, accessor),
      turned: turned && turned.sparse ? sparseValues(file, turned) : new Float32Array(3 * rows.length),
    };
  }
  const moved = dense(file, target.POSITION);
  const rows = Uint32Array.from({ length: moved.length / 3 }, (_, i) => i);
  const turned = target.NORMAL === undefined ? new Float32Array(moved.length) : dense(file, target.NORMAL);
  return { rows, moved, turned };
}

function sparseRows(file, { sparse }) {
  const { bufferView, byteOffset, componentType } = sparse.indices;
  return Uint32Array.from(slice(file, bufferView, byteOffset, ARRAYS[componentType], sparse.count));
}

function sparseValues(file, { sparse, type }) {
  const { bufferView, byteOffset } = sparse.values;
  return slice(file, bufferView, byteOffset, Float32Array, sparse.count * COMPONENTS[type]);
}

/** All numbers of an accessor, sparse ones filled in. */
function dense(file, index) {
  const accessor = file.json.accessors[index];
  const Kind = ARRAYS[accessor.componentType];
  const size = COMPONENTS[accessor.type];
  const count = accessor.count * size;
  const out = accessor.bufferView === undefined
    ? new Kind(count)
    : slice(file, accessor.bufferView, accessor.byteOffset, Kind, count);
  if (accessor.sparse) {
    const values = sparseValues(file, accessor);
    sparseRows(file, accessor).forEach((row, i) =>
      out.set(values.subarray(i * size, (i + 1) * size), row * size));
  }
  return out;
}

/** Numbers out of a buffer view, copied, so that any alignment is right. */
function slice(file, view, offset, Kind, count) {
  const begin = file.start + (file.json.bufferViews[view].byteOffset || 0) + (offset || 0);
  return new Kind(file.buffer.slice(begin, begin + count * Kind.BYTES_PER_ELEMENT));
}

async function readMaterial(file, entry) {
  const pbr = entry.pbrMetallicRoughness || {};
  const [base, roughnessMap, normalMap] = await Promise.all(
    [pbr.baseColorTexture, pbr.metallicRoughnessTexture, entry.normalTexture].map((use) =>
      use ? readImage(file, use.index) : null));
  return {
    name: entry.name || "",
    color: (pbr.baseColorFactor || [1, 1, 1, 1]).slice(0, 3),
    roughness: pbr.roughnessFactor === undefined ? 1 : pbr.roughnessFactor,
    base,
    roughnessMap,
    normalMap,
  };
}

/** A texture's picture, its bytes as they are: no colour management, no premultiplied alpha. */
function readImage(file, texture) {
  const image = file.json.images[file.json.textures[texture].source];
  const view = file.json.bufferViews[image.bufferView];
  const begin = file.start + (view.byteOffset || 0);
  const blob = new Blob([new Uint8Array(file.buffer, begin, view.byteLength)], { type: image.mimeType });
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}
