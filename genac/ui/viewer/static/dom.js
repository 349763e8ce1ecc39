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

// Vermilion 0, neutral 0.5, blue 1: the style sheet has the three for each theme, and both ends stand
// out on either. The report and the exports use those of the light theme.
export function colour(value) {
  const far = Math.min(1, 2 * Math.abs(value - 0.5));
  return `color-mix(in srgb, var(${value < 0.5 ? "--low" : "--high"}) ${(100 * far).toFixed(0)}%, var(--mid))`;
}

// Where the ends become lighter than the dark theme's middle lets white be read on them.
export const isMiddling = (value) => value > 0.28 && value < 0.7;

export const ink = (value) => (isMiddling(value) ? "var(--ink-mid)" : "var(--ink-end)");

// A chip with the value's number on its colour; what has no value says so.
export function chip(value, judged = true) {
  if (value === null) {
    return el("span", { class: "chip none", text: judged ? "missing" : "-" });
  }
  const node = el("span", { class: "chip", text: value.toFixed(2) });
  node.style.background = colour(value);
  node.style.color = ink(value);
  return node;
}

// A smaller fall between two values is no more than a score's own width: the server's FALL, with its
// tolerance for values of 32 bits.
export const FALL = 0.1 - 1e-6;

export const signed = (value) => {
  if (value === null) return "-";
  const size = Math.abs(value).toFixed(2);
  return (size === "0.00" ? "" : value < 0 ? "\u2212" : "+") + size; // what rounds to zero has no sign
};

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

// What a page in one file holds: the server's answers by path. Null where there is a server.
const held = byId("answers");
export const stored = held ? JSON.parse(held.textContent) : null;

export async function ask(path) {
  if (stored) {
    const key = decodeURIComponent(path);
    if (key in stored) return stored[key];
    throw new Error("This file does not hold that: genac view shows the whole run.");
  }
  const answer = await fetch(`api/${path}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

export const place = (address) => address.split("/").map(encodeURIComponent).join("/");

// What a person chose for this browser; a file may have no storage.
export function remembered(name) {
  try { return localStorage.getItem(`genac-${name}`); } catch { return null; }
}

export function remember(name, value) {
  try { localStorage.setItem(`genac-${name}`, value); } catch { /* holds for this page */ }
}
