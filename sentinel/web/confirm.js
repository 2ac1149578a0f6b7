// Asks before anything is done: exactly what will happen, and to how many ranks.

import { element } from "./dom.js";

/**
 * Ask. `effect(values)` is what will happen, in sentences, said anew at every change; it may return
 * `{text, warning, refuse}` (`refuse`: why it cannot be confirmed as it stands). `fields` are
 * `{name, label, kind: "number"|"select"|"checkbox"|"text", value, options, min, max, step, hint}`;
 * a checkbox may be `disabled`. `intro` are sentences above them.
 * Returns the values, or null when the person thinks better of it.
 */
export function confirm({ title, effect, fields = [], intro = [], verb, danger = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map(control);
    const values = () => Object.fromEntries(inputs.map(({ name, read }) => [name, read()]));
    const text = element("p", { class: "confirm-effect", id: "confirm-effect", "aria-live": "polite" });
    const warning = element("p", { class: "confirm-warning", role: "alert" });
    const yes = element("button", { value: "yes", class: danger ? "danger" : "primary" }, verb);
    const no = element("button", { value: "no", type: "submit", formnovalidate: true }, "Cancel");
    const say = () => {
      const found = effect(values());
      const said = typeof found === "string" ? { text: found } : found;
      text.textContent = said.text;
      warning.textContent = said.refuse ?? said.warning ?? "";
      warning.hidden = !warning.textContent;
      yes.disabled = Boolean(said.refuse);
    };
    const dialog = element(
      "dialog",
      { class: "dialog confirm", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-effect" },
      element(
        "form",
        { method: "dialog", oninput: say },
        element("h2", { id: "confirm-title" }, title),
        intro.length > 0 &&
          element(
            "div",
            { class: "confirm-intro" },
            intro.map((sentence) => element("p", {}, sentence)),
          ),
        inputs.length > 0 &&
          element(
            "div",
            { class: "confirm-fields" },
            inputs.map(({ node }) => node),
          ),
        text,
        warning,
        element("div", { class: "dialog-actions" }, no, yes),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? values() : null);
    });
    say();
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.field ?? no).focus();
  });
}

function control({ name, label, kind, value, options, hint, ...limits }) {
  const id = `confirm-${name}`;
  if (kind === "checkbox") {
    const field = element("input", { id, type: "checkbox", checked: value, disabled: limits.disabled });
    const node = element("label", { class: "confirm-check", for: id }, field, element("span", {}, label));
    return { name, field, node, read: () => field.checked };
  }
  const field =
    kind === "select"
      ? element(
          "select",
          { id },
          options.map(([key, text]) => element("option", { value: key, selected: key === value }, text)),
        )
      : element("input", { id, type: kind, value, required: kind === "number", ...limits });
  const node = element(
    "div",
    { class: "confirm-field" },
    element("label", { for: id }, label),
    field,
    hint && element("span", { class: "muted" }, hint),
  );
  return { name, field, node, read: () => (kind === "number" ? field.valueAsNumber : field.value) };
}
