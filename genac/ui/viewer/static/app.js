// The page: what the address says is shown, what is pressed changes the address.

import { current, go } from "./address.js";
import { ask, byId, colour, el, stored } from "./dom.js";
import { addressOf, isFiltered, isSearching, load, setUp, shownRows, turnPage } from "./list.js";
import { otherNumber } from "./state.js";
import { setUpTheme, toggleTheme } from "./theme.js";
import { message, open, stateBy, switchText, worstState } from "./trajectory.js";

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
    // Without a filter what was read first will do; what a person looks for waits until all is read.
    const settled = all || !(isFiltered() || current().sort);
    if (settled && !current().at) first(run);
    if (stored) return;
  } catch (error) {
    byId("run-facts").textContent = `no answer from the server (${error.message})`;
  }
  setTimeout(look, wait);
}

// Opens the first response of the list, or says why there is none.
function first(run) {
  if (shownRows().length) go({ at: addressOf(shownRows()[0]) }, true);
  else if (!isFiltered()) {
    message(run.indexed.total ? "The stored steps hold no response." : run.status === "running"
      ? "No response is stored yet. The page looks again by itself." : "This run holds no stored responses.");
  } else message(isSearching() ? "Searching\u2026" : "No response matches the filters on the left.");
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

function toggleList() {
  const hidden = document.body.classList.toggle("alone");
  byId("list").textContent = hidden ? "show list" : "hide list";
  byId("list").setAttribute("aria-expanded", String(!hidden));
}

// On a narrow screen the response lies below the list.
function showResponse(event) {
  if (event.target.closest(".row") && matchMedia("(max-width: 800px)").matches) byId("detail").scrollIntoView();
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
  h: () => stored || go({ view: current().view === "history" ? null : "history" }),
  l: toggleList,
  m: switchText,
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
byId("list").addEventListener("click", toggleList);
byId("rows").addEventListener("click", showResponse);
byId("keys").addEventListener("click", () => byId("help").showModal());
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view, not an anchor
  byId("detail").focus();
});
if (location.pathname.includes("/run/")) byId("run-name").before(el("a", { href: "../../", target: "_top", text: "all runs" }));
if (window.top !== window) { // one of two next to each other
  document.body.classList.add("framed");
  toggleList();
}
if (stored && stored.rollouts.rows.length < 2) document.body.classList.add("few");
window.addEventListener("hashchange", route);
setUpTheme();
setUp();
route();
look();
