// The theme puts wide tables into boxes that scroll; the keyboard must reach these too.
new MutationObserver(() => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    box.tabIndex = 0;
  }
}).observe(document.documentElement, { childList: true, subtree: true });
