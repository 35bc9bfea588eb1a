"use strict";
// A row of a comparison: its changed fields side by side, with the words marked that only one side has.
function differences(rows, row, wanted) {
  const fields = rows.fieldsOf(row);
  const box = element("div", undefined, "detail");
  if (fields === null) {
    box.append(element("p", "This row is still being read."));
    return box;
  }
  for (const [part, title] of [["about", "Row"], ["inputs", "Inputs"]]) {
    const own = fields.filter((field) => field.part === part);
    if (!own.length) continue;
    box.append(element("h3", title));
    const list = element("dl");
    for (const field of own) list.append(element("dt", field.name), marked(element("dd"), pretty(field), wanted));
    box.append(list);
  }
  const left = new Map(fields.filter((field) => field.part === "outputs").map((field) => [field.name, field]));
  const right = new Map(fields.filter((field) => field.part === "others").map((field) => [field.name, field]));
  for (const name of new Set([...left.keys(), ...right.keys()])) {
    box.append(element("h3", name));
    const sides = element("div", undefined, "sides");
    const a = left.has(name) ? pretty(left.get(name)) : null, b = right.has(name) ? pretty(right.get(name)) : null;
    const inA = element("div", undefined, "text"), inB = element("div", undefined, "text");
    if (a === null || b === null) {
      inA.append(a === null ? element("em", "none") : element("del", a));
      inB.append(b === null ? element("em", "none") : element("ins", b));
    } else {
      const parts = Diff.diffWordsWithSpace(a, b, { timeout: 2000 });
      for (const { value, added, removed } of parts || [{ value: a, removed: true }, { value: b, added: true }]) {
        if (!added) inA.append(removed ? element("del", value) : value);
        if (!removed) inB.append(added ? element("ins", value) : value);
      }
    }
    for (const [title, text] of [["a", inA], ["b", inB]]) {
      const side = element("div");
      side.append(element("div", title, "head"), text);
      sides.append(side);
    }
    box.append(sides);
  }
  return box;
}
