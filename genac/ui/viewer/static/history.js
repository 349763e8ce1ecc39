// The responses to one problem over training: a row per step, a bar of values per response.

import { link } from "./address.js";
import { chip, colour, el, outcome } from "./dom.js";

export function drawHistory(rows, one) {
  const steps = new Map();
  for (const row of rows) {
    const key = `${row.stage} step ${row.step}`;
    steps.set(key, [...(steps.get(key) || []), row]);
  }
  const text = steps.size > 1
    ? `${rows.length} responses at ${steps.size} stored steps, the newest first. A bar holds the values in order; select one to open it.`
    : "This run holds the problem at one step only: endless generators do not repeat problems.";
  const head = el("tr", {}, ...["", "right", "first value", "responses"].map((name) => el("th", { scope: "col", text: name })));
  const lines = [...steps].map(([name, some]) => el("tr", {}, el("th", { scope: "row", text: name }),
    el("td", { text: share(some) }), el("td", {}, chip(mean(some.map((row) => row.first)))),
    el("td", { class: "tries" }, ...some.map((row) => attempt(row, one)))));
  return el("section", { "aria-label": "Over training", id: "history" },
    el("p", { class: "muted", text }), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Responses by step" }, el("table", { class: "history" }, head, ...lines)));
}

function share(rows) {
  const scored = rows.filter((row) => row.reward !== null);
  return `${scored.filter((row) => row.reward >= 0.5).length} of ${scored.length}`;
}

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

function attempt(row, one) {
  const at = `${row.stage}/${row.step}/${row.group}/${row.member}`;
  return el("a", { class: "try", href: link({ at, state: null, view: null, compare: null }),
    "aria-current": at === one.address ? "true" : null, title: at }, outcome(row.reward, row.finish), valueStrip(row.values));
}

const CELLS = 60; // of a strip; longer responses show the lowest value of each part

// The values of a response in order, as cells of their colours.
export function valueStrip(values) {
  const node = el("span", { class: "strip", "aria-hidden": "true" });
  for (const value of thinned(values)) {
    const cell = el("i", { class: value === null ? "gone" : null });
    if (value !== null) cell.style.background = colour(value);
    node.append(cell);
  }
  return node;
}

function thinned(values) {
  if (values.length <= CELLS) return values;
  const size = values.length / CELLS;
  return Array.from({ length: CELLS }, (_, i) => {
    const part = values.slice(Math.floor(i * size), Math.floor((i + 1) * size));
    const known = part.filter((value) => value !== null);
    return known.length ? Math.min(...known) : null;
  });
}
