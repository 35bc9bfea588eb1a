"use strict";
async function start() {
  const meta = JSON.parse(document.getElementById("meta").textContent);
  startCharts();
  const columns = JSON.parse(await unpack(document.getElementById("columns").textContent));
  const rows = new Rows(columns, meta.names);
  const table = startTable(rows, meta, meta.kind === "diff" ? differences : detail);
  document.documentElement.dataset.ready = "table";
  if (meta.live) {
    follow(rows, meta, table);
    return;
  }
  if (document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  const reading = document.getElementById("reading");
  const blocks = [...document.querySelectorAll("script.block")];
  let shown = performance.now();
  const ahead = []; // a few are unpacked at the same time
  for (const [at] of blocks.entries()) {
    while (ahead.length < 4 && at + ahead.length < blocks.length) {
      const next = blocks[at + ahead.length];
      ahead.push(unpack(next.textContent));
      next.remove(); // its text is kept twice otherwise
    }
    rows.add(await ahead.shift(), meta.block_rows[at]);
    if (at === 0) table.draw(false);
    if (performance.now() - shown > 500) {
      shown = performance.now();
      reading.textContent = `reading: ${rows.read.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows can be searched`;
    }
  }
  reading.textContent = "";
  if (table.search() || table.order().length || table.page() > 0) table.draw(false); // else it shows what it should
  document.documentElement.dataset.ready = "all";
}

start().catch((error) => {
  const old = typeof DecompressionStream === "undefined";
  document.getElementById("reading").textContent = old
    ? "This browser is too old to unpack the rows; what stands above is complete."
    : `The rows cannot be shown: ${error.message}`;
});
