"use strict";

const queries = [...document.querySelectorAll(".query")];

function step(by) {
  const current = queries.indexOf(document.activeElement);
  const next = queries[Math.min(Math.max(current + by, 0), queries.length - 1)];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "start", behavior: "smooth" });
}

function follow(relation) {
  document.querySelector(`a[rel=${relation}]`)?.click();
}

function unfold() {
  const missed = document.activeElement.querySelector(".missed");
  if (missed) missed.open = !missed.open;
}

const actions = { j: () => step(1), k: () => step(-1), m: unfold, n: () => follow("next"), p: () => follow("prev") };

document.addEventListener("keydown", (event) => {
  if (!event.ctrlKey && !event.metaKey && !event.altKey) actions[event.key]?.();
});
