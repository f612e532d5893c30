// The shading of lifemask's own renderer (graphics/lit_mesh.py, graphics/gloss.py) in GLSL:
// spherical harmonics through the shadowed transfer of each vertex, gloss from blurred panoramas.

export const MODES = ["skin", "color", "clay", "wire", "normals", "doubt"];
export const MOST_DOUBT_MM = 8;

export const HEAD_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec3 a_position;
layout(location = 1) in vec3 a_normal;
layout(location = 2) in vec3 a_reference;
layout(location = 3) in vec4 a_tangent;
layout(location = 4) in vec2 a_uv;
layout(location = 5) in vec3 a_transfer0;
layout(location = 6) in vec3 a_transfer1;
layout(location = 7) in vec3 a_transfer2;
layout(location = 8) in float a_doubt;
uniform mat4 u_clip;
out vec3 v_position, v_normal, v_reference, v_transfer0, v_transfer1, v_transfer2;
out vec4 v_tangent;
out vec2 v_uv, v_doubt;
void main() {
  v_position = a_position;
  v_normal = a_normal;
  v_reference = a_reference;
  v_tangent = a_tangent;
  v_uv = a_uv;
  v_transfer0 = a_transfer0;
  v_transfer1 = a_transfer1;
  v_transfer2 = a_transfer2;
  v_doubt = a_doubt < 0.0 ? vec2(0.0) : vec2(a_doubt, 1.0);
  gl_Position = u_clip * vec4(a_position, 1.0);
}`;

export const HEAD_FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler2DArray;
in vec3 v_position, v_normal, v_reference, v_transfer0, v_transfer1, v_transfer2;
in vec4 v_tangent;
in vec2 v_uv, v_doubt;
uniform int u_mode;
uniform vec4 u_eye;         // model frame: a place (w = 1) or a direction (w = 0)
uniform mat3 u_sh[3];       // light in the model frame: a column per coefficient
uniform mat3 u_toLight;     // model frame to the panoramas' frame
uniform sampler2DArray u_gloss;
uniform vec3 u_glossSize;   // width, height, levels
uniform sampler2D u_base, u_roughnessMap, u_normalMap;
uniform vec3 u_color;
uniform float u_roughness, u_hasRelief, u_exposure, u_opacity;
out vec4 o_color;
const float PI = 3.14159265;

// nine numbers are three vectors: coefficients 0-2, 3-5, 6-8
struct Nine { vec3 a, b, c; };

Nine basis(vec3 n) {
  return Nine(vec3(0.28209479, 0.48860251 * n.y, 0.48860251 * n.z),
    vec3(0.48860251 * n.x, 1.09254843 * n.x * n.y, 1.09254843 * n.y * n.z),
    vec3(0.31539157 * (3.0 * n.z * n.z - 1.0), 1.09254843 * n.x * n.z, 0.54627422 * (n.x * n.x - n.y * n.y)));
}

// (A_l / pi) Y_k(n): what a surface that nothing shadows makes of each coefficient of the light
Nine lambert(vec3 n) {
  Nine y = basis(n);
  return Nine(y.a * vec3(1.0, 2.0 / 3.0, 2.0 / 3.0), y.b * vec3(2.0 / 3.0, 0.25, 0.25), y.c * 0.25);
}

float inner(Nine s, Nine t) { return dot(s.a, t.a) + dot(s.b, t.b) + dot(s.c, t.c); }

// the panorama blurred for a roughness, from a direction of its frame
vec3 mirrored(vec3 d, float roughness) {
  float column = (atan(d.x, -d.z) / (2.0 * PI) + 0.5) * (u_glossSize.x - 2.0) + 0.5;
  float row = (0.5 - asin(clamp(d.y, -1.0, 1.0)) / PI) * u_glossSize.y - 0.5;
  vec2 uv = vec2(column + 0.5, row + 0.5) / u_glossSize.xy;
  // levels are blurred for 0.1, 0.25, 0.4, 0.55, 0.75 and 1
  float place = roughness < 0.55 ? (roughness - 0.1) / 0.15
    : roughness < 0.75 ? 3.0 + (roughness - 0.55) / 0.2 : 4.0 + (roughness - 0.75) / 0.25;
  place = clamp(place, 0.0, u_glossSize.z - 1.0);
  float below = floor(place);
  return mix(texture(u_gloss, vec3(uv, below)).rgb,
    texture(u_gloss, vec3(uv, min(below + 1.0, u_glossSize.z - 1.0))).rgb, place - below);
}

// share of even light that a non-metal throws back: Karis' fit of the split sum, F0 = 0.04
float reflectance(float roughness, float cosine) {
  vec4 r = roughness * vec4(-1.0, -0.0275, -0.572, 0.022) + vec4(1.0, 0.0425, 1.04, -0.04);
  float a = min(r.x * r.x, exp2(-9.28 * cosine)) * r.x + r.y;
  return clamp(0.04 * (-1.04 * a + r.z) + (1.04 * a + r.w), 0.0, 1.0);
}

vec3 rollOff(vec3 c) {  // bright colours bend towards white, others stay as they are
  vec3 bright = 0.7 + 0.3 * (1.0 - exp(-max(c - 0.7, 0.0) / 0.3));
  return mix(c, bright, step(0.7, c));
}

vec3 toSrgb(vec3 c) {
  c = clamp(c, 0.0, 1.0);
  return mix(1.055 * pow(max(c, 0.0031308), vec3(1.0 / 2.4)) - 0.055, c * 12.92, step(c, vec3(0.0031308)));
}

vec3 doubtColor(float share) {  // dark blue, green, yellow, red
  vec3 a = mix(vec3(0.16, 0.24, 0.62), vec3(0.13, 0.62, 0.55), smoothstep(0.0, 0.35, share));
  vec3 b = mix(a, vec3(0.93, 0.82, 0.25), smoothstep(0.3, 0.65, share));
  return mix(b, vec3(0.86, 0.22, 0.18), smoothstep(0.65, 1.0, share));
}

vec3 lit(vec3 albedo, float roughness, vec3 normal, vec3 view) {
  Nine bent = lambert(normal), before = lambert(normalize(v_reference));
  float seen = clamp(v_transfer0.x / 0.28209479, 0.0, 1.0);
  Nine t = Nine(v_transfer0 + seen * (bent.a - before.a), v_transfer1 + seen * (bent.b - before.b),
    v_transfer2 + seen * (bent.c - before.c));
  vec3 raw = u_sh[0] * t.a + u_sh[1] * t.b + u_sh[2] * t.c;
  vec3 least = 0.08 * max(t.a.x, 0.0) * max(u_sh[0][0], 0.0);
  vec3 shade = (raw + least + sqrt((raw - least) * (raw - least) + least * least)) / 2.0;
  vec3 color = albedo * shade;
  float cosine = dot(normal, view);
  if (cosine > 0.0) {
    vec3 d = reflect(-view, normal);
    Nine toward = basis(d);
    float open = clamp(inner(t, toward) / max(inner(bent, toward), 0.02), 0.0, 1.0);
    float share = reflectance(roughness, cosine) * open;
    color = mix(color, mirrored(normalize(u_toLight * d), roughness), share);
  }
  return color;
}

void main() {
  vec3 smoothNormal = normalize(v_normal);
  vec3 view = normalize(u_eye.xyz - u_eye.w * v_position);
  vec3 albedo = texture(u_base, v_uv).rgb * u_color;
  float roughness = clamp(texture(u_roughnessMap, v_uv).g * u_roughness, 0.03, 1.0);
  vec3 relief = (texture(u_normalMap, v_uv).xyz * 255.0 - vec3(128.0, 128.0, 127.5)) / 127.5;
  vec3 normal = smoothNormal;
  if (u_hasRelief > 0.5) {
    vec3 tangent = normalize(v_tangent.xyz - dot(v_tangent.xyz, smoothNormal) * smoothNormal);
    vec3 bitangent = cross(smoothNormal, tangent) * sign(v_tangent.w);
    normal = normalize(relief.x * tangent + relief.y * bitangent + relief.z * smoothNormal);
  }
  vec3 color;
  if (u_mode == 1) color = albedo;
  else if (u_mode == 2) color = lit(vec3(0.42), 0.6, normal, view);
  else if (u_mode == 3) color = 0.55 * lit(vec3(0.22), 0.8, smoothNormal, view);
  else if (u_mode == 5) {
    float mm = v_doubt.y > 0.0 ? v_doubt.x / max(v_doubt.y, 1e-3) : 0.0;
    vec3 known = pow(doubtColor(clamp(mm / ${MOST_DOUBT_MM}.0, 0.0, 1.0)), vec3(2.2));
    vec3 paint = mix(vec3(0.16), known, smoothstep(0.5, 1.0, v_doubt.y));
    color = lit(paint, 0.8, smoothNormal, view) * 0.8 + paint * 0.3;
  } else color = lit(albedo, roughness, normal, view);
  if (u_mode == 0 || u_mode == 2) color *= u_exposure;
  vec3 shown = u_mode == 4 ? normal * 0.5 + 0.5 : toSrgb(u_mode == 1 ? color : rollOff(color));
  o_color = vec4(shown * u_opacity, u_opacity);
}`;

export const LINE_FRAGMENT = `#version 300 es
precision highp float;
uniform vec4 u_line;
out vec4 o_color;
void main() { o_color = vec4(u_line.rgb * u_line.a, u_line.a); }`;

export const PHOTO_VERTEX = `#version 300 es
precision highp float;
uniform vec2 u_half;  // half of the photo's sides in clip space
out vec2 v_uv;
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  v_uv = vec2(corner.x, 1.0 - corner.y);
  gl_Position = vec4((corner * 2.0 - 1.0) * u_half, 0.999, 1.0);
}`;

export const PHOTO_FRAGMENT = `#version 300 es
precision highp float;
in vec2 v_uv;
uniform sampler2D u_photo;
out vec4 o_color;
void main() { o_color = vec4(texture(u_photo, v_uv).rgb, 1.0); }`;
