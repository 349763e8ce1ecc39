// One response: its steps coloured by value, the value curve next to them, the state's panel.

import { current, go, link } from "./address.js";
import { drawCurve } from "./curve.js";
import { FALL, ask, byId, chip, colour, el, outcome, place, signed, stored } from "./dom.js";
import { exportAs, exportPng } from "./exporting.js";
import { drawHistory } from "./history.js";
import { isPlain, prose, proseOf, setPlain } from "./prose.js";
import { panel } from "./state.js";
import { repaint } from "./tokens.js";
import { drawTree } from "./tree.js";

const NARROW = matchMedia("(max-width: 1150px)"); // the style sheet's
let shown = null; // what is drawn now: address and kind of view
let data = null;
let turn = 0;

NARROW.addEventListener("change", () => data && byId("steps") && select());

// In place of a response.
export function message(text) {
  if (byId("detail").textContent === text) return;
  shown = null;
  data = null;
  byId("detail").replaceChildren(el("p", { class: "note", role: "status", text }));
}

// Draws what the address asks for; draws nothing anew where only the state has changed.
export async function open() {
  const { at, view } = current();
  const expected = at ? `${at} ${view || ""}` : "";
  if (expected === shown) return at && !view ? select() : undefined;
  if (!at) return undefined; // the list says why nothing is open
  const own = ++turn;
  try {
    const one = await ask(`trajectory/${place(at)}`);
    const body = await viewOf(view, one, at);
    if (own !== turn) return undefined;
    data = one;
    shown = expected;
    draw(one, view, body);
  } catch (error) {
    if (own !== turn) return undefined;
    data = null;
    shown = expected;
    byId("detail").replaceChildren(el("h2", { text: at }), el("p", { role: "alert", text: error.message }));
  }
  return undefined;
}

async function viewOf(view, one, at) {
  if (view === "tree") return drawTree(await ask(`tree/${place(at.split("/").slice(0, 3).join("/"))}`), one);
  if (view !== "history") return null;
  await allRead();
  return drawHistory(await ask(`history?problem=${encodeURIComponent(one.problem_id)}`), one);
}

// A step that is not read yet would be missing from a problem's history; every question reads on.
async function allRead() {
  for (let run = await ask("run"); run.indexed.done < run.indexed.total;) run = await ask("run");
}

function draw(one, view, body) {
  const main = byId("detail");
  const parts = [head(one, view), problem(one), siblings(one), body || steps(one)];
  main.replaceChildren(...parts.filter(Boolean)); // a null would be written out
  main.scrollTop = 0;
  if (!body) select();
}

// Formulas and Markdown, or the characters as they were written.
export function switchText() {
  setPlain(!isPlain());
  if (!data) return;
  shown = null;
  byId("detail").querySelector("#state")?.removeAttribute("data-about");
  open();
}

function head(one, view) {
  const button = (text, act, title) => el("button", { type: "button", text, title, onclick: act });
  const to = (name, text, title) => button(view === name ? "steps" : text, () => go({ view: view === name ? null : name }), title);
  const where = `${one.stage} step ${one.step}, response ${one.member} of group ${one.group}`;
  const files = stored ? [] : [
    button("HTML", () => exportAs(one, "html"), "This response as a page without scripts"),
    button("Markdown", () => exportAs(one, "md"), "This response as Markdown"),
  ];
  return el("div", { class: "head" },
    el("h2", { text: one.problem_id || one.address }),
    outcome(one.reward, one.finish),
    el("span", { class: "muted", text: `${where} \u00b7 reward ${one.reward ?? "none"}` }),
    el("span", { class: "tools" },
      to("tree", "tree of the group", "The group's responses with shared steps once (g)"),
      stored ? null : to("history", "over training", "All responses to this problem, step by step (h)"),
      button(isPlain() ? "rendered text" : "plain text", switchText, "Formulas and Markdown, or the characters as written (m)"),
      ...files,
      button("PNG", () => exportPng(one, selectedStep()), "A picture to post, 1200 x 630: the selected state, else the one behind the largest fall"),
      button("print", () => window.print())));
}

function problem(one) {
  const text = one.prompt === null ? el("pre", { text: "The rollouts of this step are not in the run folder." }) : prose(one.prompt);
  const lines = [text];
  if (one.answer) lines.push(el("p", { class: "muted", text: `expected answer: ${one.answer}` }));
  if (one.reason) lines.push(el("p", { class: "muted", text: `not scored: ${one.reason}` }));
  return el("section", { class: "card problem", tabindex: "0", "aria-label": "Problem" }, ...lines);
}

function siblings(one) {
  if (one.siblings.length < 2) return null;
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
  const judged = one.steps.some((step) => step.judged);
  const widest = Math.max(0.1, ...one.steps.map((step) => Math.abs(step.advantage ?? 0)));
  const texts = proseOf(one.steps.map((step) => step.text));
  const list = el("ol", { class: "steps", id: "steps" },
    ...one.steps.map((step, index) => el("li", {}, stepRow(one, step, index, texts[index], widest))));
  const wrap = el("div", { class: "steps-wrap" }, list, judged ? drawCurve(one, list) : null);
  const names = el("div", { class: "steps-head", "aria-hidden": "true" },
    ...["", "value", "step", "advantage"].map((text) => el("span", { text })),
    el("span", { class: "axis" }, ...["0", "value", "1"].map((text) => el("span", { text }))));
  return el("div", { class: judged ? "split" : "split unjudged" },
    el("section", { "aria-label": "Steps" }, judged ? names : null, wrap),
    el("section", { class: "state", id: "state", "aria-live": "polite", "aria-label": "Critic" }));
}

function stepRow(one, step, index, text, widest) {
  const choose = () => go({ state: step.start }, true);
  const number = el(step.judged ? "button" : "span", { class: "at", type: step.judged ? "button" : null,
    text: String(index + 1), "aria-pressed": step.judged ? "false" : null,
    "aria-label": step.judged ? `State before step ${index + 1}, value ${step.value === null ? "missing" : step.value.toFixed(2)}` : null,
    onclick: step.judged ? choose : null });
  const body = el("div", { class: "text" }, text, falls(one, step, index));
  const node = el("div", { class: step.judged ? "step" : "step not-judged", "data-start": step.start },
    number, chip(step.value, step.judged), body, advantage(step.advantage, widest));
  if (step.judged) {
    // The whole row for the mouse, but not where it marked text.
    node.addEventListener("click", (event) => event.target !== number && getSelection().isCollapsed && choose());
  }
  if (step.value !== null) node.style.setProperty("--value", colour(step.value));
  return node;
}

function falls(one, step, index) {
  const known = one.steps.slice(index + 1).some((later) => later.value !== null); // else it is the reward
  if (step.change === null || step.change > -FALL || !known) return null;
  const most = index === one.worst ? "the largest fall" : "";
  return el("span", { class: most ? "fall most" : "fall",
    text: `\u25bc value falls ${(-step.change).toFixed(2)} across this step${most && `, ${most}`}` });
}

function advantage(value, widest) {
  if (value === null) return el("span", { class: "adv", text: "-" });
  const width = (50 * Math.abs(value)) / widest;
  const fill = el("i", { class: value < 0 ? "down" : "up" });
  fill.style.width = `${width}%`;
  fill.style.left = `${value < 0 ? 50 - width : 50}%`;
  const bar = el("span", { class: "bar" }, fill);
  return el("span", { class: "adv" }, el("span", { text: signed(value) }), bar);
}

// --- the selected state ---------------------------------------------------------------------------

function selectedStep() {
  if (!data) return null;
  const judged = data.steps.filter((step) => step.judged);
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
  const state = byId("state");
  if (state.parentNode.tagName === "LI") list.closest(".split").append(state);
  list.querySelector(".judged-here")?.remove();
  for (const node of list.querySelectorAll(".step")) {
    const start = Number(node.dataset.start);
    const here = step !== null && start === step.start;
    node.classList.toggle("selected", here);
    node.querySelector("button.at")?.setAttribute("aria-pressed", String(here));
    node.parentNode.classList.toggle("unseen", step !== null && start >= step.start);
    if (here) {
      node.parentNode.prepend(el("div", { class: "judged-here", text: `\u25b8 judged here: the critic has read the ${start ? "steps above" : "problem only"}` }));
      if (NARROW.matches) node.before(state); // next to the step, not below all of them
    }
  }
  const about = `${data.address} ${step === null ? "" : step.start}`;
  const versions = byId("versions");
  if (state.dataset.about !== about) {
    state.dataset.about = about;
    state.replaceChildren(panel(data, step));
    state.scrollTop = 0;
  } else if (versions) {
    versions.open = Boolean(current().compare);
  }
  repaint();
  document.dispatchEvent(new Event("selected"));
}

function judgedSteps() {
  return data ? data.steps.filter((step) => step.judged) : [];
}

export function stateBy(by) {
  const steps = judgedSteps();
  const at = steps.indexOf(selectedStep());
  const next = steps[Math.min(steps.length - 1, Math.max(0, at + by))];
  if (!next) return;
  go({ state: next.start }, true);
  byId("steps")?.querySelector(".judged-here")?.scrollIntoView({ block: "nearest" });
  byId("steps")?.querySelector(".step.selected")?.scrollIntoView({ block: "nearest" });
}

export function worstState() {
  if (!data || data.worst === null) return;
  go({ state: null }, true);
  byId("steps")?.querySelector(".step.selected")?.scrollIntoView({ block: "center" });
}
