// The list of responses: filters, pages, and rows with a strip of their values.

import { FILTERS, current, go, link } from "./address.js";
import { FALL, ask, byId, el, outcome, stored } from "./dom.js";
import { valueStrip } from "./history.js";
import { inWords } from "./maths.js";

const SORT = "telling"; // unless another is chosen: wrong responses first, the largest fall on top
let rows = [];
let loaded = "";
let turn = 0;
let searching = false; // the list may still grow

export const isSearching = () => searching;

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
    if (name === "sort" && out[name] === SORT) out[name] = null;
  }
  return out;
}

// Loads the page of the address. `again` loads it although the filters did not change.
export async function load(again = false) {
  const address = current();
  const chosen = { sort: SORT, ...address };
  const query = new URLSearchParams(
    FILTERS.filter((name) => chosen[name]).map((name) => [name, chosen[name]]),
  ).toString();
  fill(address);
  if (query === loaded && !again) return mark();
  loaded = query;
  const own = ++turn;
  try {
    for (;;) {
      const page = await ask(stored ? "rollouts" : `rollouts?${query}`);
      if (own !== turn) return; // a newer question overtook this one
      searching = Boolean(page.searched) && page.searched.done < page.searched.total;
      show(page);
      if (!searching) return;
    }
  } catch (error) {
    byId("count").textContent = error.message;
    byId("rows").replaceChildren();
  }
}

function fill(address) {
  const form = byId("filters");
  for (const name of FILTERS.filter((name) => name !== "page")) {
    const field = form.elements[name];
    const value = address[name] || (name === "sort" ? SORT : "");
    if (field.type === "checkbox") field.checked = value === "true";
    else if (field.value !== value && document.activeElement !== field) field.value = value;
  }
  const folded = [...byId("more-filters").querySelectorAll("[name]")].some((field) => address[field.name]);
  if (folded) byId("more-filters").open = true;
}

export const isFiltered = () => FILTERS.some((name) => !["sort", "page", "ascending"].includes(name) && current()[name]);

function nothing() {
  if (!isFiltered()) return [];
  const clear = () => go(Object.fromEntries(FILTERS.map((name) => [name, null])));
  return [el("li", { class: "note", text: "No response matches these filters." }),
    el("li", {}, el("button", { type: "button", text: "clear the filters", onclick: clear }))];
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
  byId("rows").replaceChildren(...(rows.length ? rows.map(row) : nothing()));
  mark();
}

export const addressOf = (one) => `${one.stage}/${one.step}/${one.group}/${one.member}`;

const FACTS = "drop: the largest fall of the value between two states. gap: the largest distance of a value from the mean reward of the group's responses through its state.";

function row(one) {
  const facts = [`step ${one.step}`, `response ${one.member}`];
  if (one.fall >= FALL) facts.push(`drop ${one.fall.toFixed(2)}`);
  if (one.gap >= FALL) facts.push(`gap ${one.gap.toFixed(2)}`);
  if (one.missing) facts.push(`${one.missing} missing`);
  return el("li", {},
    el("a", { class: "row", href: "#", "data-at": addressOf(one), title: one.problem_id },
      el("span", { class: "line" },
        el("span", { class: "name", text: one.prompt ? inWords(one.prompt) : one.problem_id || "(no id)" }),
        outcome(one.reward, one.finish)),
      one.values.length ? valueStrip(one.values) : null,
      el("span", { class: "small", title: FACTS, text: facts.join(" \u00b7 ") })));
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
