// What the critic said of the selected state: reasoning, score distribution, prompt, tokens.

import { current, go, link } from "./address.js";
import { ask, byId, chip, colour, el, place, plain, signed } from "./dom.js";
import { forget, other, strip } from "./tokens.js";

const OLDER = "Not in this run: it was written by an older version, or its critic writes no text.";

export function panel(one, step) {
  forget();
  if (step === null) {
    return el("p", { class: "note", text: "No value was asked for this response." });
  }
  const number = one.steps.indexOf(step) + 1;
  return el("div", {},
    el("h2", { text: `Before step ${number}` }),
    el("p", {}, big(step), " ", el("span", { class: "muted", text: heading(step) })),
    facts(step),
    el("h3", { text: "The critic's reasoning" }),
    reasoning(step),
    el("h3", { text: "Probability of each score" }),
    distribution(step),
    versions(one, step),
    fold("prompt", "Exact prompt of the critic", step.critic_prompt === null ? note(OLDER) : el("pre", { text: step.critic_prompt })),
    fold("critic", "The critic's tokens: probability and entropy", criticTokens(step)),
    fold("actor", `The actor's tokens of step ${number}: probability and entropy`, actorTokens(one, step)));
}

const note = (text) => el("p", { class: "note", text });

// What was opened stays open from state to state; a link that chooses what tokens show opens them.
const unfolded = new Set(current().tokens ? ["actor"] : []);

function fold(name, title, body) {
  const node = el("details", { id: `fold-${name}`, open: unfolded.has(name) }, el("summary", { text: title }), body);
  node.addEventListener("toggle", () => (node.open ? unfolded.add(name) : unfolded.delete(name)));
  return node;
}

function big(step) {
  const node = chip(step.value);
  node.classList.add("big");
  node.style.padding = "0 .6rem";
  node.style.borderRadius = "6px";
  return node;
}

function heading(step) {
  if (step.value === null) return "the score could not be read";
  return `expected success, says critic version ${step.critic_version ?? "?"}`;
}

function facts(step) {
  const seen = step.observed === null
    ? "-" : `${plain(step.observed)} (${step.observed_count} resp.)`;
  const pairs = [
    ["value after", plain(step.after)],
    ["change", signed(step.change)],
    ["advantage", signed(step.advantage)],
    ["spread of score", plain(step.spread)],
    ["observed here", seen],
    ["value \u2212 observed", step.observed === null || step.value === null ? "-" : signed(step.value - step.observed)],
  ];
  return el("dl", { class: "facts" },
    ...pairs.map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text }))));
}

function reasoning(step) {
  if (!step.rationale) return note("This critic gave no reasons.");
  const node = el("pre", { class: "reason", id: "reasoning", tabindex: "0", text: step.rationale });
  if (step.value !== null) node.style.setProperty("--value", colour(step.value));
  return node;
}

export function distribution(step) {
  if (!step.score_probs) return note(OLDER);
  const most = Math.max(...step.score_probs);
  const words = step.score_probs.map((p, score) => `${score}: ${(100 * p).toFixed(0)} %`).join(", ");
  const bars = step.score_probs.map((p, score) => {
    const bar = el("i");
    bar.style.height = `${(64 * p) / most}%`;
    bar.style.background = colour(score / 10);
    const percent = p >= 0.005 ? `${(100 * p).toFixed(0)}%` : "";
    return el("div", { "aria-hidden": "true" }, el("span", { text: percent }), bar, el("span", { text: String(score) }));
  });
  return el("div", { class: "dist", role: "img", "aria-label": `Probability of each score. ${words}` }, ...bars);
}

// --- tokens ---------------------------------------------------------------------------------------

function actorTokens(one, step) {
  if (!one.logprobs) return note("The rollouts of this step are not in the run folder.");
  const texts = one.tokens || one.ids.map((id) => `#${id}`);
  const mine = (values) => values && values.slice(step.start, step.end);
  const node = strip(mine(texts), mine(one.logprobs), mine(one.entropies));
  return one.tokens ? node : el("div", {}, note("An older run: token numbers, not their text."), node);
}

function criticTokens(step) {
  if (!step.rationale_tokens || !step.rationale_logprobs) return note(OLDER);
  return strip(step.rationale_tokens, step.rationale_logprobs, step.rationale_entropies);
}

// Unfolds the actor's tokens and shows the other of their numbers.
export function otherNumber() {
  const node = byId("fold-actor");
  if (!node) return;
  node.open = true;
  go({ tokens: other() }, true);
}

// --- other versions of the critic -----------------------------------------------------------------

function versions(one, step) {
  const body = el("div", {}, note("Looking through the run\u2026"));
  const node = el("details", { id: "versions", open: Boolean(current().compare) },
    el("summary", { text: "This state by other versions and other critics" }), body);
  let filled = false;
  const fill = async () => {
    if (filled) return;
    filled = true;
    try {
      body.replaceChildren(compared(await ask(`versions/${place(one.address)}?start=${step.start}`), one, step));
    } catch (error) {
      body.replaceChildren(note(error.message));
    }
  };
  node.addEventListener("toggle", () => {
    if (node.open) fill();
    const open = Boolean(current().compare);
    if (node.isConnected && node.open !== open) go({ compare: node.open ? "1" : null }, true);
  });
  if (node.open) fill();
  return node;
}

function compared(states, one, step) {
  const own = states.find((state) => !state.judge && state.stage === one.stage && state.critic_version === step.critic_version) || states[0];
  const others = states.filter((state) => state !== own);
  if (!others.length) {
    return note("The run holds this problem and prefix at one version only. What another critic says of it: genac eval states RUN CRITIC");
  }
  // The address holds both places, as RIGHT-LEFT from 1; the left one is the run's own without it.
  const [right, left] = (current().compare || "").split("-").map(Number);
  const sides = [side("Left", [own, ...others], left), side("Right", others, right)];
  const remember = () => history.replaceState(null, "", link({ compare: sides.map((one) => one.place()).reverse().join("-") }));
  for (const one of sides) one.pick.addEventListener("change", remember);
  return el("div", { class: "versions" }, ...sides.map((one) => one.node));
}

// One of two judgements beside each other, chosen among `states`.
function side(label, states, chosen) {
  const body = el("div");
  const pick = el("select", { "aria-label": `${label} version or critic`, onchange: () => show() },
    ...states.map((state, i) => el("option", { value: i, text: named(state) })));
  const show = () => body.replaceChildren(judged(states[Number(pick.value)]));
  pick.value = String(Math.min(states.length - 1, Math.max(0, (chosen || 0) - 1)));
  show();
  return { pick, node: el("div", {}, pick, body), place: () => Number(pick.value) + 1 };
}

const named = (state) => state.judge ? `critic ${state.judge} (asked of ${state.stage} step ${state.step})` : `version ${state.critic_version ?? "?"} (${state.stage} step ${state.step})`;

function judged(state) {
  const node = el("pre", { class: "reason", text: state.rationale || "(no reasons)" });
  if (state.value !== null) node.style.setProperty("--value", colour(state.value));
  return el("div", {}, el("p", {}, chip(state.value)), node, distribution(state));
}
