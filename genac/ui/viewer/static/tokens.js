// Tokens with a number below each: its probability, or the entropy of what it was drawn from.

import { current, go } from "./address.js";
import { el, plain, visible } from "./dom.js";

const ABSENT = "Entropy is not recorded here: an older version wrote the run, or its engine does not report it.";
const KINDS = {
  probability: "Below each token its probability: the less likely, the stronger the colour. The log-probability and the entropy, in nats, on hover.",
  entropy: "Below each token the entropy, in nats, of the distribution it was drawn from (0: nothing else could come): the higher, the stronger the colour.",
};
let strips = []; // of the state that is shown

const chosen = () => (current().tokens === "entropy" ? "entropy" : "probability");

export const other = () => (chosen() === "entropy" ? "probability" : "entropy");

export function forget() {
  strips = [];
}

export function repaint() {
  for (const paint of strips) paint();
}

// `entropies` is null, or null at single tokens, where they are not known.
export function tokenStrip(texts, logprobs, entropies) {
  const buttons = Object.keys(KINDS).map((kind) => el("button", { type: "button", text: kind,
    onclick: () => go({ tokens: kind }, true) }));
  const legend = el("p", { class: "muted" });
  const cells = el("div", { class: "tokens", "aria-live": "off" }); // the legend says what changed
  const paint = () => {
    const kind = chosen();
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === kind)));
    legend.textContent = kind === "entropy" ? entropyLegend(entropies) : KINDS.probability;
    cells.replaceChildren(...texts.map((text, i) => cell(text, logprobs[i], entropies ? entropies[i] : null, kind)));
  };
  strips.push(paint);
  paint();
  return el("div", {}, el("div", { class: "choice", role: "group", "aria-label": "Number below each token" }, ...buttons),
    legend, cells);
}

function entropyLegend(entropies) {
  const known = (entropies || []).filter((entropy) => entropy !== null);
  if (!known.length) return ABSENT;
  const mean = known.reduce((sum, entropy) => sum + entropy, 0) / known.length;
  return `${KINDS.entropy} Mean of ${known.length}: ${plain(mean)} nats.`;
}

// Both are in nats, and the mean of minus the log-probability is the entropy: one scale of colour serves both.
function cell(text, logprob, entropy, kind) {
  const heat = kind === "entropy" ? entropy : logprob === null ? null : -logprob;
  const shown = kind === "entropy" ? entropy === null ? "" : plain(entropy) : likely(logprob);
  const node = el("span", { class: "token mono", title: logprob === null ? "" : tip(logprob, entropy) },
    el("span", { text: visible(text) }), el("small", { text: shown }));
  if (heat !== null) node.style.background = `rgba(var(--hot), ${Math.min(0.4, heat * 0.15).toFixed(3)})`;
  return node;
}

function likely(logprob) {
  if (logprob === null) return "";
  return Math.exp(logprob) > 0.995 ? "1" : Math.exp(logprob).toPrecision(2);
}

function tip(logprob, entropy) {
  const also = entropy === null ? "entropy not recorded" : `entropy ${entropy.toFixed(3)} nats`;
  return `log-probability ${logprob.toFixed(4)} nats, ${also}`;
}
