// How a run stands and what went wrong first, in a word and in a line.

import { element } from "./dom.js";
import { ago, count, duration, timeOfDay, words } from "./format.js";
import { incidentPath } from "./router.js";

/** A run's state, in a word and a color. */
export function stateTag(state) {
  return element("span", { class: "tag", dataset: { kind: state } }, state);
}

/** How long it has been as it is. */
export function since({ hold, ended, started }) {
  if (!hold) return ended ? `ended ${ago(ended)}` : `began ${ago(started)}`;
  const held = `held since ${timeOfDay(hold.since)} by ${hold.by}`;
  if (!hold.ends) return held;
  const left = (Date.parse(hold.ends) - Date.now()) / 1000;
  const then = { stop: "stops", resume: "goes on" }[hold.unattended] ?? hold.unattended;
  return `${held}, ${then} at ${timeOfDay(hold.ends)}${left > 0 ? ` (${duration(left)} left)` : ""} unless somebody answers`;
}

/** What went wrong first, in one line: rule, module, rank, step. */
export function firstFault(cause) {
  const where = [
    cause.rank !== null && ["rank ", element("strong", {}, String(cause.rank)), cause.host && ` (${cause.host})`],
    (cause.module || cause.parameter) && ["module ", element("strong", {}, cause.module ?? cause.parameter)],
    [`step ${count(cause.step)}`],
  ].filter(Boolean);
  return [element("strong", {}, cause.rule), ` (${words(cause.signal)})`, where.map((part) => [" · ", part])];
}

/** The same as a link to the incident; without a cause where that is not known. */
export function culprit(incident, severity, cause) {
  return element(
    "a",
    { class: "culprit", href: incidentPath(incident), dataset: { kind: severity ?? "warning" } },
    element("span", { class: "culprit-first" }, "First: "),
    cause ? firstFault(cause) : "open incident",
    element("span", { class: "culprit-more", "aria-hidden": "true" }, "→"),
  );
}
