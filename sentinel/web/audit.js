// The record of a run: every action and every refusal, and whether the chain of rows is whole.

import { element } from "./dom.js";
import { count, plural } from "./format.js";
import { records, time } from "./records.js";
import { incidentPath, runPath } from "./router.js";

const MOST = 1000; // rows that are asked for, the newest
const HEADS = ["Row", "When", "What", "Result", "By", "Why and what came of it", "Incident", "Hash"];

/** See app.js. */
export async function show(root, context) {
  const { run } = context.parameters;
  context.title(`Record of ${run}`);
  const page = new AuditPage(root, context, run);
  await page.load();
  const again = () => page.load().catch((error) => context.notice(error.message));
  context.live({ action: (event) => event.run === run && again() });
}

class AuditPage {
  constructor(root, context, run) {
    this._context = context;
    this._run = run;
    this._filter = element("input", {
      type: "search",
      placeholder: "Filter by who, what, why",
      "aria-label": "Filter",
      "data-filter": true,
      oninput: () => this._draw(),
    });
    this._state = element(
      "select",
      { "aria-label": "Result", onchange: () => this._draw() },
      [
        ["", "every result"],
        ["requested", "requested"],
        ["done", "done"],
        ["refused", "refused"],
        ["failed", "failed"],
        ["lapsed", "lapsed"],
      ].map(([value, text]) => element("option", { value }, text)),
    );
    this._chain = element("section", { class: "panel chain", "aria-live": "polite" });
    this._rows = element("section", { class: "panel" });
    root.replaceChildren(
      element(
        "div",
        { class: "page-head" },
        element("h1", {}, "Record of ", element("a", { href: runPath(run) }, run)),
      ),
      this._chain,
      element("div", { class: "toolbar" }, this._filter, this._state),
      this._rows,
    );
  }

  /** Read the record. */
  async load() {
    this._audit = await this._context.api(`/audit?run=${encodeURIComponent(this._run)}&rows=${MOST}`);
    this._drawChain();
    this._draw();
  }

  _drawChain() {
    const { broken, head, rows, total } = this._audit;
    this._chain.dataset.state = broken ? "broken" : "whole";
    const tag = element(
      "span",
      { class: "tag", dataset: { kind: broken ? "critical" : "good" } },
      broken ? "✕ broken" : "✓ unchanged",
    );
    if (!rows.length) {
      this._chain.replaceChildren(
        element(
          "p",
          { class: "muted" },
          "Nothing is on record of this run: nobody has asked anything of it.",
        ),
      );
      return;
    }
    const said = broken
      ? `The chain does not hold from row ${count(broken.number)} on: ${broken.reason}. What stands there and after it is not proven.`
      : `${plural(total, "row")}, each with the hash of the one before: none was changed, removed or added between them.`;
    this._chain.replaceChildren(
      element("p", {}, tag, " ", said),
      element("p", { class: "muted" }, "Hash of the newest row: ", element("code", { class: "hash" }, head)),
      element(
        "p",
        { class: "muted" },
        "Rows that were taken away at the end leave no gap. To find out, hold the record against a hash from a message of Sentinel, each of which has the newest as it was then: ",
        element("code", {}, `sentinel audit ${this._run} --head HASH`),
        ".",
      ),
    );
  }

  _draw() {
    const wanted = this._filter.value.trim().toLowerCase();
    const state = this._state.value;
    const broken = this._audit.broken?.number ?? Infinity;
    const rows = this._audit.rows.filter(
      (row) =>
        (!state || row.state === state) &&
        [row.action, row.state, row.by, row.reason, row.detail, row.incident].some((text) =>
          (text ?? "").toLowerCase().includes(wanted),
        ),
    );
    rows.reverse();
    const older = this._audit.total - this._audit.rows.length;
    const note = older > 0 && element("p", { class: "muted" }, `${plural(older, "older row")} not shown.`);
    this._rows.replaceChildren(
      ...[note].filter(Boolean),
      rows.length
        ? records(
            "Record, the newest first",
            HEADS,
            rows.map((row) => line(row, broken)),
          )
        : element("p", { class: "muted" }, "No row matches."),
    );
  }
}

function line(row, broken) {
  const about = [...new Set([row.reason, row.detail])].filter(Boolean);
  return {
    class: row.number >= broken ? "broken" : null,
    cells: [
      element("th", { scope: "row", class: "number" }, count(row.number)),
      time(row.at),
      `${row.action} at step ${count(row.step)}`,
      element("span", { class: "tag", dataset: { kind: kindOf(row.state) } }, row.state),
      row.by,
      about.map((text) => element("div", {}, text)),
      row.incident ? element("a", { href: incidentPath(row.incident) }, row.incident) : "",
      element("span", { class: "hash", title: row.hash }, row.hash.slice(0, 12)),
    ],
  };
}

function kindOf(state) {
  if (state === "done") return "good";
  return ["refused", "failed", "lapsed"].includes(state) ? "warning" : "";
}
