"use strict";
// The table of rows: DataTables shows, pages and sorts what Rows finds. Whatever a row holds is set as text, never as
// markup.
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function pretty(field) {
  if (!field.json || /\d{16}/.test(field.value)) return field.value; // JavaScript would round such a number
  try {
    return JSON.stringify(JSON.parse(field.value), null, 2);
  } catch {
    return field.value; // cut
  }
}

/** Text with what was searched for marked. */
function marked(place, text, wanted) {
  if (!wanted) {
    place.append(text);
    return place;
  }
  const pattern = new RegExp(wanted.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"), "gi");
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    place.append(text.slice(at, match.index), element("mark", match[0]));
    at = match.index + match[0].length;
  }
  place.append(text.slice(at));
  return place;
}

function detail(rows, row, wanted) {
  const fields = rows.fieldsOf(row);
  const box = element("div", undefined, "detail");
  if (fields === null) {
    box.append(element("p", "This row is still being read."));
    return box;
  }
  for (const [part, title] of [["about", "Row"], ["inputs", "Inputs"], ["outputs", "Outputs"]]) {
    const own = fields.filter((field) => field.part === part);
    if (!own.length) continue;
    box.append(element("h3", title));
    const list = element("dl");
    for (const field of own) {
      list.append(element("dt", field.name));
      list.append(marked(element("dd", undefined, field.json ? "json" : ""), pretty(field), wanted));
    }
    box.append(list);
  }
  return box;
}

/** The first words of what came out, for the row that is folded. */
function preview(rows, row) {
  const fields = rows.fieldsOf(row);
  if (fields === null) return "…";
  const shown = fields.find((field) => field.part === "outputs") || fields.find((field) => field.name === "error");
  if (!shown) return "";
  return shown.value.length > 120 ? `${shown.value.slice(0, 120)}…` : shown.value;
}

function startTable(rows, meta, makeDetail) {
  const columns = rows.columns;
  const state = document.getElementById("state");
  const shown = [
    { name: "open", title: "", sorts: false },
    { name: "id", title: "id", text: (row) => columns.id[row], className: "id" },
    { name: "source", title: "output", text: (row) => meta.sources[columns.source[row]], className: "spare", only: meta.sources.length > 1 },
    { name: "state", title: "state", text: (row) => meta.states[columns.state[row]], className: "state" },
    { name: "code", title: "error", text: (row) => columns.code[row], className: "spare", only: meta.kind !== "diff" },
    { name: "fields", title: "changed fields", text: (row) => columns.fields[row], only: meta.kind === "diff" },
    { name: "preview", title: "begins with", sorts: false, text: (row) => preview(rows, row), className: "preview", only: meta.kind !== "diff" },
    { name: "at", title: "ended (UTC)", text: (row) => columns.at[row] === null ? "" : new Date(columns.at[row] * 1000).toISOString().slice(0, 19).replace("T", " "), className: "spare at" },
    { name: "seconds", title: "seconds", text: (row) => shortNumber(columns.seconds[row]), className: "number spare" },
    { name: "tokens", title: "tokens", text: (row) => shortNumber(columns.tokens[row]), className: "number spare" },
    { name: "price", title: "price", text: (row) => columns.price[row] === null ? "" : `${columns.price[row].toLocaleString("en", { maximumSignificantDigits: 4 })} ${columns.currency[row]}`, className: "number spare", only: meta.priced },
    { name: "retries", title: "retries", text: (row) => shortNumber(columns.retries[row]), className: "number spare" },
  ].filter((column) => column.only !== false && (column.name === "open" || column.name === "preview" || columns[column.name]));

  let wanted = "";
  const table = new DataTable("#table", {
    serverSide: true,
    searchDelay: 60,
    pageLength: 25,
    lengthMenu: [10, 25, 100, 500],
    autoWidth: false,
    order: [],
    layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
    language: {
      search: "Search in all values:",
      emptyTable: "No row.",
      zeroRecords: "No row holds that.",
      info: "_START_ to _END_ of _TOTAL_ rows",
      infoEmpty: "no row",
      infoFiltered: "(out of _MAX_)",
      lengthMenu: "_MENU_ rows a page",
    },
    columns: shown.map((column) => ({
      data: null,
      name: column.name,
      title: column.title || "unfold",
      orderable: column.sorts !== false,
      className: column.className || "",
      render: () => "",
      createdCell: (cell, value, data) => {
        if (column.name === "open") cell.append(opener(data.row));
        else if (column.name === "state") {
          const dot = element("span", undefined, "dot");
          dot.dataset.state = column.text(data.row);
          dot.setAttribute("aria-hidden", "true");
          cell.append(dot, column.text(data.row));
        } else if (column.name === "preview") cell.append(element("span", column.text(data.row)));
        else cell.textContent = column.text(data.row);
      },
    })),
    ajax: (request, give) => {
      wanted = request.search.value.trim();
      const only = state.selectedIndex > 0 ? meta.states.indexOf(state.value) : -1;
      const alive = (row) => !columns.gone || !columns.gone[row];
      const found = rows.find(wanted, (row) => alive(row) && (only < 0 || columns.state[row] === only));
      const by = request.order.map(({ column, dir }) => ({ name: shown[column].name, down: dir === "desc" }));
      rows.sort(found, by);
      const end = request.length < 0 ? found.length : request.start + request.length;
      const all = rows.length - (columns.gone || []).reduce((sum, gone) => sum + (gone ? 1 : 0), 0);
      give({
        draw: request.draw,
        recordsTotal: all,
        recordsFiltered: found.length,
        data: found.slice(request.start, end).map((row) => ({ row })),
      });
    },
  });

  function opener(row) {
    const button = element("button", "+", "open");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", `unfold row ${columns.id[row]}`);
    button.addEventListener("click", () => {
      const own = table.row(button.closest("tr"));
      const open = !own.child.isShown();
      if (open) own.child(makeDetail(rows, row, wanted)).show();
      else own.child.hide();
      button.textContent = open ? "−" : "+";
      button.setAttribute("aria-expanded", String(open));
    });
    return button;
  }

  state.addEventListener("change", () => table.draw());
  document.addEventListener("click", (event) => {
    const found = event.target.closest("button.find");
    if (!found) return;
    state.selectedIndex = 0;
    table.search(found.dataset.find).draw();
    document.getElementById("rows").focus();
    document.getElementById("rows").scrollIntoView();
  });
  return table;
}
