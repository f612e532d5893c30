// Draws heads side by side: one camera, one light, one mode for all of them.

import { createProgram, plainTexture } from "./gpu.js";
import { lookUp, multiply3, multiply4, perspective, rigid, rotateSh, transpose3, turnY } from "./math.js";
import { HEAD_FRAGMENT, HEAD_VERTEX, LINE_FRAGMENT, MODES, PHOTO_FRAGMENT, PHOTO_VERTEX } from "./shaders.js";

const FIELD_OF_VIEW = 22;
const FILL = 0.8; // share of the frame that the head takes
const LINE = { wire: [0.45, 0.86, 0.93, 0.75], photo: [0.45, 0.86, 0.93, 0.3] };

/** Whether pictures are drawn by the processor, which takes tenths of a second each. */
export function drawsSlowly() {
  const gl = document.createElement("canvas").getContext("webgl2");
  const about = gl && gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl ? gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER) : "";
  if (gl) gl.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software|basic render/i.test(name);
}

/** WebGL2 of a canvas, or null where the browser has none. */
export function createContext(canvas, slow) {
  return canvas.getContext("webgl2", { antialias: !slow, alpha: true, premultipliedAlpha: true });
}

export class Renderer {
  constructor(gl) {
    this.gl = gl;
    this.head = createProgram(gl, HEAD_VERTEX, HEAD_FRAGMENT);
    this.line = createProgram(gl, HEAD_VERTEX, LINE_FRAGMENT);
    this.photo = createProgram(gl, PHOTO_VERTEX, PHOTO_FRAGMENT);
    this.plain = { white: plainTexture(gl, 255, 255, 255), flat: plainTexture(gl, 128, 128, 255) };
    this.empty = gl.createVertexArray();
  }

  /**
   * Draw everything.
   * @param scene {heads, look}: look has mode, light (null: each head's photo's), lightTurn
   *   (degrees), exposure (stops), camera, sway (degrees), onPhoto, opacity
   */
  draw({ heads, look }) {
    const gl = this.gl;
    const { width, height } = gl.canvas;
    gl.viewport(0, 0, width, height);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    gl.enable(gl.CULL_FACE);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    heads.forEach((head, i) => {
      const left = Math.round((i * width) / heads.length);
      const column = Math.round(((i + 1) * width) / heads.length) - left;
      gl.viewport(left, 0, column, height);
      const view = look.onPhoto && head.view.camera
        ? photoView(head, column, height)
        : orbitView(head, look, column / height);
      if (view.half && head.photoTexture) this.#drawPhoto(head, view.half);
      this.#drawHead(head, look, view);
    });
  }

  #drawPhoto(head, half) {
    const gl = this.gl;
    gl.useProgram(this.photo.program);
    gl.uniform2fv(this.photo.uniforms.u_half, half);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, head.photoTexture);
    gl.uniform1i(this.photo.uniforms.u_photo, 0);
    gl.bindVertexArray(this.empty);
    gl.depthMask(false);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    gl.depthMask(true);
  }

  #drawHead(head, look, view) {
    const gl = this.gl;
    const opacity = view.half ? look.opacity : 1;
    const wired = look.mode === "wire";
    gl.useProgram(this.head.program);
    this.#setLight(head, look, view.rotation);
    const { uniforms } = this.head;
    gl.uniformMatrix4fv(uniforms.u_clip, false, view.clip);
    gl.uniform4fv(uniforms.u_eye, view.eye);
    gl.uniform1i(uniforms.u_mode, MODES.indexOf(look.mode));
    gl.uniform1f(uniforms.u_exposure, 2 ** look.exposure);
    gl.uniform1f(uniforms.u_opacity, opacity);
    if (opacity < 1 || wired) { // only the nearest surface may shine through
      gl.colorMask(false, false, false, false);
      gl.enable(gl.POLYGON_OFFSET_FILL);
      gl.polygonOffset(1, 1);
      this.#drawParts(head);
      gl.colorMask(true, true, true, true);
    }
    if (opacity > 0) this.#drawParts(head);
    gl.disable(gl.POLYGON_OFFSET_FILL);
    if (wired) this.#drawLines(head, view.clip, view.half ? LINE.photo : LINE.wire);
  }

  #drawParts(head) {
    const gl = this.gl;
    const { uniforms } = this.head;
    for (const part of head.parts) {
      const textures = [part.base || this.plain.white, part.roughnessMap || this.plain.white,
        part.normalMap || this.plain.flat];
      textures.forEach((texture, unit) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, texture);
      });
      gl.uniform1i(uniforms.u_base, 0);
      gl.uniform1i(uniforms.u_roughnessMap, 1);
      gl.uniform1i(uniforms.u_normalMap, 2);
      gl.uniform3fv(uniforms.u_color, part.material.color);
      gl.uniform1f(uniforms.u_roughness, part.material.roughness);
      gl.uniform1f(uniforms.u_hasRelief, part.normalMap ? 1 : 0);
      gl.bindVertexArray(part.vao);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, part.faces);
      gl.drawElements(gl.TRIANGLES, part.faceCount, gl.UNSIGNED_INT, 0);
    }
  }

  #drawLines(head, clip, color) {
    const gl = this.gl;
    gl.useProgram(this.line.program);
    gl.uniformMatrix4fv(this.line.uniforms.u_clip, false, clip);
    gl.uniform4fv(this.line.uniforms.u_line, color);
    for (const part of head.parts) {
      gl.bindVertexArray(part.vao);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, part.lines);
      gl.drawElements(gl.LINES, part.lineCount, gl.UNSIGNED_INT, 0);
    }
  }

  /** The light stays with the camera and may be turned about the vertical. */
  #setLight(head, look, rotation) {
    const gl = this.gl;
    const { uniforms } = this.head;
    const light = look.light || head.photoLight;
    const toLight = multiply3(transpose3(turnY(look.lightTurn)), rotation);
    const sh = rotateSh(light.sh, transpose3(toLight));
    gl.uniformMatrix3fv(uniforms.u_sh, false, sh.flat());
    gl.uniformMatrix3fv(uniforms.u_toLight, false, transpose3(toLight).flat());
    gl.activeTexture(gl.TEXTURE3);
    gl.bindTexture(gl.TEXTURE_2D_ARRAY, light.texture);
    gl.uniform1i(uniforms.u_gloss, 3);
    gl.uniform3fv(uniforms.u_glossSize, light.size);
  }
}

/** The head in the middle, turned by the user and by its own sway. */
function orbitView(head, look, aspect) {
  const { center, size } = head.extent;
  const { yaw, pitch, zoom, shift } = look.camera;
  const rotation = multiply3(turnY(yaw + look.sway), lookUp(pitch));
  const visible = size / FILL / Math.min(1, aspect * 1.3); // height of the frame at the head
  const distance = visible / 2 / Math.tan((FIELD_OF_VIEW * Math.PI) / 360) / zoom;
  const place = [shift[0] * visible, shift[1] * visible, -distance];
  const model = rigid(rotation, center, place);
  const near = Math.max(0.02, distance - 1.5 * size);
  const clip = multiply4(perspective(FIELD_OF_VIEW, aspect, near, distance + 1.5 * size), model);
  const back = transpose3(rotation); // where the camera is, in the model frame
  const eye = back.map((row, i) => center[i] - (row[0] * place[0] + row[1] * place[1] + row[2] * place[2]));
  return { clip, rotation, eye: [...eye, 1], half: null };
}

/** The head where the photo shows it; docs/conventions.md, scaled orthographic camera. */
function photoView(head, width, height) {
  const { camera, photo } = head.view;
  const { scale, left, top } = fitPhoto(photo, width, height);
  const s = camera.scale_px_per_mm * 1000 * scale; // px of the column per metre
  const u = left + (camera.translation_px[0] + 0.5) * scale;
  const v = top + (camera.translation_px[1] + 0.5) * scale;
  const rotation = camera.rotation;
  const model = rigid(rotation, [0, 0, 0], [0, 0, 0]);
  const depth = -1 / 0.6; // the head is less than 0.6 m deep to both sides
  const clip = multiply4([
    (2 * s) / width, 0, 0, 0, 0, (2 * s) / height, 0, 0, 0, 0, depth, 0,
    (2 * u) / width - 1, 1 - (2 * v) / height, 0, 1,
  ], model);
  const half = [(photo.width * scale) / width, (photo.height * scale) / height];
  return { clip, rotation, eye: [...rotation[2], 0], half };
}

/** How a photo lies in a frame: its scale, and the place of its top left corner. */
export function fitPhoto(photo, width, height) {
  const scale = Math.min(width / photo.width, height / photo.height) * 0.96;
  return { scale, left: (width - photo.width * scale) / 2, top: (height - photo.height * scale) / 2 };
}
