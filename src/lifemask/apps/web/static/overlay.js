// What lies over the picture: landmarks on the photo, and the names of compared heads.

import { fitPhoto } from "./renderer.js";

// the lines of the 68 landmarks: jaw, brows, nose, eyes, lips; closed ones end where they begin
const LINES = [[0, 16], [17, 21], [22, 26], [27, 30], [31, 35], [36, 41, 36], [42, 47, 42], [48, 59, 48], [60, 67, 60]];

/** Draw the landmarks of each head over its photo. */
export function drawLandmarks(canvas, heads, shown) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!shown) return;
  const ratio = canvas.width / Math.max(1, canvas.clientWidth);
  heads.forEach((head, i) => {
    const points = head.view.landmarks68_px;
    if (!points) return;
    const begin = Math.round((i * canvas.width) / heads.length);
    const width = Math.round(((i + 1) * canvas.width) / heads.length) - begin;
    const { scale, left, top } = fitPhoto(head.view.photo, width, canvas.height);
    const at = points.map(([u, v]) => [begin + left + (u + 0.5) * scale, top + (v + 0.5) * scale]);
    context.lineWidth = 1.5 * ratio;
    context.strokeStyle = "rgba(255, 255, 255, 0.55)";
    for (const [first, last, close] of LINES) {
      context.beginPath();
      for (let k = first; k <= last; k++) context[k === first ? "moveTo" : "lineTo"](...at[k]);
      if (close !== undefined) context.lineTo(...at[close]);
      context.stroke();
    }
    context.fillStyle = "#ffd166";
    context.strokeStyle = "rgba(0, 0, 0, 0.7)";
    context.lineWidth = ratio;
    for (const [x, y] of at) {
      context.beginPath();
      context.arc(x, y, 2.6 * ratio, 0, 7);
      context.fill();
      context.stroke();
    }
  });
}

/** A name over each column when several heads are compared. */
export function showLabels(element, heads) {
  element.replaceChildren(...(heads.length > 1 ? heads : []).map((head) => {
    const label = document.createElement("span");
    label.textContent = head.view.label;
    return label;
  }));
}
