// Light or dark: as the system has it until a person chooses.

import { byId, remember, remembered } from "./dom.js";

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "light" : "dark";
}

export function toggleTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("theme", next);
  setTheme(next);
}

export function setUpTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(remembered("theme") || (dark ? "dark" : "light"));
  byId("theme").addEventListener("click", toggleTheme);
  // chosen in another page of ours, such as the one around a frame
  window.addEventListener("storage", (event) => event.key === "genac-theme" && event.newValue && setTheme(event.newValue));
}
