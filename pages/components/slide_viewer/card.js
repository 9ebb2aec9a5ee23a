// What is selected, in words, and what can be done with it.

class Card {
  constructor(viewer) {
    this.viewer = viewer;
    const action = (label, key, title, onclick) => viewer.button([label, element("kbd", {}, key)], title, onclick, { "data-action": label.split(" ")[0].toLowerCase() });
    this.title = element("strong");
    this.chip = element("span", { class: "chip" });
    this.facts = element("dl");
    this.confirm = action("Confirm", "c", "It is a glomerulus, and its outline is right (c)", () => viewer.act("confirm"));
    this.remove = action("Remove", "Del", "Not a glomerulus (Delete)", () => viewer.act("remove"));
    this.restore = action("Restore", "Del", "It is a glomerulus after all (Delete)", () => viewer.act("restore"));
    this.mark = action("Sclerosed", "s", "Mark as globally sclerosed (s)", () => viewer.act("mark_sclerosed"));
    this.unmark = action("Not sclerosed", "s", "Not globally sclerosed (s)", () => viewer.act("unmark_sclerosed"));
    this.redraw = action("Redraw", "r", "Draw a new outline (r)", () => viewer.redrawSelected());
    this.actions = element("div", { class: "actions" }, this.confirm, this.remove, this.restore, this.mark, this.unmark, this.redraw);
    this.box = element("div", { class: "float card", hidden: true, role: "status", "aria-live": "polite" },
      element("div", { class: "head" }, this.title, this.chip, element("span", { class: "space" }),
        viewer.button("‹", "Previous glomerulus (p)", () => viewer.step(-1)), viewer.button("›", "Next glomerulus (n)", () => viewer.step(1)),
        viewer.button("×", "Drop the selection (Esc)", () => viewer.select([]))),
      this.facts, this.actions);
  }

  show(chosen, umPerPx, editable) {
    this.box.hidden = !chosen.length;
    this.box.dataset.keys = chosen.map((item) => item.key).join(" ");
    if (!chosen.length) return;
    const [item] = chosen;
    const alone = chosen.length === 1;
    this.title.textContent = alone ? (item.fresh ? "New glomerulus" : `Glomerulus ${item.number}`) : `${chosen.length} glomeruli`;
    const kinds = new Set(chosen.map(kindOf));
    const [kind] = kinds;
    this.chip.hidden = kinds.size > 1;
    this.chip.replaceChildren(sample(kind), KINDS[kind].words);
    const facts = alone ? [
      ["Diameter", lengthWords(item.diameter / (umPerPx ?? 1), umPerPx)], ["Area", areaWords(item, umPerPx)],
      ["Score", item.score === null ? "none: by hand" : item.score.toFixed(2)], ["Status", STATUS_WORDS[item.status]],
      ...(item.sclerosed && kind !== "sclerosed" ? [["", "globally sclerosed"]] : []),
      ...(item.touches_edge ? [["", "cut by the edge of the slide"]] : []),
    ] : [["Numbers", chosen.slice(0, 12).map(label).join(", ") + (chosen.length > 12 ? " …" : "")]];
    this.facts.replaceChildren(...facts.flatMap(([name, words]) => [element("dt", {}, name), element("dd", {}, words)]));
    this.actions.hidden = !editable;
    const all = (test) => chosen.every(test);
    const gone = all((one) => one.status === "removed");
    this.confirm.disabled = !chosen.some((one) => one.status === "model");
    this.remove.hidden = gone;
    this.restore.hidden = !gone;
    this.mark.hidden = all((one) => one.sclerosed);
    this.unmark.hidden = !this.mark.hidden;
    this.mark.disabled = this.unmark.disabled = gone;
    this.redraw.disabled = !alone || gone;
  }
}
