// Crops of all findings, class by class, beside each other. Appended to findings.js.
// Rows are drawn only while they are in sight: thirty thousand crops scroll as smoothly as thirty.

const CAPTION = 20;
const HEADING = 40;
const GAP = 6;
const MOST_PICTURES = 4; // fetched at the same time
const MOST_CROPS = 500; // drawn crops kept

const chosenBefore = new Map(); // the class looked at, its order and size, per analysis

class Gallery extends Reviewing {
  constructor(parent) {
    super(parent);
    this.fetching = 0;
    this.crops = new Map();
    this.tiles = new Map();
    this.build();
    this.listen(this.scroller);
  }

  resized() { this.layout(); }

  build() {
    const action = (label, key, title, onclick) =>
      element("button", { type: "button", title, onclick, "data-action": label.toLowerCase() }, label, key ? element("kbd", {}, key) : null);
    this.classBar = element("div", { class: "bar chips", role: "group", "aria-label": "Classes" });
    this.order = element("button", { type: "button", title: "Turn the order round", onclick: () => { this.settings.rising = !this.settings.rising; this.rebuild(); } });
    this.below = element("input", { type: "checkbox", "data-switch": "below" });
    this.removed = element("input", { type: "checkbox", "data-switch": "removed" });
    for (const [box, name] of [[this.below, "below"], [this.removed, "removed"]]) {
      box.addEventListener("change", () => { this.settings[name] = box.checked; this.rebuild(); });
    }
    this.sizer = element("input", { type: "range", min: 56, max: 200, step: 8, "aria-label": "Size of the crops" });
    this.sizer.addEventListener("input", () => { this.settings.size = Number(this.sizer.value); this.crops.clear(); this.layout(); });
    this.scroller = element("div", { class: "scroller", tabindex: "0", role: "listbox", "aria-multiselectable": "true", "aria-label": "Findings" });
    this.floor = element("div", { class: "floor" });
    this.scroller.append(this.floor);
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.confirmButton = action("Confirm", "c", "The class is right", () => this.act("confirm"));
    this.removeButton = action("Remove", "Del", "Not findings", () => this.remove());
    this.reclassifyButton = action("Reclassify", "r", "Choose another class", () => this.reclassify());
    this.jumpButton = action("Show in field", "Enter", "Look at it in its field", () => this.jump());
    this.undoButton = action("Undo", "u", "Take back my last correction", () => this.queue.push({ kind: "undo" }));
    this.actions = element("span", { class: "part" }, this.confirmButton, this.removeButton, this.reclassifyButton, this.undoButton);
    this.said = element("span", { class: "said", role: "status", "aria-live": "polite" });
    this.all = action("Select all", null, "All crops listed", () => this.selectAll());
    this.none = action("Select none", null, "Drop the selection (Esc)", () => { this.selected.clear(); this.mark(); });
    this.stage = element("div", { class: "stage" }, this.scroller);
    this.picker = new ClassPicker(this.stage);
    this.root = element("div", { class: "rc gallery" },
      this.classBar,
      element("div", { class: "bar" }, this.order,
        element("label", { title: "Also what the model was less sure of than the confidence threshold" }, this.below, "Below threshold too"),
        element("label", {}, this.removed, "Removed too"), element("span", { class: "space" }),
        element("label", {}, "Size", this.sizer)),
      this.stage,
      element("div", { class: "bar below" }, this.said, this.all, this.none, element("span", { class: "space" }), this.jumpButton, this.actions));
    this.parent.append(this.root);
  }

  update(component) {
    const data = component.data;
    const first = this.receive(component);
    this.fields = new Map(data.fields.map((field, i) => [field[0], { number: i + 1, name: field[1], width: field[2], height: field[3] }]));
    this.objects = Object.entries(data.objects).flatMap(([fieldId, columns]) => this.received(fieldId, columns));
    this.byKey = new Map(this.objects.map((object) => [object.key, object]));
    if (first) {
      this.settings = chosenBefore.get(data.analysis) ?? { cls: null, rising: false, below: false, removed: false, size: 96 };
      chosenBefore.set(data.analysis, this.settings);
      this.below.checked = this.settings.below;
      this.removed.checked = this.settings.removed;
      this.sizer.value = this.settings.size;
      this.selected.clear();
    }
    this.actions.hidden = data.readonly;
    this.rebuild();
  }

  // ---- what is listed -------------------------------------------------------------------------------------------
  listed(object) {
    if (object.status === STATUS.removed) return this.settings.removed;
    if (reaches(object, this.data.thresholds) || proposed(object, this.data)) return true;
    return this.settings.below && (this.data.classes[object.cls][2] || this.data.unvalidated);
  }

  rebuild() {
    const byClass = new Map();
    for (const object of this.objects) {
      if (!this.listed(object)) continue;
      if (!byClass.has(object.cls)) byClass.set(object.cls, []);
      byClass.get(object.cls).push(object);
    }
    const order = [...byClass.keys()].sort((a, b) => this.data.classes[a][1] - this.data.classes[b][1] || byClass.get(b).length - byClass.get(a).length);
    if (this.settings.cls !== null && !byClass.has(this.settings.cls)) this.settings.cls = null;
    const chip = (cls, words, count, mark) => element("button", {
      type: "button", "data-class": words, "aria-pressed": this.settings.cls === cls,
      onclick: () => { this.settings.cls = cls; this.selected.clear(); this.scroller.scrollTop = 0; this.rebuild(); },
    }, mark, words, element("span", { class: "number quiet" }, count));
    this.classBar.replaceChildren(
      chip(null, "All classes", [...byClass.values()].reduce((sum, members) => sum + members.length, 0), null),
      ...order.map((cls) => {
        const [name, group] = this.data.classes[cls];
        return chip(cls, name, byClass.get(cls).length, glyph(group, this.data.groups[group][1]));
      }));
    const sign = this.settings.rising ? 1 : -1;
    const confidence = (object) => object.score ?? 2; // found by hand: surer than any model
    this.sections = order.filter((cls) => this.settings.cls === null || cls === this.settings.cls).map((cls) => ({
      cls,
      members: byClass.get(cls).sort((a, b) => sign * (confidence(a) - confidence(b)) || a.field - b.field || a.y1 - b.y1),
    }));
    this.list = this.sections.flatMap((section) => section.members);
    const known = new Set(this.list.map((object) => object.key));
    for (const key of this.selected) if (!known.has(key)) this.selected.delete(key);
    this.order.textContent = this.settings.rising ? "Sorted: least confident first" : "Sorted: most confident first";
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.layout();
    this.mark();
  }

  // ---- virtual rows ---------------------------------------------------------------------------------------------
  layout() {
    if (!this.sections) return;
    const width = this.scroller.clientWidth - 12;
    if (width <= 0) return;
    const { size } = this.settings;
    const across = Math.max(1, Math.floor((width + GAP) / (size + GAP)));
    this.rows = [];
    let top = 0;
    for (const section of this.sections) {
      this.rows.push({ top, height: HEADING, section });
      top += HEADING;
      for (let i = 0; i < section.members.length; i += across) {
        this.rows.push({ top, height: size + CAPTION + GAP, members: section.members.slice(i, i + across) });
        top += size + CAPTION + GAP;
      }
    }
    this.floor.style.height = `${top + 8}px`;
    for (const tile of this.tiles.values()) tile.remove();
    this.tiles.clear();
    this.draw();
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    if (!this.rows) return;
    const from = this.scroller.scrollTop - 300;
    const to = this.scroller.scrollTop + this.scroller.clientHeight + 300;
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].top + this.rows[middle].height < from) low = middle + 1;
      else high = middle;
    }
    const wanted = new Set();
    for (let i = low; i < this.rows.length && this.rows[i].top < to; i += 1) {
      const row = this.rows[i];
      if (row.section) this.place(`class ${row.section.cls}`, wanted, row.top, 0, () => this.heading(row.section));
      else row.members.forEach((object, column) => this.place(object.key, wanted, row.top, column * (this.settings.size + GAP), () => this.tile(object)));
    }
    for (const [key, tile] of this.tiles) if (!wanted.has(key)) { tile.remove(); this.tiles.delete(key); }
    if (!this.list.length) this.floor.dataset.empty = "Nothing to list. Lower the confidence threshold under Fields, or list what is below it.";
    else delete this.floor.dataset.empty;
  }

  place(key, wanted, top, left, make) {
    wanted.add(key);
    if (this.tiles.has(key)) return;
    const tile = make();
    tile.style.transform = `translate(${left}px, ${top}px)`;
    this.tiles.set(key, tile);
    this.floor.append(tile);
  }

  heading(section) {
    const [name, group, validated] = this.data.classes[section.cls];
    return element("div", { class: "heading" }, glyph(group, this.data.groups[group][1], 13), element("strong", {}, name),
      element("span", { class: "number quiet" }, section.members.length),
      validated ? null : element("em", {}, "never validated on real pictures: counts once confirmed"),
      element("button", { type: "button", "data-all": name, onclick: () => { for (const object of section.members) this.selected.add(object.key); this.mark(); } }, "Select these"));
  }

  tile(object) {
    const { size } = this.settings;
    const ratio = window.devicePixelRatio || 1;
    const canvas = element("canvas", { width: Math.round(size * ratio), height: Math.round(size * ratio), "aria-hidden": "true" });
    canvas.style.width = canvas.style.height = `${size}px`;
    const name = this.data.classes[object.cls][0];
    const mark = { 1: "✓", 2: "✓", 3: "+", 4: "×" }[object.status] ?? "";
    const place = this.fields.get(object.field);
    const tile = element("div", {
      class: "tile", role: "option", "data-key": object.key, "data-class": name,
      title: `${name} ${scoreWords(object)}: ${STATUS_WORDS[object.status]}\nField ${place.number}, ${place.name}`,
      "aria-label": `${name}, confidence ${scoreWords(object)}, ${STATUS_WORDS[object.status]}, field ${place.number}`,
    }, canvas, element("span", { class: "caption" }, element("span", {}, scoreWords(object)), element("b", {}, mark), element("span", { class: "quiet" }, `f${place.number}`)));
    tile.style.width = `${size}px`;
    tile.classList.toggle("weak", !reaches(object, this.data.thresholds));
    tile.classList.toggle("gone", object.status === STATUS.removed);
    tile.addEventListener("click", (event) => this.click(object, event));
    tile.addEventListener("dblclick", () => this.jump(object));
    tile.setAttribute("aria-selected", this.selected.has(object.key));
    this.crop(object, canvas);
    return tile;
  }

  crop(object, canvas) {
    const kept = this.crops.get(object.key);
    if (kept) { canvas.getContext("2d").drawImage(kept, 0, 0, canvas.width, canvas.height); return; }
    this.picture(object.field, (picture) => {
      const field = this.fields.get(object.field);
      // The object in its surroundings: half of its size around it, never blown up from fewer than 40 px.
      const span = Math.max((object.x2 - object.x1) * 1.5, (object.y2 - object.y1) * 1.5, 40);
      const left = (object.x1 + object.x2 - span) / 2;
      const top = (object.y1 + object.y2 - span) / 2;
      const context = canvas.getContext("2d");
      const scale = canvas.width / span;
      const sx = picture.naturalWidth / field.width;
      const x1 = Math.max(0, left), y1 = Math.max(0, top);
      const x2 = Math.min(field.width, left + span), y2 = Math.min(field.height, top + span);
      context.imageSmoothingQuality = "high";
      context.fillStyle = "#e9ebee";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, x1 * sx, y1 * sx, (x2 - x1) * sx, (y2 - y1) * sx, (x1 - left) * scale, (y1 - top) * scale, (x2 - x1) * scale, (y2 - y1) * scale);
      canvas.dataset.drawn = "";
      this.crops.set(object.key, canvas);
      if (this.crops.size > MOST_CROPS) this.crops.delete(this.crops.keys().next().value);
    }, () => canvas.isConnected || !this.scroller.isConnected);
  }

  // Field pictures are fetched only when a crop of theirs is in sight, a few at a time.
  picture(fieldId, use, stillWanted) {
    let entry = this.pictures.get(fieldId);
    if (entry?.ready) { use(entry.image); return; }
    if (!entry) {
      entry = { image: new Image(), uses: [], started: false, ready: false };
      this.pictures.set(fieldId, entry);
    }
    entry.uses.push([use, stillWanted]);
    this.fetchNext();
  }

  fetchNext() {
    for (const [fieldId, entry] of this.pictures) {
      if (this.fetching >= MOST_PICTURES) return;
      if (entry.started) continue;
      entry.started = true;
      this.fetching += 1;
      const settle = (loaded) => {
        this.fetching -= 1;
        if (loaded) {
          entry.ready = true;
          for (const [use] of entry.uses) use(entry.image);
          entry.uses = [];
        } else {
          this.pictures.delete(fieldId);
          this.note = `The picture of field ${this.fields.get(fieldId).number} could not be loaded. Check the connection and scroll on.`;
          this.mark();
        }
        this.fetchNext();
      };
      entry.image.addEventListener("load", () => settle(true), { once: true });
      entry.image.addEventListener("error", () => settle(false), { once: true });
      entry.image.src = `${this.data.base}/fields/${fieldId}/image`;
    }
  }

  // ---- selecting ------------------------------------------------------------------------------------------------
  click(object, event) {
    const at = this.list.indexOf(object);
    if (event.shiftKey && this.anchor !== undefined) {
      const from = this.list.findIndex((candidate) => candidate.key === this.anchor);
      if (from >= 0) for (let i = Math.min(from, at); i <= Math.max(from, at); i += 1) this.selected.add(this.list[i].key);
    } else {
      if (!this.selected.delete(object.key)) this.selected.add(object.key);
      this.anchor = object.key;
    }
    this.scroller.focus({ preventScroll: true });
    this.mark();
  }

  selectAll() {
    for (const object of this.list) this.selected.add(object.key);
    this.mark();
  }

  mark() {
    for (const [key, tile] of this.tiles) {
      if (tile.classList.contains("tile")) tile.setAttribute("aria-selected", this.selected.has(key));
    }
    const count = this.selected.size;
    this.said.textContent = this.note ?? (count ? `${count} of ${this.list.length} selected` : `${this.list.length} findings`);
    this.note = undefined;
    this.root.dataset.selected = count;
    for (const button of [this.confirmButton, this.removeButton, this.reclassifyButton, this.none]) button.disabled = count === 0;
    this.jumpButton.disabled = count !== 1;
    this.all.disabled = this.list.length === 0 || count === this.list.length;
  }

  // ---- corrections ----------------------------------------------------------------------------------------------
  act(kind, more = {}) {
    const keys = [...this.selected];
    if (!keys.length || this.data.readonly) return;
    const action = { kind, keys, ...more };
    foresee(this.objects, action, this.foreseen);
    this.selected.clear();
    this.queue.push(action);
    this.rebuild();
  }

  remove() {
    const removed = [...this.selected].every((key) => this.byKey.get(key).status === STATUS.removed);
    this.act(removed ? "restore" : "remove");
  }

  reclassify() {
    if (!this.selected.size || this.data.readonly) return;
    const [key] = this.selected;
    this.picker.open({
      title: this.selected.size === 1 ? "This is a" : `These ${this.selected.size} are`,
      classes: this.data.classes, groups: this.data.groups, current: this.byKey.get(key).cls,
      onChoose: (cls) => { this.act("reclassify", { class: cls }); this.scroller.focus({ preventScroll: true }); },
      onCancel: () => this.scroller.focus({ preventScroll: true }),
    });
  }

  jump(object) {
    const target = object ?? this.byKey.get([...this.selected][0]);
    if (target) this.component.setTriggerValue("jump", { field: target.field, key: target.key });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || typingIn(event) || dialogOpen()) return;
    const commands = {
      c: () => this.act("confirm"), Delete: () => this.remove(), Backspace: () => this.remove(), r: () => this.reclassify(),
      u: () => this.data.readonly || this.queue.push({ kind: "undo" }), Escape: () => { this.selected.clear(); this.mark(); },
    };
    const inside = event.composedPath().includes(this.root);
    if (inside && event.key === "Enter" && event.composedPath()[0].tagName !== "BUTTON") commands.Enter = () => this.selected.size === 1 && this.jump();
    const command = commands[event.key];
    if (!command) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    command();
  }
}

export default mountOnce(Gallery);
