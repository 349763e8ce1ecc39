// One response: its steps coloured by value, the value curve beside them, the state's panel.

import { current, go, link } from "./address.js";
import { drawCurve } from "./curve.js";
import { ask, byId, chip, colour, el, outcome, place, signed } from "./dom.js";
import { exportAs, exportPng } from "./exporting.js";
import { panel } from "./state.js";
import { repaint } from "./tokens.js";
import { drawTree } from "./tree.js";

let shown = ""; // what is drawn now: address and kind of view
let data = null;
let turn = 0;

// Draws what the address asks for; draws nothing anew where only the state has changed.
export async function open() {
  const { at, view } = current();
  const wanted = at ? `${at} ${view || ""}` : "";
  if (wanted === shown) return at && view !== "tree" ? select() : undefined;
  const main = byId("detail");
  if (!at) {
    shown = "";
    main.replaceChildren(el("p", { class: "note", text: "Choose a response on the left." }));
    return;
  }
  const mine = ++turn;
  try {
    const one = await ask(`trajectory/${place(at)}`);
    const tree = view === "tree" ? await ask(`tree/${place(at.split("/").slice(0, 3).join("/"))}`) : null;
    if (mine !== turn) return;
    data = one;
    shown = wanted;
    const body = tree ? drawTree(tree, one) : steps(one);
    main.replaceChildren(head(one, Boolean(tree)), problem(one), siblings(one), body);
    main.scrollTop = 0;
    if (!tree) select();
  } catch (error) {
    if (mine !== turn) return;
    data = null;
    shown = wanted;
    main.replaceChildren(el("h2", { text: at }), el("p", { role: "alert", text: error.message }));
  }
}

function head(one, tree) {
  const button = (text, act) => el("button", { type: "button", text, onclick: act });
  const where = `${one.stage} step ${one.step}, response ${one.member} of group ${one.group}`;
  return el("div", { class: "head" },
    el("h2", { text: one.problem_id || one.address }),
    outcome(one.reward, one.finish),
    el("span", { class: "muted", text: `${where} \u00b7 reward ${one.reward ?? "none"}` }),
    el("span", { class: "tools" },
      button(tree ? "steps" : "tree of the group", () => go({ view: tree ? null : "tree" })),
      button("HTML", () => exportAs(one, "html")),
      button("Markdown", () => exportAs(one, "md")),
      button("PNG", () => exportPng(one, selectedStep())),
      button("print", () => window.print())));
}

function problem(one) {
  const lines = [el("pre", { text: one.prompt ?? "The rollouts of this step are not in the run folder." })];
  if (one.answer) lines.push(el("p", { class: "muted", text: `expected answer: ${one.answer}` }));
  if (one.reason) lines.push(el("p", { class: "muted", text: `not scored: ${one.reason}` }));
  return el("section", { class: "card", "aria-label": "Problem" }, ...lines);
}

function siblings(one) {
  const links = one.siblings.map((sibling) => {
    const at = `${one.stage}/${one.step}/${one.group}/${sibling.member}`;
    const mark = sibling.reward === null ? "?" : sibling.reward >= 0.5 ? "\u2713" : "\u2717";
    return el("a", { href: link({ at, state: null, compare: null }), text: `${sibling.member} ${mark}`,
      "aria-current": sibling.member === one.member ? "true" : null,
      "aria-label": `response ${sibling.member}, reward ${sibling.reward ?? "none"}` });
  });
  return el("nav", { class: "siblings", "aria-label": "Responses to this problem" },
    el("span", { class: "muted", text: "responses" }), ...links);
}

// --- steps ----------------------------------------------------------------------------------------

function steps(one) {
  const widest = Math.max(0.1, ...one.steps.map((step) => Math.abs(step.advantage ?? 0)));
  const list = el("ol", { class: "steps", id: "steps" },
    ...one.steps.map((step, index) => el("li", {}, stepButton(one, step, index, widest))));
  const wrap = el("div", { class: "steps-wrap" }, list, drawCurve(one, list));
  const names = el("div", { class: "steps-head", "aria-hidden": "true" },
    ...["", "value", "step", "advantage"].map((text) => el("span", { text })));
  return el("div", { class: "split" },
    el("section", { "aria-label": "Steps" }, names, wrap),
    el("section", { class: "state", id: "state", "aria-live": "polite", "aria-label": "Critic" }));
}

function stepButton(one, step, index, widest) {
  const text = el("span", { class: "text mono", text: step.text.replace(/\n$/, "") });
  if (index === one.worst) {
    text.append(el("span", { class: "fall", text: `\u25bc value falls ${(-step.change).toFixed(2)} across this step` }));
  }
  const node = el("button", { type: "button", class: "step", "data-start": step.start,
    "aria-pressed": "false", disabled: !step.asked,
    onclick: () => go({ state: step.start }, true) },
    el("span", { class: "at", text: String(index + 1) }), chip(step.value, step.asked), text,
    advantage(step.advantage, widest));
  if (step.value !== null) node.style.setProperty("--value", colour(step.value));
  return node;
}

function advantage(value, widest) {
  const bar = el("span", { class: "bar" });
  if (value !== null) {
    const width = (50 * Math.abs(value)) / widest;
    const fill = el("i", { class: value < 0 ? "down" : "up" });
    fill.style.width = `${width}%`;
    fill.style.left = `${value < 0 ? 50 - width : 50}%`;
    bar.append(fill);
  }
  return el("span", { class: "adv" }, el("span", { text: signed(value) }), bar);
}

// --- the selected state ---------------------------------------------------------------------------

function selectedStep() {
  if (!data) return null;
  const judged = data.steps.filter((step) => step.asked);
  const start = current().state;
  const selected = judged.find((step) => String(step.start) === start);
  if (selected) return selected;
  if (data.worst === null) return judged[0] || null;
  return judged.find((step) => step.start > data.steps[data.worst].start) || judged[0];
}

// Marks the state of the address (else the one behind the largest fall, which says why), and fades what its critic had not seen.
function select() {
  const step = selectedStep();
  const list = byId("steps");
  if (!list) return;
  list.querySelector(".asked-here")?.remove();
  for (const node of list.querySelectorAll(".step")) {
    const start = Number(node.dataset.start);
    const here = step !== null && start === step.start;
    node.setAttribute("aria-pressed", String(here));
    node.parentNode.classList.toggle("unseen", step !== null && start >= step.start);
    if (here) {
      node.parentNode.prepend(el("div", { class: "asked-here", text: "\u25b8 asked here: the critic has read the steps above" }));
    }
  }
  const about = `${data.address} ${step === null ? "" : step.start}`;
  const versions = byId("versions");
  if (byId("state").dataset.about !== about) {
    byId("state").dataset.about = about;
    byId("state").replaceChildren(panel(data, step));
  } else if (versions) {
    versions.open = Boolean(current().compare);
  }
  repaint();
  document.dispatchEvent(new Event("selected"));
}

function judgedSteps() {
  return data ? data.steps.filter((step) => step.asked) : [];
}

export function stateBy(by) {
  const steps = judgedSteps();
  const at = steps.indexOf(selectedStep());
  const next = steps[Math.min(steps.length - 1, Math.max(0, at + by))];
  if (!next) return;
  go({ state: next.start }, true);
  byId("steps")?.querySelector('[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
}

export function worstState() {
  if (data && data.worst !== null) go({ state: null }, true);
}
