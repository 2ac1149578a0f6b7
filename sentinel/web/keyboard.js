// Keys: those of the shell, those that the page in view adds, and the dialog that lists them.

import { element } from "./dom.js";

const SHELL = [
  ["?", "show the keys"],
  ["g o", "go to the overview"],
  ["j / k", "next, previous in a list (arrows too)"],
  ["Enter", "open what is chosen"],
  ["/", "filter"],
  ["Esc", "close, or leave a field"],
];

/** The keyboard of the page. `go` follows an address. */
export class Keyboard {
  constructor(go) {
    this._go = go;
    this._page = {};
    this._prefix = "";
    document.addEventListener("keydown", (event) => this._pressed(event));
  }

  /** Add keys for as long as a page is shown: `{key: [what it does, function]}`. Returns the end. */
  add(keys) {
    this._page = { ...this._page, ...keys };
    return () => {
      for (const key of Object.keys(keys)) delete this._page[key];
    };
  }

  _pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return; // it has keys of its own
    const field = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (this._shell(event.key) || this._own(event)) event.preventDefault();
  }

  _shell(key) {
    const prefix = this._prefix;
    this._prefix = key === "g" ? "g" : "";
    if (prefix === "g" && key === "o") this._go("/");
    else if (key === "?") this._show();
    else if (key === "j" || key === "ArrowDown") return this._move(1, key);
    else if (key === "k" || key === "ArrowUp") return this._move(-1, key);
    else if (key === "/") return this._filter();
    else return false;
    return true;
  }

  _own(event) {
    const found = this._page[event.key];
    // An arrow belongs first to what has the focus, such as a slider or a table that scrolls.
    if (!found) return false;
    found[1](event);
    return true;
  }

  _move(by, key) {
    const items = [...document.querySelectorAll("#main [data-item]")].filter(isVisible);
    if (!items.length) return false;
    const at = items.indexOf(document.activeElement?.closest?.("[data-item]"));
    if (at < 0 && key.startsWith("Arrow")) return false; // until a list is entered, arrows scroll
    const next = at < 0 ? (by > 0 ? 0 : items.length - 1) : at + by;
    items[Math.max(0, Math.min(items.length - 1, next))].focus();
    return true;
  }

  _filter() {
    const field = [...document.querySelectorAll("#main [data-filter]")].find(isVisible);
    field?.focus();
    field?.select?.();
    return field !== undefined;
  }

  _show() {
    const own = Object.entries(this._page).map(([key, [what]]) => [key, what]);
    const rows = [...SHELL, ...own].map(([key, what]) =>
      element("tr", {}, element("th", { scope: "row" }, keycaps(key)), element("td", {}, what)),
    );
    const dialog = element(
      "dialog",
      { class: "dialog", "aria-labelledby": "keys-title", onclose: () => dialog.remove() },
      element("h2", { id: "keys-title" }, "Keys"),
      element("table", { class: "keys" }, element("tbody", {}, rows)),
      element("form", { method: "dialog", class: "dialog-actions" }, element("button", {}, "Close")),
    );
    document.body.append(dialog);
    dialog.showModal();
  }
}

function keycaps(keys) {
  return keys.split(" ").map((key) => (key === "/" && keys !== "/" ? " / " : element("kbd", {}, key)));
}

function isVisible(node) {
  return node.getClientRects().length > 0;
}
