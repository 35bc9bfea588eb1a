"use strict";
// The rows of the page: columns that are sorted and filtered at once, and blocks of text that are searched as they
// are. See reports/html/pack.py for what a block holds.
const ROW = "\x1d", FIELD = "\x1e", FIRST_DIGIT = 0x0e, DIGITS = 12;
const KINDS = { "\x01": "about", "\x02": "inputs", "\x03": "inputs", "\x04": "outputs", "\x05": "outputs",
  "\x06": "others", "\x07": "others" };
const JSON_KINDS = "\x03\x05\x07";

async function unpack(base64) {
  let bytes;
  if (Uint8Array.fromBase64) {
    bytes = Uint8Array.fromBase64(base64);
  } else {
    const text = atob(base64);
    bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new TextDecoder().decode(await new Response(stream).arrayBuffer());
}

class Rows {
  constructor(columns, names) {
    this.columns = columns;
    this.names = names;
    this.blocks = []; // { first, count, text, starts }
    this.blockOf = [];
    this.last = null; // the search before: a longer one of it needs to look only at what that found
    this.version = 0; // grows when rows come in
  }

  get length() {
    return this.columns.id.length;
  }

  get read() {
    return this.blocks.reduce((sum, block) => sum + block.count, 0);
  }

  /** Adds the text of the next `count` rows. */
  add(text, count) {
    const starts = new Uint32Array(count + 1);
    let at = 0;
    for (let row = 0; row < count; row++) {
      starts[row] = at;
      const end = text.indexOf(ROW, at);
      at = (end < 0 ? text.length : end) + 1;
    }
    starts[count] = at;
    const first = this.read;
    this.blocks.push({ first, count, text, starts });
    this.version++;
  }

  textOf(row) {
    let low = 0, high = this.blocks.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1, block = this.blocks[middle];
      if (row < block.first) high = middle - 1;
      else if (row >= block.first + block.count) low = middle + 1;
      else return block.text.slice(block.starts[row - block.first], block.starts[row - block.first + 1] - 1);
    }
    return null; // not unpacked yet
  }

  /** The fields of a row: [{ part: "about", "inputs" or "outputs", name, value, json }]; null if not unpacked yet. */
  fieldsOf(row) {
    const text = this.textOf(row);
    if (text === null) return null;
    return text.split(FIELD).filter(Boolean).map((field) => {
      let at = 1, number = 0;
      for (; at < field.length; at++) {
        const digit = field.charCodeAt(at) - FIRST_DIGIT;
        if (digit < 0 || digit >= DIGITS) break;
        number = number * DIGITS + digit;
      }
      const json = JSON_KINDS.includes(field[0]);
      return { part: KINDS[field[0]], name: this.names[number], value: field.slice(at), json };
    });
  }

  /** The numbers of the rows whose text holds `wanted`, whatever its case, and for which `keep` holds. */
  find(wanted, keep) {
    const found = [];
    const key = wanted.toLowerCase();
    if (!key) {
      for (let row = 0; row < this.length; row++) if (keep(row)) found.push(row);
      return found;
    }
    let hits;
    if (this.last && this.last.version === this.version && this.last.key === key) {
      hits = this.last.hits;
    } else {
      const pattern = new RegExp(key.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&"), "gi");
      hits = [];
      for (const block of this.blocks) {
        pattern.lastIndex = 0;
        for (let row = 0, match; row < block.count && (match = pattern.exec(block.text)); row++) {
          let low = row, high = block.count - 1; // the last row that starts at or before the match
          while (low < high) {
            const middle = (low + high + 1) >> 1;
            if (block.starts[middle] <= match.index) low = middle;
            else high = middle - 1;
          }
          row = low;
          hits.push(block.first + row);
          pattern.lastIndex = block.starts[row + 1];
        }
      }
      this.last = { version: this.version, key, hits };
    }
    for (const row of hits) if (keep(row)) found.push(row);
    return found;
  }

  /** Sorts row numbers by columns: [{ name, down }]; equal rows stay in their order, empty values come last. */
  sort(rows, by) {
    const keys = by.map(({ name, down }) => ({ values: this.columns[name], sign: down ? -1 : 1 }));
    if (!keys.length) return rows;
    return rows.sort((a, b) => {
      for (const { values, sign } of keys) {
        const x = values[a], y = values[b];
        if (x === y) continue;
        if (x === null || x === "") return y === null || y === "" ? 0 : 1;
        if (y === null || y === "") return -1;
        return x < y ? -sign : sign;
      }
      return a - b;
    });
  }
}
