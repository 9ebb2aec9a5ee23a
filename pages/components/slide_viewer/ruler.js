// Lengths: two clicks each, and the bar that says how long a length is.

const BAR_PX = 130; // the scale bar is at most so long

class Ruler {
  constructor(viewer) {
    this.viewer = viewer;
    this.lines = []; // finished measures, each two points in px of the slide
    this.start = null;
    this.end = null;
    this.on = false;
    this.button = viewer.button("Measure", "Measure a length: click its two ends (m)", () => this.toggle(!this.on), { "aria-pressed": "false" });
    this.clear = viewer.button("Clear", "Remove all measures", () => { this.lines = []; this.drop(); }, { hidden: true });
    this.said = element("output", { class: "said", "aria-live": "polite" });
    this.barLine = element("i");
    this.barWords = element("span");
    this.bar = element("div", { class: "scale", hidden: true }, this.barWords, this.barLine);
  }

  toggle(on) {
    this.on = on;
    this.start = null;
    this.button.setAttribute("aria-pressed", String(on));
    if (on) this.viewer.drawing?.drop();
    this.viewer.pointed();
  }

  drop() {
    this.start = null;
    this.viewer.redraw();
  }

  click(at) {
    if (this.start) {
      this.lines.push([this.start, at]);
      this.start = null;
    } else {
      this.start = at;
      this.end = at;
    }
    this.viewer.redraw();
  }

  follow(at) {
    if (!this.start) return;
    this.end = at;
    this.viewer.redraw();
  }

  // `onScreen` turns a point of the slide into one of the screen.
  draw(pen, onScreen, umPerPx) {
    const lines = this.start ? [...this.lines, [this.start, this.end]] : this.lines;
    let words = this.on && !lines.length ? "Click the two ends of what you measure" : "";
    for (const [from, to] of lines) {
      words = lengthWords(Math.hypot(to.x - from.x, to.y - from.y), umPerPx);
      this.line(pen, onScreen(from), onScreen(to), words);
    }
    this.said.textContent = words;
    this.clear.hidden = !lines.length;
  }

  drawBar(ratio, umPerPx) {
    const unit = (umPerPx ?? 1) / ratio; // of the slide's length, in one pixel of the screen
    const longest = BAR_PX * unit;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = Math.max(...NICE.map((n) => n * power).filter((one) => one <= longest));
    this.bar.hidden = false;
    this.barLine.style.width = `${length / unit}px`;
    this.barWords.textContent = umPerPx ? lengthWords(length / umPerPx, umPerPx) : `${lengthWords(length, null)} (scale unknown)`;
  }

  line(pen, from, to, words) {
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = Math.hypot(dx, dy) || 1;
    const [nx, ny] = [(-dy / length) * 6, (dx / length) * 6];
    for (const [colour, thickness] of [["rgba(255, 255, 255, 0.9)", 5], ["#111", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thickness;
      pen.beginPath();
      pen.moveTo(from.x, from.y);
      pen.lineTo(to.x, to.y);
      for (const end of [from, to]) {
        pen.moveTo(end.x - nx, end.y - ny);
        pen.lineTo(end.x + nx, end.y + ny);
      }
      pen.stroke();
    }
    pen.font = "600 13px system-ui, sans-serif";
    const [x, y, room] = [(from.x + to.x) / 2, (from.y + to.y) / 2 - 16, pen.measureText(words).width + 12];
    pen.fillStyle = "rgba(20, 28, 38, 0.88)";
    pen.fillRect(x - room / 2, y - 11, room, 22);
    pen.fillStyle = "#fff";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(words, x, y + 0.5);
  }
}
