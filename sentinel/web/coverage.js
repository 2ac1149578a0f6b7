// What is measured on which rank, what is not and why, and which rules are blind.

import { element } from "./dom.js";
import { count, plural } from "./format.js";
import { records } from "./records.js";
import { runPath } from "./router.js";

const NONE = "not applicable"; // there is nothing to measure in such a run
const SILENT = "this rank says nothing of it"; // as the daemon says it
const STATES = ["missing", "stale", "sampled", "measured", NONE];
const MEANS = {
  measured: "at every step",
  sampled: "now and then, to keep what it costs within the budget",
  stale: "announced, but no value has come for long",
  missing: "not measured",
  [NONE]: "there is nothing to measure in such a run",
};
const AGAIN = 5000; // ms between two looks at a run that goes on

/** See app.js. */
export async function show(root, context) {
  const { run } = context.parameters;
  context.title(`Coverage of ${run}`);
  const page = new CoveragePage(root, context, run);
  await page.load();
  let timer = 0;
  context.live({
    step: (event) => {
      if (event.run !== run || timer) return;
      timer = setTimeout(async () => {
        await page.load().catch((error) => context.notice(error.message));
        timer = 0;
      }, AGAIN);
    },
  });
  return () => clearTimeout(timer);
}

class CoveragePage {
  constructor(root, context, run) {
    this._context = context;
    this._run = run;
    this._words = "";
    this._state = "";
    this._filter = element("input", {
      type: "search",
      placeholder: "Filter signals, rules, reasons",
      "aria-label": "Filter",
      "data-filter": true,
      oninput: () => {
        this._words = this._filter.value.trim().toLowerCase();
        this._draw();
      },
    });
    this._tabs = element("div", { class: "group", role: "group", "aria-label": "State" });
    this._head = element("p", { class: "muted" });
    this._signals = element("div", {});
    this._rules = element("div", {});
    root.replaceChildren(
      element(
        "div",
        { class: "page-head" },
        element("h1", {}, "Coverage of ", element("a", { href: runPath(run) }, run)),
        this._head,
      ),
      element("div", { class: "toolbar" }, this._filter, this._tabs),
      element(
        "section",
        { class: "panel" },
        element("h2", {}, "Rules that see less than they ask for"),
        this._rules,
      ),
      element("section", { class: "panel" }, element("h2", {}, "Signals"), this._signals),
    );
  }

  /** Look at how it stands. */
  async load() {
    const [report] = await this._context.api(`/coverage?run=${encodeURIComponent(this._run)}`);
    this._report = report ?? { run: this._run, step: 0, ranks: "", unseen: [], signals: [], rules: [] };
    this._draw();
  }

  _draw() {
    const report = this._report;
    this._head.replaceChildren(
      `${named(report.ranks)}, step ${count(report.step)}`,
      ...report.unseen.map((one) =>
        element("span", { class: "error" }, `; not seen: ${named(one.ranks)}, ${one.reason}`),
      ),
    );
    const of = (state) => report.signals.filter((one) => stateOf(one) === state).length;
    const tabs = [
      ["", `all ${report.signals.length}`],
      ...STATES.map((state) => [state, `${state} ${of(state)}`]),
    ];
    if (!this._tabs.children.length) {
      for (const [state] of tabs)
        this._tabs.append(element("button", { type: "button", onclick: () => this._choose(state) }));
    }
    tabs.forEach(([state, text], at) => {
      this._tabs.children[at].textContent = text;
      this._tabs.children[at].setAttribute("aria-pressed", String(state === this._state));
    });
    this._drawSignals(report);
    this._drawRules(report);
  }

  _choose(state) {
    this._state = state;
    this._draw();
  }

  _drawSignals(report) {
    const wanted = report.signals.filter(
      (one) =>
        (!this._state || stateOf(one) === this._state) && this._matches([one.signal, one.reason, one.ranks]),
    );
    wanted.sort((a, b) => STATES.indexOf(stateOf(a)) - STATES.indexOf(stateOf(b)));
    const rows = wanted.map((one) => [
      element("code", {}, one.signal),
      element(
        "span",
        { class: "tag", dataset: { kind: kindOf(stateOf(one)) }, title: MEANS[stateOf(one)] },
        stateOf(one),
      ),
      one.ranks === report.ranks ? "all" : named(one.ranks),
      how(one),
      why(one),
    ]);
    this._signals.replaceChildren(
      rows.length
        ? records("Signals", ["Signal", "State", "Where", "How often", "Why"], rows)
        : nothing("No signal matches."),
    );
  }

  _drawRules(report) {
    const wanted = report.rules.filter(
      (rule) =>
        (rule.state === "blind" || rule.state === "off" || rule.blind.length) &&
        this._matches([rule.rule, ...rule.blind.flatMap((spot) => [spot.signal, spot.reason])]),
    );
    wanted.sort((a, b) => lacks(b) - lacks(a));
    const rows = wanted.map((rule) => [
      rule.rule,
      element(
        "span",
        { class: "tag", dataset: { kind: rule.state === "off" ? "critical" : lacks(rule) ? "warning" : "" } },
        ruleState(report, rule),
      ),
      element(
        "ul",
        { class: "plain" },
        rule.blind.map((spot) =>
          element(
            "li",
            {},
            element("code", {}, spot.signal),
            `${spot.ranks === report.ranks ? "" : ` on ${named(spot.ranks)}`}: ${why(spot)}`,
          ),
        ),
      ),
    ]);
    const judging =
      report.rules.length -
      report.rules.filter((rule) => ["blind", "off"].includes(rule.state) || rule.blind.length).length;
    const none = report.rules.filter((rule) => !rule.applicable).length;
    this._rules.replaceChildren(
      element(
        "p",
        { class: "muted" },
        `${plural(judging, "rule")} of ${count(report.rules.length)} see all that they ask for; ${count(none)} ${none === 1 ? "does" : "do"} not apply to such a run.`,
      ),
      rows.length
        ? records("Rules", ["Rule", "State", "What it lacks, and why"], rows)
        : nothing(this._words ? "No rule matches." : "No rule is blind."),
    );
  }

  _matches(texts) {
    return texts.some((text) => text.toLowerCase().includes(this._words));
  }
}

function how(one) {
  if (one.state === "measured") return "every step";
  if (one.state === "sampled") return `every ${plural(one.every, "step")}`;
  if (one.state === "stale")
    return one.last_step === null ? "never came" : `last at step ${count(one.last_step)}`;
  return "";
}

function kindOf(state) {
  return { measured: "good", stale: "warning", missing: "warning" }[state] ?? "";
}

/** What scripts log comes only where they do. */
function why({ signal, reason }) {
  return signal === "logged" && reason === SILENT ? "the script has logged nothing" : reason;
}

/** Of the states one more than the daemon's. */
function stateOf(one) {
  return one.state === "missing" && !one.applicable ? NONE : one.state;
}

/** Whether a rule lacks what could be measured. */
function lacks(rule) {
  return rule.applicable && (rule.state === "blind" || rule.state === "off");
}

function ruleState(report, rule) {
  if (!rule.applicable) return NONE;
  if (rule.state !== "blind") return rule.blind.length ? `${rule.state}, blind in part` : rule.state;
  const ranks = [...new Set(rule.blind.map((spot) => spot.ranks))];
  return ranks.every((one) => one === report.ranks) ? "blind" : `blind on ${named(ranks.join(", "))}`;
}

function named(ranks) {
  if (!ranks) return "no ranks";
  return /^\d+$/.test(ranks) ? `rank ${ranks}` : `ranks ${ranks}`;
}

function nothing(text) {
  return element("p", { class: "muted" }, text);
}
