// Glomeruli of a slide: where they come from, what they look like, and what is said of them.
// Colours are Okabe and Ito's; a dash, a shape and a letter go with each, so that colour never stands alone.

const KINDS = {
  counted: { words: "Counted", colour: "#0072B2", dash: [], title: "Glomeruli that count, the sclerosed among them" },
  sclerosed: { words: "Sclerosed", colour: "#D55E00", dash: [8, 4], title: "Globally sclerosed: dashed, S" },
  aside: { words: "Not counted", colour: "#4A525C", dash: [2, 3], title: "Outside the limits: dotted, number in brackets" },
  removed: { words: "Removed", colour: "#A0447C", dash: [2, 3], title: "Removed by hand: crossed out" },
};
const STATUS_WORDS = {
  model: "found by the model", confirmed: "confirmed", redrawn: "redrawn by hand", added: "added by hand", removed: "removed",
};
const STATUS_MARKS = { model: "", confirmed: "✓", redrawn: "✓", added: "+", removed: "×" };
const WENT = "renalcore-glomerulus"; // the event of the window by which the gallery sends the viewer to a glomerulus

function kindOf(item) {
  if (item.status === "removed") return "removed";
  if (!item.counts) return "aside";
  return item.sclerosed ? "sclerosed" : "counted";
}

// What is written beside its outline.
function label(item) {
  const words = [item.number, item.sclerosed ? "S" : "", STATUS_MARKS[item.status]].filter(Boolean).join(" ");
  return kindOf(item) === "aside" ? `(${words})` : words;
}

// What is said of it where there is room.
function described(item, umPerPx) {
  return [
    lengthWords(item.diameter / (umPerPx ?? 1), umPerPx), item.score === null ? "by hand" : `score ${item.score.toFixed(2)}`,
    ...(item.sclerosed ? ["globally sclerosed"] : []), STATUS_WORDS[item.status], ...(kindOf(item) === "aside" ? ["not counted"] : []),
  ].join(", ");
}

function areaWords(item, umPerPx) {
  return `${whole((Math.PI * item.diameter ** 2) / 4)} ${umPerPx ? "µm²" : "px²"}`;
}

// With the box around its outline, and the middle of that.
function placed(item) {
  let [x1, y1, x2, y2] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < item.outline.length; i += 2) {
    x1 = Math.min(x1, item.outline[i]);
    x2 = Math.max(x2, item.outline[i]);
    y1 = Math.min(y1, item.outline[i + 1]);
    y2 = Math.max(y2, item.outline[i + 1]);
  }
  return { ...item, x1, y1, x2, y2, x: (x1 + x2) / 2, y: (y1 + y2) / 2, span: Math.max(x2 - x1, y2 - y1, 1) };
}

// Fetched once for all that is shown of a slide on a page, the gallery beside the viewer.
const fetched = (window[Symbol.for("renalcore.glomeruli")] ??= new Map());

function glomeruliAt(address) {
  if (!fetched.has(address)) {
    const coming = fetch(address).then(async (answer) => {
      if (!answer.ok) throw new Error(answer.status === 403 ? "You are signed out. Sign in again." : await answer.text());
      return (await answer.json()).items.map(placed);
    });
    coming.catch(() => fetched.delete(address));
    fetched.set(address, coming);
    if (fetched.size > 4) fetched.delete(fetched.keys().next().value);
  }
  return fetched.get(address);
}

function glomeruliAddress({ base, analysis, version }) {
  return `${base}/glomeruli.json?${new URLSearchParams({ analysis, v: version })}`;
}

// Leaves out points that lie nearer than `tolerance` to the line drawn without them (Douglas and Peucker).
function simplified(outline, tolerance) {
  const count = outline.length / 2;
  if (count < 6 || tolerance <= 0) return outline;
  const kept = new Uint8Array(count);
  const middle = count >> 1;
  kept[0] = kept[middle] = 1;
  const open = [[0, middle], [middle, count]];
  while (open.length) {
    const [from, to] = open.pop();
    const [ax, ay, bx, by] = [outline[2 * from], outline[2 * from + 1], outline[2 * (to % count)], outline[2 * (to % count) + 1]];
    const length = Math.hypot(bx - ax, by - ay) || 1;
    let [farthest, distance] = [-1, tolerance];
    for (let i = from + 1; i < to; i += 1) {
      const apart = Math.abs((outline[2 * i] - ax) * (by - ay) - (outline[2 * i + 1] - ay) * (bx - ax)) / length;
      if (apart > distance) [farthest, distance] = [i, apart];
    }
    if (farthest < 0) continue;
    kept[farthest] = 1;
    open.push([from, farthest], [farthest, to]);
  }
  const short = [];
  for (let i = 0; i < count; i += 1) if (kept[i]) short.push(outline[2 * i], outline[2 * i + 1]);
  return short.length < 6 ? outline : short;
}

// A sample of a kind's line, for switches and lists.
function sample(kind) {
  const { colour, dash } = KINDS[kind];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true" })) svg.setAttribute(name, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const ring = "M7 1.5A5.5 5.5 0 1 1 7 12.5A5.5 5.5 0 1 1 7 1.5Z";
  const drawn = { d: kind === "removed" ? `${ring}M3 3L11 11` : ring, fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": dash.length ? dash.map((one) => one / 2).join(" ") : "none" };
  for (const [name, value] of Object.entries(drawn)) path.setAttribute(name, value);
  svg.append(path);
  return svg;
}
