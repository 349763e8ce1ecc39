// The critic's judgement of the selected state: reasoning, score distribution, prompt, tokens.

import { current, go, link } from "./address.js";
import { ask, byId, chip, colour, el, place, plain, signed, stored } from "./dom.js";
import { prose } from "./prose.js";
import { forget, other, tokenStrip } from "./tokens.js";

const OLDER = "Not in this run: it was written by an older version, or its critic writes no text.";

export function panel(one, step) {
  forget();
  if (step === null) return unjudged(one);
  const number = one.steps.indexOf(step) + 1;
  return el("div", {},
    el("h2", { text: `Before step ${number}` }),
    el("p", {}, big(step), " ", el("span", { class: "muted", text: heading(step) })),
    facts(step, number === one.steps.length),
    el("h3", { text: "The critic's reasoning" }),
    reasons(step),
    el("h3", { text: "Probability of each score" }),
    distribution(step),
    stored ? null : versions(one, step),
    fold("prompt", "Exact prompt of the critic", step.critic_prompt === null ? note(OLDER) : el("pre", { text: step.critic_prompt, tabindex: "0", "aria-label": "Exact prompt of the critic" })),
    fold("critic", "The critic's tokens: probability and entropy", criticTokens(step)),
    fold("actor", `The actor's tokens of step ${number}: probability and entropy`, actorTokens(one, step)));
}

// Without a critic there are still the actor's tokens.
function unjudged(one) {
  const whole = { start: 0, end: one.ids ? one.ids.length : 0 };
  return el("div", {}, note("No value was estimated for this response: no critic, or none of its states was chosen."),
    fold("actor", "The actor's tokens: probability and entropy", actorTokens(one, whole)));
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

// Numbers about the state and the step behind it; those that there are, and what they mean to unfold.
function facts(step, last) {
  const rows = [
    [last ? "reward at the end" : "value after the step", plain(step.after), "The value before the next step; after the last step the reward."],
    ["change", signed(step.change), "How far the value moves across the step. A fall: the critic saw a mistake in it."],
    ["advantage", signed(step.advantage), "The credit that the actor's tokens of the step are trained with."],
    ["spread of score", plain(step.spread), "Standard deviation of the probabilities of the scores below. 0: the critic is sure."],
  ];
  if (step.observed !== null) {
    rows.push([`reward of ${step.observed_count} responses`, plain(step.observed), "Mean reward of the group's responses that go through this state."]);
    if (step.value !== null) rows.push(["value \u2212 that reward", signed(step.value - step.observed), "Above 0 the critic expects more than what happened."]);
  }
  const meaning = rows.map(([name, , says]) => el("div", {}, el("dt", { text: name }), el("dd", { text: says })));
  return el("div", {},
    el("dl", { class: "facts" }, ...rows.map(([name, text, says]) => el("div", { title: says }, el("dt", { text: name }), el("dd", { text })))),
    fold("meaning", "What these numbers mean", el("dl", { class: "meaning" }, ...meaning)));
}

// --- its words ------------------------------------------------------------------------------------

const BETWEEN = "\n---\n"; // the store's, between two rationales about one state
let tab = 0; // stays from state to state

// The rationales about a state, each with the score that it ends in (0 to 1; null where it says none).
export function rationales(step) {
  if (!step.rationale) return [];
  return splitWords(step).map((text) => {
    const score = [...text.matchAll(/<answer>\s*(10|[0-9])(?![0-9])/gi)].at(-1);
    return { text, score: score ? Number(score[1]) / 10 : null };
  });
}

// By its tokens where they are known: a rationale may hold a line of dashes itself.
function splitWords(step) {
  const tokens = step.rationale_tokens;
  if (!tokens) return step.rationale.split(BETWEEN);
  const out = [""];
  tokens.forEach((token, i) => {
    if (token === BETWEEN && step.rationale_logprobs?.[i] === null) out.push("");
    else out[out.length - 1] += token;
  });
  // the tokens of some tokenizers do not join to the text
  return out.join(BETWEEN) === step.rationale ? out : step.rationale.split(BETWEEN);
}

// One text, or a tab for each of several with its score, so that one sees whether they agree.
function reasons(step) {
  const parts = rationales(step);
  if (!parts.length) return note("This critic gave no reasons.");
  const body = el("div", { class: "reason", id: "reasoning", tabindex: "0", role: "region", "aria-label": "The critic's reasoning" });
  const buttons = parts.map((part, i) => el("button", { type: "button", onclick: () => show(i) },
    `rationale ${i + 1} `, part.score === null ? null : chip(part.score)));
  const show = (i) => {
    tab = i;
    body.replaceChildren(prose(parts[i].text));
    const value = parts.length > 1 ? parts[i].score : step.value;
    body.style.setProperty("--value", value === null ? "var(--line)" : colour(value));
    buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === i)));
  };
  show(Math.min(tab, parts.length - 1));
  if (parts.length < 2) return body;
  return el("div", {}, el("div", { class: "choice", role: "group", "aria-label": "Rationales" }, ...buttons), body);
}

export function distribution(step) {
  if (!step.score_probs) return note(OLDER);
  const most = Math.max(...step.score_probs, 1e-9);
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
  const own = (values) => values && values.slice(step.start, step.end);
  const node = tokenStrip(own(texts), own(one.logprobs), own(one.entropies));
  return one.tokens ? node : el("div", {}, note("An older run: token numbers, not their text."), node);
}

function criticTokens(step) {
  if (!step.rationale_tokens || !step.rationale_logprobs) return note(OLDER);
  return tokenStrip(step.rationale_tokens, step.rationale_logprobs, step.rationale_entropies);
}

// Unfolds the actor's tokens, brings them into view and shows the other of their numbers.
export function otherNumber() {
  const node = byId("fold-actor");
  if (!node) return;
  node.open = true;
  go({ tokens: other() }, true);
  node.scrollIntoView({ block: node.offsetHeight > 400 ? "start" : "nearest" });
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

// One of two judgements next to each other, chosen among `states`.
function side(label, states, chosen) {
  const body = el("div");
  const pick = el("select", { "aria-label": `${label} version or critic`, onchange: () => show() },
    ...states.map((state, i) => el("option", { value: i, text: named(state) })));
  const show = () => body.replaceChildren(judged(states[Number(pick.value)]));
  pick.value = String(Math.min(states.length - 1, Math.max(0, (chosen || 0) - 1)));
  show();
  return { pick, node: el("div", {}, pick, body), place: () => Number(pick.value) + 1 };
}

const named = (state) => state.judge ? `critic ${state.judge} (judged at ${state.stage} step ${state.step})` : `version ${state.critic_version ?? "?"} (${state.stage} step ${state.step})`;

function judged(state) {
  const node = el("div", { class: "reason" }, prose(state.rationale || "(no reasons)"));
  if (state.value !== null) node.style.setProperty("--value", colour(state.value));
  return el("div", {}, el("p", {}, chip(state.value)), node, distribution(state));
}
