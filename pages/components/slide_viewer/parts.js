// What the files behind this one are built of: elements, words for lengths, OpenSeadragon, keys.

const NICE = [1, 2, 5];
const THIN = "\u202f"; // between thousands

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

let library; // loaded once for all slides looked at

function loaded(address) {
  library ??= new Promise((done, fail) => {
    const script = element("script", { src: address, onload: () => done(window.OpenSeadragon), onerror: () => { library = undefined; script.remove(); fail(new Error("The viewer cannot be loaded. Reload the page.")); } });
    document.head.append(script);
  });
  return library;
}

// What is to be known of a slide, once the server can read it: one of many files is unpacked first, which may take minutes.
async function slideAt(base, part, tell = () => {}) {
  for (;;) {
    const answer = await fetch(`${base}/descriptor.json`);
    if (!answer.ok) throw new Error(answer.status === 403 ? "You are signed out. Sign in again." : await answer.text());
    const known = await answer.json();
    if (answer.status !== 202) return known;
    tell(known.unpacked);
    await new Promise((done) => setTimeout(done, 700));
    if (part.gone) throw new Error(""); // nobody looks any more
  }
}

function whole(number) { return Math.round(number).toLocaleString("en").replaceAll(",", THIN); }

// A length of the slide in words: 1 µm to 999 µm, then mm; px where the scale is unknown.
function lengthWords(px, umPerPx, digits = 3) {
  const short = (value) => (value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(digits))));
  if (!umPerPx) return `${whole(px)} px`;
  const um = px * umPerPx;
  return um < 1000 ? `${short(um)} µm` : `${short(um / 1000)} mm`;
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

// What happens here is numbered and sent until the server has answered for it: two quick keystrokes cannot lose one,
// and a message that arrives twice does nothing twice.
class EventQueue {
  constructor() {
    this.nonce = Math.random().toString(36).slice(2, 12);
    this.next = 1;
    this.waiting = [];
  }

  attach(root, component) {
    this.root = root;
    this.send = () => component.setTriggerValue("events", { nonce: this.nonce, events: this.waiting });
    const done = component.data.acknowledged[this.nonce] ?? 0;
    this.waiting = this.waiting.filter((event) => event.n > done);
    root.dataset.waiting = this.waiting.length;
    clearTimeout(this.repeating);
    if (!this.idle) this.repeating = setTimeout(() => this.send(), 1500);
  }

  push(event) {
    this.waiting.push({ n: this.next++, ...event });
    this.root.dataset.waiting = this.waiting.length;
    this.send();
  }

  get idle() { return this.waiting.length === 0; }
}

const mounted = new WeakMap();

// What Streamlit calls at each answer; there is one of a kind for each place in the page.
function mountOnce(Kind) {
  return (component) => {
    const parent = component.parentElement;
    if (!mounted.has(parent)) mounted.set(parent, new Kind(parent));
    mounted.get(parent).update(component);
    return () => {
      mounted.get(parent)?.destroy();
      mounted.delete(parent);
    };
  };
}
