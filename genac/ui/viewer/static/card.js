// A picture to post: the problem, the steps on their colours, the fall, and the sentence of the critic that names it.

import { FALL, isMiddling, plain } from "./dom.js";
import { inWords } from "./maths.js";
import { rationales } from "./state.js";

const WIDTH = 1200; // what link previews show
const HEIGHT = 630;
const EDGE = 40;
const ROW = { chip: 66, left: EDGE + 76, width: 540, gap: 7, lines: [5, 4, 3, 2, 1] };
const SIZES = [{ size: 24, line: 34 }, { size: 20, line: 29 }, { size: 17, line: 24 }]; // the largest that all steps fit in
const CURVE = { left: 682, width: 96 };
const WORDS = { left: 812, width: WIDTH - 812 - EDGE };
const BOTTOM = HEIGHT - 56;
const QUOTE = { most: 230, sizes: [26, 24, 22, 20, 18, 16] };
const font = (size, weight = 400) => `${weight} ${size}px system-ui, sans-serif`;

export function drawCard(one, selected) {
  const canvas = document.createElement("canvas");
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const pen = canvas.getContext("2d");
  const look = palette();
  pen.fillStyle = look.named("--bg");
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  const top = header(pen, one, look);
  steps(pen, one, selected, look, top);
  if (selected) critic(pen, one, selected, look, top);
  const small = font(16);
  write(pen, "Each number: how likely the critic thinks it is, before the step, that the solution ends right", EDGE, HEIGHT - 22, look.named("--muted"), small);
  write(pen, "genac", WIDTH - EDGE, HEIGHT - 22, look.named("--muted"), font(16, 650), "right");
  return canvas;
}

// The theme's colours as numbers: a canvas does not mix them itself.
function palette() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(name).trim();
  const parts = (name) => named(name).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  const mix = (from, to, share) => `rgb(${from.map((a, i) => Math.round(a + share * (to[i] - a))).join(",")})`;
  const [low, mid, high, plate] = ["--low", "--mid", "--high", "--card"].map(parts);
  const end = (value) => (value < 0.5 ? low : high);
  const of = (value) => mix(mid, end(value), Math.min(1, 2 * Math.abs(value - 0.5)));
  const tint = (value) => mix(plate, of(value).match(/\d+/g).map(Number), 0.28);
  const ink = (value) => named(isMiddling(value) ? "--ink-mid" : "--ink-end");
  return { of, tint, ink, named };
}

function write(pen, text, x, y, colour, kind, align = "left") {
  pen.font = kind;
  pen.fillStyle = colour;
  pen.textAlign = align;
  pen.fillText(text, x, y);
}

function box(pen, x, y, width, height, colour) {
  pen.fillStyle = colour;
  pen.beginPath();
  pen.roundRect(x, y, width, height, 6);
  pen.fill();
}

// The characters of formulas and Markdown without their marks.
const MARKS = /\*\*|`{3}\w*|`|^\s*\|?(?:\s*:?-{3,}:?\s*\|)+\s*$/gm;
const bare = (text) => inWords(text ?? "").replace(MARKS, "").replace(/\*(?=\S)([^*\n]*\S)\*/g, "$1").trim();

// Problem and outcome; where what follows may begin.
function header(pen, one, look) {
  const right = one.reward !== null && one.reward >= 0.5;
  const word = one.reward === null ? "not scored" : right ? "\u2713 right" : "\u2717 wrong";
  write(pen, word, WIDTH - EDGE, 58, look.named(one.reward === null ? "--muted" : right ? "--good" : "--bad"), font(26, 700), "right");
  const side = pen.measureText(word).width + 30;
  pen.font = font(22, 600);
  const lines = wrapped(pen, bare(one.prompt) || one.problem_id || one.address, WIDTH - 2 * EDGE - side, 3);
  lines.forEach((line, i) => write(pen, line, EDGE, 56 + 30 * i, look.named("--ink"), font(22, 600)));
  return 56 + 30 * (lines.length - 1) + 34;
}

// --- the steps ------------------------------------------------------------------------------------

function steps(pen, one, selected, look, top) {
  const { rows, first, last, size, line } = shown(pen, one, selected, BOTTOM - top);
  const points = [];
  let y = top;
  if (first > 0) y = elsewhere(pen, look, y, `${count(first)} before`);
  rows.slice(first, last).forEach((lines, i) => {
    const step = one.steps[first + i];
    const height = line * lines.length + 12;
    box(pen, ROW.left, y, ROW.width, height, step.value === null ? look.named("--card") : look.tint(step.value));
    if (step.value !== null) {
      box(pen, EDGE, y, ROW.chip, height, look.of(step.value));
      write(pen, plain(step.value), EDGE + ROW.chip / 2, y + height / 2 + 7, look.ink(step.value), font(Math.min(22, size + 2), 700), "center");
      points.push([CURVE.left + step.value * CURVE.width, y + height / 2, step.value]);
    }
    const base = y + 6 + (line + 0.7 * size) / 2;
    lines.forEach((text, n) => write(pen, text, ROW.left + 12, base + line * n, look.named("--ink"), font(size)));
    if (first + i === one.worst) edge(pen, look, y, height);
    y += height + ROW.gap;
  });
  curve(pen, points, look, top, y - ROW.gap);
  if (last < rows.length) elsewhere(pen, look, y, `${count(rows.length - last)} after`);
}

const count = (steps) => `\u2026 ${steps} ${steps === 1 ? "step" : "steps"}`;

function elsewhere(pen, look, y, text) {
  write(pen, text, ROW.left + 12, y + 15, look.named("--muted"), font(15));
  return y + 24;
}

function edge(pen, look, y, height) {
  pen.strokeStyle = look.named("--bad");
  pen.lineWidth = 3;
  pen.beginPath();
  pen.roundRect(ROW.left + 1.5, y + 1.5, ROW.width - 3, height - 3, 6);
  pen.stroke();
}

// All steps if they fit in a few lines each, else those around the fall or the selected state.
function shown(pen, one, selected, room) {
  let rows = [];
  let kind = SIZES[0];
  const height = (lines) => kind.line * lines.length + 12 + ROW.gap;
  const total = (rows) => rows.reduce((sum, lines) => sum + height(lines), 0);
  const tries = [...SIZES.map((one) => [one, ROW.lines[0]]), ...ROW.lines.slice(1).map((most) => [SIZES.at(-1), most])];
  for (const [chosen, most] of tries) {
    kind = chosen;
    pen.font = font(kind.size);
    rows = one.steps.map((step, i) => wrapped(pen, bare(step.text) || "\u23ce", ROW.width - 24, i === one.worst ? most + 2 : most));
    if (total(rows) <= room) return { rows, first: 0, last: rows.length, ...kind };
    if (most === 2 && rows.length > 8) break; // one line says too little
  }
  let first = Math.max(0, one.worst ?? one.steps.indexOf(selected));
  let last = first;
  let left = room - 48; // for the words on what is left out
  const add = (at) => at >= 0 && at < rows.length && height(rows[at]) <= left && Boolean((left -= height(rows[at])));
  if (add(first)) last += 1;
  for (let more = true; more; ) {
    const behind = add(last);
    if (behind) last += 1;
    const ahead = add(first - 1);
    if (ahead) first -= 1;
    more = behind || ahead;
  }
  return { rows, first, last, ...kind };
}

function curve(pen, points, look, top, bottom) {
  for (const value of [0, 0.5, 1]) {
    const x = CURVE.left + value * CURVE.width;
    pen.lineWidth = 1;
    pen.strokeStyle = look.named("--line");
    pen.setLineDash(value === 0.5 ? [3, 3] : []);
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
    write(pen, String(value), x, top - 7, look.named("--muted"), font(13), "center");
  }
  pen.setLineDash([]);
  pen.strokeStyle = look.named("--curve");
  pen.lineWidth = 2.5;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  for (const [x, y, value] of points) {
    pen.beginPath();
    pen.arc(x, y, 6, 0, 7);
    pen.fillStyle = look.of(value);
    pen.fill();
    pen.lineWidth = 1.5;
    pen.strokeStyle = look.named("--ink");
    pen.stroke();
  }
}

// --- what the critic wrote ------------------------------------------------------------------------

function critic(pen, one, selected, look, top) {
  const at = one.steps.indexOf(selected);
  const before = one.steps.slice(0, at).findLast((step) => step.value !== null);
  const fell = before && selected.value !== null && before.value - selected.value >= FALL;
  const muted = look.named("--muted");
  write(pen, `The critic before step ${at + 1}`, WORDS.left, top + 16, muted, font(17, 600));
  const value = selected.value === null ? "no score" : plain(selected.value);
  if (fell) {
    write(pen, plain(before.value), WORDS.left, top + 74, muted, font(34, 600));
    const arrow = WORDS.left + pen.measureText(plain(before.value)).width + 14;
    write(pen, "\u2192", arrow, top + 72, muted, font(30));
    write(pen, value, arrow + 46, top + 76, look.named("--bad"), font(52, 750));
  } else {
    write(pen, value, WORDS.left, top + 76, look.named("--ink"), font(52, 750));
  }
  const text = rationales(selected).map((one) => one.text);
  const words = nearest(text, at > 0 ? one.steps[at - 1].text : "");
  if (!words) return;
  const from = top + 104;
  for (const size of QUOTE.sizes) {
    pen.font = font(size);
    const line = Math.round(1.4 * size);
    const room = Math.floor((BOTTOM - from) / line);
    const lines = wrapped(pen, words, WORDS.width - 20, Infinity);
    if (lines.length > room && size !== QUOTE.sizes.at(-1)) continue;
    const cut = wrapped(pen, words, WORDS.width - 20, room);
    box(pen, WORDS.left, from, 4, line * cut.length + 4, selected.value === null ? look.named("--line") : look.of(selected.value));
    cut.forEach((part, i) => write(pen, part, WORDS.left + 20, from + size + line * i, look.named("--ink"), font(size)));
    return;
  }
}

const DOUBT = /\b(wrong\w*|mistake\w*|error\w*|incorrect\w*|should|cannot|can't|isn't|not|never|instead|in place of|but|however|fail\w*|slip\w*|false|miss\w*|forg[eo]t\w*|only)\b/i;
const VERDICT = /^.{0,15}$|^(?:right|wrong|correct|incorrect|yes|no)\b/is;
const terms = (text) => new Set(text.toLowerCase().match(/\d+(?:\.\d+)?|[a-z]{4,}/g) ?? []);

// The sentence that doubts and speaks of the step most, and what follows it, of the texts that hold one.
export function nearest(texts, step) {
  const about = terms(bare(step));
  const rated = texts.flatMap((text) => {
    const all = sentences(text);
    return all.map((sentence, at) => {
      const shared = [...terms(sentence)].filter((term) => about.has(term)).length;
      return { all, at, rank: (DOUBT.test(sentence) ? 3 : 0) + Math.min(shared, 4) };
    });
  });
  if (!rated.length) return "";
  const best = rated.reduce((top, one) => (one.rank > top.rank ? one : top));
  // A verdict, such as "Wrong." or "Wrong: it adds 12.", says nothing without the sentence that it is about.
  const from = Math.max(0, best.at - (VERDICT.test(best.all[best.at]) ? 1 : 0));
  let words = (from ? "\u2026 " : "") + best.all.slice(from, best.at + 1).join(" ");
  for (const next of best.all.slice(best.at + 1)) {
    if (words.length + next.length > QUOTE.most) break;
    words += ` ${next}`;
  }
  return words;
}

// Without the score and the bullets of lists.
function sentences(text) {
  const prose = bare(text.replace(/<(answer)>[^]*?(<\/\1>|$)/gi, ""));
  return prose.split(/(?<=[.!?])\s+|\n+/).map((one) => one.replace(/^\s*(?:[-*\u2022]\s+|#+\s+)/, "").trim()).filter((one) => /\w/.test(one));
}

// Lines of words that fit; a word that does not is cut. At most `most` lines.
function wrapped(pen, text, width, most) {
  const lines = [];
  for (const whole of text.split("\n").filter((line) => line.trim())) {
    let line = "";
    for (const word of whole.split(/(?<=\s)/)) {
      if (line && pen.measureText((line + word).trimEnd()).width > width) {
        lines.push(line);
        line = "";
      }
      line += word;
      while (pen.measureText(line.trimEnd()).width > width) {
        const fits = Math.max(1, Math.floor((line.length * width) / pen.measureText(line).width));
        lines.push(line.slice(0, fits));
        line = line.slice(fits);
      }
    }
    lines.push(line);
  }
  if (lines.length <= most) return lines;
  let last = lines[most - 1].trimEnd();
  while (last && pen.measureText(`${last} \u2026`).width > width) last = last.replace(/(?:\s+\S+|\S)$/, "");
  return [...lines.slice(0, most - 1), `${last} \u2026`];
}
