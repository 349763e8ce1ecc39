// The responses to one problem over training: a row per step, a bar of values per response.

import { link } from "./address.js";
import { chip, colour, el, outcome } from "./dom.js";

export function drawHistory(rows, one) {
  const steps = new Map();
  for (const row of rows) {
    const key = `${row.stage} step ${row.step}`;
    steps.set(key, [...(steps.get(key) || []), row]);
  }
  const names = [...steps.keys()];
  const head = el("tr", {}, ...HEADS.map((name) => el("th", { scope: "col", text: name })));
  const lines = [...steps].map(([name, some]) => el("tr", {}, el("th", { scope: "row", text: name }),
    el("td", { text: share(some) }), el("td", {}, chip(firstValue(some))),
    el("td", { class: "tries" }, ...some.map((row) => attempt(row, one)))));
  return el("section", { "aria-label": "Over training", id: "history" },
    el("h3", { text: "The same problem over training" }),
    el("p", { class: "sum", text: names.length > 1 ? trend(steps, names) : ONCE }),
    el("p", { class: "muted", text: HOW }), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Responses by step" }, el("table", { class: "history" }, head, ...lines)));
}

const HEADS = ["training step", "answered right", "value of the problem", "responses, values in order"];
const HOW = "Value of the problem: the success that the critic expects before the first step, as a mean over the responses. Each bar is a response, from its first value to its last: orange 0, blue 1. Select one to open it.";
const ONCE = "No other stored step holds this problem: its task draws new problems as it goes, or too few steps are stored.";

// What became of the problem, in a sentence: from its oldest stored step to its newest.
function trend(steps, names) {
  const [newest, oldest] = [names[0], names.at(-1)];
  const [from, to] = [oldest, newest].map((name) => firstValue(steps.get(name)));
  const value = from === null || to === null ? "" : `; the critic's value of the problem went from ${from.toFixed(2)} to ${to.toFixed(2)}`;
  return `Right: ${share(steps.get(oldest))} responses at ${oldest}, ${share(steps.get(newest))} at ${newest}${value}.`;
}

const firstValue = (rows) => mean(rows.map((row) => row.first));

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
