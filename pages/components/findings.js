// Shared by the viewer and the gallery: findings, glyphs, the queue of actions, the class picker.
// Nothing here decides anything: the server applies each action in one transaction and sends the objects back.

const STATUS = { model: 0, confirmed: 1, reclassified: 2, added: 3, removed: 4 };
const STATUS_WORDS = ["found by the model", "confirmed", "reclassified", "added by hand", "removed"];
// One dash and one glyph a group, so that colour never stands alone.
const DASHES = [[], [9, 3], [9, 3, 2, 3], [2, 2], [5, 3], [3, 5]];
const GLYPHS = [
  "M5 0.6A4.4 4.4 0 1 1 5 9.4A4.4 4.4 0 1 1 5 0.6Z", // Cells: disc
  "M0.5 3H9.5V7H0.5Z", // Casts: bar
  "M5 0L10 5L5 10L0 5Z", // Crystals: diamond
  "M5 0.6L9.8 9.4H0.2Z", // Microorganisms: triangle
  "M1 1H9V9H1Z", // Others: square
  "M2 0.4L5 3.4L8 0.4L9.6 2L6.6 5L9.6 8L8 9.6L5 6.6L2 9.6L0.4 8L3.4 5L0.4 2Z", // Artifact: cross
];
const GLYPH_PATHS = GLYPHS.map((shape) => new Path2D(shape));

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function glyph(group, colour, size = 11) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 10 10");
  svg.setAttribute("width", size);
  svg.setAttribute("height", size);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", GLYPHS[group]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
}

function drawGlyph(context, group, colour, x, y, size) {
  context.save();
  context.translate(x, y);
  context.scale(size / 10, size / 10);
  context.setLineDash([]);
  context.lineWidth = 2;
  context.strokeStyle = "rgba(255,255,255,0.9)";
  context.stroke(GLYPH_PATHS[group]);
  context.fillStyle = colour;
  context.fill(GLYPH_PATHS[group]);
  context.restore();
}

// Columns of one field -> objects. Scores travel in thousandths, boxes in whole pixels.
function unpack(fieldId, columns) {
  return columns.keys.map((key, i) => ({
    key,
    field: fieldId,
    cls: columns.classes[i],
    model: columns.models[i],
    score: columns.scores[i] < 0 ? null : columns.scores[i] / 1000,
    x1: columns.boxes[4 * i],
    y1: columns.boxes[4 * i + 1],
    x2: columns.boxes[4 * i + 2],
    y2: columns.boxes[4 * i + 3],
    status: columns.statuses[i],
  }));
}

// A finding is reported when a person vouched for it, or the model's confidence reaches its class's threshold.
function reaches(object, thresholds) {
  return object.status !== STATUS.model || object.score === null || object.score >= thresholds[object.cls];
}

// What the model says of a class that was never validated counts only when a person confirms it, and is listed only
// on demand, from the threshold the model was released with.
function proposed(object, data) {
  return data.unvalidated && !data.classes[object.cls][2] && object.score >= data.released[object.cls];
}

function scoreWords(object) {
  return object.score === null ? "by hand" : object.score.toFixed(2);
}

// Actions are numbered and sent until the server has answered for them: two quick keystrokes cannot lose one, and
// a repeated message cannot apply one twice.
class ActionQueue {
  constructor() {
    this.nonce = Math.random().toString(36).slice(2, 12);
    this.next = 1;
    this.waiting = [];
    this.send = null;
  }
  attach(root, send, acknowledged) {
    this.root = root;
    this.send = send;
    const done = acknowledged?.[this.nonce] ?? 0;
    this.waiting = this.waiting.filter((action) => action.n > done);
    root.dataset.waiting = this.waiting.length;
  }
  push(action) {
    this.waiting.push({ n: this.next++, ...action });
    this.root.dataset.waiting = this.waiting.length;
    this.send("actions", { nonce: this.nonce, actions: this.waiting });
  }
  get idle() {
    return this.waiting.length === 0;
  }
}

// What the viewer and the gallery are built on: data that come again at each answer, keys of the whole window.
// A kind has `build`, `key`, `resized` and `update`, of which `receive` is the beginning.
class Reviewing {
  constructor(parent) {
    this.parent = parent;
    this.queue = new ActionQueue();
    this.foreseen = new Map();
    this.selected = new Set();
    this.pictures = new Map();
  }

  listen(resizable) {
    this.onKey = (event) => this.key(event);
    window.addEventListener("keydown", this.onKey, true);
    this.resizing = new ResizeObserver(() => this.resized());
    this.resizing.observe(resizable);
  }

  // Tells whether the data are of another analysis than those before.
  receive(component) {
    const first = this.data?.analysis !== component.data.analysis;
    this.component = component;
    this.data = component.data;
    this.queue.attach(this.root, (name, value) => component.setTriggerValue(name, value), this.data.acknowledged);
    if (this.queue.idle) this.foreseen.clear();
    return first;
  }

  // The findings of one field, as they will be once what was done here has been answered.
  received(fieldId, columns) {
    const objects = unpack(Number(fieldId), columns);
    for (const object of objects) Object.assign(object, this.foreseen.get(object.key));
    return objects;
  }

  destroy() {
    window.removeEventListener("keydown", this.onKey, true);
    this.resizing.disconnect();
    this.root.remove();
    mounted.delete(this.parent);
  }
}

const mounted = new WeakMap();

// What Streamlit calls at each answer; there is one of a kind for each place in the page.
function mountOnce(Kind) {
  return (component) => {
    const parent = component.parentElement;
    if (!mounted.has(parent)) mounted.set(parent, new Kind(parent));
    mounted.get(parent).update(component);
    return () => mounted.get(parent)?.destroy();
  };
}

// What an action will look like, shown at once; the server's answer replaces it.
function foresee(objects, action, foreseen) {
  const named = new Set(action.keys ?? []);
  for (const object of objects) {
    if (!named.has(object.key)) continue;
    const change = { cls: object.cls, status: object.status };
    if (action.kind === "confirm") change.status = object.status === STATUS.model ? STATUS.confirmed : object.status;
    if (action.kind === "remove") change.status = STATUS.removed;
    if (action.kind === "restore") change.status = STATUS.model;
    if (action.kind === "reclassify") {
      change.cls = action.class;
      if (object.status !== STATUS.added) change.status = STATUS.reclassified;
    }
    foreseen.set(object.key, change);
    Object.assign(object, change);
  }
}

function typingIn(event) {
  const target = event.composedPath()[0];
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable || target.tagName === "TEXTAREA" || target.tagName === "SELECT") return true;
  return target.tagName === "INPUT" && !["checkbox", "range", "radio"].includes(target.type);
}

// A menu takes the keys too while it is open: Escape closes it.
function dialogOpen() {
  return document.querySelector('[role="dialog"]:not([aria-hidden="true"]), [role="menu"]') !== null;
}

// The list of all classes with type-ahead; the classes used last come first.
const recentClasses = [];
class ClassPicker {
  constructor(host) {
    this.host = host;
    this.input = element("input", {
      type: "text",
      placeholder: "Type a class",
      "aria-label": "Class",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.list = element("ul", { role: "listbox", "aria-label": "Classes" });
    this.title = element("div", { class: "picker-title" });
    this.box = element("div", { class: "picker", hidden: true }, this.title, this.input, this.list);
    host.append(this.box);
    this.input.addEventListener("input", () => this.fill());
    this.input.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.box.addEventListener("wheel", (event) => event.stopPropagation());
  }
  open({ title, classes, groups, current, onChoose, onCancel, x, y }) {
    Object.assign(this, { classes, groups, current, onChoose, onCancel });
    this.title.textContent = title;
    this.input.value = "";
    this.box.hidden = false;
    this.fill();
    const room = this.host.getBoundingClientRect();
    this.box.style.left = `${Math.max(8, Math.min(x ?? (room.width - 280) / 2, room.width - 288))}px`;
    this.box.style.top = `${Math.max(8, Math.min(y ?? 40, room.height - this.box.offsetHeight - 8))}px`;
    this.input.focus({ preventScroll: true });
  }
  get isOpen() {
    return !this.box.hidden;
  }
  close() {
    this.box.hidden = true;
    this.onChoose = this.onCancel = null;
  }
  cancel() {
    const cancelled = this.onCancel;
    this.close();
    cancelled?.();
  }
  fill() {
    const words = this.input.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const ids = this.classes.map((_, id) => id);
    const rank = (id) => {
      const used = recentClasses.indexOf(id);
      return used < 0 ? 1000 + this.classes[id][1] * 100 + id : used;
    };
    const starts = (id) => (words.length && this.classes[id][0].toLowerCase().startsWith(words[0]) ? 0 : 1);
    this.found = ids
      .filter((id) => words.every((word) => this.classes[id][0].toLowerCase().includes(word)))
      .sort((a, b) => starts(a) - starts(b) || rank(a) - rank(b));
    this.active = 0;
    this.list.replaceChildren(
      ...this.found.map((id) => {
        const [name, group, validated] = this.classes[id];
        return element(
          "li",
          { role: "option", "data-class": name, onclick: () => this.choose(id) },
          glyph(group, this.groups[group][1]),
          element("span", { class: "picker-name" }, name),
          id === this.current ? element("em", {}, "now") : null,
          validated ? null : element("em", { title: "The model never saw this class on real pictures" }, "unvalidated"),
        );
      }),
    );
    if (!this.found.length) this.list.append(element("li", { class: "none" }, "No class has that name"));
    this.mark();
  }
  mark() {
    [...this.list.children].forEach((item, i) => {
      item.classList.toggle("active", i === this.active);
      item.setAttribute("aria-selected", i === this.active);
      if (i === this.active) item.scrollIntoView({ block: "nearest" });
    });
  }
  key(event) {
    event.stopPropagation();
    if (event.key === "Escape") this.cancel();
    else if (event.key === "Enter" && this.found.length) this.choose(this.found[this.active]);
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.active = Math.max(0, Math.min(this.found.length - 1, this.active + step));
      this.mark();
    } else return;
    event.preventDefault();
  }
  choose(id) {
    const chosen = this.onChoose;
    recentClasses.splice(0, recentClasses.length, id, ...recentClasses.filter((other) => other !== id).slice(0, 5));
    this.close();
    chosen?.(id);
  }
}
