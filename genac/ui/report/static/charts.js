/* The page's charts: each figure holds its numbers as JSON and is drawn by Observable Plot.
   Colours are CSS variables, so that a change of theme needs no drawing. */
"use strict";

const COLOURS = 8;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2", "6 2 1 2 1 2"];
const SYMBOLS = ["circle", "square", "triangle", "diamond", "cross", "star", "wye", "asterisk"];
const MARKS = 9; // symbols along a line, enough to follow it without its colour

function colour(style) { return `var(--series-${(style % COLOURS) + 1})`; }
// beyond eight styles the colours come again with the dashes and symbols of others
function dashes(style) { return DASHES[(style + Math.floor(style / COLOURS)) % DASHES.length]; }
function symbol(style) { return SYMBOLS[(style + Math.floor(style / COLOURS)) % SYMBOLS.length]; }

function shown(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)} M`;
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size > 0 && size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
}

/* Numbers of an axis, which have little room. */
function tick(value) {
  if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  return Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : shown(value);
}

/* Every mark of a chart of lines; rows of one x share a tooltip. */
function lineMarks(chart, series) {
  const marks = [];
  if (chart.zero !== null) {
    marks.push(Plot.ruleY([chart.zero], { stroke: "var(--muted)", strokeDasharray: "1 3" }));
  }
  for (const one of series) {
    const banded = one.points.filter((p) => p[2] !== null && p[2] !== undefined && p[3] !== null);
    marks.push(Plot.areaY(banded, { x: "0", y1: "2", y2: "3", fill: colour(one.style), fillOpacity: 0.16 }));
  }
  for (const [place, one] of series.entries()) {
    const look = { x: "0", y: "1", stroke: colour(one.style) };
    marks.push(Plot.lineY(one.points, { ...look, strokeWidth: 1.8, strokeDasharray: dashes(one.style) }));
    const every = Math.max(1, Math.ceil(one.points.length / MARKS));
    const some = one.points.filter((_, i) => i % every === Math.floor((place * every) / series.length) % every);
    marks.push(Plot.dot(some, { ...look, symbol: symbol(one.style), r: 3, fill: "var(--card)" }));
  }
  return [...marks, ...alarmMarks(chart), ...tipMarks(rowsOf(chart, series))];
}

function alarmMarks(chart) {
  return [
    Plot.ruleX(chart.alarms, { x: "0", stroke: "var(--warn)", strokeDasharray: "3 3", className: "alarm" }),
    Plot.text(chart.alarms, { x: "0", text: () => "▲", frameAnchor: "top", dy: -11, fill: "var(--warn)" }),
  ];
}

/* One row per x: what every line says there, and what fired. */
function rowsOf(chart, series) {
  const rows = new Map();
  const at = (x, y) => {
    if (!rows.has(x)) rows.set(x, { x, y, lines: [] });
    return rows.get(x);
  };
  for (const one of series) {
    for (const [x, y, low, high, n] of one.points) {
      const interval = low === null || low === undefined || high === null ? "" : ` [${shown(low)}, ${shown(high)}]`;
      const count = n > 1 ? `, ${n} seeds` : "";
      at(x, y).lines.push(`${one.name}: ${shown(y)}${interval}${count}`);
    }
  }
  const height = series.length ? series[0].points[0][1] : 0;
  for (const [x, text] of chart.alarms) at(x, height).lines.push(`▲ ${text}`);
  return [...rows.values()].map((row) => ({ ...row, text: [row.x < 0 ? "before training" : `${chart.x} ${shown(row.x)}`, ...row.lines].join("\n") }));
}

function tipMarks(rows) {
  const nearest = Plot.pointerX({ x: "x", y: "y", title: "text" });
  return [
    Plot.ruleX(rows, Plot.pointerX({ x: "x", stroke: "var(--muted)", strokeWidth: 0.8 })),
    Plot.tip(rows, { ...nearest, ...TIP }),
  ];
}

const TIP = { fill: "var(--bg)", stroke: "var(--muted)", lineWidth: 40, fontSize: 11.5 };

function lines(chart, series, width) {
  const xs = series.flatMap((one) => one.points.map((p) => p[0]));
  const steps = chart.x === "step" || chart.x === "score";
  return {
    width,
    height: Math.round(Math.max(190, Math.min(300, width * 0.5))),
    marginTop: 22,
    marginBottom: 40,
    x: { label: chart.x, labelOffset: 36, ticks: Math.min(steps ? new Set(xs).size : 9, width / 70), tickFormat: tick, grid: false },
    y: { label: chart.y || null, domain: chart.limits || undefined, ticks: 5, tickFormat: tick, grid: true, nice: !chart.limits },
    marks: lineMarks(chart, series),
  };
}

function reliability(chart, series, width) {
  const most = Math.max(...series.flatMap((one) => one.points.map((p) => p[2])));
  const marks = [Plot.line([[0, 0], [1, 1]], { stroke: "var(--muted)", strokeDasharray: "4 4" })];
  const rows = [];
  for (const one of series) {
    const look = { x: "0", y: "1", stroke: colour(one.style) };
    marks.push(Plot.line(one.points, { ...look, strokeWidth: 1.4, strokeDasharray: dashes(one.style) }));
    const area = (p) => 2.5 + 7 * Math.sqrt(p[2] / most);
    marks.push(Plot.dot(one.points, { ...look, symbol: symbol(one.style), r: area, fill: colour(one.style), fillOpacity: 0.25 }));
    for (const [x, y, n] of one.points) {
      rows.push({ x, y, text: `${one.name}\npredicted ${shown(x)}\nactual ${shown(y)}\n${shown(n)} states` });
    }
  }
  marks.push(Plot.tip(rows, { ...Plot.pointer({ x: "x", y: "y", title: "text" }), ...TIP }));
  const axis = { domain: [0, 1], ticks: 5, grid: true };
  return { width, height: Math.round(Math.min(width * 0.8, 330)), marginBottom: 40, r: { type: "identity" },
    x: { ...axis, label: chart.x, labelOffset: 36 }, y: { ...axis, label: chart.y }, marks };
}

function dots(chart, series, width) {
  const rows = series.flatMap((one) => one.points.map(([label, mean, low, high]) => {
    const interval = low === null ? "" : ` [${shown(low)}, ${shown(high)}]`;
    const band = low === null || !chart.band ? "" : `\n${chart.band}`;
    return { label, mean, low, high, name: one.name, style: one.style,
      text: `${series.length > 1 ? `${one.name}\n` : ""}${label}: ${shown(mean)}${interval}${band}` };
  }));
  const order = [...new Set(rows.map((row) => row.label))];
  const many = series.length > 1;
  const y = many ? "name" : "label";
  const marks = [Plot.ruleX([0], { stroke: "var(--grid)" })];
  for (const one of series) {
    const own = rows.filter((row) => row.style === one.style);
    const look = { y, fy: many ? "label" : undefined, stroke: colour(one.style) };
    const ranged = own.filter((row) => row.low !== null);
    marks.push(Plot.ruleY(ranged, { ...look, x1: "low", x2: "high", strokeWidth: 2 }));
    marks.push(Plot.dot(own, { ...look, x: "mean", symbol: symbol(one.style), r: 4.5, fill: colour(one.style) }));
  }
  marks.push(Plot.text(rows, { y, fy: many ? "label" : undefined, x: (row) => row.high ?? row.mean,
    text: (row) => shown(row.mean), dx: 8, textAnchor: "start", fill: "currentColor" }));
  const near = Plot.pointer({ x: "mean", y, fy: many ? "label" : undefined, title: "text" });
  marks.push(Plot.tip(rows, { ...near, ...TIP }));
  const longest = Math.max(...order.map((text) => text.length));
  return { width, height: many ? 60 + order.length * (16 * series.length + 14) : 60 + 30 * order.length,
    marginLeft: Math.min(width * 0.4, 14 + 6.2 * longest), marginRight: 45, marginBottom: 42,
    x: { label: chart.x, labelOffset: 38, grid: true, ticks: 4, zero: true }, // of several series colour and symbol show which, as in the legend
    y: many ? { axis: null } : { label: null, domain: order },
    fy: many ? { label: null, domain: order, axis: "left" } : undefined, marks };
}

function bars(chart, series, width) {
  const wide = 0.8 / series.length;
  const marks = [Plot.ruleY([0], { stroke: "var(--muted)" })];
  const rows = [];
  for (const [place, one] of series.entries()) {
    const left = (p) => p[0] - 0.4 + place * wide;
    // the first is filled, the second an outline: apart also without colour
    marks.push(Plot.rectY(one.points, { x1: left, x2: (p) => left(p) + wide * 0.94, y: "1",
      fill: place ? "none" : colour(one.style), stroke: colour(one.style), strokeWidth: 1.4 }));
    for (const [x, y] of one.points) rows.push({ x, y, text: `${one.name}\nscore ${x}: ${shown(100 * y)} %` });
  }
  marks.push(Plot.tip(rows, { ...Plot.pointer({ x: "x", y: "y", title: "text" }), ...TIP }));
  return { width, height: Math.round(Math.min(width * 0.6, 260)), marginBottom: 40,
    x: { label: chart.x, labelOffset: 36, ticks: 11, grid: false },
    y: { label: "share of states", ticks: 5, grid: true }, marks };
}

const KINDS = { lines, reliability, dots, bars };

function draw(chart, hidden, width) {
  const series = chart.series.filter((one) => !hidden.has(one.name));
  const options = KINDS[chart.kind](chart, series.length ? series : [], width);
  const style = { background: "transparent", color: "var(--ink)", fontSize: "11px", overflow: "visible" };
  const svg = Plot.plot({ style, ...options });
  // Plot labels its parts, which an image has none of; the numbers below it are what is read out
  for (const part of svg.querySelectorAll("[aria-label]")) {
    part.dataset.mark = part.getAttribute("aria-label");
    part.removeAttribute("aria-label");
  }
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${chart.title}: ${chart.series.map((one) => one.name).join(", ")}`);
  return svg;
}
