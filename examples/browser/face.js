// The face behind a square of a photo: crop, network (onnxruntime-web), and the way back to pixels.
//
//   const face = await loadFace("browser-open.onnx");
//   const found = await findFace(face, context.getImageData(0, 0, width, height), square);
//
// Pixels are 0-based with the integer at the pixel's centre, u right, v down. A square is
// { u, v, side }: its centre and its side in photo px. What the network says of a crop is in
// half-crops, 0 at its middle and 1 at its edge; docs/engines.md lists its outputs.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

export const SIZE = 112; // side of the network's crop in px
const PASSES = 3; // crops; from the second on the square comes from the face found before

/** The network. One thread: more need a page that is isolated from other origins. */
export async function loadFace(url) {
  ort.env.wasm.numThreads = 1;
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} is missing (${answer.status}): see README.md`);
  return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()));
}

/** Pose, coefficients and landmarks (photo px) of the face in a square of the photo. */
export async function findFace(face, photo, square, passes = PASSES) {
  let found;
  for (let pass = 0; pass < passes; pass++) {
    const said = await look(face, cropSquare(photo, square));
    found = inPhoto(said, square);
    square = found.landmarkSquare;
  }
  return found;
}

/** All outputs of the network for a crop (3 x SIZE x SIZE, sRGB in [0, 1]). */
export async function look(face, crop) {
  const outputs = await face.run({ crops: new ort.Tensor("float32", crop, [1, 3, SIZE, SIZE]) });
  return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.data]));
}

/** A square of a photo (ImageData) at SIZE px, averaged where it shrinks; the border goes on. */
export function cropSquare(photo, square) {
  const columns = weights(square.u, square.side, photo.width);
  const rows = weights(square.v, square.side, photo.height);
  const lines = new Map(); // rows of the photo, already reduced to SIZE columns
  const crop = new Float32Array(3 * SIZE * SIZE);
  rows.forEach((taps, y) => {
    for (const [row, share] of taps) {
      if (!lines.has(row)) lines.set(row, reduced(photo, row, columns));
      const line = lines.get(row);
      for (let k = 0; k < 3 * SIZE; k++) {
        crop[Math.floor(k / SIZE) * SIZE * SIZE + y * SIZE + (k % SIZE)] += share * line[k];
      }
    }
  });
  return crop;
}

/** One row of a photo at SIZE columns: red, green, blue in [0, 1], one after the other. */
function reduced(photo, row, columns) {
  const line = new Float32Array(3 * SIZE);
  columns.forEach((taps, x) => {
    for (const [column, share] of taps) {
      const at = 4 * (row * photo.width + column);
      for (let k = 0; k < 3; k++) line[k * SIZE + x] += (share * photo.data[at + k]) / 255;
    }
  });
  return line;
}

/** For each of SIZE samples across a square: which pixels of a line count, and how much. */
function weights(center, side, length) {
  const step = side / SIZE;
  const reach = Math.max(step, 1); // of a triangle: bilinear, widened where the photo shrinks
  return Array.from({ length: SIZE }, (_, i) => {
    const middle = center - side / 2 + (i + 0.5) * step;
    const taps = [];
    for (let k = Math.ceil(middle - reach); k <= middle + reach; k++) {
      const share = 1 - Math.abs(k - middle) / reach;
      if (share > 0) taps.push([Math.min(Math.max(k, 0), length - 1), share]);
    }
    const sum = taps.reduce((total, [, share]) => total + share, 0);
    return taps.map(([k, share]) => [k, share / sum]);
  });
}

/** The network's answer with its points in photo px. */
function inPhoto(said, { u, v, side }) {
  const half = side / 2;
  const points = Array.from({ length: 68 }, (_, k) => [
    u + half * said.landmarks68[3 * k],
    v + half * said.landmarks68[3 * k + 1],
  ]);
  const [x, y, wide] = said.square;
  return {
    poseDeg: Array.from(said.pose_deg),
    identity: Array.from(said.identity),
    expression: Array.from(said.expression),
    landmarks68: points,
    landmarkSquare: { u: u + half * x, v: v + half * y, side: half * wide },
  };
}
