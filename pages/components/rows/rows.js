// A table whose rows open a record: text, chips, progress and buttons, in the page's own look.
// A plain click opens inside the session; with Ctrl or the middle button the link opens a new tab.
// A line that says what it said stays the same element: a refresh takes neither the focus nor a click in progress.

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

function chip(cell) {
  const node = element("span", { class: "chip" }, cell.chip);
  node.style.setProperty("--rc", cell.colour);
  if (cell.total === undefined) return node;
  const bar = element("span", { class: "progress", role: "progressbar", "aria-valuenow": cell.done, "aria-valuemax": cell.total, "aria-label": cell.chip }, element("i"));
  bar.firstChild.style.width = `${cell.total ? (100 * cell.done) / cell.total : 0}%`;
  return element("span", { class: "state" }, node, bar);
}

function line(data, row, root) {
  const look = (i) => [data.numeric.includes(i) && "number", data.minor.includes(i) && "minor", data.least.includes(i) && "least", data.wide === i && "wide"].filter(Boolean).join(" ") || null;
  if (row.header) return element("tr", {}, ...data.head.map((words, i) => element("th", { scope: "col", class: look(i) }, words)));
  const open = () => root.say("open", row.id);
  const content = (cell, i) => {
    if (i === data.link) {
      return element("a", {
        href: row.href,
        onclick: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
          event.preventDefault();
          event.stopPropagation();
          open();
        },
      }, cell);
    }
    if (typeof cell === "object" && cell !== null) {
      if (cell.actions) {
        return element("span", { class: "actions" }, ...cell.actions.map(([name, words, title]) =>
          element("button", { type: "button", title, "data-act": name, onclick: (event) => { event.stopPropagation(); event.target.disabled = true; root.say("act", { name, id: row.id }); } }, words)));
      }
      return element("span", {}, chip(cell), cell.note ? element("span", { class: "note", title: cell.note }, cell.note) : null);
    }
    return element("span", { class: "text", title: cell }, cell ?? "");
  };
  return element("tr", { "data-id": row.id, "aria-current": row.id === data.selected && "true", onclick: open }, ...row.cells.map((cell, i) => element("td", { class: look(i) }, content(cell, i))));
}

// Makes the lines of `part` those of `wanted`; a line that stays is touched only where it changes places with another.
function update(part, data, wanted, root) {
  const { rows: _, selected, dense, ...table } = data;
  const standing = new Map([...part.children].map((node) => [node.said, node]));
  const nodes = wanted.map((row) => {
    const said = JSON.stringify([table, row, row.id === selected]);
    return standing.get(said) ?? Object.assign(line(data, row, root), { said });
  });
  const staying = new Set(nodes);
  for (const node of [...part.children]) if (!staying.has(node)) node.remove();
  nodes.forEach((node, i) => { if (part.children[i] !== node) part.insertBefore(node, part.children[i] ?? null); });
}

export default function mount({ parentElement, data, setTriggerValue }) {
  let root = parentElement.querySelector(".rows");
  if (!root) {
    root = element("table", { class: "rows" }, element("thead"), element("tbody"));
    parentElement.append(element("div", { class: "list" }, root));
  }
  root.say = setTriggerValue;
  root.classList.toggle("dense", data.dense);
  update(root.tHead, data, [{ header: true }], root);
  update(root.tBodies[0], data, data.rows, root);
  for (const button of root.querySelectorAll("button:disabled")) button.disabled = false;
  if (root.selected !== data.selected) show(root);
  root.selected = data.selected;
}

// Brings the line that is chosen into a list that scrolls; nothing else on the page moves.
function show(root) {
  const list = root.parentElement;
  const chosen = root.querySelector("[aria-current]");
  if (!chosen) return;
  const top = chosen.offsetTop - root.tHead.offsetHeight;
  const bottom = chosen.offsetTop + chosen.offsetHeight - list.clientHeight;
  if (list.scrollTop > top) list.scrollTop = top;
  else if (list.scrollTop < bottom) list.scrollTop = bottom;
}
