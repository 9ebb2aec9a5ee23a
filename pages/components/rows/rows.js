// A table whose rows open a record: text, chips, progress and buttons, in the page's own look.
// A plain click opens inside the session; with Ctrl or the middle button the link opens a new tab.

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

export default function mount({ parentElement, data, setTriggerValue }) {
  let root = parentElement.querySelector(".rows");
  if (!root) {
    root = element("table", { class: "rows" });
    parentElement.append(root);
  }
  root.classList.toggle("dense", data.dense);
  const look = (i) => [data.numeric.includes(i) && "number", data.minor.includes(i) && "minor", data.least.includes(i) && "least", data.wide === i && "wide"].filter(Boolean).join(" ") || null;
  const open = (row) => setTriggerValue("open", row.id);
  const content = (row, cell, i) => {
    if (i === data.link) {
      return element("a", {
        href: row.href,
        onclick: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
          event.preventDefault();
          event.stopPropagation();
          open(row);
        },
      }, cell);
    }
    if (typeof cell === "object" && cell !== null) {
      if (cell.actions) {
        return element("span", { class: "actions" }, ...cell.actions.map(([name, words, title]) =>
          element("button", { type: "button", title, "data-act": name, onclick: (event) => { event.stopPropagation(); event.target.disabled = true; setTriggerValue("act", { name, id: row.id }); } }, words)));
      }
      return element("span", {}, chip(cell), cell.note ? element("span", { class: "note", title: cell.note }, cell.note) : null);
    }
    return element("span", { class: "text", title: cell }, cell ?? "");
  };
  root.replaceChildren(
    element("thead", {}, element("tr", {}, ...data.head.map((words, i) => element("th", { scope: "col", class: look(i) }, words)))),
    element("tbody", {}, ...data.rows.map((row) =>
      element("tr", { "data-id": row.id, "aria-current": row.id === data.selected && "true", onclick: () => open(row) }, ...row.cells.map((cell, i) => element("td", { class: look(i) }, content(row, cell, i)))))),
  );
}
