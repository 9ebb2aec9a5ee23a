// An outline drawn by hand: point by point, or along the pointer. Points are in px of the slide.

const CLOSE_PX = 11; // a click so near to the first point closes the outline
const LEAST_PX2 = 12; // of the screen: a slip of the hand is no glomerulus
const STEP_PX = 2.5; // along the pointer, a point every so often
const MOST_LOST = 0.1; // of what two loops side by side enclose, what the smaller may hold to be a slip of the hand

function cross(o, a, b) { return (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x); }

// Where two lines cross, or null.
function crossing(a, b, c, d) {
  const [p, q] = [cross(a, b, c), cross(a, b, d)];
  const [r, s] = [cross(c, d, a), cross(c, d, b)];
  if (p * q >= 0 || r * s >= 0) return null;
  const along = r / (r - s);
  return { x: a.x + along * (b.x - a.x), y: a.y + along * (b.y - a.y) };
}

// Its sign says which way round.
function turnedArea(points) {
  return points.reduce((sum, a, i) => {
    const b = points[(i + 1) % points.length];
    return sum + a.x * b.y - b.x * a.y;
  }, 0) / 2;
}

function areaOf(points) { return Math.abs(turnedArea(points)); }

// The first two sides that cross each other, with the point where they do; null where none does.
function knot(points) {
  const count = points.length;
  for (let i = 0; i < count; i += 1) {
    for (let j = i + 2; j < count; j += 1) {
      if (i === 0 && j === count - 1) continue;
      const at = crossing(points[i], points[i + 1], points[j], points[(j + 1) % count]);
      if (at) return [i, j, at];
    }
  }
  return null;
}

// A hand overshoots the start, or makes a small loop: the larger part on either side of a crossing is what was meant.
// Null where nobody can tell: the parts of an eight turn opposite ways, while one that turns the same way lies within.
function untied(points) {
  let left = points;
  for (let tied = knot(left); tied; tied = knot(left)) {
    const [i, j, at] = tied;
    const parts = [[at, ...left.slice(i + 1, j + 1)], [...left.slice(0, i + 1), at, ...left.slice(j + 1)]];
    const [smaller, larger] = parts.sort((a, b) => areaOf(a) - areaOf(b));
    const apart = turnedArea(smaller) * turnedArea(larger) < 0;
    if (apart && areaOf(smaller) > MOST_LOST * (areaOf(smaller) + areaOf(larger))) return null;
    left = larger;
  }
  return left;
}

class Drawing {
  constructor(viewer) {
    this.viewer = viewer;
    this.target = null; // key of the glomerulus that gets a new outline, null for a new glomerulus
    this.on = false;
    this.points = [];
    this.along = false; // the pointer is down and draws
    this.words = element("span", { class: "hint-words" });
    this.free = viewer.button("Freehand", "Draw along the pointer instead of moving the picture (hold Shift)", () => this.setFreehand(!this.freehand), { "aria-pressed": "false" });
    this.box = element("div", { class: "float hint", hidden: true, role: "status" }, this.words, this.free,
      viewer.button("Close", "Close the outline (Enter, double click)", () => this.close()),
      viewer.button("Cancel", "Drop the outline (Esc)", () => this.drop()));
    this.setFreehand(matchMedia("(pointer: coarse)").matches);
  }

  setFreehand(on) {
    this.freehand = on;
    this.free.setAttribute("aria-pressed", String(on));
    this.tell();
  }

  start(target = null, number = null) {
    this.on = true;
    this.points = [];
    this.target = target;
    this.number = number;
    this.box.hidden = false;
    this.tell();
    this.viewer.ruler.toggle(false);
    this.viewer.stage.querySelector("[tabindex]")?.focus({ preventScroll: true });
  }

  tell(complaint = "") {
    const what = this.target ? `New outline of ${this.number}. ` : "New glomerulus. ";
    const how = this.freehand ? "Draw around it." : "Click points around it, or hold Shift and draw. Double click closes.";
    this.words.textContent = complaint || what + how;
    this.box.classList.toggle("wrong", Boolean(complaint));
  }

  drop() {
    if (!this.on) return;
    this.on = this.along = false;
    this.points = [];
    this.box.hidden = true;
    this.viewer.pointed();
  }

  clamp(at) {
    const { width, height } = this.viewer.known;
    return { x: Math.max(0, Math.min(width, at.x)), y: Math.max(0, Math.min(height, at.y)) };
  }

  // How far two points lie apart on the screen.
  apart(a, b) { return Math.hypot(a.x - b.x, a.y - b.y) * this.viewer.ratio; }

  click(at) {
    const point = this.clamp(at);
    const { points } = this;
    if (points.length > 2 && this.apart(point, points[0]) < CLOSE_PX) return this.close();
    if (!points.length || this.apart(point, points.at(-1)) > 3) points.push(point);
    this.tell();
    return this.viewer.redraw();
  }

  // Along the pointer: whether this drag draws. Points clicked before stay, and the stroke goes on from them.
  drag(at, shift) {
    if (!this.along && !shift && !this.freehand) return false;
    this.along = true;
    const point = this.clamp(at);
    if (!this.points.length || this.apart(point, this.points.at(-1)) >= STEP_PX) this.points.push(point);
    this.viewer.redraw();
    return true;
  }

  release() {
    if (!this.along) return false;
    this.along = false;
    this.close();
    return true;
  }

  back() {
    this.points.pop();
    this.viewer.redraw();
  }

  close() {
    const flat = simplified(this.points.flatMap(({ x, y }) => [x, y]), 0.5 / this.viewer.ratio);
    const closed = untied(Array.from({ length: flat.length / 2 }, (_, i) => ({ x: flat[2 * i], y: flat[2 * i + 1] })));
    if (!closed || closed.length < 3 || areaOf(closed) * this.viewer.ratio ** 2 < LEAST_PX2) {
      if (this.points.length > 2) this.points = [];
      this.tell(closed ? "Too small for an outline: draw around the glomerulus." : "The outline crosses itself. Draw it again, once around the glomerulus.");
      this.viewer.redraw();
      return;
    }
    const outline = closed.flatMap(({ x, y }) => [x, y]).map((edge) => Math.round(edge * 10) / 10);
    const { target } = this;
    this.drop();
    this.viewer.drawn(target, outline);
  }

  follow(at) {
    if (!this.on) return;
    this.tip = at;
    this.viewer.redraw();
  }

  draw(pen, onScreen) {
    if (!this.on || !this.points.length) return;
    const path = new Path2D();
    const shown = this.along || !this.tip ? this.points : [...this.points, this.tip];
    shown.map(onScreen).forEach(({ x, y }, i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    for (const [colour, thickness, dash] of [["rgba(255, 255, 255, 0.95)", 4.5, []], ["#111827", 2, [6, 4]]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thickness;
      pen.setLineDash(dash);
      pen.stroke(path);
    }
    pen.setLineDash([]);
    if (this.along) return;
    for (const [i, point] of this.points.entries()) {
      const { x, y } = onScreen(point);
      pen.beginPath();
      pen.arc(x, y, i ? 3 : 5, 0, 7);
      pen.fillStyle = "#fff";
      pen.fill();
      pen.strokeStyle = "#111827";
      pen.lineWidth = 1.8;
      pen.stroke();
    }
  }
}
