// The responses of a group as a tree: a prefix that several share is drawn once, as tall as they are.

import { go } from "./address.js";
import { chip, colour, el, outcome } from "./dom.js";
import { proseOf } from "./prose.js";

export function drawTree(tree, one) {
  const branches = branched(tree.nodes);
  const leaves = branches.filter((branch) => !branch.children.length);
  leaves.forEach((branch, row) => { branch.first = row; branch.rows = 1; });
  // Children come after their parents, so that backwards every child is placed before its parent.
  for (const branch of [...branches].reverse()) {
    if (!branch.children.length) continue;
    branch.first = Math.min(...branch.children.map((child) => child.first));
    branch.rows = branch.children.reduce((sum, child) => sum + child.rows, 0);
  }
  const grid = el("div", { class: "tree", id: "tree", tabindex: "0", role: "group",
    "aria-label": `Tree of ${one.siblings.length} responses` }, ...branches.map((branch) => branchBox(branch, one)));
  return el("section", { "aria-label": "Tree" },
    el("p", { class: "muted", text: "From left to right; steps that responses share are drawn once. A step opens the state before it." }), grid);
}

// Nodes that follow each other without a branching become one box.
function branched(nodes) {
  const children = new Map(nodes.map((node) => [node.id, []]));
  for (const node of nodes) if (node.parent !== null) children.get(node.parent).push(node);
  const owner = new Map();
  const branches = [];
  for (const node of nodes) {
    const above = node.parent === null ? null : owner.get(node.parent);
    const last = above && above.nodes[above.nodes.length - 1];
    if (above && children.get(node.parent).length === 1 && !last.ends.length) {
      above.nodes.push(node);
      owner.set(node.id, above);
      continue;
    }
    const branch = { nodes: [node], children: [], column: above ? above.column + 1 : 0 };
    if (above) above.children.push(branch);
    branches.push(branch);
    owner.set(node.id, branch);
  }
  return branches;
}

function branchBox(branch, one) {
  const last = branch.nodes[branch.nodes.length - 1];
  const texts = proseOf(branch.nodes.map((step) => step.text));
  const node = el("div", { class: "branch" },
    el("ol", {}, ...branch.nodes.map((step, i) => el("li", {}, treeLine(step, texts[i], one)))),
    ...last.ends.map((end) => ending(end, one)));
  node.style.gridColumn = branch.column + 1;
  node.style.gridRow = `${branch.first + 1} / span ${branch.rows}`;
  return node;
}

function treeLine(step, text, one) {
  const value = step.values.length ? step.values.reduce((a, b) => a + b, 0) / step.values.length : null;
  const member = step.members.includes(one.member) ? one.member : step.members[0];
  const at = `${one.stage}/${one.step}/${one.group}/${member}`;
  const node = el("button", { type: "button", title: `${step.members.length} responses`,
    onclick: () => go({ at, state: step.start, view: null, compare: null }) },
    chip(value), el("span", { class: "text" }, text));
  if (value !== null) node.style.setProperty("--value", colour(value));
  for (const formula of text.querySelectorAll("[tabindex]")) formula.removeAttribute("tabindex"); // within a button
  return node;
}

function ending(end, one) {
  const at = `${one.stage}/${one.step}/${one.group}/${end.member}`;
  return el("p", {},
    el("button", { type: "button", text: `response ${end.member}`,
      onclick: () => go({ at, state: null, view: null, compare: null }) }), " ", outcome(end.reward, null));
}
