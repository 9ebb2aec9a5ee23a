// A CT scan to look through in three planes that share a cross-hair; its labels over it.
// Nothing here decides anything: that a lesion was selected goes to the server, which knows what can be done with it.

const KEYS = [
  ["↑  ↓", "next slice to the head, to the feet (coronal: front, back; sagittal: right, left)"], ["Page ↑  Page ↓", "ten slices"],
  ["1  2  3", "axial, coronal, sagittal"], ["4", "all three"], ["n  p", "next, previous lesion"],
  ["o", "labels on or off"], ["l", "filled, or lines only"], ["x", "cross-hair on or off"], ["w", "drag with the left button or one finger to change the window"],
  ["+  −", "zoom"], ["0", "the whole slice"], ["Esc", "drop the selection"], ["?", "this list"],
];
const MOUSE = [
  ["click", "cross-hair; on a lesion, select it"], ["wheel", "slices"], ["right drag", "window: across its width, down its level"],
  ["Shift or middle drag", "move"], ["Ctrl wheel", "zoom"], ["double click", "this plane alone, or all three"],
  ["fingers", "one goes through slices, two zoom and move"],
];
const WINDOWS = [["Abdomen", 400, 50], ["Soft tissue", 350, 40], ["Bone", 2500, 480], ["Lung", 1500, -600]]; // name, width, level in HU
const LAYOUTS = { three: "Three planes", axial: "Axial", coronal: "Coronal", sagittal: "Sagittal" };
const UNNUMBERED = 63; // of a lesion that no measure knows
const SAY_SELECTED_MS = 250; // stepping through lesions tells the server only where it ends
const ANNOUNCE_MS = 400; // slices that fly past are not read aloud, only the one where they come to rest
const DRAW_EVERY_MS = 150; // while a scan arrives

// Switches outlive a change of tab, not a reload; so does where each scan was looked at.
const looks = { layout: "three", width: 400, level: 50, overlay: true, filled: true, opacity: [0.35, 0.35, 0.35], cross: true, hidden: new Set() }; // opacity of each of LABELS
const places = new Map();

class CtViewer {
  constructor(parent) {
    this.parent = parent;
    this.look = looks;
    this.queue = new EventQueue();
    this.point = [0, 0, 0];
    this.lesions = []; // of the labels that are shown
    this.selected = 0; // number of a lesion, by its place in that list from 1 on
    this.planes = Object.fromEntries(Object.keys(PLANES).map((name) => [name, new Plane(this, name)]));
    this.active = this.planes.axial;
    this.build();
    this.onKey = (event) => this.key(event);
    window.addEventListener("keydown", this.onKey, true);
    this.resize = new ResizeObserver(() => this.redraw());
    this.resize.observe(this.frame);
    this.setWindow(this.look.width, this.look.level);
  }

  button(label, title, onclick, attributes = {}) {
    const words = [].concat(label);
    return element("button", { type: "button", title, onclick, "aria-label": words.length === 1 && words[0].length === 1 ? title : null, ...attributes }, ...words);
  }

  chip(label, at) {
    const toggle = () => {
      if (!this.look.hidden.delete(label)) this.look.hidden.add(label);
      this.refresh();
    };
    const words = label[0].toUpperCase() + label.slice(1);
    const shown = this.button([sample(this.data.colours[label], DASHES[at]), words], `Show or hide: ${label}`, toggle, { "data-label": label });
    const title = `Opacity: ${label}`;
    const opacity = element("input", { type: "range", min: 0.05, max: 1, step: 0.05, title, "aria-label": title });
    opacity.value = this.look.opacity[at];
    opacity.addEventListener("input", () => {
      this.look.opacity[at] = Number(opacity.value);
      this.refresh();
    });
    return element("span", { class: "chip" }, shown, opacity);
  }

  build() {
    const group = (label, ...children) => element("span", { class: "part", role: "group", "aria-label": label }, ...children);
    this.layouts = Object.entries(LAYOUTS).map(([name, words], at) => this.button(words, `${words} (${at || 4})`, () => this.setLayout(name), { "data-layout": name }));
    this.windows = WINDOWS.map(([words, width, level]) => this.button(words, `Window ${words}: W ${width} L ${level} HU`, () => this.setWindow(width, level)));
    this.windowed = this.button("Drag window", "Drag with the left button or one finger to change the window (w); the right button always does", () => this.setWindowing(!this.windowing));
    this.values = element("span", { class: "values", title: "Width and level of the window in HU" });
    this.chips = group("Labels");
    this.filled = this.button("Fill", "Filled, or lines only (l)", () => this.set({ filled: !this.look.filled }));
    this.cross = this.button("Cross-hair", "Cross-hair on or off (x)", () => this.set({ cross: !this.look.cross }));
    this.list = (rows) => element("dl", {}, ...rows.flatMap(([key, words]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, words)]));
    this.keys = element("div", { class: "float keys", hidden: true }, element("strong", {}, "Mouse and fingers"), this.list(MOUSE), element("strong", {}, "Keys"), this.list(KEYS));
    this.notice = element("div", { class: "notice", role: "status" }, "Loading the scan…");
    this.bar = element("div", { class: "loading", role: "progressbar", "aria-label": "Loading the scan", "aria-valuemin": 0, "aria-valuemax": 100 }, element("i"));
    this.aloud = element("div", { class: "aloud", "aria-live": "polite" });
    this.frame = element("div", { class: "frame" }, ...Object.values(this.planes).map((plane) => plane.box), this.bar, this.keys, this.notice, this.aloud);
    this.here = element("span", { class: "here", title: "In the scanner's own millimetres: x grows to the patient's left, y to the back, z to the head" });
    this.pointer = element("span", { class: "pointer" });
    this.remark = element("span", { class: "remark" });
    this.labelled = element("span", { class: "part", hidden: true },
      element("label", { title: "Labels on or off (o)" }, this.overlaid = element("input", { type: "checkbox" }), "Labels"), this.chips, this.filled);
    this.overlaid.addEventListener("change", () => this.set({ overlay: this.overlaid.checked }));
    this.root = element("div", { class: "ct" },
      element("div", { class: "tools" }, group("Planes", ...this.layouts), group("Windows", ...this.windows), this.values),
      element("div", { class: "tools" }, this.labelled, element("span", { class: "space" }), this.windowed, this.cross,
        this.button("Fit", "The whole slice (0)", () => this.fit()), this.button("?", "Mouse and keys (?)", () => { this.keys.hidden = !this.keys.hidden; })),
      this.frame, element("div", { class: "line" }, this.here, this.pointer, element("span", { class: "space" }), this.remark));
    this.parent.append(this.root);
  }

  say(words) {
    this.notice.textContent = words;
    this.notice.hidden = !words;
  }

  // ---- data from the server -----------------------------------------------------------------------------------------

  update(component) {
    const { data } = component;
    const before = this.data;
    this.data = data;
    this.queue.attach(this.root, component);
    this.labelled.hidden = data.labels === null;
    if (data.image !== before?.image) this.open().catch((error) => this.fail(error));
    else if (this.volume?.hu && (data.labels !== before.labels || data.version !== before.version)) this.overlay().catch((error) => this.fail(error));
    if (data.go_to && (String(data.go_to) !== String(this.wished) || data.asked !== this.asked)) {
      this.wished = data.go_to;
      this.asked = data.asked;
      this.wish = data.go_to;
      this.grant();
    }
    this.refresh();
  }

  fail(error) {
    if (error.name === "AbortError") return;
    // What browsers say of a broken connection or a damaged file helps nobody.
    this.say(error.constructor === Error ? error.message : "The scan could not be read: the connection broke, or its file is damaged. Reload the page.");
  }

  async open() {
    this.leave();
    const volume = new CtVolume();
    this.volume = volume;
    this.lesions = [];
    this.selected = 0;
    this.image = this.data.image;
    this.root.dataset.scan = this.data.scan;
    delete this.root.dataset.shown;
    this.say("Loading the scan…");
    this.began = performance.now();
    const arrived = () => {
      if (!this.root.dataset.placed) this.begin();
      const share = volume.arrived / volume.grid.size[2];
      this.bar.hidden = share === 1;
      this.bar.firstChild.style.width = `${100 * share}%`;
      this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
      if (share < 1 && performance.now() - (this.latest ?? 0) < DRAW_EVERY_MS) return;
      this.latest = performance.now();
      this.redraw();
    };
    delete this.root.dataset.placed;
    const labels = this.data.labels;
    await volume.read(this.image, arrived);
    this.root.dataset.complete = Math.round(performance.now() - this.began);
    if (labels !== null) await this.overlay();
  }

  // The header is there: where to look first.
  begin() {
    const { grid } = this.volume;
    this.root.dataset.placed = "yes";
    const [first] = this.data.lesions;
    const { middle } = this.data; // of the kidneys
    const place = places.get(this.image) ?? (first ? grid.point(first.voxel) : middle && grid.nearest(middle));
    this.point = place && grid.holds(place) ? place : grid.count.map((count) => count >> 1);
    for (const plane of Object.values(this.planes)) {
      plane.fit();
      plane.announced = plane.told();
    }
    const remarks = [];
    if (grid.step > 1) remarks.push(`Every ${["", "", "2nd", "3rd"][grid.step] ?? `${grid.step}th`} slice is shown: this device has too little memory for all ${grid.size[2]}.`);
    if (grid.tilt > 1) remarks.push(`Tilted by ${Math.round(grid.tilt)}°: shown along the axes of the scan.`);
    this.remark.textContent = remarks.join(" ");
    this.root.dataset.step = grid.step;
    this.grant();
  }

  async overlay() {
    const { volume, data } = this;
    if (data.labels === null) {
      volume.labels = null;
    } else {
      const chosen = this.selected && this.chosen;
      if (!(await volume.readLabels(`${data.labels}&v=${encodeURIComponent(data.version)}`)) || this.volume !== volume) return;
      this.lesions = this.data.lesions;
      this.lesions.slice(0, UNNUMBERED - 1).forEach((lesion, at) => {
        const index = volume.grid.index(volume.grid.point(lesion.voxel));
        if (LABELS[volume.labels[index] - 1] === lesion.label) volume.number(index, at + 1);
      });
      volume.version = data.version;
      this.selected = 0;
      this.root.dataset.version = data.version;
      if (chosen && !this.wish) this.mark(chosen);
    }
    this.grant();
    this.refresh();
  }

  // Goes where the page asked for, as soon as that is known.
  grant() {
    if (!this.wish || !this.root.dataset.placed) return;
    const point = this.volume.grid.point(this.wish);
    if (!this.volume.grid.holds(point)) this.wish = null;
    else {
      this.goTo(point);
      for (const plane of Object.values(this.planes)) plane.show();
      if (this.volume.labels || this.data.labels === null) {
        this.mark(point);
        this.wish = null;
      }
    }
  }

  // ---- what is selected ---------------------------------------------------------------------------------------------

  // As the list beside the viewer numbers it; none where it is not in that list.
  get lesion() { return this.lesions[this.selected - 1]?.number ?? null; }

  tag(number) {
    const lesion = this.lesions[number - 1];
    return lesion && `${lesion.label === "tumour" ? "T" : "C"}${lesion.number}`;
  }

  // Selects the lesion at a point, whose label is shown if it was hidden; whether there is one.
  mark(point) {
    const { volume } = this;
    const value = volume.labels?.[volume.grid.index(point)] ?? 0;
    const label = value & 3;
    if (label < 2) return false;
    let number = value >> 2;
    if (!number) { // not among the measures: the one such that is selected
      for (let at = 0; at < volume.labels.length; at += 1) if (volume.labels[at] >> 2 === UNNUMBERED) volume.labels[at] &= 3;
      number = UNNUMBERED;
      volume.number(volume.grid.index(point), number);
    }
    this.selected = number;
    this.chosen = point;
    this.look.hidden.delete(LABELS[label - 1]);
    this.look.overlay = true;
    this.refresh();
    return true;
  }

  // What is under the cross-hair was clicked.
  choose() {
    const { volume, point } = this;
    const value = volume.labels?.[volume.grid.index(point)] ?? 0;
    if ((value & 3) < 2 || !this.look.overlay || this.look.hidden.has(LABELS[(value & 3) - 1])) return;
    this.mark(point);
    this.tell({ action: "select", voxel: volume.grid.voxel(point), lesion: this.lesion });
  }

  step(by) {
    const { lesions } = this;
    if (!lesions.length || !this.volume?.labels) return;
    const known = this.selected && this.selected !== UNNUMBERED;
    const at = known ? (this.selected - 1 + by + lesions.length) % lesions.length : by > 0 ? 0 : lesions.length - 1;
    const lesion = lesions[at];
    const point = this.volume.grid.point(lesion.voxel);
    this.goTo(point);
    for (const plane of Object.values(this.planes)) plane.show();
    if (this.mark(point)) this.tell({ action: "select", voxel: lesion.voxel, lesion: lesion.number });
  }

  clear() {
    if (!this.selected) return;
    this.selected = 0;
    this.tell({ action: "clear", voxel: null, lesion: null });
    this.refresh();
  }

  tell(event) {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.queue.push(event), SAY_SELECTED_MS);
  }

  // ---- where we look ------------------------------------------------------------------------------------------------

  goTo(point) {
    this.point = point;
    this.redraw();
    clearTimeout(this.announcing);
    this.announcing = setTimeout(() => this.announce(), ANNOUNCE_MS);
  }

  // Reads aloud which planes show another slice than before.
  announce() {
    const moved = Object.values(this.planes).filter((plane) => plane.announced !== plane.told());
    for (const plane of moved) plane.announced = plane.told();
    const seen = moved.filter((plane) => !plane.hidden);
    if (seen.length) this.aloud.textContent = seen.map((plane) => plane.announced).join("; ");
  }

  move(direction, to) {
    const { grid } = this.volume;
    this.goTo(this.point.with(direction, Math.min(grid.count[direction] - 1, Math.max(0, to))));
  }

  // Downwards in the strip beside the picture: axial to the feet, coronal to the back, sagittal to the left.
  scroll(plane, slices) {
    this.active = plane;
    this.move(plane.through, this.point[plane.through] + (plane.through === HEAD ? -slices : slices));
  }

  under(point) {
    this.hovered = point;
    this.describe();
  }

  enlarge(name) { this.setLayout(this.look.layout === "three" ? name : "three"); }

  fit() {
    for (const plane of Object.values(this.planes)) plane.fit();
    this.redraw();
  }

  // ---- how it looks -------------------------------------------------------------------------------------------------

  set(changes) {
    Object.assign(this.look, changes);
    this.refresh();
  }

  setLayout(layout) {
    this.set({ layout });
    if (layout !== "three") this.active = this.planes[layout];
  }

  setWindowing(on) {
    this.windowing = on;
    this.refresh();
  }

  setWindow(width, level) {
    Object.assign(this.look, { width: Math.max(1, Math.min(8000, Math.round(width))), level: Math.max(-1500, Math.min(4000, Math.round(level))) });
    const greys = new Uint32Array(65536);
    const low = this.look.level - this.look.width / 2;
    for (let hu = -32768; hu < 32768; hu += 1) {
      const grey = Math.max(0, Math.min(255, Math.round(((hu - low) / this.look.width) * 255)));
      greys[hu + 32768] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
    }
    this.greys = greys;
    this.refresh();
  }

  dragWindow(x, y) {
    const fine = Math.max(0.5, this.look.width / 400);
    this.setWindow(this.look.width + x * fine, this.look.level + y * fine);
  }

  refresh() {
    if (!this.data) return;
    const { look, data } = this;
    this.tints = new Uint32Array(4);
    LABELS.forEach((label, at) => {
      const [red, green, blue] = [1, 3, 5].map((from) => parseInt(data.colours[label].slice(from, from + 2), 16));
      this.tints[at + 1] = ((Math.round(look.opacity[at] * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    });
    this.frame.dataset.layout = look.layout;
    for (const button of this.layouts) button.setAttribute("aria-pressed", String(button.dataset.layout === look.layout));
    WINDOWS.forEach(([, width, level], at) => this.windows[at].setAttribute("aria-pressed", String(width === look.width && level === look.level)));
    this.windowed.setAttribute("aria-pressed", String(Boolean(this.windowing)));
    this.frame.classList.toggle("windowing", Boolean(this.windowing));
    this.filled.setAttribute("aria-pressed", String(look.filled));
    this.cross.setAttribute("aria-pressed", String(look.cross));
    this.overlaid.checked = look.overlay;
    this.values.textContent = `W ${look.width} L ${look.level}`;
    if (!this.chips.firstChild) this.chips.append(...LABELS.map((label, at) => this.chip(label, at)));
    for (const chip of this.chips.querySelectorAll("button")) chip.setAttribute("aria-pressed", String(!look.hidden.has(chip.dataset.label)));
    Object.assign(this.root.dataset, { selected: this.lesion ?? (this.selected ? "unnumbered" : ""), window: `${look.width} ${look.level}` });
    this.redraw();
  }

  redraw() {
    this.again ??= requestAnimationFrame(() => {
      this.again = undefined;
      this.draw();
    });
  }

  draw() {
    const { volume, point } = this;
    if (!volume?.hu || !this.root.dataset.placed) return;
    if (this.greys && this.tints) for (const plane of Object.values(this.planes)) plane.draw();
    this.describe();
    const slice = volume.grid.voxel(point)[0];
    if (!this.root.dataset.shown && volume.arrived > slice) {
      this.root.dataset.shown = Math.round(performance.now() - this.began);
      this.say("");
    }
  }

  describe() {
    const { volume, point } = this;
    if (!volume?.hu) return;
    const { grid } = volume;
    const hu = volume.hu[grid.index(point)];
    // No R and L: their zero is the scanner's, so that a right kidney may lie at a positive x.
    const mm = grid.place(point).map((value, to) => `${"xyz"[to]} ${minus(value.toFixed(1))}`).join("  ");
    this.here.textContent = `Cross-hair ${mm} mm (LPS) · ${minus(hu)} HU`;
    this.pointer.textContent = this.hovered && grid.holds(this.hovered) ? `Pointer ${minus(volume.hu[grid.index(this.hovered)])} HU` : "";
    Object.assign(this.root.dataset, { voxel: grid.voxel(point).join(" "), hu });
  }

  // ---- keys ---------------------------------------------------------------------------------------------------------

  key(event) {
    const [target] = event.composedPath();
    // Streamlit hears its own shortcuts behind dialogs too: they would change a lesion while another question stands.
    if (dialogOpen() && !typingIn(event) && /^([a-z]|Delete)$/i.test(event.key)) event.stopImmediatePropagation();
    if (!this.volume?.grid || event.ctrlKey || event.metaKey || event.altKey || typingIn(event) || dialogOpen()) return;
    const inside = event.composedPath().includes(this.root);
    const commands = {
      1: () => this.setLayout("axial"), 2: () => this.setLayout("coronal"), 3: () => this.setLayout("sagittal"), 4: () => this.setLayout("three"),
      0: () => this.fit(), "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4),
      o: () => this.set({ overlay: !this.look.overlay }), l: () => this.set({ filled: !this.look.filled }), x: () => this.set({ cross: !this.look.cross }),
      w: () => this.setWindowing(!this.windowing), n: () => this.step(1), p: () => this.step(-1), Escape: () => this.escape(), "?": () => { this.keys.hidden = !this.keys.hidden; },
    };
    // Elsewhere on the page these scroll, or move through a table.
    if ((inside && target.type !== "range") || target === document.body) {
      const focused = Object.values(this.planes).find((plane) => plane.box === target);
      const plane = focused && !focused.hidden ? focused : this.active.hidden ? this.planes.axial : this.active;
      for (const [names, by] of [[["ArrowUp", "ArrowLeft"], -1], [["ArrowDown", "ArrowRight"], 1], [["PageUp"], -10], [["PageDown"], 10]]) {
        for (const name of names) commands[name] = () => this.scroll(plane, by);
      }
    }
    const command = commands[event.key];
    if (!command) return;
    // Streamlit binds some letters to its own menus: ours are meant here.
    event.preventDefault();
    event.stopImmediatePropagation();
    command();
  }

  escape() {
    if (!this.keys.hidden) this.keys.hidden = true;
    else if (this.windowing) this.setWindowing(false);
    else this.clear();
  }

  zoom(factor) {
    for (const plane of Object.values(this.planes)) if (!plane.hidden && plane.grid) plane.zoomAt(factor);
  }

  leave() {
    if (this.volume?.grid && this.root.dataset.placed) places.set(this.image, this.point);
    this.volume?.stop();
  }

  destroy() {
    window.removeEventListener("keydown", this.onKey, true);
    this.resize.disconnect();
    cancelAnimationFrame(this.again);
    clearTimeout(this.telling);
    clearTimeout(this.announcing);
    clearTimeout(this.queue.repeating);
    this.leave();
    this.root.remove();
  }
}

function minus(number) { return String(number).replace("-", "−"); }

function sample(colour, dash) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", "0 0 14 14");
  drawing.setAttribute("width", 14);
  drawing.setAttribute("height", 14);
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [name, value] of Object.entries({ cx: 7, cy: 7, r: 5, fill: colour, "fill-opacity": 0.4, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash.length ? "3 1.6" : "none" })) ring.setAttribute(name, value);
  drawing.append(ring);
  return drawing;
}

export default mountOnce(CtViewer);
