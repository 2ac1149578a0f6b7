// The header: home, the runs, how the connection is, the theme, the token; and what went wrong.

import { api, keepToken, token } from "./api.js";
import { element } from "./dom.js";
import { runPath } from "./router.js";

const THEMES = ["system", "light", "dark"];
const STATES = {
  live: "connected",
  reconnecting: "reconnecting",
  denied: "no token",
  none: "no token",
};

/** The header. `go` follows an address, `onToken` hears that another token is kept. */
export class Header {
  constructor(root, { go, onToken }) {
    this._go = go;
    this._onToken = onToken;
    this._runs = element("select", { id: "runs", class: "runs", "aria-label": "Go to a run", hidden: true });
    this._runs.addEventListener("change", () => this._runs.value && go(runPath(this._runs.value)));
    this._state = element("span", { class: "connection", role: "status" });
    this._theme = element("button", { type: "button", class: "quiet", onclick: () => this._nextTheme() });
    this._who = element("button", { type: "button", class: "quiet", onclick: () => this.askForToken() });
    const keys = element("button", { type: "button", class: "quiet keys-button", onclick: pressKeys }, "?");
    keys.setAttribute("aria-label", "Show the keys");
    root.append(
      element("a", { href: "/", class: "brand" }, "Sentinel"),
      element("nav", { "aria-label": "Runs" }, this._runs),
      element("span", { class: "spacer" }),
      this._state,
      this._who,
      this._theme,
      keys,
    );
    this._showTheme();
    this.whoami(null);
  }

  /** The runs there are, and which of them is in view. */
  runs(names, current) {
    const options = names.map(({ run, state }) => element("option", { value: run }, `${run} · ${state}`));
    this._runs.replaceChildren(element("option", { value: "" }, "Runs…"), ...options);
    this._runs.hidden = names.length === 0;
    this.current(current);
  }

  /** The run in view, "" for none. */
  current(run) {
    this._runs.value = run;
    if (this._runs.selectedIndex < 0) this._runs.value = "";
  }

  /** How the connection is: live, reconnecting, denied, none. */
  connection(state) {
    this._state.dataset.state = state;
    this._state.textContent = STATES[state];
  }

  /** Who is looking: the answer of /whoami, or null. */
  whoami(me) {
    this._who.textContent = me ? me.role : "token";
    this._who.title = me ? `${me.by}: may act as ${me.role}. Sentinel ${me.version}` : "Enter a token";
    this._who.setAttribute("aria-label", me ? `Signed in as ${me.role}. Change the token` : "Enter a token");
  }

  /** The dialog that takes a token. */
  askForToken() {
    if (document.getElementById("token-dialog")) return;
    const dialog = element(
      "dialog",
      { id: "token-dialog", class: "dialog", "aria-labelledby": "token-title", onclose: () => dialog.remove() },
      element("h2", { id: "token-title" }, "Token"),
      tokenForm(this._onToken, () => dialog.close()),
      element(
        "div",
        { class: "dialog-actions" },
        token() && element("button", { type: "button", onclick: () => this._forget(dialog) }, "Forget the token"),
        element("button", { type: "button", onclick: () => dialog.close() }, "Close"),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  _forget(dialog) {
    dialog.close();
    keepToken("");
    this._onToken();
  }

  _nextTheme() {
    const next = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem("sentinel.theme", next);
    } catch {
      // Then it holds until the page is left.
    }
    this._showTheme();
    window.dispatchEvent(new Event("themechange"));
  }

  _showTheme() {
    const theme = chosenTheme();
    this._theme.textContent = { system: "◐", light: "☀", dark: "☾" }[theme];
    this._theme.title = `Theme: ${theme}`;
    this._theme.setAttribute("aria-label", `Theme: ${theme}. Change`);
  }
}

/** The field that takes a token, in the dialog and on the page that is shown without one. */
export function tokenForm(onToken, done = () => {}) {
  const field = element("input", {
    id: "token-field",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-error",
  });
  const error = element("p", { id: "token-error", class: "error", role: "alert" });
  const form = element(
    "form",
    { class: "token-form" },
    element(
      "p",
      {},
      "Run ",
      element("code", {}, "sentinel page"),
      " where the daemon runs and open the link that it prints, or paste a token. It is kept for as long as this tab is open.",
    ),
    element("label", { for: "token-field" }, "Token"),
    element("div", { class: "field-row" }, field, element("button", { class: "primary" }, "Use it")),
    error,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const before = token();
    keepToken(field.value.trim());
    try {
      await api("/whoami");
      done();
      onToken();
    } catch (failure) {
      keepToken(before);
      error.textContent = failure.message;
      field.select();
    }
  });
  return form;
}

function chosenTheme() {
  return document.documentElement.dataset.theme ?? "system";
}

function pressKeys() {
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "?" }));
}
