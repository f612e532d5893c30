// Blendshapes: the neutral head plus the weighted sum of its sparse morph targets.

/**
 * Positions and normals of a part at some weights.
 * @param {import("./glb.js").Part} part
 * @param {number[]} weights one per target
 * @param {{positions: Float32Array, normals: Float32Array}} out filled; normals are not unit
 */
export function morph(part, weights, out) {
  out.positions.set(part.positions);
  out.normals.set(part.normals);
  part.targets.forEach((target, index) => {
    const weight = weights[index];
    if (!weight) return;
    const { rows, moved, turned } = target;
    for (let i = 0; i < rows.length; i++) {
      const to = 3 * rows[i];
      const from = 3 * i;
      for (let c = 0; c < 3; c++) {
        out.positions[to + c] += weight * moved[from + c];
        out.normals[to + c] += weight * turned[from + c];
      }
    }
  });
  return out;
}

/** Corner-to-corner box of all parts: {center, size}, metres. */
export function extent(parts) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (const { positions } of parts) {
    for (let i = 0; i < positions.length; i++) {
      low[i % 3] = Math.min(low[i % 3], positions[i]);
      high[i % 3] = Math.max(high[i % 3], positions[i]);
    }
  }
  return {
    center: low.map((value, c) => (value + high[c]) / 2),
    size: Math.max(...high.map((value, c) => value - low[c])),
  };
}

/** Each edge of some triangles once, as pairs of vertex indices. */
export function edges(indices) {
  const seen = new Set();
  const out = [];
  for (let i = 0; i < indices.length; i += 3) {
    for (let k = 0; k < 3; k++) {
      const a = indices[i + k];
      const b = indices[i + ((k + 1) % 3)];
      const key = Math.min(a, b) * 2 ** 26 + Math.max(a, b); // exact: indices are below 2 ** 26
      if (!seen.has(key)) {
        seen.add(key);
        out.push(a, b);
      }
    }
  }
  return Uint32Array.from(out);
}
