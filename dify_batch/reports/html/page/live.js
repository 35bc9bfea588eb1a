"use strict";
// The page of a batch under way: told by server-sent events that there is something new, it fetches that.
function follow(rows, meta, table) {
  const state = document.getElementById("live"), figures = document.getElementById("figures");
  let epoch = null, busy = false, again = false, stale = false;
  rows.columns.gone = [];

  const say = (text) => {
    if (state.textContent !== text) state.textContent = text; // else a screen reader reads it out each time
  };
  const occupied = () => figures.contains(document.activeElement) || figures.querySelector("details[open]");
  const unfolded = () => document.querySelector("#table button[aria-expanded='true']");

  async function update() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      if (!occupied()) {
        figures.innerHTML = await (await fetch("figures")).text(); // escaped where it was made
        drawCharts();
      }
      const answer = await (await fetch(`rows?from=${rows.length}`)).json();
      if (epoch !== null && answer.epoch !== epoch) {
        location.reload(); // the results were replaced
        return;
      }
      epoch = answer.epoch;
      if (answer.first === rows.length) {
        for (const [name, values] of Object.entries(answer.columns)) {
          for (const value of values) rows.columns[name].push(value); // a spread of 100,000 is too many arguments
        }
        rows.names = answer.names;
        for (const [at, block] of answer.blocks.entries()) rows.add(await unpack(block), answer.block_rows[at]);
      }
      for (const row of answer.gone) rows.columns.gone[row] = true;
      stale = true;
      show();
      say("live: this page follows the batch");
      document.documentElement.dataset.ready = "all";
    } catch {
      say("the connection is lost; trying again");
    } finally {
      busy = false;
      if (again) {
        again = false;
        update();
      }
    }
  }

  function show() {
    if (!stale || unfolded()) return; // what a person reads is not folded under their eyes
    stale = false;
    table.draw(false);
  }

  const events = new EventSource("events");
  events.onmessage = update;
  events.onerror = () => say("the connection is lost; trying again");
  document.getElementById("table").addEventListener("click", () => setTimeout(show));
}
