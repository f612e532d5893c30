// The viewer: loads a result's heads, draws them, and ties the panel to the picture.

import { Camera } from "./camera.js";
import { playWeights } from "./expressions.js";
import { readGlb } from "./glb.js";
import { createTexture, GpuHead } from "./gpu.js";
import { createLight, fetchBytes, readLight } from "./light.js";
import { drawLandmarks, showLabels } from "./overlay.js";
import { byId, lightChoices, setUpChips, setUpModes, setUpSliders, setUpTabs, showResults } from "./panel.js";
import { createContext, drawsSlowly, Renderer } from "./renderer.js";

const SWAY_DEGREES = 34;
const SWAY_S = 8;
const ASK_AGAIN_MS = 700;
const SLOW_MS = 60; // a slower picture is drawn with fewer pixels
const LEAST_SHARPNESS = 0.6;
const token = new URLSearchParams(location.search).get("set") || "";
const base = `/lifemask/results/${encodeURIComponent(token)}`;

const canvas = byId("canvas");
const overlay = byId("overlay");
const slow = drawsSlowly();
const gl = createContext(canvas, slow);
const heads = [];
const lights = new Map();
const look = {
  mode: "skin", light: null, lightTurn: 0, exposure: 0, camera: null, sway: 0,
  onPhoto: false, opacity: 0.75, landmarks: true,
};
const motion = { turning: !matchMedia("(prefers-reduced-motion: reduce)").matches, phase: 0, playing: false, time: 0 };
let renderer = null;
let sliders = null;
let weights = null; // null: every head as its photo shows it
let dirty = true;
let sharpness = 1;
let costMs = 0;
let drawn = 0;

function say(text, bad = false) {
  byId("message").hidden = !text;
  byId("message").classList.toggle("bad", bad);
  byId("message-text").textContent = text;
}

function followTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const page = window.parent !== window && window.parent.document.body;
  const apply = () => document.documentElement.classList.toggle("dark",
    page ? page.classList.contains("dark") : dark.matches);
  apply();
  dark.addEventListener("change", apply);
  if (page) new MutationObserver(apply).observe(page, { attributes: true, attributeFilter: ["class"] });
}

/** Load the heads that the server has by now; ask again while more are on the way. */
async function load() {
  let set;
  try {
    set = JSON.parse(new TextDecoder().decode(await fetchBytes(`${base}/set.json`)));
    for (const key of set.heads) {
      if (!heads.some((head) => head.key === key)) await addHead(key);
    }
  } catch (error) {
    if (!heads.length) say(`The head cannot be shown: ${error.message}.`, true);
    else byId("light-note").textContent = error.message;
    return;
  }
  heads.forEach((head, i) => { head.packed = set.complete || i < heads.length - 1; });
  showResults(set, heads, base);
  document.body.dataset.complete = set.complete;
  if (!set.complete) setTimeout(load, ASK_AGAIN_MS);
}

async function addHead(key) {
  const [glb, numbers, view, light] = await Promise.all([
    fetchBytes(`${base}/${key}/head.glb`), fetchBytes(`${base}/${key}/vertices.bin`),
    fetchBytes(`${base}/${key}/view.json`), fetchBytes(`${base}/${key}/photo.light`),
  ]);
  const head = new GpuHead(gl, await readGlb(glb), new Float32Array(numbers),
    JSON.parse(new TextDecoder().decode(view)), slow);
  head.key = key;
  head.photoLight = createLight(gl, readLight(light));
  if (head.view.photo) {
    const bytes = await fetchBytes(`${base}/${key}/${head.view.photo.file}`);
    const picture = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    head.photoTexture = createTexture(gl, picture, { mips: false });
  }
  heads.push(head);
  if (heads.length === 1) showPanel(head);
  if (weights) head.setWeights(weights);
  byId("on-photo").hidden = !heads.every((one) => one.view.camera);
  const doubt = byId("modes").querySelector("[data-value=doubt]");
  doubt.disabled = !heads.some((one) => one.hasDoubt);
  showLabels(byId("labels"), heads);
  say("");
  dirty = true;
  document.body.dataset.heads = heads.length;
}

function showPanel(head) {
  byId("panel").hidden = byId("bar").hidden = false;
  const checkMode = setUpModes((mode) => {
    look.mode = mode;
    checkMode(mode);
    byId("legend").hidden = mode !== "doubt";
    dirty = true;
  });
  checkMode(look.mode);
  sliders = setUpSliders(head.names, (index, value) => {
    stopPlaying();
    const now = [...(weights || head.photoWeights)];
    now[index] = value;
    setWeights(now);
  });
  sliders.show(head.photoWeights);
  setUpLights().catch((error) => noteLight(error.message, true));
  resize();
}

function setWeights(now, showIt = false) {
  weights = now;
  heads.forEach((head) => head.setWeights(weights));
  if (showIt) sliders.show(weights || heads[0].photoWeights);
  dirty = true;
}

function stopPlaying() {
  motion.playing = false;
  byId("play").setAttribute("aria-pressed", "false");
}

async function setUpLights() {
  const lines = JSON.parse(new TextDecoder().decode(await fetchBytes("/lifemask/lights")));
  let wanted = 0; // a choice that takes long must not undo a later one
  const choose = async (name, load, note) => {
    const mine = ++wanted;
    let light;
    try {
      light = await load();
    } catch (error) {
      if (mine === wanted) noteLight(error.message, true);
      return;
    }
    if (mine !== wanted) return;
    look.light = light;
    check(name);
    noteLight(note);
    dirty = true;
    document.body.dataset.light = name;
  };
  const check = setUpChips(byId("lights"), lightChoices(lines), (name) => {
    choose(name, () => (name === "photo" ? null : namedLight(name)), "");
  });
  check("photo");
  byId("own-light").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    event.target.value = "";
    noteLight(`Reading ${file.name}…`);
    choose("own", () => ownLight(file), `Lit by ${file.name}.`);
  });
}

async function namedLight(name) {
  if (!lights.has(name)) {
    const bytes = await fetchBytes(`/lifemask/lights/${name}`);
    lights.set(name, createLight(gl, readLight(bytes)));
  }
  return lights.get(name);
}

/** A panorama of the user's; the one before is given up. */
async function ownLight(file) {
  const url = `/lifemask/light?name=${encodeURIComponent(file.name)}`;
  const options = { method: "POST", body: file, headers: { "X-Lifemask": "viewer" } };
  const light = createLight(gl, readLight(await fetchBytes(url, options)));
  if (lights.has("own")) {
    const before = lights.get("own");
    if (look.light === before) look.light = light;
    gl.deleteTexture(before.texture);
  }
  lights.set("own", light);
  return light;
}

function noteLight(text, bad = false) {
  byId("light-note").textContent = text;
  byId("light-note").classList.toggle("bad", bad);
}

/** A range input that sets a number of `look`. */
function tie(id, key, show = null) {
  byId(id).addEventListener("input", (event) => {
    look[key] = Number(event.target.value);
    if (show) byId(`${id}-value`).textContent = show(look[key]);
    dirty = true;
  });
}

function press(id, pressed) {
  byId(id).setAttribute("aria-pressed", pressed);
  return pressed;
}

function setUpControls() {
  setUpTabs();
  tie("light-turn", "lightTurn", (value) => `${value}°`);
  tie("exposure", "exposure", (value) => `${value > 0 ? "+" : ""}${value}`);
  tie("opacity", "opacity");
  byId("turn").addEventListener("click", () => { motion.turning = press("turn", !motion.turning); });
  byId("reset").addEventListener("click", () => {
    look.camera.reset();
    motion.phase = 0;
    look.sway = 0;
  });
  byId("on-photo").addEventListener("click", () => {
    look.onPhoto = press("on-photo", !look.onPhoto);
    byId("photo-bar").hidden = !look.onPhoto;
    dirty = true;
  });
  byId("landmarks").addEventListener("change", (event) => {
    look.landmarks = event.target.checked;
    dirty = true;
  });
  byId("play").addEventListener("click", () => {
    motion.playing = press("play", !motion.playing);
    motion.time = 0;
  });
  byId("from-photo").addEventListener("click", () => { stopPlaying(); setWeights(null, true); });
  byId("neutral").addEventListener("click", () => {
    stopPlaying();
    setWeights(heads[0].names.map(() => 0), true);
  });
  byId("picture").addEventListener("click", savePicture);
  press("turn", motion.turning);
}

function savePicture() {
  draw();
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "lifemask.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function resize() {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const { clientWidth, clientHeight } = byId("stage");
  canvas.width = Math.max(1, Math.round(clientWidth * ratio * sharpness));
  canvas.height = Math.max(1, Math.round(clientHeight * ratio * sharpness));
  overlay.width = Math.max(1, Math.round(clientWidth * ratio));
  overlay.height = Math.max(1, Math.round(clientHeight * ratio));
  dirty = true;
}

function draw() {
  renderer.draw({ heads, look });
  drawLandmarks(overlay, heads, look.onPhoto && look.landmarks);
  document.body.dataset.frames = ++drawn;
}

/** Without a GPU pictures take long: fewer of them, with fewer pixels, so that the rest lives. */
function adapt(ms) {
  if (!slow || drawn < 3) return;
  costMs = costMs ? 0.7 * costMs + 0.3 * ms : ms;
  if (costMs > SLOW_MS && sharpness > LEAST_SHARPNESS) {
    sharpness = Math.max(LEAST_SHARPNESS, sharpness * 0.75);
    costMs = 0;
    resize();
  }
}

/** Draw, and wait for a slow picture, to know what it costs. */
function drawTimed() {
  const begin = performance.now();
  draw();
  if (slow) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  const cost = performance.now() - begin;
  nextMs = begin + (slow ? 3 * cost : 0);
  return cost;
}

let nextMs = 0;
let lastMs = 0;
function frame(nowMs) {
  const passed = Math.min(nowMs - lastMs, 250);
  lastMs = nowMs;
  if (heads.length && renderer) {
    const turning = motion.turning && !look.camera.held && !look.onPhoto;
    if (turning) {
      motion.phase += passed / 1000 / SWAY_S;
      look.sway = SWAY_DEGREES * Math.sin(2 * Math.PI * motion.phase);
    }
    if (motion.playing) {
      motion.time += passed / 1000;
      if (nowMs >= nextMs) setWeights(playWeights(heads[0].names, motion.time), true);
    }
    if (dirty || ((turning || motion.playing) && nowMs >= nextMs)) {
      dirty = false;
      adapt(drawTimed());
    }
  }
  requestAnimationFrame(frame);
}

function begin() {
  followTheme();
  if (!gl) {
    say("This browser shows no 3D (WebGL 2). Another one does: a current Firefox, Chrome, Edge or Safari.", true);
    return;
  }
  renderer = new Renderer(gl);
  look.camera = new Camera(canvas, () => { dirty = true; });
  setUpControls();
  new ResizeObserver(resize).observe(byId("stage"));
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    say("The graphics card gave up. Load the page again.", true);
  });
  requestAnimationFrame(frame);
  if (token) {
    say("Loading the head…");
    load();
  }
}

try {
  begin();
} catch (error) { // a driver that takes none of our shaders, for instance
  say(`The head cannot be drawn here: ${error.message}`, true);
}
