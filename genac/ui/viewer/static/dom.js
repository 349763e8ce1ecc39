// Small helpers. All text of models goes through textContent, never through markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

// cividis: monotone in lightness and the same for colour-blind eyes; the report uses it too
const STOPS = [[0, 34, 78], [65, 77, 107], [125, 124, 120], [188, 174, 108], [254, 232, 56]];

export function colour(value) {
  const place = Math.min(1, Math.max(0, value)) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const mixed = STOPS[low].map((a, i) => Math.round(a + (place - low) * (STOPS[low + 1][i] - a)));
  return `rgb(${mixed.join(",")})`;
}

export const ink = (value) => (value > 0.45 ? "#000" : "#fff");

// A chip with the value's number on its colour; what has no value says so.
export function chip(value, asked = true) {
  if (value === null) {
    return el("span", { class: "chip none", text: asked ? "missing" : "-" });
  }
  const node = el("span", { class: "chip", text: value.toFixed(2) });
  node.style.background = colour(value);
  node.style.color = ink(value);
  return node;
}

export const signed = (value) =>
  value === null ? "-" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);

export const plain = (value, digits = 2) => (value === null ? "-" : value.toFixed(digits));

// Spaces and line ends of a token, made visible.
export const visible = (text) =>
  text.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5").replace(/ /g, "\u00b7") || "\u2205";

export function outcome(reward, finish) {
  if (reward === null) return el("span", { text: "not scored" });
  const right = reward >= 0.5;
  const word = (right ? "\u2713 right" : "\u2717 wrong") + (finish === "length" ? ", cut off" : "");
  return el("span", { class: right ? "right" : "wrong", text: word });
}

export async function ask(path) {
  const answer = await fetch(`api/${path}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

export const place = (address) => address.split("/").map(encodeURIComponent).join("/");
