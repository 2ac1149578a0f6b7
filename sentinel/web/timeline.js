// What moved first: everything that belongs to an incident, in its order.

import { element } from "./dom.js";
import { consequence } from "./findings.js";
import { count, instant, plural, words } from "./format.js";
import { afterResume, recovered } from "./recovery.js";

const MOST = 60; // lines at first
const KINDS = {
  signal: ["≋", "signal"],
  alert: ["▲", "alert"],
  action: ["▶", "action"],
  evidence: ["◆", "evidence"],
  message: ["✉", "message"],
  stack: ["☰", "stack"],
  acknowledged: ["✓", "acknowledged"],
  resolved: ["✓", "resolved"],
  after: ["≋", "after the resume"],
  recovered: ["✓", "recovered"],
};

/** The list, the first of it marked as what went first; `course` is how it went on (see recovery.js). */
export function timeline(incident, course) {
  const entries = gathered(wentOn(incident, course), incident.cause);
  const first = entries.findIndex(
    (one) => one.rule === incident.cause.rule && one.step === incident.cause.step,
  );
  const items = entries.map((one, at) => entry(one, at === Math.max(0, first), incident.cause));
  const list = element("ol", { class: "timeline" }, items.slice(0, MOST));
  if (items.length <= MOST) return [list];
  const more = element("button", { type: "button" }, `Show ${plural(items.length - MOST, "more", "more")}`);
  more.addEventListener("click", () => {
    list.append(...items.slice(MOST));
    more.remove();
  });
  return [list, more];
}

/** Everything on record, and after the last resume what came of it: steps have no time on record. */
function wentOn({ timeline: entries, alerts }, course) {
  if (!course) return entries;
  const bare = { at: null, rule: null, signal: null, rank: null };
  const told = afterResume(course, alerts);
  const step = course.badSteps.find((one) => one > course.resumed);
  const more = [
    told && { ...bare, kind: "after", step, text: told },
    course.since !== null && { ...bare, kind: "recovered", step: course.since, text: recovered(course) },
  ].filter(Boolean);
  const known = entries.map(({ kind, text }) => kind === "action" && text.startsWith("resume done"));
  let place = known.lastIndexOf(true) + 1;
  if (!place) place = entries.findLastIndex((one) => one.step !== null) + 1;
  return [...entries.slice(0, place), ...more, ...entries.slice(place)];
}

/** The same rule at the same step on several ranks is one line, that of the rank to blame if it is one. */
function gathered(entries, cause) {
  const found = [];
  const lines = new Map();
  for (const entry of entries) {
    const key =
      ["alert", "signal"].includes(entry.kind) && entry.rule
        ? `${entry.kind} ${entry.rule} ${entry.step}`
        : "";
    const before = key && lines.get(key);
    if (before) {
      const isCause = entry.rank === cause.rank && before.rank !== cause.rank;
      const { also, ...said } = before;
      if (isCause) Object.assign(before, entry, { also: [...also, said] });
      else also.push(entry);
      continue;
    }
    const line = { ...entry, also: [] };
    if (key) lines.set(key, line);
    found.push(line);
  }
  return found;
}

function entry({ at, step, kind, text, rule, signal, rank, also }, isFirst, cause) {
  const [icon, word] = KINDS[kind] ?? ["•", kind];
  const ranks = also.map((one) => one.rank).filter((one) => one !== null && one !== undefined);
  const where = rank === null || rank === undefined ? "" : `rank ${rank}`;
  return element(
    "li",
    { class: `timeline-entry${isFirst ? " first" : ""}`, dataset: { kind } },
    element("span", { class: "timeline-icon", "aria-hidden": "true" }, icon),
    element(
      "div",
      {},
      element(
        "p",
        { class: "timeline-when muted" },
        step !== null && step !== undefined && element("span", {}, `step ${count(step)}`),
        at && element("time", { datetime: at, title: at }, instant(at)),
        element("span", {}, word),
        isFirst && element("span", { class: "tag", dataset: { kind: "critical" } }, "went first"),
      ),
      element("p", {}, text),
      kind === "alert" && consequence(signal, cause) && element("p", { class: "muted" }, consequence(signal, cause)),
      also.length > 0 &&
        element(
          "details",
          {},
          element(
            "summary",
            {},
            `and ${plural(also.length, "more", "more")}${ranks.length ? ` (rank ${ranks.slice(0, 12).join(", ")}${ranks.length > 12 ? "…" : ""})` : ""}`,
          ),
          element(
            "ul",
            {},
            also.slice(0, 200).map((one) => element("li", {}, one.text)),
          ),
        ),
      element("p", { class: "muted" }, [rule, signal && words(signal), where].filter(Boolean).join(" · ")),
    ),
  );
}
