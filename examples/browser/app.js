// The page: a photo, a square dragged over its face, and what the network says of it.
import { findFace, loadFace } from "./face.js";

const LINES = [
  [0, 16], [17, 21], [22, 26], [27, 30], [31, 35], [36, 41, true], [42, 47, true],
  [48, 59, true], [60, 67, true],
]; // of the 68 landmarks: first, last, closed
const SHOWN = 8; // expressions in the list
const element = (id) => document.getElementById(id);
const canvas = element("photo");
const context = canvas.getContext("2d", { willReadFrequently: true });
let face, names, photo, dragged;

async function start() {
  const card = await fetch("browser-open.json");
  if (!card.ok) throw new Error("browser-open.json is missing: see README.md");
  names = (await card.json()).expressions;
  face = await loadFace("browser-open.onnx");
  element("file").disabled = false;
  say("Choose a photo.");
}

async function open(file) {
  const picture = await createImageBitmap(file);
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.style.width = `min(100%, ${(80 * picture.width) / picture.height}vh)`;
  context.drawImage(picture, 0, 0);
  photo = context.getImageData(0, 0, canvas.width, canvas.height);
  const side = 0.6 * Math.min(canvas.width, canvas.height);
  await search({ u: (canvas.width - 1) / 2, v: (canvas.height - 1) / 2, side });
}

async function search(square) {
  const begun = performance.now();
  const found = await findFace(face, photo, square);
  draw(found);
  list(found);
  say(`${(performance.now() - begun).toFixed(0)} ms. Not the face? Drag a square over it.`);
  window.found = found; // for the console
}

function draw({ landmarks68, landmarkSquare: { u, v, side } }) {
  context.putImageData(photo, 0, 0);
  const width = Math.max(1, side / 150);
  context.lineWidth = width;
  context.strokeStyle = "#ffffff80";
  context.strokeRect(u + 0.5 - side / 2, v + 0.5 - side / 2, side, side);
  context.strokeStyle = context.fillStyle = "#35f0c0";
  for (const [first, last, closed] of LINES) {
    context.beginPath();
    for (let k = first; k <= last; k++) context.lineTo(landmarks68[k][0] + 0.5, landmarks68[k][1] + 0.5);
    if (closed) context.closePath();
    context.stroke();
  }
  for (const [x, y] of landmarks68) {
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, 1.5 * width, 0, 2 * Math.PI);
    context.fill();
  }
}

function list({ poseDeg, expression }) {
  ["pitch", "yaw", "roll"].forEach((name, k) => {
    element(name).textContent = `${poseDeg[k].toFixed(1)}°`;
  });
  const strongest = expression.map((value, k) => [names[k], value]).sort((a, b) => b[1] - a[1]);
  element("expressions").replaceChildren(
    ...strongest.slice(0, SHOWN).map(([name, value]) => {
      const row = document.createElement("li");
      const bar = document.createElement("meter");
      bar.value = value;
      row.append(name, bar, value.toFixed(2));
      return row;
    }),
  );
}

function say(text) {
  element("status").textContent = text;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  const zoom = canvas.width / box.width;
  return [(event.clientX - box.left) * zoom - 0.5, (event.clientY - box.top) * zoom - 0.5];
}

function squareOf([x0, y0], [x1, y1]) {
  const side = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0));
  return { u: x0 + (Math.sign(x1 - x0) * side) / 2, v: y0 + (Math.sign(y1 - y0) * side) / 2, side };
}

function failed(error) {
  say(String(error.message ?? error));
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) open(event.target.files[0]).catch(failed);
});
canvas.addEventListener("pointerdown", (event) => {
  if (!photo) return;
  canvas.setPointerCapture(event.pointerId);
  dragged = place(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (!dragged) return;
  const { u, v, side } = squareOf(dragged, place(event));
  context.putImageData(photo, 0, 0);
  context.lineWidth = Math.max(1, canvas.width / 300);
  context.strokeStyle = "#ffffff";
  context.strokeRect(u + 0.5 - side / 2, v + 0.5 - side / 2, side, side);
});
canvas.addEventListener("pointerup", (event) => {
  if (!dragged) return;
  const square = squareOf(dragged, place(event));
  dragged = undefined;
  if (square.side > 8) search(square).catch(failed);
});
start().catch(failed);
