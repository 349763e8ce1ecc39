// The page: what the address says is shown, what is pressed changes the address.

import { current, go } from "./address.js";
import { ask, byId, colour, el } from "./dom.js";
import { addressOf, load, setUp, shownRows, turnPage } from "./list.js";
import { otherNumber } from "./state.js";
import { open, stateBy, worstState } from "./trajectory.js";

const EVERY = 2000; // milliseconds between two looks at a run that is all read
let version = -1;

async function route() {
  await Promise.all([load(), open()]);
}

async function look() {
  let wait = EVERY;
  try {
    const run = await ask("run");
    about(run);
    if (run.version !== version) {
      version = run.version;
      await load(true);
    }
    const all = run.indexed.done === run.indexed.total;
    if (!all) wait = 20;
    // Under the default order the first row is the first at once; under others once all are read.
    const settled = all || !current().sort;
    if (settled && !current().at && shownRows().length) go({ at: addressOf(shownRows()[0]) }, true);
  } catch (error) {
    byId("run-facts").textContent = `no answer from the server (${error.message})`;
  }
  setTimeout(look, wait);
}

function about(run) {
  document.title = `${run.name} \u00b7 genac view`;
  byId("run-name").textContent = run.name;
  const step = run.step === null ? "" : `${run.stage} step ${run.step}${run.steps ? `, ${run.step + 1} of ${run.steps} done` : ""}`;
  const read = run.indexed.done < run.indexed.total
    ? `${run.indexed.done} of ${run.indexed.total} stored steps read`
    : `${run.states.toLocaleString("en")} values of ${run.responses.toLocaleString("en")} responses`;
  const facts = [run.algorithm, step, run.result, read].filter(Boolean).join(" \u00b7 ");
  const badge = el("span", { class: `badge ${run.status}`, text: run.status });
  const line = byId("run-facts");
  if (line.textContent !== `${run.status} ${facts}`) line.replaceChildren(badge, ` ${facts}`);
  const notes = run.missing.map((text) => el("p", { text }));
  if (byId("missing").textContent !== run.missing.join("")) byId("missing").replaceChildren(...notes);
}

function neighbour(by) {
  const rows = shownRows();
  const at = rows.findIndex((row) => addressOf(row) === current().at);
  const next = rows[at + by];
  if (next) go({ at: addressOf(next), state: null, compare: null });
  else if (at >= 0) turnPage(by);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "light" : "dark";
  document.dispatchEvent(new Event("themechange"));
}

function toggleTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("genac-theme", next);
  theme(next);
}

const KEYS = {
  j: () => stateBy(1),
  ArrowDown: () => stateBy(1),
  k: () => stateBy(-1),
  ArrowUp: () => stateBy(-1),
  n: () => neighbour(1),
  p: () => neighbour(-1),
  w: () => worstState(),
  g: () => go({ view: current().view === "tree" ? null : "tree" }),
  c: () => go({ compare: current().compare ? null : "1" }, true),
  e: otherNumber,
  t: toggleTheme,
  "/": () => byId("f-q").focus(),
  "?": () => byId("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

const stops = Array.from({ length: 11 }, (_, i) => colour(i / 10));
byId("scale").style.background = `linear-gradient(90deg, ${stops.join(",")})`;
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
theme(localStorage.getItem("genac-theme") || (dark ? "dark" : "light"));
byId("theme").addEventListener("click", toggleTheme);
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view, not an anchor
  byId("detail").focus();
});
window.addEventListener("hashchange", route);
setUp();
route();
look();
