// Words that time makes wrong, such as how long it is until something happens: said anew each second.

import { element } from "./dom.js";

const PATIENCE = 60; // seconds out of the page, after which an element is forgotten
const known = new Map(); // element: {say, away}
let timer = 0;

/** An element with what `say()` says, kept true while it is on the page. */
export function ticking(say, attributes = {}) {
  const node = element("span", attributes, say());
  known.set(node, { say, away: 0 });
  timer ||= setInterval(tick, 1000);
  return node;
}

function tick() {
  for (const [node, one] of known) {
    one.away = node.isConnected ? 0 : one.away + 1;
    if (one.away > PATIENCE) known.delete(node);
    const text = one.say();
    if (node.textContent !== text) node.textContent = text;
  }
  if (known.size) return;
  clearInterval(timer);
  timer = 0;
}
