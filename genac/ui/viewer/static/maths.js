// Formulas in text of models, set by KaTeX. It is loaded when the first one is met.

import { el, stored } from "./dom.js";

const LONGEST = 4000; // characters of a formula; longer ones stay text
const OPTIONS = { output: "html", throwOnError: true, strict: "ignore", trust: false, maxSize: 20, maxExpand: 200 };
const waiting = [];
let requested = false;

// A node that shows the formula, and its source where KaTeX is absent or cannot read it. `source` is
// what the model wrote, with its delimiters.
export function formula(tex, display, source) {
  const node = el("span", { class: display ? "math display" : "math", text: source, role: "math", "aria-label": source.trim(),
    tabindex: display ? "0" : null }); // a wide one scrolls
  if (tex.length > LONGEST || !tex.trim()) return node;
  if (globalThis.katex) set(node, tex, display);
  else {
    waiting.push([node, tex, display]);
    load();
  }
  return node;
}

function set(node, tex, display) {
  const result = document.createElement("span");
  try {
    globalThis.katex.render(tex, result, { ...OPTIONS, displayMode: display });
  } catch {
    node.classList.add("raw");
    return; // the source is still there
  }
  node.replaceChildren(result);
}

function load() {
  if (requested || stored) return; // a page in one file holds it already
  requested = true;
  document.head.append(el("link", { rel: "stylesheet", href: "katex/katex.min.css" }));
  document.head.append(el("script", { src: "katex/katex.min.js", onload: () => {
    for (const one of waiting.splice(0)) set(...one);
    document.dispatchEvent(new Event("typeset"));
  } }));
}

// --- what in a text is a formula ------------------------------------------------------------------

const ENVIRONMENTS = "equation|align|aligned|gather|gathered|multline|cases|array|[pbvBV]?matrix|split|eqnarray";
const DISPLAY = String.raw`\\\[[\s\S]{1,4000}?\\\]|\$\$[\s\S]{1,4000}?\$\$|\\begin\{((?:${ENVIRONMENTS})\*?)\}[\s\S]{0,4000}?\\end\{\1\}`;
const INLINE = String.raw`\\\([\s\S]{1,4000}?\\\)|\\boxed\{[^{}\n]{0,200}\}|\$(?![\s$])(?:\\[^\n]|[^$\\\n]){1,400}?\$(?!\d)`;
export const MATHS = `${DISPLAY}|${INLINE}`;
export const OPENING = new RegExp(String.raw`\\\[|\$\$|\\begin\{(?:${ENVIRONMENTS})\*?\}`);
export const CLOSING = new RegExp(String.raw`\\\]|\$\$|\\end\{(?:${ENVIRONMENTS})\*?\}`);

// A source with its delimiters as a node; null where it is money or other text between two dollars.
export function typeset(source) {
  if (source.startsWith("\\[") || source.startsWith("$$")) return formula(source.slice(2, -2), true, source);
  if (source.startsWith("\\begin")) return formula(lone(source), true, source);
  if (source.startsWith("\\(")) return formula(source.slice(2, -2), false, source);
  if (source.startsWith("\\boxed")) return formula(source, false, source);
  const tex = source.slice(1, -1);
  return isFormula(tex) ? formula(tex, false, source) : null;
}

// "$5 and then $" is money: words outside commands, or nothing that a formula has.
function isFormula(tex) {
  if (/\s$/.test(tex)) return false;
  const bare = tex.replace(/\\(?:text|mathrm|mbox|textbf|operatorname)\s*\{[^}]*\}/g, "").replace(/\\[a-zA-Z]+/g, "");
  if (/[A-Za-z]{3}/.test(bare)) return false;
  return /[\\^_=<>+*/-]/.test(tex) || /^[A-Za-z0-9.,\s()|]{1,12}$/.test(tex);
}

// KaTeX knows align and equation at the top level; eqnarray it does not.
const lone = (source) => source.replace(/\{eqnarray(\*?)\}/g, "{align$1}");

// --- formulas in one line of plain characters, where nothing can be set ---------------------------

const SIGNS = { times: "\u00d7", cdot: "\u00b7", div: "\u00f7", pm: "\u00b1", neq: "\u2260", ne: "\u2260", leq: "\u2264", le: "\u2264",
  geq: "\u2265", ge: "\u2265", approx: "\u2248", infty: "\u221e", pi: "\u03c0", alpha: "\u03b1", beta: "\u03b2", theta: "\u03b8", to: "\u2192",
  rightarrow: "\u2192", in: "\u2208", ldots: "\u2026", dots: "\u2026", cdots: "\u2026", quad: " ", qquad: " ", left: "", right: "", displaystyle: "" };

export function inWords(text) {
  const formulas = new RegExp(MATHS, "g");
  const flat = text.replace(formulas, (source) => (source.startsWith("$") && !source.startsWith("$$") && !isFormula(source.slice(1, -1)) ? source : spoken(source)));
  return flat.replace(/(?<![\w*])\*\*(?=\S)([^\n]{0,400}?\S)\*\*(?![\w*])/g, "$1");
}

function spoken(source) {
  return source.replace(/^(?:\$\$?|\\[[(])|(?:\$\$?|\\[\])])$/g, "")
    .replace(/\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}/g, (_, a, b) => `${bracketed(a)}/${bracketed(b)}`)
    .replace(/\\sqrt\s*\{([^{}]*)\}/g, (_, a) => `\u221a${bracketed(a)}`)
    .replace(/\\(?:boxed|text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}/g, "$1")
    .replace(/\\([a-zA-Z]+)/g, (whole, name) => SIGNS[name] ?? whole)
    .replace(/\^\{?2\}?(?![0-9])/g, "\u00b2").replace(/\^\{?3\}?(?![0-9])/g, "\u00b3").replace(/\\[,;! ]/g, " ").trim();
}

const bracketed = (text) => (/^\w+$/.test(text.trim()) ? text.trim() : `(${text.trim()})`);

// A line of a formula whose delimiters stand in other steps.
export function lineOf(source) {
  const bare = source.trim().replace(/(?:\\\\)+(?:\[[^\]]*\])?\s*$/, "").replace(/\\(?:begin|end)\{[^}]*\}/g, "");
  if (!bare.trim()) return el("span", { class: "delimiter", text: source });
  return formula(bare.includes("&") ? `\\begin{aligned}${bare}\\end{aligned}` : bare, true, source);
}
