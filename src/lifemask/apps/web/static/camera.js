// How the user looks at the head: turn, tilt, zoom and shift by mouse, touch or keys.

const MOST_TILT = 80;
const ZOOM = [0.35, 6];

export class Camera {
  /** @param {HTMLElement} element listens here; @param {() => void} changed called after a move */
  constructor(element, changed) {
    this.changed = changed;
    this.fingers = new Map();
    this.reset();
    element.addEventListener("pointerdown", (event) => this.#down(element, event));
    element.addEventListener("pointermove", (event) => this.#move(element, event));
    for (const name of ["pointerup", "pointercancel"]) {
      element.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    }
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
    }, { passive: false });
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  reset() {
    Object.assign(this, { yaw: 0, pitch: 0, zoom: 1, shift: [0, 0] });
    this.changed();
  }

  turnBy(yaw, pitch) {
    this.yaw = ((this.yaw + yaw + 540) % 360) - 180;
    this.pitch = Math.max(-MOST_TILT, Math.min(MOST_TILT, this.pitch + pitch));
    this.changed();
  }

  zoomBy(factor) {
    this.zoom = Math.max(ZOOM[0], Math.min(ZOOM[1], this.zoom * factor));
    this.changed();
  }

  /** @param x, y in heights of the picture */
  shiftBy(x, y) {
    const most = (value) => Math.max(-1.5, Math.min(1.5, value));
    this.shift = [most(this.shift[0] + x / this.zoom), most(this.shift[1] + y / this.zoom)];
    this.changed();
  }

  get held() {
    return this.fingers.size > 0;
  }

  #down(element, event) {
    element.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    element.focus({ preventScroll: true });
  }

  #move(element, event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before[0];
    const dy = event.clientY - before[1];
    const others = [...this.fingers.entries()].filter(([id]) => id !== event.pointerId);
    this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length) { // two fingers: pinch and shift
      const [x, y] = others[0][1];
      const now = Math.hypot(event.clientX - x, event.clientY - y);
      const then = Math.hypot(before[0] - x, before[1] - y);
      this.zoomBy(now / Math.max(then, 1));
      this.shiftBy(dx / 2 / element.clientHeight, -dy / 2 / element.clientHeight);
    } else if (event.buttons & 6 || event.shiftKey) {
      this.shiftBy(dx / element.clientHeight, -dy / element.clientHeight);
    } else {
      this.turnBy(dx * 0.4, -dy * 0.4);
    }
  }

  #key(event) {
    const keys = {
      ArrowLeft: () => this.turnBy(-5, 0),
      ArrowRight: () => this.turnBy(5, 0),
      ArrowUp: () => this.turnBy(0, 5),
      ArrowDown: () => this.turnBy(0, -5),
      "+": () => this.zoomBy(1.15),
      "=": () => this.zoomBy(1.15),
      "-": () => this.zoomBy(1 / 1.15),
      0: () => this.reset(),
    };
    if (keys[event.key] && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      keys[event.key]();
    }
  }
}
