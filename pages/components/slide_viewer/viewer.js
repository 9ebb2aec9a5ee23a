// A slide to look at: deep zoom over tiles of the server, an overview, a scale bar, a ruler; its glomeruli over it.
// Lengths are in µm where the scale is known, and in px of the slide where it is not: nothing is guessed.
// Nothing here decides anything: what is done to a glomerulus goes to the server, which answers with all of them.

const KEYS = [
  ["n  p", "next, previous glomerulus"], ["c", "confirm"], ["Delete", "remove (again: restore)"], ["s", "globally sclerosed, or not"],
  ["a", "draw a glomerulus that was missed"], ["r", "draw the selected one anew"], ["u", "undo my last correction"],
  ["Enter  Backspace", "close the outline, drop its last point"], ["Shift", "held while drawing: freehand; with a click: select several"],
  ["o", "outlines on or off"], ["l", "numbers on or off"], ["v", "overview on or off"], ["m", "measure"], ["+  −", "zoom"], ["0", "the whole slide"],
  ["1", "one pixel of the slide per pixel of the screen"], ["Esc", "drop what is being drawn, then the selection"], ["?", "this list"],
];
const EDITING = ["c", "s", "a", "r", "u", "Delete", "Backspace"]; // keys that do nothing where nothing may be changed
const SAY_SELECTED_MS = 250; // stepping through glomeruli tells the server only where it ends

// Switches outlive a change of tab, not a reload.
const preferences = { outlines: true, numbers: true, overview: true, opacity: 1, hidden: new Set(["removed"]) };

class SlideViewer extends DeepZoom {
  constructor(parent) {
    super();
    this.parent = parent;
    this.queue = new EventQueue();
    this.items = []; // glomeruli as they will be once what was done here has been answered
    this.byKey = new Map();
    this.foreseen = new Map();
    this.selected = new Set();
    this.outlines = new Outlines();
    this.build();
    this.onKey = (event) => this.key(event);
    this.onWent = (event) => { if (event.detail.slide === this.slide) this.go(event.detail.key); };
    window.addEventListener("keydown", this.onKey, true);
    window.addEventListener(WENT, this.onWent);
  }

  build() {
    const toggle = (words, name, title) => {
      const box = element("input", { type: "checkbox", "data-switch": name });
      box.checked = preferences[name];
      box.addEventListener("change", () => { preferences[name] = box.checked; this.refresh(); });
      return element("label", { title }, box, words);
    };
    this.stage = element("div", { class: "stage" });
    this.paper = element("canvas", { class: "paper" });
    this.ruler = new Ruler(this);
    this.drawing = new Drawing(this);
    this.card = new Card(this);
    this.zoomed = element("span", { class: "zoom", title: "Enlargement" });
    this.notice = element("div", { class: "notice", role: "status" }, "Loading the slide…");
    this.chips = element("span", { class: "chips", role: "group", "aria-label": "Glomeruli shown" });
    this.opacity = element("input", { type: "range", min: 0.1, max: 1, step: 0.05, title: "Opacity of the outlines", "aria-label": "Opacity of the outlines" });
    this.opacity.value = preferences.opacity;
    this.opacity.addEventListener("input", () => { preferences.opacity = Number(this.opacity.value); this.redraw(); });
    this.overview = this.button("Overview", "Overview in the corner on or off (v)", () => this.setOverview(!preferences.overview));
    this.editing = element("span", { class: "part" },
      this.button(["Draw", element("kbd", {}, "a")], "Draw a glomerulus that was missed (a)", () => this.drawing.start()),
      this.button(["Undo", element("kbd", {}, "u")], "Take back my last correction (u)", () => this.push({ action: "undo" })));
    this.help = this.button("?", "Keys (?)", () => { this.keys.hidden = !this.keys.hidden; });
    this.keys = element("div", { class: "float keys", hidden: true }, element("strong", {}, "Keys"),
      element("dl", {}, ...KEYS.flatMap(([key, words]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, words)])));
    this.bar = element("div", { class: "tools", hidden: true },
      toggle("Outlines", "outlines", "Outlines on or off (o)"), toggle("Numbers", "numbers", "Numbers on or off (l)"), this.opacity,
      this.chips, element("span", { class: "space" }), this.help);
    this.frame = element("div", { class: "frame" }, this.stage, this.ruler.bar, this.card.box, this.drawing.box, this.keys, this.notice);
    this.root = element("div", { class: "slide" },
      element("div", { class: "tools" }, this.editing, this.ruler.button, this.ruler.clear, this.ruler.said, element("span", { class: "space" }), this.zoomed,
        this.button("−", "Zoom out (−)", () => this.zoom(1 / 1.6)), this.button("+", "Zoom in (+)", () => this.zoom(1.6)),
        this.button("1:1", "One pixel of the slide per pixel of the screen (1)", () => this.zoomTo(1)), this.button("Fit", "The whole slide (0)", () => this.view?.viewport.goHome()), this.overview),
      this.bar, this.frame);
    this.stage.addEventListener("pointermove", (event) => this.follow(event));
    this.stage.addEventListener("pointerleave", () => this.hover(null));
    this.parent.append(this.root);
    this.setOverview(preferences.overview);
  }

  // What lies in its corner can be seen without it.
  setOverview(on) {
    preferences.overview = on;
    this.overview.setAttribute("aria-pressed", String(on));
    this.frame.classList.toggle("alone", !on);
  }

  // ---- data from the server ---------------------------------------------------------------------------------------

  update(component) {
    const { data } = component;
    this.component = component;
    this.data = data;
    this.queue.attach(this.root, component);
    this.editing.hidden = !data.editable || data.analysis === null;
    this.bar.hidden = data.analysis === null;
    if (!data.editable) this.drawing.drop();
    const other = this.slide !== data.slide;
    if (other) {
      this.slide = data.slide;
      this.root.dataset.slide = data.slide;
      this.open().catch((error) => this.say(error.message));
    }
    this.fetchGlomeruli().catch((error) => this.say(error.message));
    this.redraw(); // the scale may have been given
  }

  async fetchGlomeruli() {
    const { data } = this;
    if (data.analysis === null) return;
    const address = glomeruliAddress(data);
    const found = await glomeruliAt(address);
    if (this.data !== data) return; // answered meanwhile, and fetched anew
    if (this.queue.idle) this.foreseen.clear();
    const drawn = found.filter((item) => item.status === "added" && !this.byKey.has(item.key)).at(-1);
    if (drawn && [...this.selected].some((key) => this.byKey.get(key)?.fresh)) this.pick([drawn.key]); // it has its key now
    this.found = found;
    this.root.dataset.version = data.version;
    const wish = data.selected;
    const told = this.wished === wish;
    this.wished = wish;
    this.list();
    // What was selected here meanwhile is newer than the wish.
    if (!told && this.queue.idle && !this.telling && !this.selected.has(wish)) this.go(wish);
  }

  // Puts together what the server knows and what was done here since.
  list() {
    const known = (this.found ?? []).map((item) => (this.foreseen.has(item.key) ? { ...item, ...this.foreseen.get(item.key) } : item));
    this.items = [...known, ...[...this.foreseen.values()].filter((change) => change.fresh)];
    this.byKey = new Map(this.items.map((item) => [item.key, item]));
    for (const key of this.selected) if (!this.byKey.has(key)) this.selected.delete(key);
    this.hovered = null;
    this.refresh();
  }

  shows(item) { return preferences.outlines && !preferences.hidden.has(kindOf(item)); }

  refresh() {
    this.outlines.set(this.items, (item) => this.shows(item), preferences.numbers);
    const counts = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
    for (const item of this.items) counts[kindOf(item)] += 1;
    const numbers = { ...counts, counted: counts.counted + counts.sclerosed };
    this.chips.replaceChildren(...Object.entries(KINDS).map(([kind, { words, title }]) => this.button(
      [sample(kind), words, element("span", { class: "number" }, whole(numbers[kind]))], `${title}. Click to show or hide them.`,
      () => { if (!preferences.hidden.delete(kind)) preferences.hidden.add(kind); this.refresh(); },
      { "aria-pressed": String(!preferences.hidden.has(kind)), "data-kind": kind })));
    for (const box of this.bar.querySelectorAll("[data-switch]")) box.checked = preferences[box.dataset.switch];
    this.root.dataset.glomeruli = this.items.length;
    this.describe();
  }

  describe() {
    this.card.show(this.chosen(), this.data.um_per_px, this.data.editable);
    this.root.dataset.selected = [...this.selected].join(" ");
    this.redraw();
  }

  // ---- selecting --------------------------------------------------------------------------------------------------

  chosen() { return [...this.selected].map((key) => this.byKey.get(key)).filter(Boolean); }

  pick(keys, tell = true) {
    this.selected = new Set(keys);
    clearTimeout(this.telling);
    this.telling = tell ? setTimeout(() => this.tellSelected(), SAY_SELECTED_MS) : undefined;
  }

  select(keys, tell = true) {
    this.pick(keys, tell);
    this.describe();
  }

  tellSelected() {
    this.telling = undefined;
    const keys = [...this.selected].filter((key) => !this.byKey.get(key)?.fresh);
    this.queue.waiting = this.queue.waiting.filter((event) => event.action !== "select"); // only the last one matters
    this.queue.push({ action: "select", keys });
  }

  // Selects a glomerulus and brings it into sight; its kind is shown where it was hidden.
  go(key, tell = false) {
    const item = this.byKey.get(key);
    this.goal = null;
    if (!item) return this.select([], false);
    if (!this.shows(item)) {
      preferences.outlines = true;
      preferences.hidden.delete(kindOf(item));
      this.refresh();
    }
    this.select([key], tell);
    if (this.view?.world.getItemCount()) this.centreOn(item);
    else this.goal = item; // until the slide is there
    return undefined;
  }

  // In the middle, and large enough to be judged: at least 80 px of the screen and not beyond it. Where there is little
  // room the card would lie over it, so that it goes below the card or beside it.
  centreOn(item, atOnce = false) {
    const { viewport } = this.view;
    const size = viewport.getContainerSize();
    const room = Math.min(size.x, size.y);
    const now = viewport.viewportToImageZoom(viewport.getZoom());
    const ratio = item.span * now < 80 || item.span * now > 0.8 * room ? Math.min(2, (0.3 * room) / item.span) : now;
    const { offsetLeft, offsetTop, offsetWidth, offsetHeight } = this.card.box;
    const half = (item.span * ratio) / 2 + 14;
    const right = Math.min(offsetLeft + offsetWidth - (size.x / 2 - half), size.x / 2 - half);
    const down = Math.min(offsetTop + offsetHeight - (size.y / 2 - half), size.y / 2 - half);
    const [x, y] = right <= 0 || down <= 0 ? [0, 0] : down <= right ? [0, down] : [right, 0];
    viewport.panTo(viewport.imageToViewportCoordinates(item.x - x / ratio, item.y - y / ratio), atOnce);
    if (ratio !== now) viewport.zoomTo(viewport.imageToViewportZoom(ratio), null, atOnce);
  }

  step(by) {
    const listed = this.items.filter((item) => this.shows(item) && !item.fresh).sort((a, b) => a.number - b.number);
    if (!listed.length) return;
    const [from] = this.chosen();
    const at = from ? listed.findIndex((item) => item.number >= from.number) : -1;
    const found = from && listed[at]?.key === from.key;
    const next = at < 0 ? (by > 0 ? 0 : listed.length - 1) : (found || by < 0 ? at + by : at);
    this.go(listed[(next + listed.length) % listed.length].key, true);
  }

  click(event) {
    if (!event.quick) return;
    this.stage.querySelector("[tabindex]")?.focus({ preventScroll: true });
    this.keys.hidden = true;
    const at = this.onSlide(event.position);
    if (this.ruler.on || this.drawing.on) event.preventDefaultAction = true;
    if (this.ruler.on) this.ruler.click(at);
    else if (this.drawing.on) this.drawing.click(at);
    else if (this.items.length) {
      const item = this.outlines.at(at.x, at.y, 6 / this.ratio);
      if (!event.shift) {
        if (item || this.selected.size) this.select(item ? [item.key] : []);
      } else if (item) this.select(this.selected.has(item.key) ? [...this.selected].filter((key) => key !== item.key) : [...this.selected, item.key]);
    }
  }

  doubleClick(event) {
    if (!this.ruler.on && !this.drawing.on) return;
    event.preventDefaultAction = true;
    if (this.drawing.on && this.drawing.points.length > 2) this.drawing.close();
  }

  follow(event) {
    if (!this.view) return;
    const { left, top } = this.stage.getBoundingClientRect();
    const at = this.onSlide(new this.OpenSeadragon.Point(event.clientX - left, event.clientY - top));
    this.ruler.follow(at);
    this.drawing.follow(at);
    const still = event.buttons === 0 && event.pointerType !== "touch" && !this.ruler.on && !this.drawing.on;
    this.hover(still ? this.outlines.at(at.x, at.y, 6 / this.ratio) : null);
  }

  hover(item) {
    if (this.hovered === item) return;
    this.hovered = item;
    this.frame.classList.toggle("over", item !== null);
    this.redraw();
  }

  // ---- corrections ------------------------------------------------------------------------------------------------

  push(event) {
    if (!this.data.editable) return;
    this.queue.push({ keys: [], outline: [], ...event });
  }

  // Does it to all that are selected, and shows at once what will come of it.
  act(action) {
    const concerned = {
      confirm: (item) => item.status === "model", remove: (item) => item.status !== "removed", restore: (item) => item.status === "removed",
      mark_sclerosed: (item) => !item.sclerosed && item.status !== "removed", unmark_sclerosed: (item) => item.sclerosed && item.status !== "removed",
    }[action];
    const changes = {
      confirm: { status: "confirmed", counts: true }, remove: { status: "removed", counts: false }, restore: { status: "model", counts: true },
      mark_sclerosed: { sclerosed: true, counts: true }, unmark_sclerosed: { sclerosed: false, counts: true },
    }[action];
    const members = this.chosen().filter((item) => concerned(item) && !item.fresh);
    if (!members.length || !this.data.editable) return;
    for (const item of members) {
      const vouched = item.status === "model" ? { status: "confirmed" } : {}; // marking it confirms it
      this.foreseen.set(item.key, { ...this.foreseen.get(item.key), ...vouched, ...changes });
    }
    this.push({ action, keys: members.map((item) => item.key) });
    this.list();
  }

  redrawSelected() {
    const [item] = this.chosen();
    if (this.data.editable && this.selected.size === 1 && item.status !== "removed" && !item.fresh) this.drawing.start(item.key, item.number);
  }

  // An outline was closed: of a new glomerulus, or of the one with this key.
  drawn(key, outline) {
    const change = { ...placed({ outline }), diameter: this.diameter(outline), level: undefined };
    if (key) this.foreseen.set(key, { ...this.foreseen.get(key), ...change, status: this.byKey.get(key)?.status === "added" ? "added" : "redrawn", counts: true });
    else {
      const fresh = `new ${this.queue.next}`;
      this.selected = new Set([fresh]);
      this.foreseen.set(fresh, { ...change, key: fresh, fresh: true, number: "new", score: null, sclerosed: false, status: "added", counts: true, touches_edge: false });
    }
    this.push(key ? { action: "redraw", keys: [key], outline } : { action: "add", outline });
    this.list();
  }

  diameter(outline) {
    const points = Array.from({ length: outline.length / 2 }, (_, i) => ({ x: outline[2 * i], y: outline[2 * i + 1] }));
    return 2 * Math.sqrt(areaOf(points) / Math.PI) * (this.data.um_per_px ?? 1);
  }

  // ---- keys -------------------------------------------------------------------------------------------------------

  key(event) {
    const [field] = event.composedPath();
    // A number is typed: keys are the slide's again, or the next Delete would take the number away.
    if (event.key === "Enter" && field.tagName === "INPUT" && field.type === "number") setTimeout(() => field.blur());
    if (!this.view || event.ctrlKey || event.metaKey || event.altKey || typingIn(event) || dialogOpen()) return;
    const inside = event.composedPath().includes(this.stage);
    const press = (name) => { preferences[name] = !preferences[name]; this.refresh(); };
    const remove = () => this.act(this.chosen().every((item) => item.status === "removed") ? "restore" : "remove");
    const commands = {
      m: () => this.ruler.toggle(!this.ruler.on), v: () => this.setOverview(!preferences.overview), "+": () => this.zoom(1.6), "=": () => this.zoom(1.6), "-": () => this.zoom(1 / 1.6),
      0: () => this.view.viewport.goHome(), 1: () => this.zoomTo(1), Escape: () => this.escape(),
    };
    if (inside) Object.assign(commands, { ArrowLeft: () => this.pan(-90, 0), ArrowRight: () => this.pan(90, 0), ArrowUp: () => this.pan(0, -90), ArrowDown: () => this.pan(0, 90) });
    if (this.drawing.on) Object.assign(commands, { Enter: () => this.drawing.close(), Backspace: () => this.drawing.back() });
    else if (this.data.analysis !== null) {
      Object.assign(commands, {
        n: () => this.step(1), p: () => this.step(-1), o: () => press("outlines"), l: () => press("numbers"), "?": () => this.help.click(),
        c: () => this.act("confirm"), Delete: remove, Backspace: remove, r: () => this.redrawSelected(), a: () => this.drawing.start(),
        s: () => this.act(this.chosen().every((item) => item.sclerosed) ? "unmark_sclerosed" : "mark_sclerosed"), u: () => this.push({ action: "undo" }),
      });
      if (!this.data.editable) for (const key of EDITING) delete commands[key];
    }
    const command = commands[event.key];
    if (!command || (event.key === "Enter" && field.tagName === "BUTTON")) return;
    // Streamlit binds c and r to its own menus: ours are meant here.
    event.preventDefault();
    event.stopImmediatePropagation();
    command();
  }

  escape() {
    if (!this.keys.hidden) this.keys.hidden = true;
    else if (this.drawing.on) this.drawing.drop();
    else if (this.ruler.start) this.ruler.drop();
    else if (this.ruler.on) this.ruler.toggle(false);
    else if (this.selected.size) this.select([]);
  }

  // ---- what lies over the picture ---------------------------------------------------------------------------------

  // The pointer means something else from now on.
  pointed() {
    this.frame.classList.toggle("pointing", this.ruler.on || this.drawing.on);
    this.frame.classList.toggle("drawing", this.drawing.on);
    this.hover(null);
    this.redraw();
  }

  redraw() {
    this.again ??= requestAnimationFrame(() => {
      this.again = undefined;
      this.draw();
    });
  }

  draw() {
    const viewport = this.view?.viewport;
    if (!viewport || !this.view.world.getItemCount()) return;
    const { ratio } = this;
    const { um_per_px: umPerPx, objective } = this.data;
    this.zoomed.textContent = objective ? `${Number((objective * ratio).toPrecision(2))}x` : `${Number((100 * ratio).toPrecision(2))} %`;
    this.ruler.drawBar(ratio, umPerPx);
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.frame.clientWidth * scale), Math.round(this.frame.clientHeight * scale)];
    if (this.paper.width !== width || this.paper.height !== height) Object.assign(this.paper, { width, height });
    const pen = this.paper.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    const onScreen = ({ x, y }) => viewport.imageToViewerElementCoordinates(new this.OpenSeadragon.Point(x, y));
    const corner = onScreen({ x: 0, y: 0 });
    const view = { left: corner.x * scale, top: corner.y * scale, zoom: ratio * scale, width, height };
    pen.globalAlpha = preferences.opacity;
    if (this.outlines.draw(pen, view)) this.redraw();
    pen.globalAlpha = 1;
    if (this.hovered && !this.selected.has(this.hovered.key)) this.outlines.highlight(pen, this.hovered, view, false);
    for (const item of this.chosen()) if (this.shows(item)) this.outlines.highlight(pen, item, view, true);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    this.ruler.draw(pen, onScreen, umPerPx);
    this.drawing.draw(pen, onScreen);
  }

  destroy() {
    window.removeEventListener("keydown", this.onKey, true);
    window.removeEventListener(WENT, this.onWent);
    cancelAnimationFrame(this.again);
    clearTimeout(this.telling);
    clearTimeout(this.queue.repeating);
    this.shut();
    this.root.remove();
  }
}

export default mountOnce(SlideViewer);
