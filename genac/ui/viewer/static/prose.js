// Text of models as it was meant: a small part of Markdown, and formulas. It makes nodes and no markup:
// HTML in the text stays text, links stay text, and nothing is fetched.

import { el, remember, remembered } from "./dom.js";
import { CLOSING, MATHS, OPENING, lineOf, typeset } from "./maths.js";

const MARK = "\uE000"; // private use: stands for a part that is done
const FENCE = String.raw`(?:^|(?<=\n))[ \t]*(?:\u0060{3}|~{3})[^\n]*(?:\n[\s\S]*?)?(?:\n[ \t]*(?:\u0060{3}|~{3})[ \t]*(?=\n|$)|$)`;
const CODE = String.raw`\u0060[^\u0060\n]{1,400}\u0060`;
const PARTS = new RegExp(`${FENCE}|${CODE}|${MATHS}`, "g");
const INLINE = new RegExp([
  `${MARK}(\\d+)${MARK}`,
  String.raw`(?<![\w*])\*\*(?=[^\s*])([^\n]{0,400}?[^\s*])\*\*(?![\w*])`,
  String.raw`(?<![\w*])\*(?=[^\s*])([^*\n]{0,400}?)(?<=[^\s*])\*(?![\w*])`,
  String.raw`(?<![\w_])_(?=[^\s_])([^_\n]{0,400}?)(?<=[^\s_])_(?![\w_])`,
].join("|"), "g");

let asWritten = remembered("text") === "plain";

export const isPlain = () => asWritten;

export function setPlain(plain) {
  asWritten = plain;
  remember("text", plain ? "plain" : "rendered");
}

// The whole text as one node.
export const prose = (text) => part(text, {});

// The parts of one text in turn: what a part leaves open, the next goes on with.
export function proseOf(texts) {
  const left = {};
  return texts.map((text) => part(text, left));
}

function part(text, left) {
  const node = el("div", { class: asWritten ? "prose mono" : "prose" });
  if (asWritten) {
    node.textContent = text.replace(/\n$/, "");
    return node;
  }
  const done = [];
  let rest = text.replaceAll(MARK, "\uFFFD");
  rest = goOn(rest, left, done);
  rest = rest.replace(PARTS, (source) => {
    const result = special(source, left);
    return result === null ? source : keep(done, result);
  });
  rest = opened(rest, left, done);
  node.append(...blocks(rest.replace(/\n$/, ""), done, Boolean(left.within)));
  left.within = text !== "" && !text.endsWith("\n"); // the next part begins within a line
  return node;
}

const keep = (done, node) => `${MARK}${done.push(node) - 1}${MARK}`;

function special(source, left) {
  const fence = source.trimStart().slice(0, 3);
  if (fence === "```" || fence === "~~~") {
    const lines = source.replace(/^\n/, "").split("\n");
    const closed = lines.length > 1 && /^[ \t]*(?:`{3}|~{3})[ \t]*$/.test(lines.at(-1));
    if (!closed) left.open = "fence";
    return el("pre", { class: "code", text: lines.slice(1, closed ? -1 : undefined).join("\n") });
  }
  if (source.startsWith("`")) return el("code", { text: source.slice(1, -1) });
  return typeset(source);
}

// The end of what an earlier part opened: code, or a formula over several lines.
function goOn(text, left, done) {
  if (!left.open) return text;
  const end = (left.open === "fence" ? /(?:^|\n)[ \t]*(?:`{3}|~{3})[ \t]*(?=\n|$)/ : CLOSING).exec(text);
  const inside = end ? text.slice(0, end.index) : text;
  const after = end ? text.slice(end.index + end[0].length) : "";
  const node = left.open === "fence" ? el("pre", { class: "code", text: inside.replace(/\n$/, "") }) : lineOf(inside);
  const close = end && left.open === "maths" ? keep(done, el("span", { class: "delimiter", text: end[0] })) : "";
  if (end) left.open = null;
  return (inside.trim() ? keep(done, node) : "") + close + after;
}

// The beginning of a formula that ends in a later part.
function opened(text, left, done) {
  const start = OPENING.exec(text);
  if (!start || left.open) return text;
  left.open = "maths";
  const inside = text.slice(start.index + start[0].length);
  const node = inside.trim() ? keep(done, lineOf(inside)) : "";
  return text.slice(0, start.index) + keep(done, el("span", { class: "delimiter", text: start[0] })) + node;
}

// --- lines ----------------------------------------------------------------------------------------

const LINES = [
  [/^#{1,6}\s+(.*)$/, (m, done) => el("div", { class: "heading" }, ...inline(m[1], done))],
  [/^(\s*)[-*\u2022]\s+(.*)$/, (m, done) => item(m[1], "\u2022", m[2], done)],
  [/^(\s*)(\d{1,3}[.)])\s+(.*)$/, (m, done) => item(m[1], m[2], m[3], done)],
  [/^>\s?(.*)$/, (m, done) => el("div", { class: "quote" }, ...inline(m[1], done))],
  [/^\s*(?:(?:-\s*){3,}|(?:\*\s*){3,})$/, () => el("hr")],
];

function item(indent, sign, text, done) {
  const node = el("div", { class: "item" }, el("span", { text: sign }), el("div", {}, ...inline(text, done)));
  node.style.marginLeft = `${Math.min(6, 0.5 * indent.length)}rem`;
  return node;
}

function blocks(text, done, within) {
  const out = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i += 1) {
    const rows = i === 0 && within ? 0 : tableAt(lines, i);
    if (rows) {
      out.push(table(lines.slice(i, i + rows), done));
      i += rows - 1;
    } else if (!lines[i].trim()) {
      if (out.length) out.push(el("div", { class: "gap" }));
    } else {
      out.push(line(lines[i], done, i === 0 && within));
    }
  }
  while (out.length && out.at(-1).className === "gap") out.pop();
  return out;
}

function line(text, done, within) {
  for (const [pattern, make] of within ? [] : LINES) {
    const match = pattern.exec(text);
    if (match) return make(match, done);
  }
  return el("div", { class: "line" }, ...inline(text, done));
}

const RULE = /^\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)*\|?\s*$/;

function tableAt(lines, i) {
  if (!lines[i].includes("|") || !RULE.test(lines[i + 1] ?? "") || !lines[i + 1].includes("|")) return 0;
  let rows = 2;
  while (i + rows < lines.length && lines[i + rows].includes("|")) rows += 1;
  return rows;
}

function table(rows, done) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (text, tag) => el("tr", {}, ...cells(text).map((cell) => el(tag, {}, ...inline(cell, done))));
  return el("table", {}, row(rows[0], "th"), ...rows.slice(2).map((text) => row(text, "td")));
}

// --- within a line --------------------------------------------------------------------------------

function inline(text, done) {
  const out = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) out.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [, index, bold, starred, lined] = match;
    if (index !== undefined) {
      const sign = /^[.,;:!?)\]]+/.exec(text.slice(at))?.[0] ?? ""; // stays on the formula's line
      out.push(sign ? el("span", { class: "together" }, done[Number(index)], sign) : done[Number(index)]);
      at += sign.length;
    } else if (bold !== undefined) out.push(el("strong", {}, ...inline(bold, done)));
    else out.push(el("em", {}, ...inline(starred ?? lined, done)));
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}
