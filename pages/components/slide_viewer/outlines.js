// Outlines over the picture. They are drawn once for each zoom into sheets of screen pixels, a few milliseconds a
// frame, and the sheets are moved while the picture is: five thousand outlines pan as smoothly as none. All of them are
// drawn at every zoom; where they are too small for an outline each is a mark, never a sample of them.

const SHEET_PX = 512;
const MOST_SHEETS = 60;
const BUDGET_MS = 7; // of drawing in one frame
const MARK_PX = 10; // smaller on the screen, a glomerulus is a mark
const NUMBER_PX = 20; // smaller, it has no number
const HALO = "rgba(255, 255, 255, 0.8)";
const ORDER = ["aside", "counted", "sclerosed", "removed"];

function inside(outline, x, y) {
  let within = false;
  for (let i = 0, j = outline.length - 2; i < outline.length; j = i, i += 2) {
    const [ax, ay, bx, by] = [outline[i], outline[i + 1], outline[j], outline[j + 1]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

// Which glomeruli lie in a window of the slide: squares of the slide, and those that reach into each.
class Grid {
  constructor(items) {
    const spans = items.map((item) => item.span).sort((a, b) => a - b);
    this.side = Math.max(32, 2 * (spans[spans.length >> 1] ?? 32));
    this.cells = new Map();
    items.forEach((item, index) => this.over(item.x1, item.y1, item.x2, item.y2, (cell) => {
      const members = this.cells.get(cell);
      if (members) members.push(index);
      else this.cells.set(cell, [index]);
    }));
    this.items = items;
  }

  over(x1, y1, x2, y2, use) {
    const [left, top, right, bottom] = [x1, y1, x2, y2].map((edge) => Math.floor(edge / this.side));
    for (let row = top; row <= bottom; row += 1) for (let column = left; column <= right; column += 1) use(row * 1048576 + column);
  }

  within(x1, y1, x2, y2) {
    const found = new Set();
    const all = ((x2 - x1) / this.side) * ((y2 - y1) / this.side) > this.items.length; // cheaper than asking each square
    if (all) this.items.forEach((_, index) => found.add(index));
    else this.over(x1, y1, x2, y2, (cell) => { for (const index of this.cells.get(cell) ?? []) found.add(index); });
    // In one order whatever the window, so that neighbouring sheets agree on what lies on top.
    return [...found].sort((a, b) => a - b).map((index) => this.items[index])
      .filter((item) => item.x2 >= x1 && item.x1 <= x2 && item.y2 >= y1 && item.y1 <= y2);
  }
}

class Outlines {
  constructor() {
    this.current = this.stale = null;
    this.set([], () => true, true);
  }

  // What is shown from now on: of `items` those that `admits` lets through, with numbers or without.
  set(items, admits, numbers) {
    this.items = items.filter(admits);
    this.numbers = numbers;
    this.grid = new Grid(this.items);
    this.stale = this.current ?? this.stale; // shown until the new sheets are drawn
    this.current = null;
  }

  // The smallest glomerulus at a point of the slide, or the nearest within `reach` px of it.
  at(x, y, reach) {
    let [best, size] = [null, Infinity];
    for (const item of this.grid.within(x - reach, y - reach, x + reach, y + reach)) {
      const near = Math.hypot(item.x - x, item.y - y) <= reach || inside(item.outline, x, y);
      if (near && item.span < size) [best, size] = [item, item.span];
    }
    return best;
  }

  // Draws what the view shows. Answers whether more is to be drawn in the next frame.
  // A view: where the slide's corner lies and its size in px of the screen, and how many of these a px of the slide has.
  draw(pen, view) {
    const moving = this.seen !== undefined && Math.abs(view.zoom / this.seen - 1) > 1e-6;
    this.seen = view.zoom;
    const apart = this.current ? view.zoom / this.current.zoom : 0;
    if (!this.current || apart < 0.5 || apart > 4 || (!moving && Math.abs(apart - 1) > 1e-6)) {
      if (this.current) this.stale = this.current;
      this.current = { zoom: view.zoom, sheets: new Map() };
    }
    const complete = this.lay(pen, view, this.current, performance.now() + BUDGET_MS);
    if (complete) this.stale = null;
    return moving || !complete;
  }

  // Lays the sheets of one zoom on the picture, drawing those that are missing. Answers whether none is missing.
  lay(pen, view, set, until) {
    const grown = view.zoom / set.zoom;
    const side = SHEET_PX * grown;
    const [left, top] = [Math.floor(-view.left / side), Math.floor(-view.top / side)];
    const [right, bottom] = [Math.floor((view.width - view.left) / side), Math.floor((view.height - view.top) / side)];
    const here = [];
    let missing = 0;
    for (let row = top; row <= bottom; row += 1) {
      for (let column = left; column <= right; column += 1) {
        const key = `${column} ${row}`;
        let sheet = set.sheets.get(key);
        if (sheet === undefined && (performance.now() < until || !here.length)) sheet = this.sheet(column, row, set.zoom);
        if (sheet === undefined) { missing += 1; continue; }
        set.sheets.delete(key); // the one used last stands last
        set.sheets.set(key, sheet);
        here.push([sheet, column, row]);
      }
    }
    for (const oldest of set.sheets.keys()) {
      if (set.sheets.size <= MOST_SHEETS) break;
      set.sheets.delete(oldest);
    }
    if (missing && this.stale) this.blit(pen, view, this.stale);
    else for (const [sheet, column, row] of here) this.put(pen, view, grown, sheet, column, row);
    return !missing;
  }

  blit(pen, view, set) {
    for (const [key, sheet] of set.sheets) this.put(pen, view, view.zoom / set.zoom, sheet, ...key.split(" ").map(Number));
  }

  put(pen, view, grown, sheet, column, row) {
    if (!sheet) return; // nothing lies there
    const side = SHEET_PX * grown;
    const [x, y] = [view.left + column * side, view.top + row * side];
    if (grown === 1) pen.drawImage(sheet, Math.round(x), Math.round(y));
    else pen.drawImage(sheet, x, y, side, side);
  }

  // One sheet, or null where nothing lies.
  sheet(column, row, zoom) {
    const pad = 34 / zoom; // numbers and lines reach beyond the outline
    const [x, y, side] = [(column * SHEET_PX) / zoom, (row * SHEET_PX) / zoom, SHEET_PX / zoom];
    const found = this.grid.within(x - pad, y - pad, x + side + pad, y + side + pad);
    if (!found.length) return null;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SHEET_PX;
    const pen = canvas.getContext("2d");
    pen.translate(-column * SHEET_PX, -row * SHEET_PX);
    const scale = window.devicePixelRatio || 1;
    for (const kind of ORDER) {
      const members = found.filter((item) => kindOf(item) === kind);
      this.marks(pen, members.filter((item) => item.span * zoom < MARK_PX * scale), kind, zoom, scale);
      this.lines(pen, members.filter((item) => item.span * zoom >= MARK_PX * scale), kind, zoom, scale);
    }
    if (this.numbers) for (const item of found) if (item.span * zoom >= NUMBER_PX * scale) this.number(pen, item, zoom, scale);
    return canvas;
  }

  // Disc: counted; square: sclerosed; ring: not counted; cross: removed.
  marks(pen, members, kind, zoom, scale) {
    if (!members.length) return;
    const path = new Path2D();
    for (const item of members) {
      const [x, y, r] = [item.x * zoom, item.y * zoom, Math.max(2, Math.min(4, (item.span * zoom) / scale / 2)) * scale];
      if (kind === "sclerosed") path.rect(x - r, y - r, 2 * r, 2 * r);
      else if (kind === "removed") {
        path.moveTo(x - r, y - r); path.lineTo(x + r, y + r);
        path.moveTo(x + r, y - r); path.lineTo(x - r, y + r);
      } else {
        path.moveTo(x + r, y);
        path.arc(x, y, r, 0, 7);
      }
    }
    const full = kind === "counted" || kind === "sclerosed";
    pen.setLineDash([]);
    pen.lineWidth = (full ? 1.5 : 3) * scale;
    pen.strokeStyle = HALO;
    pen.stroke(path);
    pen.lineWidth = 1.3 * scale;
    pen.fillStyle = pen.strokeStyle = KINDS[kind].colour;
    if (full) pen.fill(path);
    else pen.stroke(path);
  }

  lines(pen, members, kind, zoom, scale) {
    if (!members.length) return;
    const path = new Path2D();
    for (const item of members) this.trace(path, item, zoom, scale);
    pen.lineJoin = "round";
    pen.setLineDash([]);
    pen.lineWidth = 3.8 * scale;
    pen.strokeStyle = HALO;
    pen.stroke(path);
    pen.setLineDash(KINDS[kind].dash.map((one) => one * scale));
    pen.lineWidth = 2 * scale;
    pen.strokeStyle = KINDS[kind].colour;
    pen.stroke(path);
    pen.setLineDash([]);
    if (kind !== "removed") return;
    pen.beginPath();
    for (const { x1, y1, x2, y2 } of members) {
      pen.moveTo(x1 * zoom, y1 * zoom); pen.lineTo(x2 * zoom, y2 * zoom);
    }
    pen.stroke();
  }

  // Adds an outline to a path, with as many points as can be told apart at this zoom.
  trace(path, item, zoom, scale) {
    const level = Math.floor(Math.log2((0.4 * scale) / zoom));
    if (item.level !== level) {
      item.level = level;
      item.short = simplified(item.outline, 2 ** level);
    }
    const points = item.short;
    path.moveTo(points[0] * zoom, points[1] * zoom);
    for (let i = 2; i < points.length; i += 2) path.lineTo(points[i] * zoom, points[i + 1] * zoom);
    path.closePath();
  }

  number(pen, item, zoom, scale) {
    const words = label(item);
    pen.font = `600 ${11 * scale}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const [x, y, room] = [item.x * zoom, item.y1 * zoom - 9 * scale, pen.measureText(words).width + 6 * scale];
    pen.fillStyle = "rgba(255, 255, 255, 0.86)";
    pen.fillRect(x - room / 2, y - 7 * scale, room, 14 * scale);
    pen.fillStyle = KINDS[kindOf(item)].colour;
    pen.fillText(words, x, y + 0.5 * scale);
  }

  // One that stands out: selected, or under the pointer. Drawn on top at each frame, in px of the screen.
  highlight(pen, item, view, selected) {
    const path = new Path2D();
    const scale = window.devicePixelRatio || 1;
    pen.save();
    pen.translate(view.left, view.top);
    if (item.span * view.zoom < MARK_PX * scale) path.arc(item.x * view.zoom, item.y * view.zoom, 8 * scale, 0, 7);
    else this.trace(path, item, view.zoom, scale);
    pen.lineJoin = "round";
    if (selected) {
      pen.fillStyle = `${KINDS[kindOf(item)].colour}22`;
      pen.fill(path);
    }
    pen.lineWidth = 6.5 * scale;
    pen.strokeStyle = "rgba(255, 255, 255, 0.95)";
    pen.stroke(path);
    pen.lineWidth = (selected ? 3.4 : 2.6) * scale;
    pen.strokeStyle = selected ? "#111827" : KINDS[kindOf(item)].colour;
    pen.stroke(path);
    pen.restore();
    pen.save();
    pen.translate(view.left, view.top);
    if (this.numbers || selected) this.number(pen, item, view.zoom, scale);
    pen.restore();
  }
}
