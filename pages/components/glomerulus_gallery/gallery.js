// Crops of a slide's glomeruli beside each other; a click brings one into sight in the viewer.
// Rows are in the page only while they are in sight: thousands scroll as smoothly as thirty.

const CAPTION = 19;
const GAP = 6;
const AROUND = 1.4; // a crop is so much wider than its glomerulus
const SETTLE_MS = 90; // what is scrolled past faster is not fetched
const FILTERS = {
  all: ["All", () => true],
  counted: ["Counted", (item) => item.counts],
  sclerosed: ["Sclerosed", (item) => item.sclerosed && item.status !== "removed"],
  aside: ["Not counted", (item) => kindOf(item) === "aside"],
  added: ["Added by hand", (item) => item.status === "added"],
  removed: ["Removed", (item) => item.status === "removed"],
};
const score = (item) => item.score ?? 2; // by hand: surer than any model
const ORDERS = {
  large: ["Largest", (a, b) => b.diameter - a.diameter],
  small: ["Smallest", (a, b) => a.diameter - b.diameter],
  doubtful: ["Least confident", (a, b) => score(a) - score(b)],
  sure: ["Most confident", (a, b) => score(b) - score(a)],
  number: ["By number", (a, b) => a.number - b.number],
};
const settings = { filter: "all", order: "doubtful", size: 92 }; // outlive a change of tab, not a reload

class GlomerulusGallery {
  constructor(parent) {
    this.queue = new EventQueue();
    this.tiles = new Map();
    this.list = [];
    this.found = [];
    const choice = (name, options, label) => {
      const box = element("select", { "aria-label": label }, ...Object.entries(options).map(([value, [words]]) => element("option", { value }, words)));
      box.value = settings[name];
      box.addEventListener("change", () => { settings[name] = box.value; this.scroller.scrollTop = 0; this.rebuild(); });
      return box;
    };
    this.filter = choice("filter", FILTERS, "Glomeruli listed");
    this.order = choice("order", ORDERS, "Order");
    this.sizer = element("input", { type: "range", min: 60, max: 220, step: 8, title: "Size of the crops", "aria-label": "Size of the crops" });
    this.sizer.value = settings.size;
    this.sizer.addEventListener("input", () => { settings.size = Number(this.sizer.value); this.layout(); });
    this.floor = element("div", { class: "floor" });
    this.scroller = element("div", { class: "scroller", tabindex: "0", role: "listbox", "aria-label": "Glomeruli" }, this.floor);
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    this.said = element("span", { class: "said", role: "status" });
    this.root = element("div", { class: "glomeruli" },
      element("div", { class: "bar" }, this.filter, this.order, this.sizer), this.scroller, element("div", { class: "bar" }, this.said));
    this.resize = new ResizeObserver(() => this.layout());
    this.resize.observe(this.scroller);
    parent.append(this.root);
  }

  update(component) {
    const { data } = component;
    this.data = data;
    this.ready ??= slideAt(data.base, this);
    this.ready.catch(() => {}); // the viewer says why
    this.queue.attach(this.root, component);
    this.root.dataset.version = "";
    glomeruliAt(glomeruliAddress(data)).then((found) => {
      if (this.data !== data) return; // answered meanwhile, and fetched anew
      if (this.found !== found) {
        this.found = found;
        this.rebuild();
      }
      this.root.dataset.version = data.version;
      if (this.wished !== data.selected) this.mark(data.selected, true);
      this.wished = data.selected;
    }, (error) => { this.said.textContent = error.message; });
  }

  rebuild() {
    this.list = this.found.filter(FILTERS[settings.filter][1]).sort((a, b) => ORDERS[settings.order][1](a, b) || a.number - b.number);
    for (const option of this.filter.options) {
      const [words, admits] = FILTERS[option.value];
      option.textContent = `${words} (${whole(this.found.filter(admits).length)})`;
    }
    this.layout();
    this.mark(this.selected);
  }

  // ---- rows -------------------------------------------------------------------------------------------------------

  layout() {
    const width = this.scroller.clientWidth - GAP;
    if (width <= 0) return;
    this.across = Math.max(1, Math.round(width / (settings.size + GAP)));
    this.size = Math.floor(width / this.across) - GAP; // so that they fill the width
    this.pitch = this.size + CAPTION + GAP;
    this.floor.style.height = `${Math.ceil(this.list.length / this.across) * this.pitch + GAP}px`;
    for (const key of [...this.tiles.keys()]) this.drop(key);
    this.draw();
  }

  draw() {
    this.pending ??= requestAnimationFrame(() => { this.pending = undefined; this.paint(); });
  }

  paint() {
    const { scrollTop, clientHeight } = this.scroller;
    const first = Math.max(0, Math.floor(scrollTop / this.pitch) - 1) * this.across;
    const last = Math.min(this.list.length, (Math.ceil((scrollTop + clientHeight) / this.pitch) + 1) * this.across);
    const wanted = new Map(this.list.slice(first, last).map((item, i) => [item.key, [item, first + i]]));
    for (const key of [...this.tiles.keys()]) if (!wanted.has(key)) this.drop(key);
    for (const [key, [item, at]] of wanted) {
      if (this.tiles.has(key)) continue;
      const tile = this.tile(item);
      tile.style.transform = `translate(${GAP + (at % this.across) * (this.size + GAP)}px, ${GAP + Math.floor(at / this.across) * this.pitch}px)`;
      this.tiles.set(key, tile);
      this.floor.append(tile);
    }
    this.floor.dataset.empty = this.list.length ? "" : "None.";
  }

  drop(key) {
    const tile = this.tiles.get(key);
    tile.querySelector("img").removeAttribute("src"); // gives up what is not here yet
    tile.remove();
    this.tiles.delete(key);
  }

  tile(item) {
    const { size } = this;
    const side = Math.ceil(item.span * AROUND);
    const [x, y] = [Math.round(item.x - side / 2), Math.round(item.y - side / 2)];
    const picture = element("img", { alt: "", draggable: "false", width: size, height: size });
    const wanted = { x, y, w: side, h: side, size: Math.ceil(size * (window.devicePixelRatio || 1)) };
    const fetched = () => { if (picture.isConnected) picture.src = `${this.data.base}/crop?${new URLSearchParams(wanted)}`; };
    setTimeout(() => this.ready.then(fetched, () => {}), SETTLE_MS);
    const kind = kindOf(item);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("viewBox", `${x} ${y} ${side} ${side}`);
    const points = simplified(item.outline, side / size / 2).join(" ");
    for (const [colour, thickness, dash] of [["rgba(255, 255, 255, 0.8)", 3.4, []], [KINDS[kind].colour, 1.8, KINDS[kind].dash]]) {
      const polygon = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
      const drawn = { points, fill: "none", stroke: colour, "stroke-width": thickness, "stroke-dasharray": dash.join(" ") || "none", "vector-effect": "non-scaling-stroke" };
      for (const [name, value] of Object.entries(drawn)) polygon.setAttribute(name, value);
      line.append(polygon);
    }
    const told = settings.order === "doubtful" || settings.order === "sure"
      ? (item.score === null ? "by hand" : item.score.toFixed(2)) : lengthWords(item.diameter / (this.data.um_per_px ?? 1), this.data.um_per_px);
    const words = `Glomerulus ${label(item)}: ${described(item, this.data.um_per_px)}`;
    const tile = element("div", { class: `tile ${kind}`, role: "option", "data-key": item.key, "aria-selected": String(item.key === this.selected), "aria-label": words, title: words, onclick: () => this.choose(item) },
      element("div", { class: "crop" }, picture, line), element("div", { class: "caption" }, element("b", {}, label(item)), element("span", {}, told)));
    tile.style.width = `${size}px`;
    return tile;
  }

  // ---- selecting --------------------------------------------------------------------------------------------------

  choose(item) {
    this.mark(item.key, true);
    this.scroller.focus({ preventScroll: true });
    window.dispatchEvent(new CustomEvent(WENT, { detail: { slide: this.data.slide, key: item.key } })); // at once, if it is on the page
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.queue.push({ action: "select", keys: [item.key] }), 200);
  }

  mark(key, scroll = false) {
    this.selected = key;
    for (const [other, tile] of this.tiles) tile.setAttribute("aria-selected", String(other === key));
    const at = this.list.findIndex((item) => item.key === key);
    this.said.textContent = at < 0 ? `${whole(this.list.length)} listed` : `${whole(at + 1)} of ${whole(this.list.length)}`;
    if (!scroll || at < 0 || !this.pitch) return;
    const top = Math.floor(at / this.across) * this.pitch;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.pitch > scrollTop + clientHeight) this.scroller.scrollTop = top + this.pitch + GAP - clientHeight;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.across, ArrowDown: this.across, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !this.list.length) return;
    event.preventDefault();
    const at = this.list.findIndex((item) => item.key === this.selected);
    this.choose(this.list[at < 0 ? 0 : Math.max(0, Math.min(this.list.length - 1, at + by))]);
  }

  destroy() {
    this.gone = true;
    cancelAnimationFrame(this.pending);
    clearTimeout(this.telling);
    clearTimeout(this.queue.repeating);
    this.resize.disconnect();
    this.root.remove();
  }
}

export default mountOnce(GlomerulusGallery);
