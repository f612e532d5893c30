// What WebGL needs to draw a head: programs, textures, buffers that follow the blendshapes.

import { edges, extent, morph } from "./morph.js";

/** A linked program with its uniforms by name. */
export function createProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  const uniforms = {};
  const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
  for (let i = 0; i < count; i++) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name.replace("[0]", "")] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

/** A texture with mip maps; sRGB pictures are decoded by the GPU. */
export function createTexture(gl, picture, { srgb = false, mips = true, sharp = true } = {}) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  const format = srgb ? gl.SRGB8_ALPHA8 : gl.RGBA8;
  gl.texImage2D(gl.TEXTURE_2D, 0, format, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, mips ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR);
  if (mips) gl.generateMipmap(gl.TEXTURE_2D);
  const extension = sharp && mips && gl.getExtension("EXT_texture_filter_anisotropic");
  if (extension) gl.texParameteri(gl.TEXTURE_2D, extension.TEXTURE_MAX_ANISOTROPY_EXT, 4);
  return texture;
}

/** One pixel, for materials without a texture. */
export function plainTexture(gl, red, green, blue) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  const pixel = new Uint8Array([red, green, blue, 255]);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  return texture;
}

/** A head on the GPU; `setWeights` moves it. */
export class GpuHead {
  /**
   * @param gl WebGL2
   * @param content of `readGlb`
   * @param {Float32Array} numbers ten per vertex, in the file's order: transfer (9), doubt in mm
   * @param view of `view.json`
   * @param {boolean} slow spare what a processor draws slowly
   */
  constructor(gl, content, numbers, view, slow = false) {
    this.gl = gl;
    this.sharp = !slow;
    this.names = content.names;
    this.photoWeights = content.weights;
    this.weights = content.weights;
    this.view = view;
    this.extent = extent(content.parts);
    this.hasDoubt = false;
    let first = 0;
    this.parts = content.parts.map((part) => {
      const count = part.positions.length / 3;
      const own = numbers.subarray(10 * first, 10 * (first + count));
      first += count;
      for (let i = 9; i < own.length && !this.hasDoubt; i += 10) this.hasDoubt = own[i] >= 0;
      return this.#upload(part, own);
    });
  }

  #upload(part, numbers) {
    const gl = this.gl;
    const now = { positions: new Float32Array(part.positions), normals: new Float32Array(part.normals) };
    morph(part, this.photoWeights, now);
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    const buffer = (data, usage = gl.STATIC_DRAW) => {
      const made = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, made);
      gl.bufferData(gl.ARRAY_BUFFER, data, usage);
      return made;
    };
    const attribute = (place, size, stride = 0, offset = 0) => {
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, stride, offset);
    };
    const positions = buffer(now.positions, gl.DYNAMIC_DRAW);
    attribute(0, 3);
    const normals = buffer(now.normals, gl.DYNAMIC_DRAW);
    attribute(1, 3);
    buffer(now.normals); // those of the photo's expression, for which the shadows were cast
    attribute(2, 3);
    if (part.tangents) {
      buffer(part.tangents);
      attribute(3, 4);
    }
    if (part.uvs) {
      buffer(part.uvs);
      attribute(4, 2);
    }
    buffer(numbers);
    [0, 12, 24].forEach((offset, i) => attribute(5 + i, 3, 40, offset));
    attribute(8, 1, 40, 36);
    const element = (data) => {
      const made = gl.createBuffer();
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, made);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, data, gl.STATIC_DRAW);
      return made;
    };
    const lines = edges(part.indices);
    const faces = Uint32Array.from(part.indices);
    const buffers = { lines: element(lines), faces: element(faces) };
    gl.bindVertexArray(null);
    const { material } = part;
    const texture = (picture, srgb = false) =>
      (picture ? createTexture(gl, picture, { srgb, sharp: this.sharp }) : null);
    return {
      source: part, now, vao, positions, normals, ...buffers,
      lineCount: lines.length, faceCount: faces.length, material,
      base: texture(material.base, true),
      roughnessMap: texture(material.roughnessMap),
      normalMap: texture(part.tangents && material.normalMap),
    };
  }

  /** Move the head to an expression; null is the photo's. */
  setWeights(weights) {
    const gl = this.gl;
    this.weights = weights || this.photoWeights;
    for (const part of this.parts) {
      morph(part.source, this.weights, part.now);
      gl.bindBuffer(gl.ARRAY_BUFFER, part.positions);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, part.now.positions);
      gl.bindBuffer(gl.ARRAY_BUFFER, part.normals);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, part.now.normals);
    }
  }
}
