// Two runs next to each other: the right one follows the left one to the same problem.

import { byId, place } from "./dom.js";
import { setUpTheme } from "./theme.js";

const query = new URLSearchParams(location.search);
const names = { left: query.get("left") || "", right: query.get("right") || "" };
const base = (side) => `run/${encodeURIComponent(names[side])}/`;
let followed = "";

async function get(side, path) {
  const answer = await fetch(`${base(side)}api/${path}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || answer.statusText);
  return body;
}

// The response of the other run to the same problem: at the nearest step, of the same number where it has one.
function nearest(rows, one) {
  const distance = (row) => Math.abs(row.step - one.step) + (row.stage === one.stage ? 0 : 1e9) + (row.member === one.member ? 0 : 0.5);
  return rows.reduce((best, row) => (best === null || distance(row) < distance(best) ? row : best), null);
}

async function follow() {
  const at = new URLSearchParams(byId("left").contentWindow.location.hash.slice(1)).get("at");
  if (!at || at === followed) return;
  followed = at;
  try {
    const one = await get("left", `trajectory/${place(at)}`);
    for (let run = await get("right", "run"); run.indexed.done < run.indexed.total;) run = await get("right", "run");
    const rows = await get("right", `history?problem=${encodeURIComponent(one.problem_id)}`);
    if (at !== followed) return;
    const row = nearest(rows, one);
    if (row === null) {
      byId("run-facts").textContent = `${names.right} stores no response to ${one.problem_id}, so it stays where it is: open another problem on the left.`;
      followed = "";
      return;
    }
    byId("run-facts").textContent = `Both answer ${one.problem_id}.`;
    byId("right").contentWindow.location.hash = new URLSearchParams({ at: `${row.stage}/${row.step}/${row.group}/${row.member}` });
  } catch (error) {
    byId("run-facts").textContent = error.message;
  }
}

byId("names").textContent = `${names.left.replaceAll("~", "/")} | ${names.right.replaceAll("~", "/")}`;
for (const side of ["left", "right"]) byId(side).src = base(side);
setInterval(follow, 500);
setUpTheme();
