// One response as a file: HTML and Markdown come from the server, the picture is drawn here.

import { colour, ink, place, plain, signed } from "./dom.js";

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

const WIDTH = 980;
const LINE = 20;
const MONO = '14px ui-monospace, "DejaVu Sans Mono", monospace';
const SANS = "14px system-ui, sans-serif";

export function exportPng(one, selected) {
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  pen.font = MONO;
  const wrap = (text, width) => wrapped(pen, text, width);
  const head = wrap(one.prompt ?? "", WIDTH - 40);
  const rows = one.steps.map((step) => wrap(step.text.replace(/\n$/, ""), 480));
  const reasons = selected && selected.rationale ? wrap(selected.rationale, WIDTH - 60) : [];
  const tall = 90 + LINE * (head.length + rows.reduce((sum, row) => sum + row.length, 0))
    + 10 * rows.length + (reasons.length ? 50 + LINE * reasons.length : 0);
  canvas.width = 2 * WIDTH;
  canvas.height = 2 * tall;
  pen.scale(2, 2);
  paint(pen, one, { head, rows, reasons, tall, selected });
  canvas.toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    save(href, `${nameOf(one)}.png`);
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  });
}

function paint(pen, one, { head, rows, reasons, tall, selected }) {
  const theme = getComputedStyle(document.documentElement);
  const [back, front, muted] = ["--bg", "--ink", "--muted"].map((name) => theme.getPropertyValue(name).trim());
  const write = (text, x, y, paintWith = front, font = MONO) => {
    pen.font = font;
    pen.fillStyle = paintWith;
    pen.fillText(text, x, y);
  };
  pen.fillStyle = back;
  pen.fillRect(0, 0, WIDTH, tall);
  let y = 32;
  write(`${one.problem_id}   ${one.address}   reward ${one.reward ?? "none"}`, 20, y, front, `bold ${SANS}`);
  for (const line of head) write(line, 20, (y += LINE));
  y += 26;
  write("value before   step", 20, y, muted, SANS);
  write("change", 610, y, muted, SANS);
  write("advantage", 710, y, muted, SANS);
  y += 10;
  one.steps.forEach((step, i) => {
    const high = LINE * rows[i].length + 6;
    if (step.value !== null) {
      pen.fillStyle = colour(step.value);
      pen.fillRect(20, y, 80, high);
      write(plain(step.value), 42, y + 18, ink(step.value));
    } else write(step.asked ? "missing" : "-", 30, y + 18, muted, SANS);
    rows[i].forEach((line, n) => write(line, 115, y + 18 + n * LINE));
    write(signed(step.change), 610, y + 18, i === one.worst ? "#d55e00" : front);
    write(signed(step.advantage), 710, y + 18);
    y += high + 4;
  });
  if (!reasons.length) return;
  y += 28;
  const title = `the critic before step ${one.steps.indexOf(selected) + 1}: ${plain(selected.value)}`;
  write(title, 20, y, muted, SANS);
  for (const line of reasons) write(line, 40, (y += LINE));
}

function wrapped(pen, text, width) {
  const lines = [];
  for (const whole of text.split("\n")) {
    let line = "";
    for (const sign of whole) {
      if (line && pen.measureText(line + sign).width > width) {
        lines.push(line);
        line = "";
      }
      line += sign;
    }
    lines.push(line);
  }
  return lines;
}
