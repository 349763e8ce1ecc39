// One response as a file: HTML and Markdown come from the server, the picture is drawn here.

import { drawCard } from "./card.js";
import { place } from "./dom.js";

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

export function exportPng(one, selected) {
  drawCard(one, selected).toBlob((blob) => {
    const href = URL.createObjectURL(blob);
    save(href, `${nameOf(one)}.png`);
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  });
}
