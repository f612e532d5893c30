// Lights from the server: nine coefficients for what is matte, blurred panoramas for gloss.

/** A light's bytes (apps/web/lights.py, `encode_light`) as {sh, width, height, levels, pixels}. */
export function readLight(buffer) {
  const [levels, height, width] = new Uint32Array(buffer, 0, 3);
  const numbers = new Float32Array(buffer, 12, 27);
  const sh = Array.from({ length: 9 }, (_, k) => Array.from(numbers.subarray(3 * k, 3 * k + 3)));
  return { sh, width, height, levels, pixels: new Uint16Array(buffer, 12 + 27 * 4) };
}

/** Upload a light's panoramas; returns what the renderer wants. */
export function createLight(gl, light) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D_ARRAY, texture);
  gl.texImage3D(gl.TEXTURE_2D_ARRAY, 0, gl.RGBA16F, light.width, light.height, light.levels, 0,
    gl.RGBA, gl.HALF_FLOAT, light.pixels);
  gl.texParameteri(gl.TEXTURE_2D_ARRAY, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D_ARRAY, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D_ARRAY, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D_ARRAY, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  return { sh: light.sh, texture, size: [light.width, light.height, light.levels] };
}

/** Fetch bytes; an Error carries the server's own line. */
export async function fetchBytes(url, options) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error("the server does not answer; is lifemask demo still running?");
  }
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300) || `error ${answer.status}`);
  return answer.arrayBuffer();
}
