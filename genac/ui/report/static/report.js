/* The page around the charts: drawing when visible, legends, numbers to unfold, light and dark. */
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function vector(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function swatch(chart, style) {
  const filled = chart.kind === "bars" && style > 0 ? "none" : colour(style);
  const parts = chart.kind === "bars"
    ? [vector("rect", { x: -9, y: -5, width: 18, height: 10, fill: filled, stroke: colour(style) })]
    : [
      vector("line", { x1: -14, x2: 14, stroke: colour(style), "stroke-width": 2, "stroke-dasharray": dashes(style) }),
      vector("path", { d: d3.symbol(SYMBOL_SHAPES[symbol(style)], 40)(), fill: "var(--card)", stroke: colour(style), "stroke-width": 1.5 }),
    ];
  return vector("svg", { viewBox: "-15 -7 30 14", width: 30, height: 14, "aria-hidden": "true" }, ...parts);
}

// the shapes that Plot draws under these names
const SYMBOL_SHAPES = {
  circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond,
  cross: d3.symbolCross, star: d3.symbolStar, wye: d3.symbolWye, asterisk: d3.symbolAsterisk,
};

/* A button per series that hides and shows it; none where there is one series and nothing to distinguish. */
function legend(chart, hidden, again) {
  const box = element("div", { class: "legend" });
  if (chart.series.length < 2) return box;
  for (const one of chart.series) {
    const button = element("button", { type: "button", "aria-pressed": "true", title: "hide or show" });
    button.append(swatch(chart, one.style), one.name);
    button.addEventListener("click", () => {
      const away = hidden.has(one.name);
      if (away) hidden.delete(one.name); else if (hidden.size < chart.series.length - 1) hidden.add(one.name);
      button.setAttribute("aria-pressed", String(!hidden.has(one.name)));
      again();
    });
    box.append(button);
  }
  return box;
}

const COLUMNS = {
  lines: (chart) => [chart.x, "value", "low", "high", "seeds"],
  reliability: () => ["predicted", "actual", "states"],
  dots: () => ["", "mean", "low", "high"],
  bars: () => ["score", "share"],
};

/* Every number of the chart as a table, made when it is unfolded. */
function numbers(chart) {
  const fold = element("details", { class: "values" }, element("summary", {}, "numbers"));
  fold.addEventListener("toggle", () => {
    if (fold.querySelector("table")) return;
    const names = COLUMNS[chart.kind](chart);
    const used = names.map((_, i) => chart.series.some((one) => one.points.some((p) => (p[i] ?? null) !== null)));
    const head = element("tr", {}, element("th", { scope: "col" }, "series"));
    names.forEach((name, i) => used[i] && head.append(element("th", { scope: "col" }, name)));
    const table = element("table", {}, head);
    for (const one of chart.series) {
      for (const point of one.points) {
        const row = element("tr", {}, element("td", {}, one.name));
        names.forEach((_, i) => used[i] && row.append(element("td", {}, point[i] === null ? "-" : String(point[i]))));
        table.append(row);
      }
    }
    fold.append(element("div", { class: "wide-table", tabindex: "0", role: "region", "aria-label": `${chart.title}: numbers` }, table));
  });
  return fold;
}

function build(figure) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  const hidden = new Set();
  const place = element("div", { class: "plot" });
  let width = 0;
  const again = () => { if (width > 0) place.replaceChildren(draw(chart, hidden, width)); };
  figure.append(legend(chart, hidden, again), place, numbers(chart));
  new ResizeObserver(() => {
    const now = Math.floor(place.clientWidth);
    if (now === 0 || Math.abs(now - width) < 8) return;
    width = now;
    again();
  }).observe(place);
}

const THEME = "genac-theme";

function remembered() {
  try { return localStorage.getItem(THEME); } catch { return null; } // a file may have no storage
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "light" : "dark";
}

function switchTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme(next);
  try { localStorage.setItem(THEME, next); } catch { /* the choice holds for this page */ }
}

const wished = matchMedia("(prefers-color-scheme: dark)");
theme(remembered() || (wished.matches ? "dark" : "light"));
wished.addEventListener("change", () => { if (!remembered()) theme(wished.matches ? "dark" : "light"); });
document.getElementById("theme").hidden = false;
document.getElementById("theme").addEventListener("click", switchTheme);
document.querySelectorAll("figure.chart").forEach(build);
// what is folded is printed too; a chart is drawn once it has a width
window.addEventListener("beforeprint", () => document.querySelectorAll("details.more").forEach((fold) => { fold.open = true; }));
