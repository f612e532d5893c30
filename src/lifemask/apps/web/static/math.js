// Small matrices and spherical harmonics, in the conventions of docs/conventions.md.
// 3 x 3 matrices are rows of rows; 4 x 4 matrices are flat and column by column, as WebGL wants.

export const radians = (degrees) => (degrees * Math.PI) / 180;

/** Product of two 3 x 3 matrices. */
export function multiply3(a, b) {
  return a.map((row) => [0, 1, 2].map((j) => row[0] * b[0][j] + row[1] * b[1][j] + row[2] * b[2][j]));
}

export const transpose3 = (m) => [0, 1, 2].map((i) => [m[0][i], m[1][i], m[2][i]]);

/** Rotation about y: the nose of a face turns to the picture's right by `degrees`. */
export function turnY(degrees) {
  const c = Math.cos(radians(degrees));
  const s = Math.sin(radians(degrees));
  return [[c, 0, s], [0, 1, 0], [-s, 0, c]];
}

/** Rotation about x: a face looks up by `degrees`. */
export function lookUp(degrees) {
  const c = Math.cos(radians(degrees));
  const s = Math.sin(radians(degrees));
  return [[1, 0, 0], [0, c, s], [0, -s, c]];
}

/** A rigid motion as a 4 x 4 matrix: x -> R (x - center) + shift. */
export function rigid(rotation, center, shift) {
  const moved = rotation.map((row, i) =>
    shift[i] - (row[0] * center[0] + row[1] * center[1] + row[2] * center[2]));
  const [x, y, z] = transpose3(rotation);
  return [...x, 0, ...y, 0, ...z, 0, ...moved, 1];
}

/** Product of two 4 x 4 matrices. */
export function multiply4(a, b) {
  const out = new Array(16).fill(0);
  for (let column = 0; column < 4; column++) {
    for (let row = 0; row < 4; row++) {
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
    }
  }
  return out;
}

/** Perspective: camera frame (looking along -z) to clip space. */
export function perspective(fovDegrees, aspect, near, far) {
  const f = 1 / Math.tan(radians(fovDegrees) / 2);
  const depth = near - far;
  return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / depth, -1, 0, 0, (2 * far * near) / depth, 0];
}

/** The nine real spherical harmonics of order 2 at a unit vector. */
export function shBasis([x, y, z]) {
  return [
    0.28209479, 0.48860251 * y, 0.48860251 * z, 0.48860251 * x, 1.09254843 * x * y,
    1.09254843 * y * z, 0.31539157 * (3 * z * z - 1), 1.09254843 * x * z, 0.54627422 * (x * x - y * y),
  ];
}

const ICOSAHEDRON = (() => {
  const golden = (1 + Math.sqrt(5)) / 2;
  const length = Math.hypot(1, golden);
  const points = [];
  for (const a of [-1 / length, 1 / length]) {
    for (const b of [-golden / length, golden / length]) points.push([0, a, b], [b, 0, a], [a, b, 0]);
  }
  return points;
})();

/**
 * Light turned by a rotation, L'(w) = L(R^-1 w): exact, by the twelve corners of an icosahedron.
 * @param sh nine [r, g, b].
 */
export function rotateSh(sh, rotation) {
  const back = transpose3(rotation);
  const out = sh.map(() => [0, 0, 0]);
  for (const point of ICOSAHEDRON) {
    const from = back.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2]);
    const there = shBasis(from);
    const radiance = [0, 1, 2].map((c) => there.reduce((sum, y, k) => sum + y * sh[k][c], 0));
    shBasis(point).forEach((y, k) => {
      for (let c = 0; c < 3; c++) out[k][c] += ((4 * Math.PI) / 12) * y * radiance[c];
    });
  }
  return out;
}
