// The picture itself: OpenSeadragon over tiles of the server. What a click or a drag means is the viewer's business.

const places = new Map(); // where each slide was looked at last; outlives a change of tab, not a reload

class DeepZoom {
  button(label, title, onclick, attributes = {}) {
    const words = [].concat(label);
    return element("button", { type: "button", title, onclick, "aria-label": words.length === 1 && words[0].length === 1 ? title : null, ...attributes }, ...words);
  }

  async open() {
    const { base, library: address } = this.data;
    const unpacking = (share) => this.say(`The slide is being unpacked: ${Math.round(100 * share)} %`);
    const [OpenSeadragon, known] = await Promise.all([loaded(address), slideAt(base, this, unpacking)]);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.known = known;
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
      keyboardNavEnabled: false, // the keys are ours, arrows too
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsPen: { clickToZoom: false },
      gestureSettingsTouch: { clickToZoom: false },
    });
    this.view.canvas.append(this.paper); // over the picture, under the overview
    this.view.addHandler("open", () => {
      const { viewport } = this.view;
      const place = places.get(this.slide);
      if (place) {
        viewport.panTo(place.centre, true);
        viewport.zoomTo(place.zoom, null, true);
      }
      if (this.goal) this.centreOn(this.goal, true);
    });
    this.view.addHandler("canvas-click", (event) => this.click(event));
    this.view.addHandler("canvas-double-click", (event) => this.doubleClick(event));
    this.view.addHandler("canvas-drag", (event) => {
      if (this.drawing.on && this.drawing.drag(this.onSlide(event.position), event.shift)) event.preventDefaultAction = true;
    });
    this.view.addHandler("canvas-drag-end", (event) => { if (this.drawing.release()) event.preventDefaultAction = true; });
    this.view.addHandler("update-viewport", () => this.draw());
    this.view.addHandler("open-failed", () => this.say("The slide cannot be shown. Tell your administrator."));
    this.view.addHandler("tile-load-failed", () => this.say("A part of the slide cannot be read: its file may be damaged, or the server busy.", true));
    this.view.addHandler("tile-drawn", () => this.shown());
    this.resize = new ResizeObserver(() => this.redraw());
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

  zoom(factor) {
    this.view?.viewport.zoomBy(factor);
    this.view?.viewport.applyConstraints();
  }

  // So many pixels of the screen for one of the slide.
  zoomTo(ratio) {
    const viewport = this.view?.viewport;
    viewport?.zoomTo(viewport.imageToViewportZoom(ratio));
  }

  pan(x, y) {
    const viewport = this.view?.viewport;
    viewport?.panBy(viewport.deltaPointsFromPixels(new this.OpenSeadragon.Point(x, y)));
    viewport?.applyConstraints();
  }

  get ratio() {
    const { viewport } = this.view;
    return viewport.viewportToImageZoom(viewport.getZoom(true));
  }

  onSlide(position) { return this.view.viewport.viewerElementToImageCoordinates(position); }

  shut() {
    this.gone = true;
    this.resize?.disconnect();
    if (this.view?.world.getItemCount()) places.set(this.slide, { centre: this.view.viewport.getCenter(), zoom: this.view.viewport.getZoom() });
    this.view?.destroy();
    this.view = null;
  }
}
