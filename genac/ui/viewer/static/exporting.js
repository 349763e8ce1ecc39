// One response as a file: HTML and Markdown come from the server, the picture is drawn here.

import { isMiddling, plain, place } from "./dom.js";
import { inWords } from "./maths.js";
import { rationales } from "./state.js";

function save(href, name) {
  const anchor = document.createElement("a");
  anchor.href = href;
  anchor.download = name;
  anchor.click();
}

const nameOf = (one) => one.address.replaceAll("/", "-");

// With the tokens where those of the actor are unfolded.
export function exportAs(one, format) {
  const tokens = document.querySelector("#fold-actor[open]") ? "&tokens=true" : "";
  save(`api/export/${place(one.address)}?format=${format}${tokens}`, `${nameOf(one)}.${format}`);
}

// --- a picture to post: problem, steps on their colours, the curve, the critic's words ------------

const WIDTH = 1000;
const EDGE = 32;
const LINE = 22;
const TEXT = "15px system-ui, sans-serif";
const BOLD = "650 15px system-ui, sans-serif";
const SMALL = "13px system-ui, sans-serif";
const STEP = { left: EDGE + 70, width: 640 };
const CURVE = { left: WIDTH - 190, width: 150 };
const MOST = { prompt: 5, step: 5, reason: 9 }; // lines

export function exportPng(one, selected) {
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  const card = layout(pen, one, selected);
  canvas.width = 2 * WIDTH;
  canvas.height = 2 * card.height;
  pen.scale(2, 2);
  paint(pen, one, selected, card);
  canvas.toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    save(href, `${nameOf(one)}.png`);
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  });
}

function layout(pen, one, selected) {
  pen.font = TEXT;
  const head = wrapped(pen, inWords(one.prompt ?? ""), WIDTH - 2 * EDGE, MOST.prompt);
  const rows = one.steps.map((step) => wrapped(pen, inWords(step.text).trim(), STEP.width - 24, MOST.step));
  const words = wrapped(pen, inWords(selected ? rationales(selected)[0]?.text ?? "" : ""), WIDTH - 2 * EDGE - 24, MOST.reason);
  const above = 66 + LINE * head.length + 18;
  const tall = rows.reduce((sum, row) => sum + LINE * row.length + 16, 0);
  const below = words.length ? 52 + LINE * words.length : 0;
  return { head, rows, words, above, height: above + tall + below + 52 };
}

// The theme's colours as numbers: a canvas does not mix them itself.
function palette() {
  const style = getComputedStyle(document.documentElement);
  const named = (name) => style.getPropertyValue(name).trim();
  const parts = (name) => named(name).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  const mix = (from, to, share) => `rgb(${from.map((a, i) => Math.round(a + share * (to[i] - a))).join(",")})`;
  const [low, mid, high, card] = ["--low", "--mid", "--high", "--card"].map(parts);
  const end = (value) => (value < 0.5 ? low : high);
  const of = (value) => mix(mid, end(value), Math.min(1, 2 * Math.abs(value - 0.5)));
  const tint = (value) => mix(card, of(value).match(/\d+/g).map(Number), 0.28);
  const ink = (value) => named(isMiddling(value) ? "--ink-mid" : "--ink-end");
  return { of, tint, ink, named };
}

function paint(pen, one, selected, card) {
  const { of, tint, ink, named } = palette();
  const write = (text, x, y, colour = "--ink", font = TEXT, align = "left") => {
    pen.font = font;
    pen.fillStyle = colour.startsWith("--") ? named(colour) : colour;
    pen.textAlign = align;
    pen.fillText(text, x, y);
  };
  const box = (x, y, width, height, colour) => {
    pen.fillStyle = colour;
    pen.beginPath();
    pen.roundRect(x, y, width, height, 5);
    pen.fill();
  };
  pen.fillStyle = named("--bg");
  pen.fillRect(0, 0, WIDTH, card.height);
  const right = one.reward !== null && one.reward >= 0.5;
  const word = one.reward === null ? "not scored" : right ? "\u2713 right" : "\u2717 wrong";
  write(one.problem_id || one.address, EDGE, 40, "--ink", "650 18px system-ui, sans-serif");
  write(word, WIDTH - EDGE, 40, one.reward === null ? "--ink" : right ? "--good" : "--bad", BOLD, "right");
  card.head.forEach((line, i) => write(line, EDGE, 70 + LINE * i, "--muted"));
  let y = card.above;
  const points = [];
  one.steps.forEach((step, i) => {
    const height = LINE * card.rows[i].length + 10;
    if (step.value !== null) {
      box(EDGE, y, 60, height, of(step.value));
      write(plain(step.value), EDGE + 30, y + height / 2 + 5, ink(step.value), BOLD, "center");
      points.push([CURVE.left + step.value * CURVE.width, y + height / 2, step.value]);
    }
    box(STEP.left, y, STEP.width, height, step.value === null ? named("--card") : tint(step.value));
    card.rows[i].forEach((line, n) => write(line, STEP.left + 12, y + 21 + LINE * n));
    if (i === one.worst) write("\u25bc", STEP.left + STEP.width - 22, y + height - 9, "--bad", BOLD);
    y += height + 6;
  });
  curve(pen, points, { named, of, top: card.above, bottom: y - 6 });
  if (card.words.length) {
    write(`The critic before step ${one.steps.indexOf(selected) + 1}: ${plain(selected.value)}`, EDGE, y + 30, "--muted", SMALL);
    box(EDGE, y + 42, 4, LINE * card.words.length + 6, selected.value === null ? named("--line") : of(selected.value));
    card.words.forEach((line, i) => write(line, EDGE + 20, y + 60 + LINE * i));
  }
  write("value before each step: expected success", EDGE, card.height - 18, "--muted", SMALL);
  write("genac view", WIDTH - EDGE, card.height - 18, "--muted", SMALL, "right");
}

function curve(pen, points, { named, of, top, bottom }) {
  for (const value of [0, 0.5, 1]) {
    const x = CURVE.left + value * CURVE.width;
    pen.strokeStyle = named("--line");
    pen.setLineDash(value === 0.5 ? [3, 3] : []);
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
    pen.font = SMALL;
    pen.fillStyle = named("--muted");
    pen.textAlign = "center";
    pen.fillText(String(value), x, top - 6);
  }
  pen.setLineDash([]);
  pen.strokeStyle = named("--curve");
  pen.lineWidth = 2;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  for (const [x, y, value] of points) {
    pen.beginPath();
    pen.arc(x, y, 5, 0, 7);
    pen.fillStyle = of(value);
    pen.fill();
    pen.lineWidth = 1;
    pen.strokeStyle = named("--ink");
    pen.stroke();
  }
}

// Lines of words that fit; a word that does not is cut. At most `most` lines.
function wrapped(pen, text, width, most) {
  const lines = [];
  for (const whole of text.split("\n").filter((line) => line.trim())) {
    let line = "";
    for (const word of whole.split(/(?<=\s)/)) {
      if (line && pen.measureText(line + word).width > width) {
        lines.push(line);
        line = "";
      }
      line += word;
      while (pen.measureText(line).width > width) {
        const fits = Math.max(1, Math.floor((line.length * width) / pen.measureText(line).width));
        lines.push(line.slice(0, fits));
        line = line.slice(fits);
      }
    }
    lines.push(line);
  }
  return lines.length > most ? [...lines.slice(0, most - 1), `${lines[most - 1].trimEnd()} \u2026`] : lines;
}
