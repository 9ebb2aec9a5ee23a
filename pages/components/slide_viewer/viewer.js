// A slide to look at: deep zoom over tiles of the server, an overview, a scale bar, and a ruler.
// Lengths are in µm where the scale is known, and in px of the slide where it is not: nothing is guessed.

const NICE = [1, 2, 5];
const BAR_PX = 130; // the scale bar is at most so long
const REACH = /^(INPUT|TEXTAREA|SELECT)$/;

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

// A length of the slide in words: 1 µm to 999 µm, then mm; px where the scale is unknown.
function lengthWords(px, umPerPx, digits = 3) {
  const short = (value) => (value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(digits))));
  if (!umPerPx) return `${Math.round(px).toLocaleString("en").replaceAll(",", " ")} px`;
  const um = px * umPerPx;
  return um < 1000 ? `${short(um)} µm` : `${short(um / 1000)} mm`;
}

class SlideViewer {
  constructor(parent) {
    this.lines = []; // finished measures, each two points in px of the slide
    this.start = null;
    this.end = null;
    this.measuring = false;
    const button = (label, title, onclick) => element("button", { type: "button", title, onclick, "aria-label": label.length > 1 ? null : title }, label);
    this.ruler = button("Measure", "Measure a length: click its two ends (m)", () => this.toggleRuler());
    this.ruler.setAttribute("aria-pressed", "false");
    this.clear = button("Clear", "Remove all measures", () => this.clearLines());
    this.said = element("output", { class: "said", "aria-live": "polite" });
    this.zoomed = element("span", { class: "zoom", title: "Enlargement" });
    this.stage = element("div", { class: "stage" });
    this.paper = element("canvas", { class: "paper" });
    this.barLine = element("i");
    this.barWords = element("span");
    this.bar = element("div", { class: "scale", hidden: true }, this.barWords, this.barLine);
    this.notice = element("div", { class: "notice", role: "status" }, "Loading the slide…");
    this.frame = element("div", { class: "frame" }, this.stage, this.paper, this.bar, this.notice);
    this.root = element("div", { class: "slide" },
      element("div", { class: "tools" }, this.ruler, this.clear, this.said, element("span", { class: "space" }), this.zoomed,
        button("−", "Zoom out (−)", () => this.zoom(1 / 1.6)), button("+", "Zoom in (+)", () => this.zoom(1.6)),
        button("1:1", "One pixel of the slide per pixel of the screen (1)", () => this.zoomTo(1)), button("Fit", "The whole slide (0)", () => this.view?.viewport.goHome())),
      this.frame);
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    this.frame.addEventListener("pointermove", (event) => this.follow(event));
    parent.append(this.root);
  }

  update({ data }) {
    this.data = data;
    if (this.slide === data.slide) {
      this.draw(); // the scale may have been given
      return;
    }
    this.slide = data.slide;
    this.root.dataset.slide = data.slide;
    this.open().catch((error) => this.say(error.message));
  }

  async open() {
    const { base, library: address } = this.data;
    const [OpenSeadragon, answer] = await Promise.all([loaded(address), fetch(`${base}/descriptor.json`)]);
    if (!answer.ok) throw new Error(answer.status === 403 ? "You are signed out. Sign in again." : await answer.text());
    const known = await answer.json();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.OpenSeadragon = OpenSeadragon;
    this.view = new OpenSeadragon.Viewer({
      element: this.stage,
      drawer: "canvas",
      tileSources: {
        width: known.width, height: known.height, tileSize: known.tile, tileOverlap: 0, minLevel: known.min_level, maxLevel: known.max_level,
        getTileUrl: (level, x, y) => `${base}/tile/${level}/${x}/${y}.jpg`,
      },
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.17,
      navigatorMaintainSizeRatio: true,
      navigatorAutoFade: false,
      navigatorBackground: "#e4e7e6",
      navigatorBorderColor: "#8a9496",
      navigatorDisplayRegionColor: "#0b4f58",
      navigatorOpacity: 0.95,
      animationTime: still ? 0 : 0.5,
      blendTime: 0,
      imageLoaderLimit: 8,
      timeout: 180000, // the overview of a slide stored without one is computed when it is first looked at
      maxZoomPixelRatio: 4,
      minZoomImageRatio: 0.8,
      visibilityRatio: 0.4,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsPen: { clickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false },
    });
    this.view.addHandler("canvas-click", (event) => this.click(event));
    this.view.addHandler("canvas-double-click", (event) => { if (this.measuring) event.preventDefaultAction = true; });
    this.view.addHandler("update-viewport", () => this.draw());
    this.view.addHandler("open-failed", () => this.say("The slide cannot be shown. Tell your administrator."));
    this.view.addHandler("tile-load-failed", () => this.say("A part of the slide cannot be read: its file may be damaged, or the server busy.", true));
    this.view.addHandler("tile-drawn", () => this.shown());
    this.view.addHandler("canvas-key", (event) => { if ("1mM".includes(event.originalEvent.key)) event.preventDefaultAction = true; });
    this.resize = new ResizeObserver(() => this.draw());
    this.resize.observe(this.frame);
  }

  shown() {
    if (this.root.dataset.shown) return;
    this.root.dataset.shown = "yes";
    this.say("");
  }

  say(words, passing = false) {
    this.notice.textContent = words;
    this.notice.hidden = !words;
    clearTimeout(this.silence);
    if (passing) this.silence = setTimeout(() => this.say(""), 6000);
  }

  // ---- zoom ------------------------------------------------------------------------------------------------------

  zoom(factor) {
    this.view?.viewport.zoomBy(factor);
    this.view?.viewport.applyConstraints();
  }

  // So many pixels of the screen for one of the slide.
  zoomTo(ratio) {
    const viewport = this.view?.viewport;
    viewport?.zoomTo(viewport.imageToViewportZoom(ratio));
  }

  key(event) {
    if (!this.view || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0];
    if (target instanceof HTMLElement && (target.isContentEditable || REACH.test(target.tagName))) return;
    const inside = event.composedPath().includes(this.stage); // there the library takes its own keys: + - 0 and arrows
    if (event.key === "m") this.toggleRuler();
    else if (event.key === "Escape") this.start ? this.drop() : this.measuring && this.toggleRuler();
    else if (event.key === "1") this.zoomTo(1);
    else if (inside) return;
    else if (event.key === "+" || event.key === "=") this.zoom(1.6);
    else if (event.key === "-") this.zoom(1 / 1.6);
    else if (event.key === "0") this.view.viewport.goHome();
    else return;
    event.preventDefault();
  }

  // ---- ruler -----------------------------------------------------------------------------------------------------

  toggleRuler() {
    this.measuring = !this.measuring;
    this.start = null;
    this.ruler.setAttribute("aria-pressed", String(this.measuring));
    this.frame.classList.toggle("measuring", this.measuring);
    this.draw();
  }

  clearLines() {
    this.lines = [];
    this.drop();
  }

  drop() {
    this.start = null;
    this.draw();
  }

  click(event) {
    if (!this.measuring || !event.quick) return;
    event.preventDefaultAction = true;
    const at = this.view.viewport.viewerElementToImageCoordinates(event.position);
    if (this.start) {
      this.lines.push([this.start, at]);
      this.start = null;
    } else {
      this.start = at;
      this.end = at;
    }
    this.draw();
  }

  follow(event) {
    if (!this.start) return;
    const { left, top } = this.stage.getBoundingClientRect();
    this.end = this.view.viewport.viewerElementToImageCoordinates(new this.OpenSeadragon.Point(event.clientX - left, event.clientY - top));
    this.draw();
  }

  // ---- what lies over the picture --------------------------------------------------------------------------------

  draw() {
    const viewport = this.view?.viewport;
    if (!viewport || !this.view.world.getItemCount()) return;
    const ratio = viewport.viewportToImageZoom(viewport.getZoom(true));
    const { um_per_px: umPerPx, objective } = this.data;
    this.zoomed.textContent = objective ? `${Number((objective * ratio).toPrecision(2))}x` : `${Number((100 * ratio).toPrecision(2))} %`;
    this.drawBar(ratio, umPerPx);
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (this.paper.width !== Math.round(width * scale) || this.paper.height !== Math.round(height * scale)) {
      this.paper.width = Math.round(width * scale);
      this.paper.height = Math.round(height * scale);
    }
    const pen = this.paper.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const lines = this.start ? [...this.lines, [this.start, this.end]] : this.lines;
    let words = this.measuring && !lines.length ? "Click the two ends of what you measure" : "";
    for (const [from, to] of lines) {
      words = lengthWords(Math.hypot(to.x - from.x, to.y - from.y), umPerPx);
      this.drawLine(pen, viewport.imageToViewerElementCoordinates(from), viewport.imageToViewerElementCoordinates(to), words);
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

  drawLine(pen, from, to, words) {
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

  destroy() {
    document.removeEventListener("keydown", this.onKey);
    this.resize?.disconnect();
    this.view?.destroy();
    this.view = null;
  }
}

const mounted = new WeakMap();

export default function mount(component) {
  const parent = component.parentElement;
  if (!mounted.has(parent)) mounted.set(parent, new SlideViewer(parent));
  mounted.get(parent).update(component);
  return () => mounted.get(parent)?.destroy();
}
