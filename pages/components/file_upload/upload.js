// Brings files of several gigabytes to the server, piece by piece. How much of a file is there the server alone knows:
// after whatever broke (connection, server, a reload of the page) it is asked, and the upload goes on from its answer.

const PIECE_BYTES = 8 * 1024 * 1024;
const RETRY_MS = [500, 1000, 2000, 5000, 10000];
const RATE_OVER_MS = 8000; // the speed that is shown is that of the last seconds

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

function size(bytes) {
  if (bytes < 1e6) return `${bytes && Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

class Refused extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

// Whether an upload that was interrupted is this file's. Of CT the server does not keep the name.
const isOf = ({ size, modified }, file) => size === file.size && modified === Math.round(file.lastModified);

// One file on its way.
class Transfer {
  constructor(uploader, file) {
    Object.assign(this, { uploader, file, key: null, offset: 0, state: "waiting", words: "", marks: [] });
    this.bar = element("i");
    this.said = element("span", { class: "said" });
    this.pause = element("button", { type: "button", onclick: () => this.toggle() }, "Pause");
    this.drop = element("button", { type: "button", onclick: () => this.giveUp() }, "Remove");
    this.row = element("li", {},
      element("span", { class: "name", title: file.name }, file.name), element("span", { class: "size" }, size(file.size)),
      element("span", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": file.name }, this.bar),
      this.said, element("span", { class: "buttons" }, this.pause, this.drop));
  }

  get address() { return `${this.uploader.base}/${this.key}`; }

  toggle() {
    if (this.state === "paused" || this.state === "stopped") this.state = "waiting";
    else {
      this.state = "paused";
      this.abort?.abort();
    }
    this.show();
    this.uploader.next();
  }

  async giveUp() {
    this.state = "gone";
    this.abort?.abort();
    this.uploader.interrupted = this.uploader.interrupted.filter((one) => !isOf(one, this.file));
    this.uploader.forget(this);
    if (this.key) await fetch(this.address, { method: "DELETE" }).catch(() => null); // the server removes it in a few days
  }

  async request(method, address, options = {}) {
    this.abort = new AbortController();
    const answer = await fetch(address, { method, signal: this.abort.signal, ...options });
    if (answer.status >= 500 && answer.status !== 507) throw new TypeError("the server is in trouble"); // as if it were not there
    return answer;
  }

  // Everything until the file is there, is refused, or somebody stops it.
  async run() {
    this.state = "running";
    const turn = (this.turn = {}); // paused and resumed while it waited, it would run twice
    const goesOn = () => this.state === "running" && this.turn === turn;
    let failures = 0;
    while (goesOn()) {
      try {
        await this.step();
        failures = 0;
      } catch (error) {
        if (!goesOn()) break; // paused or removed: that is what ended the request
        if (error instanceof Refused) {
          this.state = error.status === 422 || error.status === 413 ? "refused" : "stopped";
          this.words = error.message;
          break;
        }
        this.words = "No connection to the server; it goes on by itself";
        this.marks = [];
        this.show();
        await wait(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
        failures += 1;
        this.key = null; // asks anew what is there
      }
    }
    this.show();
  }

  async step() {
    if (!this.key) {
      const told = { modality: this.uploader.modality, name: this.file.name, size: this.file.size, modified: Math.round(this.file.lastModified) };
      const answer = await this.request("POST", this.uploader.base, { headers: { "content-type": "application/json" }, body: JSON.stringify(told) });
      if (answer.status === 403) throw new Refused(403, "You are signed out. Sign in in another tab, then resume.");
      if (!answer.ok) throw new Refused(answer.status, await answer.text());
      const known = await answer.json();
      this.key = known.key;
      this.offset = known.offset;
      this.words = "";
      this.marks = [];
      if (this.offset === this.file.size && this.offset > 0 && (await this.isSettled())) return this.finish();
    }
    const end = Math.min(this.file.size, this.offset + PIECE_BYTES);
    this.show();
    const answer = await this.request("PATCH", this.address, {
      headers: { "content-type": "application/offset+octet-stream", "upload-offset": String(this.offset) },
      body: this.file.slice(this.offset, end),
    });
    if (answer.status === 423) return wait(1000); // the request before this one has not ended yet
    const there = answer.headers.get("upload-offset"); // a refusal for another reason, such as a broken disk, says none
    if (there !== null && (answer.status === 409 || answer.status === 204)) this.offset = Number(there);
    else if (answer.status === 404) this.key = null;
    else if (answer.status === 403) throw new Refused(403, "You are signed out. Sign in in another tab, then resume.");
    else throw new Refused(answer.status, await answer.text());
    this.marks.push([performance.now(), this.offset]);
    this.marks = this.marks.filter(([at]) => performance.now() - at < RATE_OVER_MS);
    if (answer.status === 204 && this.offset === this.file.size) this.finish();
  }

  // An empty last piece has a file checked that was all there when its server was stopped.
  async isSettled() {
    const answer = await this.request("PATCH", this.address, {
      headers: { "content-type": "application/offset+octet-stream", "upload-offset": String(this.offset) }, body: new Blob([]),
    });
    if (answer.status !== 204) throw new Refused(answer.status, await answer.text());
    return true;
  }

  finish() {
    this.state = "done";
    this.uploader.finished(this);
  }

  show() {
    const { row, state, file, offset } = this;
    const share = file.size ? offset / file.size : 0;
    row.dataset.state = state;
    this.bar.style.width = `${100 * share}%`;
    this.bar.parentElement.setAttribute("aria-valuenow", Math.round(100 * share));
    let words = this.words;
    if (!words && state === "waiting") words = offset ? `waits at ${Math.floor(100 * share)} %` : "waits";
    if (!words && state === "paused") words = `paused at ${Math.floor(100 * share)} %`;
    if (!words && state === "running") {
      words = offset === file.size ? "checking" : `${Math.floor(100 * share)} %`;
      const [first, last] = [this.marks[0], this.marks.at(-1)];
      if (this.marks.length > 1 && last[0] > first[0]) {
        const rate = (last[1] - first[1]) / ((last[0] - first[0]) / 1000);
        if (rate > 0) words += ` · ${size(rate)}/s · ${duration((file.size - offset) / rate)} left`;
      }
    }
    this.said.role = state === "refused" || state === "stopped" ? "alert" : "none"; // percents would be read out for ever
    this.said.textContent = words;
    this.said.title = words;
    this.pause.textContent = state === "paused" || state === "stopped" ? "Resume" : "Pause";
    this.pause.hidden = state === "refused";
    this.drop.textContent = state === "refused" ? "Close" : "Remove";
  }
}

class Uploader {
  constructor(parent) {
    this.transfers = [];
    this.done = [];
    this.input = element("input", { type: "file", multiple: true, hidden: true, onchange: () => { this.choose([...this.input.files].map((file) => ({ path: file.name, file }))); this.input.value = ""; } });
    const pick = () => this.choose([...this.folder.files].map((file) => ({ path: file.webkitRelativePath, file })));
    this.folder = element("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => { pick(); this.folder.value = ""; } });
    this.begun = element("p", { class: "begun", role: "status" });
    this.taken = element("p", { class: "begun", role: "status", hidden: true });
    this.place = element("div", { class: "place" },
      element("button", { type: "button", class: "choose", onclick: () => this.input.click() }),
      element("button", { type: "button", class: "choose", onclick: () => this.folder.click() }, "Choose a folder"),
      element("span", {}, element("span", {}, "or drop them here"), element("small", {})));
    this.list = element("ul", {});
    this.root = element("div", { class: "uploads" }, this.input, this.folder, this.place, this.begun, this.taken, this.list);
    this.root.addEventListener("dragover", (event) => { event.preventDefault(); this.place.classList.add("over"); });
    this.root.addEventListener("dragleave", () => this.place.classList.remove("over"));
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.place.classList.remove("over");
      this.choose(dropped(event.dataTransfer));
    });
    this.leaving = (event) => { if (this.transfers.some((one) => one.state === "running")) event.preventDefault(); };
    window.addEventListener("beforeunload", this.leaving);
    parent.append(this.root);
  }

  update({ data, setStateValue }) {
    this.base = data.base;
    this.modality = data.modality;
    this.place.querySelector(".choose").textContent = data.choose;
    this.tell = setStateValue;
    this.place.querySelector("small").textContent = data.hint;
    this.interrupted = data.interrupted;
    this.show();
  }

  say(words) {
    this.begun.textContent = words;
    this.begun.hidden = false;
  }

  // `chosen` is a list of { path, file }, or the promise of one.
  async choose(chosen) {
    let found;
    try {
      const picked = await chosen;
      if (!picked.length) return;
      found = this.modality === "ct" ? { uploads: studiesOf(picked), refused: [], said: "" } : await slidesOf(picked);
    } catch {
      return this.say("The browser cannot read what was chosen. Choose it with a button, or copy it to this computer first.");
    }
    this.take(found);
  }

  take({ uploads, refused, said }) {
    this.taken.textContent = said;
    this.taken.hidden = !said;
    if (!uploads.length && !refused.length && !said) return this.say("Nothing in it can be uploaded: its files are hidden or empty.");
    for (const file of uploads) this.add(file, { state: "waiting", words: "" });
    for (const { file, words } of refused) this.add(file, { state: "refused", words });
    this.next();
  }

  add(file, begins) {
    const same = this.transfers.find((one) => one.file.name === file.name && one.file.size === file.size && one.file.lastModified === file.lastModified);
    if (same && same.state !== "refused") return;
    if (same) this.forget(same);
    const transfer = Object.assign(new Transfer(this, file), begins);
    this.transfers.push(transfer);
    this.list.append(transfer.row);
    transfer.show();
  }

  // One at a time: two would only share the line.
  async next() {
    this.show();
    if (this.transfers.some((one) => one.state === "running")) return;
    const waiting = this.transfers.find((one) => one.state === "waiting");
    if (!waiting) return;
    await waiting.run();
    this.next();
  }

  finished(transfer) {
    this.forget(transfer);
    this.done.push([transfer.key, transfer.file.name]);
    this.tell("done", [...this.done]); // all of them: an answer to the one before may still be on its way
  }

  forget(transfer) {
    this.transfers = this.transfers.filter((one) => one !== transfer);
    transfer.row.remove();
    this.show();
  }

  // What was begun before this page was loaded, and is not chosen again yet.
  show() {
    const open = (this.interrupted ?? []).filter((one) => !this.transfers.some(({ file }) => isOf(one, file)));
    this.begun.textContent = open.length
      ? `Interrupted: ${open.map((one) => `${one.name} (${Math.floor((100 * one.offset) / one.size)} % of ${size(one.size)} is here)`).join(", ")}. Choose the same files or folder again to go on.`
      : "";
    this.begun.hidden = !open.length;
  }

  leave() {
    window.removeEventListener("beforeunload", this.leaving);
    for (const one of this.transfers) {
      one.state = "left";
      one.abort?.abort();
    }
  }
}

const mounted = new WeakMap();

export default function mount(component) {
  const parent = component.parentElement;
  if (!mounted.has(parent)) mounted.set(parent, new Uploader(parent));
  mounted.get(parent).update(component);
  return () => mounted.get(parent)?.leave();
}
