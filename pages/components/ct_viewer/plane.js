// One plane of a volume on a canvas: the slice in its window, labels over it, the cross-hair, letters, a scale.
// Seen as radiologists do: axial from the feet, coronal from the front, sagittal from the left; the patient's right is
// at the left of the screen. Millimetres are as long down as across, whatever the voxels.

const PLANES = {
  axial: { words: "Axial", through: HEAD, across: LEFT, down: BACK, up: false, letters: ["R", "L", "A", "P"] },
  coronal: { words: "Coronal", through: BACK, across: LEFT, down: HEAD, up: true, letters: ["R", "L", "H", "F"] },
  sagittal: { words: "Sagittal", through: LEFT, across: BACK, down: HEAD, up: true, letters: ["A", "P", "H", "F"] },
};
const LABELS = ["kidney", "tumour", "cyst"]; // 1, 2, 3
const STRIP_PX = 16; // at the right side: where in the stack, and where labels are
const GAP_PX = 14; // of the cross-hair around its point
const DASHES = [[], [], [5, 3]]; // a cyst is told from a tumour without its colour too
const WIDTHS = [1.4, 2.2, 2];
const MOST_ZOOM = 24;

class Plane {
  constructor(viewer, name) {
    this.viewer = viewer;
    this.name = name;
    Object.assign(this, PLANES[name]);
    this.zoom = 1;
    this.shift = [0, 0]; // in mm, of the middle of the picture from the middle of the slice
    this.canvas = element("canvas", { role: "img", "aria-label": `${this.words} plane` });
    this.said = element("span", { class: "said" });
    this.length = element("span", { class: "length" });
    const sides = this.letters.map((letter, side) => element("b", { class: ["west", "east", "north", "south"][side] }, letter));
    this.box = element("div", { class: "plane", "data-plane": name, tabindex: 0, role: "application", "aria-label": `${this.words} plane, arrow keys go through its slices` }, this.canvas, ...sides, this.said, this.length);
    this.picture = document.createElement("canvas");
    this.paint = document.createElement("canvas");
    new Pointing(this);
  }

  get volume() { return this.viewer.volume; }

  get grid() { return this.viewer.volume?.grid; }

  get at() { return this.viewer.point[this.through]; }

  get hidden() { return !this.box.offsetWidth; }

  // ---- where things are ---------------------------------------------------------------------------------------------

  // Left and top of the slice on the canvas, and pixels of the screen a millimetre.
  layout() {
    const { grid } = this;
    const wide = this.box.clientWidth - STRIP_PX;
    const high = this.box.clientHeight;
    const across = grid.count[this.across] * grid.spacing[this.across];
    const down = grid.count[this.down] * grid.spacing[this.down];
    const scale = Math.min(wide / across, high / down) * this.zoom;
    return { left: wide / 2 - (across / 2 + this.shift[0]) * scale, top: high / 2 - (down / 2 + this.shift[1]) * scale, scale, across, down, wide, high };
  }

  // The point of the volume under a place of the canvas; fractions are of no use to anyone.
  pointUnder(x, y) {
    const { grid } = this;
    const { left, top, scale } = this.layout();
    const column = Math.floor((x - left) / scale / grid.spacing[this.across]);
    const row = Math.floor((y - top) / scale / grid.spacing[this.down]);
    const point = [...this.viewer.point];
    point[this.across] = column;
    point[this.down] = this.up ? grid.count[this.down] - 1 - row : row;
    return point;
  }

  onCanvas(point) {
    const { grid } = this;
    const { left, top, scale } = this.layout();
    const row = this.up ? grid.count[this.down] - 1 - point[this.down] : point[this.down];
    return [left + (point[this.across] + 0.5) * grid.spacing[this.across] * scale, top + (row + 0.5) * grid.spacing[this.down] * scale];
  }

  zoomAt(factor, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
    const before = this.layout();
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    const scale = (before.scale * zoom) / this.zoom;
    // What lies under the pointer stays there.
    const [across, down] = [(x - before.left) / before.scale, (y - before.top) / before.scale];
    this.zoom = zoom;
    this.shift = [across - before.across / 2 - (x - before.wide / 2) / scale, down - before.down / 2 - (y - before.high / 2) / scale];
    this.settle();
  }

  pan(x, y) {
    const { scale } = this.layout();
    this.shift = [this.shift[0] - x / scale, this.shift[1] - y / scale];
    this.settle();
  }

  // The slice does not leave the picture.
  settle() {
    const { across, down, scale, wide, high } = this.layout();
    const room = [Math.max(0, across - (0.5 * wide) / scale), Math.max(0, down - (0.5 * high) / scale)].map((mm) => mm / 2);
    this.shift = this.zoom === 1 ? [0, 0] : this.shift.map((mm, side) => Math.min(room[side], Math.max(-room[side], mm)));
    this.viewer.redraw();
  }

  // Brings the cross-hair into the picture if it is not.
  show() {
    if (this.zoom === 1 || this.hidden) return;
    const [x, y] = this.onCanvas(this.viewer.point);
    const { wide, high, scale } = this.layout();
    if (x < 20 || y < 20 || x > wide - 20 || y > high - 20) this.shift = [this.shift[0] + (x - wide / 2) / scale, this.shift[1] + (y - high / 2) / scale];
    this.settle();
  }

  fit() {
    this.zoom = 1;
    this.shift = [0, 0];
  }

  // ---- drawing ------------------------------------------------------------------------------------------------------

  // The slice, one pixel a voxel, unless it was drawn so before.
  fill() {
    const { grid, volume, at } = this;
    const { look } = this.viewer;
    // Lesions without a number of their own share one: where the chosen one lies tells them apart.
    const key = [at, look.level, look.width, volume.arrived, volume.version, look.overlay, look.opacity, look.filled, [...look.hidden], this.viewer.selected, this.viewer.chosen].join();
    if (key === this.drawn) return;
    this.drawn = key;
    const columns = grid.count[this.across];
    const rows = grid.count[this.down];
    const pen = fitted(this.picture, columns, rows);
    const pixels = this.pixels?.width === columns && this.pixels.height === rows ? this.pixels : (this.pixels = pen.createImageData(columns, rows));
    const words = new Uint32Array(pixels.data.buffer);
    const { hu } = volume;
    const { greys } = this.viewer;
    const stride = grid.strides[this.across];
    const start = grid.first + at * grid.strides[this.through];
    for (let row = 0, to = 0; row < rows; row += 1) {
      let from = start + (this.up ? rows - 1 - row : row) * grid.strides[this.down];
      for (let column = 0; column < columns; column += 1, from += stride) words[to++] = greys[hu[from] + 32768];
    }
    pen.putImageData(pixels, 0, 0);
    this.overlay(columns, rows, start, stride);
  }

  // Colours of labels, one pixel a voxel, and the lines around them, in voxels.
  overlay(columns, rows, start, stride) {
    const { grid, volume } = this;
    const { look, tints, selected } = this.viewer;
    this.lines = null;
    const marked = volume.labels && look.overlay && volume.marks[this.through][this.at];
    if (!marked) return;
    const pen = fitted(this.paint, columns, rows);
    const pixels = pen.createImageData(columns, rows);
    const words = new Uint32Array(pixels.data.buffer);
    const { labels } = volume;
    const down = this.up ? -grid.strides[this.down] : grid.strides[this.down];
    const top = start + (this.up ? (rows - 1) * grid.strides[this.down] : 0);
    const lines = LABELS.map(() => new Path2D());
    const chosen = new Path2D();
    const tags = new Map();
    const seen = [false, ...LABELS.map((label) => !look.hidden.has(label))];
    for (let row = 0, to = 0; row < rows; row += 1) {
      let from = top + row * down;
      for (let column = 0; column < columns; column += 1, from += stride, to += 1) {
        const value = labels[from];
        const label = value & 3;
        if (!seen[label]) continue;
        words[to] = tints[label];
        const number = value >> 2;
        const own = number && number === selected;
        const edge = (beyond, x1, y1, x2, y2) => {
          const other = beyond === undefined ? 0 : beyond;
          if ((other & 3) !== label) {
            lines[label - 1].moveTo(x1, y1);
            lines[label - 1].lineTo(x2, y2);
          }
          if (own && other >> 2 !== number) {
            chosen.moveTo(x1, y1);
            chosen.lineTo(x2, y2);
          }
        };
        edge(column ? labels[from - stride] : 0, column, row, column, row + 1);
        edge(column < columns - 1 ? labels[from + stride] : 0, column + 1, row, column + 1, row + 1);
        edge(row ? labels[from - down] : 0, column, row, column + 1, row);
        edge(row < rows - 1 ? labels[from + down] : 0, column, row + 1, column + 1, row + 1);
        if (number) {
          const tag = tags.get(number) ?? { top: row, from: column };
          if (tag.top === row) tag.to = column;
          tags.set(number, tag);
        }
      }
    }
    pen.putImageData(pixels, 0, 0);
    this.lines = { lines, chosen, tags };
  }

  draw() {
    if (this.hidden || !this.grid) return;
    const ratio = window.devicePixelRatio || 1;
    const pen = fitted(this.canvas, Math.round(this.box.clientWidth * ratio), Math.round(this.box.clientHeight * ratio));
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    const { grid } = this;
    const { left, top, scale, across, down, wide, high } = this.layout();
    this.fill();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, wide, high);
    pen.clip();
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "medium";
    pen.drawImage(this.picture, left, top, across * scale, down * scale);
    if (this.lines) this.drawLabels(pen, left, top, scale);
    if (this.viewer.look.cross) this.drawCross(pen, wide, high);
    pen.restore();
    this.drawScale(pen, scale, high);
    this.drawStrip(pen, wide, high);
    const number = this.number(this.at);
    this.said.textContent = `${this.words} ${number} / ${this.total}`;
    this.box.dataset.slice = number;
    this.canvas.setAttribute("aria-label", this.told());
  }

  // Number of a slice as the array of the scan counts, which is what lists of lesions name; some may be left out here.
  number(at) {
    const { grid, through } = this;
    const axis = grid.order[through];
    return grid.filed(this.viewer.point.with(through, at))[axis] * (axis === 2 ? grid.step : 1) + 1;
  }

  // Where it is, for who does not see it.
  told() { return `${this.words}, slice ${this.number(this.at)} of ${this.total}`; }

  get total() { return this.grid.size[this.grid.order[this.through]]; }

  drawLabels(pen, left, top, scale) {
    const { grid } = this;
    const { look } = this.viewer;
    const [x, y] = [grid.spacing[this.across] * scale, grid.spacing[this.down] * scale];
    if (look.filled) {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(this.paint, left, top, this.paint.width * x, this.paint.height * y);
    }
    const placed = new DOMMatrix([x, 0, 0, y, left, top]);
    const stroke = (path, colour, width, dash) => {
      const onScreen = new Path2D();
      onScreen.addPath(path, placed);
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.setLineDash(dash);
      pen.stroke(onScreen);
    };
    this.lines.lines.forEach((path, at) => {
      pen.globalAlpha = 0.5 + look.opacity[at] / 2;
      stroke(path, this.viewer.data.colours[LABELS[at]], WIDTHS[at], DASHES[at]);
    });
    pen.globalAlpha = 1;
    stroke(this.lines.chosen, "#fff", 2.4, []);
    pen.setLineDash([]);
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.lineWidth = 3;
    pen.strokeStyle = "rgba(0, 0, 0, 0.85)";
    pen.fillStyle = "#fff";
    for (const [number, tag] of this.lines.tags) {
      const words = this.viewer.tag(number);
      if (!words) continue;
      const at = [left + ((tag.from + tag.to + 1) / 2) * x, Math.max(14, top + tag.top * y - 5)]; // above its highest row
      pen.strokeText(words, ...at);
      pen.fillText(words, ...at);
    }
  }

  drawCross(pen, wide, high) {
    const [x, y] = this.onCanvas(this.viewer.point);
    pen.strokeStyle = "rgba(255, 255, 255, 0.62)";
    pen.lineWidth = 1;
    pen.beginPath();
    for (const [x1, y1, x2, y2] of [[0, y, x - GAP_PX, y], [x + GAP_PX, y, wide, y], [x, 0, x, y - GAP_PX], [x, y + GAP_PX, x, high]]) {
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
    }
    pen.stroke();
  }

  // A bar of a round number of millimetres.
  drawScale(pen, scale, high) {
    const most = 90 / scale;
    const mm = [1, 2, 5, 10, 20, 50, 100].findLast((each) => each <= most) ?? 1;
    const end = 12 + mm * scale;
    pen.beginPath();
    for (const [x1, y1, x2, y2] of [[12, high - 10, end, high - 10], [12, high - 14, 12, high - 6], [end, high - 14, end, high - 6]]) {
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
    }
    for (const [colour, width] of [["#000", 3.5], ["#dce2e8", 1.5]]) { // seen on bright tissue too
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.stroke();
    }
    this.length.textContent = mm < 10 ? `${mm} mm` : `${mm / 10} cm`;
    this.length.style.left = `${end + 6}px`;
  }

  // The whole stack from its first picture at the top: where labels are, and where we are.
  drawStrip(pen, wide, high) {
    const { volume, grid } = this;
    const count = grid.count[this.through];
    pen.fillStyle = "#15191d";
    pen.fillRect(wide, 0, STRIP_PX, high);
    const each = high / count;
    if (volume.marks && this.viewer.look.overlay) {
      LABELS.forEach((label, at) => {
        if (this.viewer.look.hidden.has(label)) return;
        pen.fillStyle = this.viewer.data.colours[label];
        const marks = volume.marks[this.through];
        for (let slice = 0; slice < count; slice += 1) {
          if (marks[slice] & (1 << (at + 1))) pen.fillRect(wide + 2 + 4 * at, this.fromTop(slice) * each, 3.5, Math.max(1, each));
        }
      });
    }
    const y = (this.fromTop(this.at) + 0.5) * each;
    pen.fillStyle = "#fff";
    pen.fillRect(wide, Math.min(high - 3, Math.max(0, y - 1.5)), STRIP_PX, 3);
  }

  // Axial: the head is at the top of the strip; coronal: the front; sagittal: the patient's right.
  fromTop(slice) { return this.through === HEAD ? this.grid.count[HEAD] - 1 - slice : slice; }

  strip(y) {
    const count = this.grid.count[this.through];
    const from = Math.min(count - 1, Math.max(0, Math.floor((y / this.box.clientHeight) * count)));
    this.viewer.move(this.through, this.fromTop(from));
  }
}

function fitted(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  return canvas.getContext("2d");
}

// What a mouse, a pen or fingers mean on a plane. A click moves the cross-hair and a drag takes it along; the right
// button changes the window, the middle one (or Shift) moves the picture; the wheel goes through slices and zooms with
// Ctrl. One finger goes through slices, two zoom and move. The button "Window" makes one finger or the left button
// change the window.
class Pointing {
  constructor(plane) {
    this.plane = plane;
    this.down = new Map(); // pointers that are pressed
    this.rest = 0; // of a wheel or a finger that has not moved a whole slice yet
    const { canvas, box } = plane;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", (event) => this.release(event, true));
    canvas.addEventListener("pointerleave", () => plane.viewer.under(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", (event) => { if (event.offsetX < box.clientWidth - STRIP_PX) plane.viewer.enlarge(plane.name); });
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  press(event) {
    const { plane } = this;
    if (!plane.grid) return;
    event.preventDefault();
    plane.box.focus({ preventScroll: true });
    plane.canvas.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.moved = 0;
    this.rest = 0;
    const touch = event.pointerType === "touch";
    if (this.down.size > 1) this.means = "pinch";
    else if (event.offsetX >= plane.box.clientWidth - STRIP_PX) this.means = "strip";
    else if (event.button === 2 || plane.viewer.windowing) this.means = "window";
    else if (event.button === 1 || event.shiftKey) this.means = "pan";
    else this.means = touch ? "slices" : "cross";
    if (this.means === "strip") plane.strip(event.offsetY);
    if (this.means === "cross") this.cross(event);
  }

  drag(event) {
    const { plane } = this;
    if (!plane.grid) return;
    const before = this.down.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") plane.viewer.under(plane.pointUnder(event.offsetX, event.offsetY));
      return;
    }
    const now = [event.offsetX, event.offsetY];
    const [x, y] = [now[0] - before[0], now[1] - before[1]];
    const far = this.spread();
    this.down.set(event.pointerId, now);
    this.moved += Math.abs(x) + Math.abs(y);
    if (this.means === "pinch" && this.down.size === 2) {
      const [one, other] = [...this.down.values()];
      plane.pan(x / 2, y / 2);
      if (far > 0) plane.zoomAt(this.spread() / far, (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
    } else if (this.means === "window") plane.viewer.dragWindow(x, y);
    else if (this.means === "pan") plane.pan(x, y);
    else if (this.means === "strip") plane.strip(now[1]);
    else if (this.means === "cross") this.cross(event);
    else if (this.means === "slices" && this.moved > 8) this.scroll(y / Math.max(3, plane.box.clientHeight / plane.grid.count[plane.through]));
  }

  release(event, dropped = false) {
    if (!this.down.delete(event.pointerId)) return;
    const { plane } = this;
    const short = this.moved <= 8 && !dropped;
    if (short && this.means === "slices") this.cross(event);
    if (short && (this.means === "slices" || this.means === "cross")) plane.viewer.choose();
    if (this.down.size) this.means = "none"; // the finger that stays does nothing
  }

  spread() {
    const [one, other] = [...this.down.values()];
    return other ? Math.hypot(one[0] - other[0], one[1] - other[1]) : 0;
  }

  cross(event) {
    const { plane } = this;
    const point = plane.pointUnder(event.offsetX, event.offsetY).map((at, to) => Math.min(plane.grid.count[to] - 1, Math.max(0, at)));
    plane.viewer.goTo(point);
  }

  wheel(event) {
    const { plane } = this;
    if (!plane.grid) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 40 : event.deltaMode === 2 ? 400 : 1);
    if (event.ctrlKey || event.metaKey) plane.zoomAt(Math.exp(-pixels / 300), event.offsetX, event.offsetY);
    else if (Math.abs(pixels) >= 50) plane.viewer.scroll(plane, Math.sign(pixels)); // a notch of a wheel
    else this.scroll(pixels / 25); // a touchpad
  }

  scroll(slices) {
    this.rest += slices;
    const whole = Math.trunc(this.rest);
    this.rest -= whole;
    if (whole) this.plane.viewer.scroll(this.plane, whole);
  }
}
