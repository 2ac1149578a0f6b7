// The last steps of each rank, as its black box has them; to look at, and to take along.

import { element } from "./dom.js";
import { count, quantity, words } from "./format.js";

const FIRST = ["loss", "grad_norm", "lr", "skipped", "step_seconds"];
const NEAR = 12; // steps that are shown at first
const MOST_COLUMNS = 400;
const SQUARE = "this rank's part of a norm, squared: the norm is the root of their sum over all ranks";

/** The panel's content: a choice of ranks, a table, and what saves it. */
export function blackBox(context, incident) {
  const ranks = incident.blackboxes;
  if (!ranks.length) {
    return [element("p", { class: "muted" }, "No rank has handed over its black box.")];
  }
  const first = ranks.find((one) => one.rank === incident.cause.rank) ?? ranks[0];
  const view = { rank: first.rank, all: false, labels: false, box: null };
  const place = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Black box" });
  const rank = element(
    "select",
    { "aria-label": "Rank", onchange: () => load(Number(rank.value)) },
    ranks.map((one) =>
      element(
        "option",
        { value: one.rank, selected: one.rank === first.rank },
        `rank ${one.rank}${one.rank === incident.cause.rank ? ", where it began" : ""}: ${one.first_step === null ? "nothing in it can be read" : `steps ${count(one.first_step)} to ${count(one.last_step)}`}`,
      ),
    ),
  );
  const note = element("p", { class: "muted" });
  const draw = () => {
    place.replaceChildren(table(view, incident));
    note.textContent = noteOf(view);
  };
  const head = element(
    "div",
    { class: "toolbar" },
    rank,
    toggle("All steps", (on) => draw((view.all = on))),
    toggle("Every value", (on) => draw((view.labels = on))),
    element("span", { class: "spacer" }),
    element(
      "button",
      { type: "button", onclick: () => view.box && save(view.box, incident, "json") },
      "Save as JSON",
    ),
    element(
      "button",
      { type: "button", onclick: () => view.box && save(view.box, incident, "csv") },
      "Save as CSV",
    ),
  );
  async function load(wanted) {
    view.rank = wanted;
    try {
      const box = await context.api(`/incidents/${encodeURIComponent(incident.id)}/blackbox/${wanted}`);
      if (view.rank !== wanted) return;
      view.box = box;
      draw();
    } catch (error) {
      view.box = null;
      place.replaceChildren(element("p", { class: "error" }, error.message));
    }
  }
  load(first.rank);
  return [head, place, note];
}

function noteOf({ box, labels }) {
  const square = columns(box.steps, labels).some((name) => box.squares.includes(name.split("/")[0]));
  const last = box.steps.at(-1);
  return [
    last && `As the rank handed it over when the incident began: it ends at step ${count(last.step)}.`,
    square && `² ${SQUARE}.`,
  ]
    .filter(Boolean)
    .join(" ");
}

function toggle(text, changed) {
  const button = element("button", { type: "button", "aria-pressed": "false" }, text);
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    changed(on);
  });
  return button;
}

function table({ box, all, labels }, incident) {
  const steps = all ? box.steps : near(box.steps, incident.cause.step);
  const names = columns(box.steps, labels);
  const rows = steps.map((one) =>
    element(
      "tr",
      { class: one.step === incident.cause.step ? "began" : null },
      element("th", { scope: "row", class: "number" }, count(one.step)),
      element(
        "td",
        { class: "found" },
        (one.findings ?? [])
          .map((found) => (found.module ? `${words(found.signal)} in ${found.module}` : words(found.signal)))
          .join(", "),
      ),
      element("td", { class: "mono" }, (one.batches ?? []).join(", ")),
      names.map((name) => cell(one.values[name])),
    ),
  );
  const squares = new Set(box.squares);
  return element(
    "table",
    { class: "records blackbox" },
    element("caption", { class: "unseen" }, `The last steps of rank ${box.rank}`),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("th", { scope: "col", class: "number" }, "step"),
        ["found", "batches"].map((name) => element("th", { scope: "col" }, name)),
        names.map((name) => heading(name, squares)),
      ),
    ),
    element("tbody", {}, rows),
  );
}

/** Of a series with a label the signal, and the label as it is: it is a name. */
function heading(name, squares) {
  const [signal, ...label] = name.split("/");
  const square = squares.has(signal);
  return element(
    "th",
    { scope: "col", class: "number", title: square ? SQUARE : null },
    [`${words(signal)}${square ? "²" : ""}`, label.join("/")].filter(Boolean).join(" "),
  );
}

function cell(value) {
  const bad = typeof value === "string";
  return element(
    "td",
    { class: bad ? "number bad" : "number" },
    bad ? `✕ ${value}` : quantity(value, "1", 4),
  );
}

/** The steps around the one at which it began. */
function near(steps, began) {
  const at = steps.findIndex((one) => one.step >= began);
  const first = Math.max(0, Math.min((at < 0 ? steps.length : at) - NEAR / 2, steps.length - NEAR));
  return steps.slice(first, first + NEAR);
}

/** The columns: of series without a label the usual ones and those that are ever bad, or all. */
function columns(steps, labels) {
  const found = new Map();
  for (const { values } of steps) {
    for (const [name, value] of Object.entries(values)) {
      const bad = typeof value === "string" || (name.startsWith("nonfinite_") && value > 0);
      found.set(name, found.get(name) || bad);
    }
  }
  const names = [...found.keys()];
  const main = labels
    ? names
    : names.filter((name) => !name.includes("/") && (FIRST.includes(name) || found.get(name)));
  const order = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return main.sort((a, b) => order(a) - order(b)).slice(0, MOST_COLUMNS);
}

function save(box, incident, kind) {
  const text = kind === "json" ? JSON.stringify(box, null, 1) : csv(box);
  const url = URL.createObjectURL(
    new Blob([text], { type: kind === "json" ? "application/json" : "text/csv" }),
  );
  const link = element("a", { href: url, download: `${incident.id}-rank${box.rank}.${kind}`, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function csv(box) {
  const names = [...new Set(box.steps.flatMap((one) => Object.keys(one.values)))];
  const quoted = (text) => {
    const plain = String(text ?? "");
    // A spreadsheet would run what begins so; a number is no formula.
    const safe =
      /^[=+\-@\t\r]/.test(plain) && Number.isNaN(Number(plain)) && !plain.startsWith("-Inf")
        ? `'${plain}`
        : plain;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const rows = box.steps.map((one) => [one.step, ...names.map((name) => one.values[name])]);
  return [["step", ...names], ...rows].map((row) => row.map(quoted).join(",")).join("\r\n");
}
