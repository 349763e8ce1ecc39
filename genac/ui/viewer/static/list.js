// The list of responses: filters, pages, and rows with a strip of their values.

import { FILTERS, current, go, link } from "./address.js";
import { ask, byId, colour, el, outcome } from "./dom.js";

const CELLS = 60; // of a strip; longer responses show the lowest value of each part
let rows = [];
let loaded = "";
let turn = 0;

export const shownRows = () => rows;

export function setUp() {
  const form = byId("filters");
  let waiting = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go({ ...chosen(form), page: null }), 200);
  });
  byId("before").addEventListener("click", () => turnPage(-1));
  byId("after").addEventListener("click", () => turnPage(1));
}

export function turnPage(by) {
  const page = Number(current().page || 1) + by;
  if (page >= 1) go({ page: page === 1 ? null : page });
}

function chosen(form) {
  const out = {};
  for (const name of FILTERS.filter((name) => name !== "page")) {
    const field = form.elements[name];
    out[name] = field.type === "checkbox" ? (field.checked ? "true" : null) : field.value;
    if (name === "sort" && out[name] === "step") out[name] = null;
  }
  return out;
}

// Loads the page of the address. `again` loads it although the filters did not change.
export async function load(again = false) {
  const address = current();
  const query = new URLSearchParams(
    FILTERS.filter((name) => address[name]).map((name) => [name, address[name]]),
  ).toString();
  fill(address);
  if (query === loaded && !again) return mark();
  loaded = query;
  const own = ++turn;
  try {
    for (;;) {
      const page = await ask(`rollouts?${query}`);
      if (own !== turn) return; // a newer question overtook this one
      show(page);
      if (!page.searched || page.searched.done >= page.searched.total) return;
    }
  } catch (error) {
    byId("count").textContent = error.message;
  }
}

function fill(address) {
  const form = byId("filters");
  for (const name of FILTERS.filter((name) => name !== "page")) {
    const field = form.elements[name];
    const value = address[name] || (name === "sort" ? "step" : "");
    if (field.type === "checkbox") field.checked = value === "true";
    else if (field.value !== value && document.activeElement !== field) field.value = value;
  }
}

function show(page) {
  rows = page.rows;
  const pages = Math.max(1, Math.ceil(page.total / page.size));
  const searched = page.searched && page.searched.done < page.searched.total
    ? `, ${page.searched.done} of ${page.searched.total} steps searched` : "";
  byId("count").textContent = `${page.total.toLocaleString("en")} responses${searched}`;
  byId("page").textContent = `page ${page.page} of ${pages.toLocaleString("en")}`;
  byId("before").disabled = page.page <= 1;
  byId("after").disabled = page.page >= pages;
  byId("rows").replaceChildren(...rows.map(row));
  mark();
}

export const addressOf = (one) => `${one.stage}/${one.step}/${one.group}/${one.member}`;

function row(one) {
  const facts = [`step ${one.step}`, `response ${one.member}`];
  if (one.fall) facts.push(`drop ${one.fall.toFixed(2)}`);
  if (one.gap !== null) facts.push(`gap ${one.gap.toFixed(2)}`);
  if (one.missing) facts.push(`${one.missing} missing`);
  return el("li", {},
    el("a", { class: "row", href: "#", "data-at": addressOf(one) },
      el("span", { class: "line" },
        el("span", { class: "name", text: one.problem_id || "(no id)" }),
        outcome(one.reward, one.finish)),
      strip(one.values),
      el("span", { class: "small", text: facts.join(" \u00b7 ") })));
}

function strip(values) {
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

// Marks the response that is open, and gives every row the link that keeps today's filters.
function mark() {
  const at = current().at;
  for (const node of byId("rows").querySelectorAll(".row")) {
    node.href = link({ at: node.dataset.at, state: null, compare: null });
    if (node.dataset.at === at) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}
