// The value curve, drawn downwards next to the steps so that every point lies at its step.

import { colour } from "./dom.js";

const WIDTH = 104; // 6.5rem, as in the style sheet
const EDGE = 10;
const SVG = "http://www.w3.org/2000/svg";

export function drawCurve(one, list) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "curve");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", described(one));
  const draw = () => svg.isConnected && redraw(svg, one, list);
  new ResizeObserver(draw).observe(list);
  document.addEventListener("selected", draw);
  document.addEventListener("typeset", draw);
  return svg;
}

function described(one) {
  const values = one.steps.map((step) => (step.value === null ? "missing" : step.value.toFixed(2)));
  return `Values in order: ${values.join(", ")}; reward ${one.reward ?? "none"}`;
}

const across = (value) => EDGE + value * (WIDTH - 2 * EDGE);

function part(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function redraw(svg, one, list) {
  const height = list.offsetHeight;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  const top = list.getBoundingClientRect().top;
  const rows = [...list.querySelectorAll(".step")].map((node) => {
    const box = node.getBoundingClientRect();
    return box.top - top + box.height / 2;
  });
  const points = one.steps
    .map((step, i) => ({ x: step.value === null ? null : across(step.value), y: rows[i], value: step.value }))
    .filter((point) => point.x !== null);
  const parts = [0, 0.5, 1].map((value) => part("line", { x1: across(value), x2: across(value), y1: 0,
    y2: height, stroke: "var(--line)", "stroke-dasharray": value === 0.5 ? "3 3" : "none" }));
  const path = points.map((point, i) => `${i ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");
  parts.push(part("path", { d: path, fill: "none", stroke: "var(--curve)", "stroke-width": 2,
    "stroke-linejoin": "round" }));
  if (one.reward !== null && points.length) {
    const last = points[points.length - 1];
    const end = { x: across(one.reward), y: height - 5 };
    parts.push(part("line", { x1: last.x, y1: last.y, x2: end.x, y2: end.y, stroke: "var(--curve)",
      "stroke-width": 1.5, "stroke-dasharray": "2 3" }));
    parts.push(part("rect", { x: end.x - 4, y: end.y - 4, width: 8, height: 8, fill: colour(one.reward),
      stroke: "var(--ink)" }));
    const left = one.reward > 0.5;
    parts.push(part("text", { x: end.x + (left ? -8 : 8), y: end.y + 3, "text-anchor": left ? "end" : "start" }, "reward"));
  }
  for (const point of points) {
    parts.push(part("circle", { cx: point.x, cy: point.y, r: 4.5, fill: colour(point.value), stroke: "var(--ink)" }));
  }
  svg.replaceChildren(...parts);
}
