// What is shown lives in the page's address, after the #, so that a link opens the same view.

export const FILTERS = ["q", "outcome", "sort", "problem", "step_min", "step_max", "min_drop",
  "min_gap", "unparsable", "ascending", "page"];

export function current() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

export function link(changes) {
  const next = { ...current(), ...changes };
  const kept = Object.entries(next).filter(([, value]) => value !== null && value !== "");
  return `#${new URLSearchParams(kept)}`;
}

// `quiet` replaces the entry in the history: moving between states should not fill it.
export function go(changes, quiet = false) {
  const target = link(changes);
  if (target === location.hash) return;
  if (!quiet) {
    location.hash = target;
    return;
  }
  history.replaceState(null, "", target);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}
