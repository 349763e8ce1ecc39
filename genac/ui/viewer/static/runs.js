// The runs of a folder: one opens on its own, two next to each other.

import { ask, byId, el } from "./dom.js";
import { setUpTheme } from "./theme.js";

const NAMES = ["", "run", "status", "algorithm", "stage", "step", "result", "last written"];
const marked = new Set();

function line(run) {
  const box = el("input", { type: "checkbox", "aria-label": `mark ${run.name}`, onchange: () => mark(run.name, box.checked) });
  const step = run.step === null ? "" : `${run.step + 1}${run.steps ? ` of ${run.steps}` : ""}`;
  const when = run.updated === null ? "" : new Date(1000 * run.updated).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  return el("tr", {}, el("td", {}, box),
    el("th", { scope: "row" }, el("a", { href: `run/${encodeURIComponent(run.name)}/`, text: run.name.replaceAll("~", "/") })),
    el("td", {}, el("span", { class: `badge ${run.status}`, text: run.status })),
    ...[run.algorithm, run.stage, step, run.result, when].map((text) => el("td", { text })));
}

function mark(name, is) {
  if (is) marked.add(name); else marked.delete(name);
  byId("pair").disabled = marked.size !== 2;
}

function openPair() {
  const [left, right] = marked;
  location.href = `pair?${new URLSearchParams({ left, right })}`;
}

async function show() {
  try {
    const { folder, runs } = await ask("runs");
    byId("run-facts").textContent = `${runs.length} in ${folder}`;
    const head = el("tr", {}, ...NAMES.map((text) => (text ? el("th", { scope: "col", text }) : el("td"))));
    byId("runs").replaceChildren(head, ...runs.map(line));
  } catch (error) {
    byId("run-facts").textContent = error.message;
  }
}

byId("pair").addEventListener("click", openPair);
setUpTheme();
show();
