// One field with its findings: zoom, pan, select, correct. Appended to findings.js.

const KEYS = [
  ["→  n", "next field"], ["←  p", "previous field"], ["j  k", "next, previous finding"],
  ["c", "confirm"], ["Delete", "remove (again: put back)"], ["r", "reclassify"], ["a", "add a finding by drawing"],
  ["u", "undo my last correction"], ["o", "original without boxes"], ["l", "labels"],
  ["s", "boxes of the second opinion, where there is one"], ["h", "heat map"],
  ["+  −", "zoom"], ["0", "fit"], ["1", "one picture pixel per screen pixel"], ["Esc", "drop selection, leave adding"],
  ["?", "this list"],
];
const MOST_LABELS = 160; // more labels than this at once hide the picture

// Switches and the place in the picture outlive a change of tab, not a reload.
const remembered = new Map();
const preferences = { boxes: true, labels: true, removed: false, second: false, heat: false, opacity: 0.95, heatOpacity: 0.8 };

// The heat map over the picture: of the one box that is selected, or of a class. A worker draws it on demand.
class HeatLayer {
  constructor(viewer) {
    this.viewer = viewer;
    this.drawn = new Map(); // address -> object URL of its picture, or null where there is no heat at all
    this.address = null;
    this.picture = element("img", { class: "heat", alt: "", draggable: "false", hidden: true });
    this.of = element("select", { "aria-label": "Heat map of" });
    this.of.addEventListener("change", () => this.refresh());
    this.opacity = element("input", { type: "range", min: 0, max: 1, step: 0.05, title: "Opacity of the heat map", "aria-label": "Opacity of the heat map" });
    this.opacity.value = preferences.heatOpacity;
    this.opacity.addEventListener("input", () => { preferences.heatOpacity = Number(this.opacity.value); viewer.draw(); });
    this.said = element("div", { class: "words", role: "status", "aria-live": "polite" });
    this.again = element("button", { type: "button", hidden: true, onclick: () => this.fetch(this.address, "POST") }, "Try again");
    this.box = element("div", { class: "float heatbox", hidden: true },
      element("div", { class: "row" }, this.of, this.opacity), this.said, this.again,
      element("div", { class: "quiet" }, "Bright is where the picture raised the model’s score: what the network looked at, " +
        "no evidence that it is right. Made by Grad-CAM, cell by cell."));
  }

  get on() { return preferences.heat && this.viewer.data.heat; }

  // What the map is of, or why there is none.
  wanted() {
    const { data, field, shown, seconds, selected } = this.viewer;
    const base = `${data.base}/fields/${field[0]}/heat`;
    if (this.of.value) return { address: `${base}?${new URLSearchParams({ analysis: data.analysis, class: this.of.value })}` };
    if (seconds.some((box) => selected.has(box.key))) return { words: "A second opinion has no heat map." };
    const chosen = shown.filter((object) => selected.has(object.key));
    if (chosen.length !== 1) return { words: "Select one box, or choose a class." };
    const [object] = chosen;
    if (object.status === STATUS.added) return { words: "Added by hand: the model did not find it, so it has no heat map." };
    if (object.status === STATUS.reclassified) {
      return { words: `Reclassified by hand: the model did not say ${data.classes[object.cls][0]}, so it has no heat map.` };
    }
    return { address: `${base}?finding=${object.key.slice(1)}` };
  }

  // Offers the classes that the model found in this field.
  offer() {
    const { data, objects, field } = this.viewer;
    const found = (objects.get(field[0]) ?? []).filter((object) => object.model >= 0 && this.viewer.admitted(object));
    const names = [...new Set(found.map((object) => data.classes[object.model][0]))].sort();
    if (names.join() === this.names && this.of.options.length) return;
    const before = this.of.value;
    this.names = names.join();
    this.of.replaceChildren(element("option", { value: "" }, "The selected box"), ...names.map((name) => element("option", { value: name }, `All ${name}`)));
    this.of.value = names.includes(before) ? before : "";
  }

  refresh() {
    this.box.hidden = !this.on;
    if (!this.on) return this.show(null);
    this.offer();
    const { address, words } = this.wanted();
    if (!address) return this.show(null, words);
    if (address === this.address) return undefined; // on its way, or there
    this.show(address, "Drawing the heat map…");
    return this.drawn.has(address) ? this.arrived(address) : this.fetch(address);
  }

  show(address, words = "", mayRetry = false) {
    this.address = address;
    this.picture.hidden = true;
    this.said.textContent = words;
    this.again.hidden = !mayRetry;
    this.box.dataset.state = address ? "waiting" : "none";
  }

  arrived(address) {
    const source = this.drawn.get(address);
    this.said.textContent = source ? "" : "There is no heat: nothing around the box raised the score.";
    this.picture.hidden = !source;
    this.box.dataset.state = source ? "shown" : "empty";
    if (source) this.picture.src = source;
    this.viewer.draw();
  }

  async fetch(address, method = "GET") {
    this.again.hidden = true;
    let words, answer;
    try {
      answer = await fetch(address, { method });
      if (answer.status === 200) this.keep(address, URL.createObjectURL(await answer.blob()));
      else if (answer.status === 204) this.keep(address, null);
      else words = await answer.text();
    } catch {
      words = "The server cannot be reached.";
    }
    if (address !== this.address) return; // something else is wanted by now
    if (this.drawn.has(address)) this.arrived(address);
    else if (answer?.status === 202) {
      this.said.textContent = words;
      setTimeout(() => { if (address === this.address) this.fetch(address); }, 1000);
    } else {
      this.show(address, words, true);
      this.box.dataset.state = "failed";
    }
  }

  keep(address, source) {
    this.drawn.set(address, source);
    for (const [oldest, url] of this.drawn) {
      if (this.drawn.size <= 24) break;
      if (url) URL.revokeObjectURL(url);
      this.drawn.delete(oldest);
    }
  }

  forget() {
    this.show(null);
    for (const url of this.drawn.values()) if (url) URL.revokeObjectURL(url);
    this.drawn.clear();
  }
}

class Viewer extends Reviewing {
  constructor(parent) {
    super(parent);
    this.pointers = new Map();
    this.view = { scale: 1, x: 0, y: 0, fit: true };
    this.mode = "select";
    this.shown = [];
    this.seconds = []; // boxes of the second opinion: looked at, never corrected
    this.build();
    this.listen(this.stage);
  }

  // ---- building -------------------------------------------------------------------------------------------------
  build() {
    const button = (label, title, onclick, extra = {}) => element("button", { type: "button", title, onclick, ...extra }, label);
    this.previousButton = button("‹", "Previous field (p)", () => this.step(-1), { "aria-label": "Previous field" });
    this.nextButton = button("›", "Next field (n)", () => this.step(1), { "aria-label": "Next field" });
    this.position = element("strong", { class: "position" });
    this.fileName = element("span", { class: "file quiet" });
    this.flags = element("span", { class: "flags" });
    this.boxesSwitch = this.switch("Boxes", "boxes", "Boxes on or off: the original picture (o)");
    this.labelsSwitch = this.switch("Labels", "labels", "Class and confidence on each box (l)");
    this.removedSwitch = this.switch("Removed", "removed", "Show removed findings, crossed out");
    this.secondSwitch = this.switch("Second opinion, not counted", "second", "");
    this.secondSwitch.classList.add("part", "second");
    this.secondWords = element("span", { class: "number quiet" });
    this.secondSwitch.firstChild.after(element("i", { "aria-hidden": "true" }, "2"));
    this.secondSwitch.append(this.secondWords);
    this.opacity = element("input", { type: "range", min: 0.2, max: 1, step: 0.05, "aria-label": "Opacity of the boxes" });
    this.opacity.addEventListener("input", () => { preferences.opacity = Number(this.opacity.value); this.draw(); });
    this.zoomWords = element("span", { class: "zoom quiet" });
    this.confidence = element("input", { type: "range", min: 0.05, max: 0.95, step: 0.01, "aria-label": "Confidence threshold" });
    this.confidenceWords = element("output", { class: "number" });
    this.confidence.addEventListener("input", () => { this.setThreshold(Number(this.confidence.value)); this.refresh(); });
    this.confidence.addEventListener("change", () => this.commitThreshold());
    this.ownThresholds = button("Reset", "The thresholds the model was released with, one a class", () => this.act({ kind: "threshold", value: null }));
    this.groupSwitches = element("span", { class: "part groups", role: "group", "aria-label": "Groups shown" });
    this.classList = element("div", { class: "float classes", hidden: true });
    this.classButton = button("Classes", "Switch single classes", () => this.unfold(this.classList, this.classButton), { "aria-expanded": "false" });
    this.help = button("?", "Keys (?)", () => this.toggleHelp(), { "aria-label": "Keys" });

    this.picture = element("img", { alt: "", draggable: "false" });
    this.heat = new HeatLayer(this);
    this.heatSwitch = this.switch("Heat map", "heat", "What the model looked at (h)");
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.notice = element("div", { class: "notice", hidden: true });
    this.hint = element("div", { class: "hint", hidden: true }, "Drag a box around the missed object. Esc to stop.");
    this.keysBox = element("div", { class: "float keys", hidden: true }, element("strong", {}, "Keys"),
      element("dl", {}, ...KEYS.flatMap(([key, words]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, words)])));
    this.stage = element("div", { class: "stage", tabindex: "0", role: "application", "aria-label": "Field with findings" },
      this.picture, this.heat.picture, this.canvas, this.hint, this.notice, this.classList, this.keysBox);
    this.picker = new ClassPicker(this.stage);

    const action = (label, key, title, onclick) =>
      element("button", { type: "button", title, onclick, "data-action": label.toLowerCase() }, label, element("kbd", {}, key));
    this.confirmButton = action("Confirm", "c", "The class is right", () => this.confirm());
    this.removeButton = action("Remove", "Del", "Not a finding", () => this.remove());
    this.reclassifyButton = action("Reclassify", "r", "Choose another class", () => this.reclassify());
    this.addButton = action("Add", "a", "Draw a box around a missed object", () => this.setMode(this.mode === "add" ? "select" : "add"));
    this.undoButton = action("Undo", "u", "Take back my last correction", () => this.act({ kind: "undo" }));
    this.actions = element("span", { class: "part actions" },
      this.confirmButton, this.removeButton, this.reclassifyButton, this.addButton, this.undoButton);
    this.said = element("span", { class: "said", role: "status", "aria-live": "polite" });
    this.strip = element("div", { class: "strip", role: "listbox", "aria-label": "Fields" });

    this.more = element("div", { class: "float more", hidden: true }, this.removedSwitch,
      element("label", { title: "Opacity of the boxes" }, "Opacity of boxes", this.opacity));
    this.moreButton = button("More", "Removed findings, opacity", () => this.unfold(this.more, this.moreButton), { "aria-expanded": "false" });
    this.zoomBox = element("div", { class: "float zoombox" },
      button("−", "Zoom out (−)", () => this.zoomAtCentre(1 / 1.4), { "aria-label": "Zoom out" }), this.zoomWords,
      button("+", "Zoom in (+)", () => this.zoomAtCentre(1.4), { "aria-label": "Zoom in" }),
      button("Fit", "Whole field (0)", () => this.fit()), button("1:1", "Picture pixels (1)", () => this.actualSize()), this.help);
    this.stage.append(this.more, this.zoomBox, this.heat.box);
    this.root = element("div", { class: "rc viewer" },
      element("div", { class: "bar" },
        element("span", { class: "part" }, this.previousButton, this.position, this.nextButton),
        this.fileName, element("span", { class: "space" }),
        element("span", { class: "part switches" }, this.boxesSwitch, this.labelsSwitch, this.heatSwitch, this.moreButton),
        element("label", { class: "part", title: "Findings below this confidence are neither shown nor counted" },
          "Confidence from", this.confidence, this.confidenceWords), this.ownThresholds),
      element("div", { class: "bar" }, this.groupSwitches, this.classButton, this.secondSwitch, this.flags),
      this.stage,
      element("div", { class: "bar below" }, this.said, element("span", { class: "space" }), this.actions),
      this.strip);
    this.parent.append(this.root);

    this.stage.addEventListener("pointerdown", (event) => this.pointerDown(event));
    this.stage.addEventListener("pointermove", (event) => this.pointerMove(event));
    this.stage.addEventListener("pointerup", (event) => this.pointerUp(event));
    this.stage.addEventListener("pointercancel", (event) => this.pointerUp(event, true));
    this.stage.addEventListener("pointerleave", () => this.hover(null));
    this.stage.addEventListener("dblclick", (event) => event.preventDefault());
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  switch(words, name, title) {
    const box = element("input", { type: "checkbox", "data-switch": name });
    box.checked = preferences[name];
    box.addEventListener("change", () => { preferences[name] = box.checked; this.refresh(); });
    return element("label", { title }, box, words);
  }

  // ---- data from the server -------------------------------------------------------------------------------------
  update(component) {
    const data = component.data;
    const first = this.receive(component);
    this.objects = new Map();
    for (const [fieldId, columns] of Object.entries(data.objects)) {
      this.objects.set(Number(fieldId), this.received(fieldId, columns));
    }
    this.opinions = new Map(Object.entries(data.second?.fields ?? {}).map(([fieldId, columns]) =>
      [Number(fieldId), unpack(Number(fieldId), columns).map((box, i) => ({ ...box, second: true, confirms: columns.confirms[i] }))]));
    this.heatSwitch.hidden = !data.heat;
    this.secondSwitch.hidden = !data.second;
    this.secondSwitch.title = data.second ? `Dashed: what ${data.second.title} found; never counted (s)` : "";
    if (first) {
      this.hidden = remembered.get(data.analysis) ?? { groups: new Set(), classes: new Set() };
      remembered.set(data.analysis, this.hidden);
      this.opacity.value = preferences.opacity;
      this.selected.clear();
      this.buildGroups();
      this.goal = undefined;
    }
    const shown = first ? undefined : data.fields.find(([id]) => id === this.field[0]);
    if (shown) this.field = shown; // else it was withdrawn, and `show` below goes to another
    this.setThreshold(data.threshold);
    this.confidence.value = data.threshold ?? Math.min(...data.thresholds.filter((_, cls) => data.classes[cls][2]));
    this.confidence.disabled = data.readonly;
    const asReleased = data.thresholds.every((score, cls) => !data.classes[cls][2] || score === data.released[cls]);
    this.ownThresholds.style.visibility = data.readonly || asReleased ? "hidden" : "visible";
    this.actions.hidden = data.readonly;
    const relisted = this.buildStrip();
    if (!shown || data.goal.number !== this.goal) {
      this.goal = data.goal.number;
      this.show(data.goal.field, data.goal.key);
    } else if (relisted) {
      this.show(this.field[0]);
    } else {
      const known = new Set((this.objects.get(this.field[0]) ?? []).map((object) => object.key));
      if (this.objects.has(this.field[0])) for (const key of this.selected) if (!known.has(key)) this.selected.delete(key);
      this.refresh();
    }
  }

  // One number for all classes, or null for the numbers that stand on the server.
  setThreshold(value) {
    this.threshold = value;
    this.thresholds = value === null ? this.data.thresholds : this.data.thresholds.map((own, cls) => (this.data.classes[cls][2] ? value : own));
  }

  buildGroups() {
    this.groupSwitches.replaceChildren(...this.data.groups.map(([name, colour], group) =>
      element("button", {
        type: "button", "data-group": name, title: `Show or hide ${name.toLowerCase()}`,
        onclick: () => { this.flip(this.hidden.groups, group); this.refresh(); },
      }, glyph(group, colour), name, element("span", { class: "number quiet" }))));
  }

  // Tells whether other fields are listed than before.
  buildStrip() {
    const ids = this.data.fields.map((field) => field[0]).join();
    const relisted = ids !== this.stripIds;
    if (relisted) {
      this.stripIds = ids;
      this.strip.replaceChildren(...this.data.fields.map(([id, name], i) =>
        element("button", { type: "button", class: "thumb", role: "option", "data-field": id, title: name, onclick: () => this.show(id, null, true) },
          element("img", { src: `${this.data.base}/fields/${id}/thumb`, alt: `Field ${i + 1}`, loading: "lazy", draggable: "false" }),
          element("span", {}, `${i + 1}`, element("b", { class: "number" })))));
    }
    this.data.fields.forEach((field, i) => {
      const thumb = this.strip.children[i];
      thumb.querySelector("b").textContent = field[4];
      thumb.classList.toggle("flagged", field[5].length > 0);
      thumb.title = [field[1], `${field[4]} findings`, ...field[5]].join("\n");
    });
    return relisted;
  }

  get index() { return this.data.fields.indexOf(this.field); }

  step(by) {
    const next = this.data.fields[this.index + by];
    if (next) this.show(next[0], null, true);
  }

  show(fieldId, key = null, tell = false) {
    const field = this.data.fields.find(([id]) => id === fieldId) ?? this.data.fields[0];
    const sameSize = this.field && this.field[2] === field[2] && this.field[3] === field[3];
    const changed = !this.field || this.field[0] !== field[0];
    this.field = field;
    this.selected = new Set(key ? [key] : []);
    this.hovered = null;
    this.picker.close();
    if (changed) {
      this.cursor = null;
      this.draft = null;
      this.loadPicture();
      if (this.view.fit || !sameSize) this.fit();
    }
    this.position.textContent = `${this.index + 1} of ${this.data.fields.length}`;
    this.fileName.textContent = field[1];
    this.fileName.title = `${field[1]}, ${field[2]} × ${field[3]} px`;
    this.flags.replaceChildren(...field[5].map((words) => element("span", { class: "flag", title: words }, words)));
    this.previousButton.disabled = this.index === 0;
    this.nextButton.disabled = this.index === this.data.fields.length - 1;
    [...this.strip.children].forEach((thumb, i) => thumb.setAttribute("aria-selected", i === this.index));
    const thumb = this.strip.children[this.index];
    if (thumb) this.strip.scrollLeft = thumb.offsetLeft - this.strip.offsetLeft - (this.strip.clientWidth - thumb.offsetWidth) / 2;
    if (key) {
      if ((this.opinions.get(field[0]) ?? []).some((box) => box.key === key)) this.setSecond(true);
      this.centreOn(key);
    }
    this.refresh();
    if (tell && changed) this.component.setStateValue("field", field[0]);
  }

  // The picture and its neighbours are fetched ahead, so that stepping does not wait.
  loadPicture() {
    const wanted = [0, 1, -1].map((by) => this.data.fields[this.index + by]?.[0]).filter((id) => id !== undefined);
    for (const id of [...this.pictures.keys()]) if (!wanted.includes(id)) this.pictures.delete(id);
    for (const id of wanted) {
      if (this.pictures.has(id)) continue;
      const picture = new Image();
      picture.src = `${this.data.base}/fields/${id}/image`;
      this.pictures.set(id, picture);
    }
    const id = this.field[0];
    const source = this.pictures.get(id);
    const arrived = () => {
      if (this.field[0] !== id) return;
      this.picture.src = source.src;
      this.picture.hidden = false;
      this.notice.hidden = true;
      this.root.dataset.picture = id;
    };
    delete this.root.dataset.picture;
    if (source.complete && source.naturalWidth) return arrived();
    this.picture.hidden = true;
    this.say("Loading the picture…");
    source.addEventListener("load", arrived, { once: true });
    source.addEventListener("error", () => {
      this.pictures.delete(id);
      if (this.field[0] === id) this.say("The picture could not be loaded. Check the connection, then step to this field again.");
    }, { once: true });
    return undefined;
  }

  say(words) {
    this.notice.textContent = words;
    this.notice.hidden = false;
  }

  // ---- what is visible ------------------------------------------------------------------------------------------
  admitted(object) {
    const group = this.data.classes[object.cls][1];
    const visible = object.status === STATUS.removed ? preferences.removed : reaches(object, this.thresholds) || proposed(object, this.data);
    return visible && { group };
  }

  refresh() {
    const counts = new Array(this.data.groups.length).fill(0);
    const byClass = new Map();
    this.shown = [];
    for (const object of this.objects.get(this.field[0]) ?? []) {
      const admitted = this.admitted(object);
      if (!admitted) continue;
      if (object.status !== STATUS.removed) {
        counts[admitted.group] += 1;
        byClass.set(object.cls, (byClass.get(object.cls) ?? 0) + 1);
      }
      if (this.hidden.groups.has(admitted.group) || this.hidden.classes.has(object.cls)) continue;
      this.shown.push(object);
    }
    const opinions = this.opinions.get(this.field[0]) ?? [];
    this.seconds = !preferences.second ? [] : opinions.filter((box) =>
      !this.hidden.groups.has(this.data.classes[box.cls][1]) && !this.hidden.classes.has(box.cls));
    this.secondWords.textContent = opinions.length;
    for (const key of this.selected) {
      if (![...this.shown, ...this.seconds].some((object) => object.key === key)) this.selected.delete(key);
    }
    [...this.groupSwitches.children].forEach((button, group) => {
      button.lastChild.textContent = counts[group];
      button.classList.toggle("off", this.hidden.groups.has(group));
      button.setAttribute("aria-pressed", !this.hidden.groups.has(group));
    });
    this.classList.replaceChildren(...[...byClass].sort((a, b) => this.data.classes[a[0]][1] - this.data.classes[b[0]][1] || b[1] - a[1])
      .map(([cls, count]) => {
        const [name, group, validated] = this.data.classes[cls];
        const box = element("input", { type: "checkbox", "data-class": name });
        box.checked = !this.hidden.classes.has(cls);
        box.addEventListener("change", () => { this.flip(this.hidden.classes, cls); this.refresh(); });
        return element("label", {}, box, glyph(group, this.data.groups[group][1]), element("span", { class: "name" }, name),
          validated ? null : element("em", {}, "unvalidated"), element("span", { class: "number" }, count));
      }));
    if (!byClass.size) this.classList.append(element("span", { class: "quiet" }, "Nothing found in this field"));
    this.classButton.textContent = this.hidden.classes.size ? `Classes (${this.hidden.classes.size} hidden)` : "Classes";
    this.confidenceWords.textContent = this.threshold === null ? "by class" : this.threshold.toFixed(2);
    this.describe();
    this.draw();
  }

  describe() {
    const chosen = this.shown.filter((object) => this.selected.has(object.key));
    const living = this.shown.filter((object) => object.status !== STATUS.removed).length;
    const second = this.seconds.find((box) => this.selected.has(box.key));
    let words;
    if (!this.objects.has(this.field[0])) words = "Loading findings…";
    else if (second && !chosen.length) {
      words = `${this.data.classes[second.cls][0]} ${scoreWords(second)}: second opinion${second.confirms ? " on a counted box" : " alone, not counted"}`;
    } else if (chosen.length === 1) {
      const [object] = chosen;
      const was = object.status === STATUS.reclassified && object.model >= 0 ? `, the model said ${this.data.classes[object.model][0]}` : "";
      const doubt = this.data.classes[object.cls][2] ? "" : reaches(object, this.thresholds)
        ? "; class never validated on real pictures" : "; class never validated on real pictures, counts once confirmed";
      const same = this.seconds.find((box) => box.confirms === object.key);
      const agreed = same ? `; the second opinion has it too, ${scoreWords(same)}` : "";
      words = `${this.data.classes[object.cls][0]} ${scoreWords(object)}: ${STATUS_WORDS[object.status]}${was}${doubt}${agreed}`;
    } else if (chosen.length > 1) words = `${chosen.length} selected of ${living} shown`;
    else words = living === 1 ? "1 finding shown" : `${living} findings shown`;
    this.said.textContent = words;
    this.root.dataset.shown = living;
    this.root.dataset.field = this.field[0];
    this.root.dataset.second = this.seconds.length;
    this.root.dataset.selected = [...this.selected].join(" ");
    this.heat.refresh();
    for (const button of [this.confirmButton, this.removeButton, this.reclassifyButton]) button.disabled = chosen.length === 0;
    this.addButton.setAttribute("aria-pressed", this.mode === "add");
  }

  setSecond(shown) {
    preferences.second = shown;
    this.secondSwitch.firstChild.checked = shown;
  }

  flip(set, value) { if (!set.delete(value)) set.add(value); }

  unfold(box, button) {
    box.hidden = !box.hidden;
    button.setAttribute("aria-expanded", !box.hidden);
  }

  toggleHelp() { this.keysBox.hidden = !this.keysBox.hidden; }

  // ---- geometry -------------------------------------------------------------------------------------------------
  resized() {
    const { width, height } = this.stage.getBoundingClientRect();
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.ratio = ratio;
    this.size = { width, height };
    if (this.view.fit && this.field) this.fit();
    else this.draw();
  }

  fit() {
    if (!this.size || !this.field) return;
    const [, , width, height] = this.field;
    const scale = Math.min(this.size.width / width, this.size.height / height);
    // The buttons lie in the margin that the picture leaves.
    this.zoomBox.classList.toggle("upright", this.size.width / this.size.height > width / height);
    this.view = { scale, x: (this.size.width - width * scale) / 2, y: (this.size.height - height * scale) / 2, fit: true };
    this.draw();
  }

  actualSize() { this.zoom(1 / (this.ratio || 1) / this.view.scale, this.size.width / 2, this.size.height / 2); }

  zoomAtCentre(factor) { this.zoom(factor, this.size.width / 2, this.size.height / 2); }

  zoom(factor, x, y) {
    const smallest = Math.min(this.size.width / this.field[2], this.size.height / this.field[3]) / 2;
    const scale = Math.max(smallest, Math.min(16, this.view.scale * factor));
    const change = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * change, y: y - (y - this.view.y) * change, fit: false };
    this.keepInSight();
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.view.fit = false;
    this.keepInSight();
    this.draw();
  }

  keepInSight() {
    const margin = 60;
    const { scale } = this.view;
    this.view.x = Math.max(margin - this.field[2] * scale, Math.min(this.size.width - margin, this.view.x));
    this.view.y = Math.max(margin - this.field[3] * scale, Math.min(this.size.height - margin, this.view.y));
  }

  centreOn(key) {
    const object = [this.objects, this.opinions].flatMap((fields) => fields.get(this.field[0]) ?? []).find((candidate) => candidate.key === key);
    if (!object || !this.size) return;
    const span = Math.max(object.x2 - object.x1, object.y2 - object.y1, 24);
    const scale = Math.max(this.view.scale, Math.min(4, Math.min(this.size.width, this.size.height) / (span * 6)));
    this.view = {
      scale, fit: false,
      x: this.size.width / 2 - ((object.x1 + object.x2) / 2) * scale, y: this.size.height / 2 - ((object.y1 + object.y2) / 2) * scale,
    };
    this.keepInSight();
  }

  revealSelected() {
    const object = [...this.shown, ...this.seconds].find((candidate) => this.selected.has(candidate.key));
    if (!object) return;
    const left = object.x1 * this.view.scale + this.view.x;
    const top = object.y1 * this.view.scale + this.view.y;
    if (left < 0 || top < 0 || left > this.size.width - 30 || top > this.size.height - 30) this.centreOn(object.key);
  }

  inPicture(x, y) { return [(x - this.view.x) / this.view.scale, (y - this.view.y) / this.view.scale]; }

  // The smallest box under the pointer, those that can be corrected first; clicking the same spot again takes the next.
  hits(x, y) { return [...this.under(this.shown, x, y), ...this.under(this.seconds, x, y)]; }

  under(objects, x, y) {
    const [px, py] = this.inPicture(x, y);
    const slack = 3 / this.view.scale;
    return objects
      .filter((o) => px >= o.x1 - slack && px <= o.x2 + slack && py >= o.y1 - slack && py <= o.y2 + slack)
      .sort((a, b) => (a.x2 - a.x1) * (a.y2 - a.y1) - (b.x2 - b.x1) * (b.y2 - b.y1));
  }

  // ---- drawing --------------------------------------------------------------------------------------------------
  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    if (!this.size || !this.field) return;
    const { scale, x, y } = this.view;
    this.picture.style.width = `${this.field[2]}px`;
    this.picture.style.height = `${this.field[3]}px`;
    this.picture.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    const over = { width: this.picture.style.width, height: this.picture.style.height, transform: this.picture.style.transform };
    Object.assign(this.heat.picture.style, over, { opacity: preferences.heatOpacity });
    this.picture.style.imageRendering = scale * this.ratio >= 4 ? "pixelated" : "auto";
    this.zoomWords.textContent = `${Math.round(scale * this.ratio * 100)} %`;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.size.width, this.size.height);
    if (preferences.boxes) this.paintBoxes(context);
    if (preferences.boxes) this.paintSeconds(context);
    if (this.draft) {
      const [x1, y1, x2, y2] = this.draft;
      context.setLineDash([5, 4]);
      context.lineWidth = 2;
      context.strokeStyle = "#111";
      context.strokeRect(x1 * scale + x, y1 * scale + y, (x2 - x1) * scale, (y2 - y1) * scale);
      context.lineDashOffset = 5;
      context.strokeStyle = "#fff";
      context.strokeRect(x1 * scale + x, y1 * scale + y, (x2 - x1) * scale, (y2 - y1) * scale);
      context.lineDashOffset = 0;
    }
  }

  paintBoxes(context) {
    const { scale, x, y } = this.view;
    const inSight = this.shown.filter((o) => o.x2 * scale + x > 0 && o.x1 * scale + x < this.size.width && o.y2 * scale + y > 0 && o.y1 * scale + y < this.size.height);
    const outline = (objects, width, style, dash) => {
      context.beginPath();
      for (const o of objects) context.rect(o.x1 * scale + x, o.y1 * scale + y, (o.x2 - o.x1) * scale, (o.y2 - o.y1) * scale);
      context.setLineDash(dash);
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke();
    };
    context.globalAlpha = preferences.opacity;
    const living = inSight.filter((o) => o.status !== STATUS.removed);
    this.data.groups.forEach(([, colour], group) => {
      const members = living.filter((o) => this.data.classes[o.cls][1] === group);
      if (!members.length) return;
      outline(members, 3.4, "rgba(255,255,255,0.65)", []);
      outline(members, 1.8, colour, DASHES[group]);
    });
    const removed = inSight.filter((o) => o.status === STATUS.removed);
    if (removed.length) {
      outline(removed, 1.5, "#6b7280", [3, 3]);
      context.setLineDash([]);
      context.beginPath();
      for (const o of removed) {
        context.moveTo(o.x1 * scale + x, o.y1 * scale + y);
        context.lineTo(o.x2 * scale + x, o.y2 * scale + y);
      }
      context.stroke();
    }
    const chosen = inSight.filter((o) => this.selected.has(o.key));
    const near = inSight.filter((o) => o === this.hovered && !this.selected.has(o.key));
    for (const o of [...chosen, ...near]) {
      const colour = this.data.groups[this.data.classes[o.cls][1]][1];
      if (this.selected.has(o.key)) {
        context.fillStyle = colour + "2e";
        if (!this.heat.on) context.fillRect(o.x1 * scale + x, o.y1 * scale + y, (o.x2 - o.x1) * scale, (o.y2 - o.y1) * scale);
        outline([o], 6, "rgba(255,255,255,0.9)", []);
        outline([o], 3.2, "#111827", []);
      } else outline([o], 3, colour, []);
    }
    context.setLineDash([]);
    const labelled = preferences.labels && living.length <= MOST_LABELS;
    for (const o of living) {
      if (labelled || this.selected.has(o.key) || o === this.hovered) continue;
      const group = this.data.classes[o.cls][1];
      if ((o.x2 - o.x1) * scale > 14) drawGlyph(context, group, this.data.groups[group][1], o.x1 * scale + x - 3, o.y1 * scale + y - 3, 7);
    }
    context.font = `11px ${getComputedStyle(this.root).fontFamily}`;
    context.textBaseline = "middle";
    if (labelled) for (const o of living) if (!this.selected.has(o.key) && o !== this.hovered) this.paintLabel(context, o, false);
    for (const o of living) if (o.status !== STATUS.model) this.paintMark(context, o);
    context.globalAlpha = 1;
    for (const o of [...chosen, ...near]) this.paintLabel(context, o, true);
  }

  // Dashed in black and white around the boxes of the groups, and a 2: no group looks like that.
  paintSeconds(context) {
    const { scale, x, y } = this.view;
    const margin = 3;
    const corners = (o) => [o.x1 * scale + x - margin, o.y1 * scale + y - margin, o.x2 * scale + x + margin, o.y2 * scale + y + margin];
    context.globalAlpha = preferences.opacity;
    context.textBaseline = "middle";
    for (const o of this.seconds) {
      const [left, top, right, bottom] = corners(o);
      if (right < 0 || bottom < 0 || left > this.size.width || top > this.size.height) continue;
      const chosen = this.selected.has(o.key);
      context.setLineDash([]);
      context.lineWidth = chosen ? 6 : 3.4;
      context.strokeStyle = "rgba(255,255,255,0.85)";
      context.strokeRect(left, top, right - left, bottom - top);
      context.setLineDash([6, 4]);
      context.lineWidth = chosen ? 3.2 : 1.8;
      context.strokeStyle = "#111827";
      context.strokeRect(left, top, right - left, bottom - top);
      context.setLineDash([]);
      context.fillStyle = "#111827";
      context.fillRect(right - 6, bottom - 6, 11, 11);
      context.fillStyle = "#ffffff";
      context.font = `bold 9px ${getComputedStyle(this.root).fontFamily}`;
      context.fillText("2", right - 3, bottom);
    }
    context.globalAlpha = 1;
    context.font = `11px ${getComputedStyle(this.root).fontFamily}`;
    for (const o of this.seconds) {
      const itself = [o.key, o.confirms].some((key) => key && (this.selected.has(key) || this.hovered?.key === key));
      if (itself) this.paintLabel(context, o, true);
    }
  }

  paintLabel(context, object, strong) {
    const { scale, x, y } = this.view;
    const [name, group] = this.data.classes[object.cls];
    const words = object.second ? `${name} ${scoreWords(object)}, second opinion` : strong ? `${name} ${scoreWords(object)}` : name;
    const width = context.measureText(words).width + 19;
    const left = Math.max(0, Math.min(object.x1 * scale + x - 1, this.size.width - width));
    const above = object.second ? -1 : object.y1 * scale + y - 17; // the label of a second opinion lies below its box
    const top = above >= 0 ? above : Math.min(object.y2 * scale + y + (object.second ? 8 : 2), this.size.height - 16);
    context.fillStyle = strong ? "#ffffff" : "rgba(255,255,255,0.82)";
    context.fillRect(left, top, width, 15);
    drawGlyph(context, group, this.data.groups[group][1], left + 3, top + 3.5, 8);
    context.fillStyle = "#16202b";
    context.fillText(words, left + 15, top + 8);
  }

  // A person has vouched for it: tick; added by hand: plus.
  paintMark(context, object) {
    const { scale, x, y } = this.view;
    const side = Math.min(object.x2 - object.x1, object.y2 - object.y1) * scale;
    context.save();
    context.translate(object.x2 * scale + x, object.y1 * scale + y);
    const size = Math.max(0.45, Math.min(1, side / 24)); // on a bacterium a large mark would hide it
    context.scale(size, size);
    context.setLineDash([]);
    context.beginPath();
    context.arc(0, 0, 6, 0, 7);
    context.fillStyle = "#ffffff";
    context.fill();
    context.lineWidth = 1.8;
    context.strokeStyle = "#1b4332";
    context.beginPath();
    if (object.status === STATUS.added) {
      context.moveTo(-3.5, 0); context.lineTo(3.5, 0);
      context.moveTo(0, -3.5); context.lineTo(0, 3.5);
    } else {
      context.moveTo(-3.2, 0.2); context.lineTo(-0.8, 2.8); context.lineTo(3.4, -2.6);
    }
    context.stroke();
    context.restore();
  }

  // ---- pointer --------------------------------------------------------------------------------------------------
  place(event) {
    const room = this.stage.getBoundingClientRect();
    return [event.clientX - room.left, event.clientY - room.top];
  }

  onFloat(event) { return event.composedPath().some((node) => node.classList?.contains("float")); }

  pointerDown(event) {
    if (this.onFloat(event)) return;
    if (event.button > 1) return;
    if (this.picker.isOpen) this.picker.cancel();
    this.keysBox.hidden = true;
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    const [x, y] = this.place(event);
    this.pointers.set(event.pointerId, [x, y]);
    if (this.pointers.size === 2) { this.gesture = { kind: "pinch" }; this.draft = null; return; }
    const drawing = this.mode === "add" && event.button === 0 && !event.altKey;
    this.gesture = { kind: drawing ? "draw" : "press", x, y, moved: false };
  }

  pointerMove(event) {
    const [x, y] = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) { if (this.mode === "select") this.hover(this.onFloat(event) ? null : this.hits(x, y)[0] ?? null); return; }
    if (this.gesture?.kind === "pinch") {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const span = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
        this.zoom(span([x, y], other) / span(before, other), (x + other[0]) / 2, (y + other[1]) / 2);
        this.pan((x - before[0]) / 2, (y - before[1]) / 2);
      }
    } else if (this.gesture) {
      if (Math.hypot(x - this.gesture.x, y - this.gesture.y) > 4) this.gesture.moved = true;
      if (this.gesture.kind === "draw") {
        const [ax, ay] = this.clamp(this.inPicture(this.gesture.x, this.gesture.y));
        const [bx, by] = this.clamp(this.inPicture(x, y));
        this.draft = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
        this.draw();
      } else if (this.gesture.moved) {
        this.stage.classList.add("panning");
        this.pan(x - before[0], y - before[1]);
      }
    }
    this.pointers.set(event.pointerId, [x, y]);
  }

  pointerUp(event, cancelled = false) {
    if (!this.pointers.delete(event.pointerId)) return;
    this.stage.classList.remove("panning");
    const gesture = this.gesture;
    this.gesture = this.pointers.size ? { kind: "rest" } : null;
    if (cancelled || !gesture) return;
    const [x, y] = this.place(event);
    if (gesture.kind === "draw") this.finishDrawing(x, y);
    else if (gesture.kind === "press" && !gesture.moved) this.click(x, y, event.shiftKey || event.ctrlKey || event.metaKey);
  }

  clamp([x, y]) { return [Math.max(0, Math.min(this.field[2], x)), Math.max(0, Math.min(this.field[3], y))]; }

  click(x, y, adding) {
    const found = this.hits(x, y);
    if (!preferences.boxes) return;
    if (!found.length) { if (!adding) this.selected.clear(); }
    else if (adding) this.flip(this.selected, found[0].key);
    else {
      const current = found.findIndex((object) => this.selected.has(object.key));
      this.cursor = found[(current + 1) % found.length];
      this.selected = new Set([this.cursor.key]);
    }
    this.describe();
    this.draw();
  }

  hover(object) {
    if (this.hovered === object) return;
    this.hovered = object;
    this.stage.classList.toggle("over", object !== null);
    this.draw();
  }

  wheel(event) {
    if (this.onFloat(event)) return;
    event.preventDefault();
    const [x, y] = this.place(event);
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 200 : 1;
    this.zoom(Math.exp(Math.max(-120, Math.min(120, -event.deltaY * unit)) / (event.ctrlKey ? 120 : 320)), x, y);
  }

  // ---- corrections ----------------------------------------------------------------------------------------------
  setMode(mode) {
    if (this.data.readonly) return;
    this.mode = mode;
    this.draft = null;
    this.hint.hidden = mode !== "add";
    this.stage.classList.toggle("adding", mode === "add");
    this.picker.close();
    this.hover(null);
    this.describe();
    this.draw();
  }

  act(action) {
    if (this.data.readonly) return;
    foresee(this.objects.get(this.field[0]) ?? [], action, this.foreseen);
    this.queue.push(action);
    this.refresh();
  }

  chosenKeys() { return this.shown.filter((object) => this.selected.has(object.key)).map((object) => object.key); }

  confirm() {
    const keys = this.chosenKeys();
    if (keys.length) this.act({ kind: "confirm", keys });
  }

  remove() {
    const chosen = this.shown.filter((object) => this.selected.has(object.key));
    if (!chosen.length) return;
    const kind = chosen.every((object) => object.status === STATUS.removed) ? "restore" : "remove";
    this.act({ kind, keys: chosen.map((object) => object.key) });
  }

  reclassify() {
    const keys = this.chosenKeys();
    if (!keys.length || this.data.readonly) return;
    const object = this.shown.find((candidate) => candidate.key === keys[0]);
    this.picker.open({
      title: keys.length === 1 ? "This is a" : `These ${keys.length} are`,
      classes: this.data.classes, groups: this.data.groups, current: object.cls,
      x: object.x2 * this.view.scale + this.view.x + 10, y: object.y1 * this.view.scale + this.view.y,
      onChoose: (cls) => { this.act({ kind: "reclassify", keys, class: cls }); this.stage.focus({ preventScroll: true }); },
      onCancel: () => this.stage.focus({ preventScroll: true }),
    });
  }

  finishDrawing(x, y) {
    const box = this.draft;
    if (!box || box[2] - box[0] < 3 || box[3] - box[1] < 3) { this.draft = null; this.draw(); return; }
    const field = this.field[0];
    this.picker.open({
      title: "Add as", classes: this.data.classes, groups: this.data.groups, x: x + 10, y,
      onChoose: (cls) => {
        this.draft = null;
        this.act({ kind: "add", field, class: cls, box: box.map((edge) => Math.round(edge * 10) / 10) });
        this.stage.focus({ preventScroll: true });
      },
      onCancel: () => { this.draft = null; this.draw(); this.stage.focus({ preventScroll: true }); },
    });
  }

  commitThreshold() {
    const value = Number(this.confidence.value);
    if (value !== this.data.threshold) this.act({ kind: "threshold", value });
  }

  selectNext(by) {
    // What a second opinion confirms is passed over: its box is there already.
    const reachable = [...this.shown, ...this.seconds.filter((box) => !box.confirms)];
    if (!reachable.length) return;
    const later = (a, b) => Math.round(a.y1 / 60) - Math.round(b.y1 / 60) || a.x1 - b.x1;
    const ordered = reachable.sort(later);
    const at = ordered.findIndex((object) => this.selected.has(object.key));
    let next = (at + by + ordered.length) % ordered.length;
    if (at < 0) {
      // What was selected last may be gone by now: go on from where it was.
      const passed = this.cursor ? ordered.filter((object) => later(object, this.cursor) <= 0).length : 0;
      next = (by > 0 ? passed : passed - 1 + ordered.length) % ordered.length;
    }
    this.selected = new Set([ordered[next].key]);
    this.cursor = ordered[next];
    this.revealSelected();
    this.describe();
    this.draw();
  }

  // ---- keys -----------------------------------------------------------------------------------------------------
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || typingIn(event) || dialogOpen()) return;
    const range = event.composedPath()[0]?.type === "range";
    if (range && event.key.startsWith("Arrow")) return;
    const flipSwitch = (name) => { const box = this.root.querySelector(`[data-switch="${name}"]`); box.click(); };
    const commands = {
      n: () => this.step(1), ArrowRight: () => this.step(1), p: () => this.step(-1), ArrowLeft: () => this.step(-1),
      j: () => this.selectNext(1), k: () => this.selectNext(-1),
      c: () => this.confirm(), Delete: () => this.remove(), Backspace: () => this.remove(), r: () => this.reclassify(),
      a: () => this.setMode(this.mode === "add" ? "select" : "add"), u: () => this.act({ kind: "undo" }),
      o: () => flipSwitch("boxes"), l: () => flipSwitch("labels"), h: () => this.data.heat && flipSwitch("heat"), s: () => this.data.second && flipSwitch("second"),
      "+": () => this.zoomAtCentre(1.4), "=": () => this.zoomAtCentre(1.4), "-": () => this.zoomAtCentre(1 / 1.4),
      0: () => this.fit(), 1: () => this.actualSize(), "?": () => this.toggleHelp(),
      Escape: () => this.escape(),
    };
    const command = commands[event.key];
    if (!command) return;
    // Streamlit binds c and r to its own menus: ours are meant here.
    event.preventDefault();
    event.stopImmediatePropagation();
    command();
  }

  destroy() {
    this.heat.forget();
    super.destroy();
  }

  escape() {
    if (!this.keysBox.hidden) this.keysBox.hidden = true;
    else if (!this.more.hidden) this.unfold(this.more, this.moreButton);
    else if (!this.classList.hidden) this.unfold(this.classList, this.classButton);
    else if (this.mode === "add") this.setMode("select");
    else { this.selected.clear(); this.describe(); this.draw(); }
  }
}

export default mountOnce(Viewer);
