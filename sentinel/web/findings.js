// What speaks for the cause of an incident, and what came of it: evidence, actions, alerts, messages.

import { element } from "./dom.js";
import { count, words } from "./format.js";
import { records, time } from "./records.js";
import { weights } from "./recovery.js";

const BACKWARD = new Set(["nonfinite_local_gradient", "nonfinite_gradient"]); // found going back from the loss

/** What speaks for the cause; a stack is open where it is of the rank to blame. */
export function evidence(incident, course) {
  const found = [...followed(incident), weights(incident, course)].filter(Boolean);
  return [
    ...collected(incident),
    element(
      "ul",
      { class: "plain" },
      found.map((text) => element("li", {}, text)),
    ),
  ];
}

/** What the order of alerts says of the cause: where its rule fired, and what came of it later in the step. */
function followed({ alerts, cause, timeline }) {
  const own = alerts.filter((one) => one.rule === cause.rule && one.step === cause.step);
  const ranks = [...new Set(own.map((one) => one.labels.rank).filter((rank) => rank !== undefined))];
  const where = cause.rank === null || !ranks.length ? "" : ranks.length === 1 ? `on rank ${cause.rank} alone` : `on ranks ${ranks.join(", ")}`;
  const later = new Map();
  for (const one of timeline) {
    if (one.kind !== "signal" || one.step < cause.step || (one.rule === cause.rule && one.step === cause.step)) continue;
    const key = `${words(one.signal)} at step ${count(one.step)}`;
    later.set(key, [...(later.get(key) ?? []), one.rank].filter((rank) => rank !== null));
  }
  const told = [...later].map(([what, on]) => (on.length ? `${what} (${on.length === 1 ? "rank" : "ranks"} ${on.join(", ")})` : what));
  return [
    where && `${words(cause.signal)} left its range ${where}.`,
    told.length ? `What moved after it, in the order in which one can cause the other: ${told.join(", ")}.` : "Nothing else left its range.",
  ];
}

function collected(incident) {
  return incident.evidence.map((one) => {
    const prefix =
      one.rank !== null && !one.title.toLowerCase().startsWith(`rank ${one.rank}`)
        ? `rank ${one.rank}: `
        : "";
    const title = `${prefix}${one.title || one.kind}`;
    if (!one.text || one.text === one.title)
      return element("p", {}, element("span", { class: "tag" }, one.kind), ` ${title}`);
    return element(
      "details",
      { open: one.rank === incident.cause.rank && one.kind === "stack" },
      element("summary", {}, element("span", { class: "tag" }, one.kind), ` ${title}`),
      element("pre", { class: "stacks", tabindex: "0" }, one.text),
    );
  });
}

/** What was done to the run because of it. */
export function actionTable(actions) {
  if (!actions.length)
    return element("p", { class: "muted" }, "Sentinel only warns: it has not touched the run.");
  return records(
    "Actions",
    ["When", "What", "By", "Result"],
    actions.map((one) => [
      time(one.asked),
      `${one.action} at step ${count(one.step)}`,
      one.by,
      element(
        "span",
        {},
        element(
          "span",
          {
            class: "tag",
            dataset: { kind: one.state === "done" ? "good" : one.state === "requested" ? "" : "critical" },
          },
          one.state,
        ),
        one.detail && one.detail !== one.reason ? ` ${one.detail}` : "",
      ),
    ]),
  );
}

/** Of what is found going back from the loss, "first" is in that order: nearest to the output. */
export function consequence(signal, cause) {
  return BACKWARD.has(signal) && !BACKWARD.has(cause.signal)
    ? "A consequence: “first” is in the order of the backward pass here, from the output back; it is not where this began."
    : "";
}

/** All its alerts; `step` is where the condition began to hold, and it fired then or later. */
export function alertTable(incident) {
  const told = new Map(incident.timeline.filter((one) => one.kind === "alert").map((one) => [keyOf(one), one]));
  const fired = (one) => {
    const at = told.get(keyOf(one))?.step;
    return at && at > one.step ? `${count(one.step)}, fired at ${count(at)}` : count(one.step);
  };
  const isOf = (one) => one.rule === incident.cause.rule && one.step === incident.cause.step;
  const note = (one) => consequence(told.get(keyOf(one))?.signal, incident.cause);
  return records(
    "Alerts",
    ["Step", "Rule", "State", "What"],
    [...incident.alerts].sort((one, other) => isOf(other) - isOf(one)).map((one) => [
      fired(one),
      one.rule,
      element(
        "span",
        { class: "tag", dataset: { kind: one.state === "firing" ? one.severity : "" } },
        `${one.severity}, ${one.state}`,
      ),
      [one.summary, note(one) && element("div", { class: "muted" }, note(one))].filter(Boolean),
    ]),
  );
}

function keyOf({ rule, labels }) {
  return `${rule} ${JSON.stringify(labels)}`;
}

/** Why nobody was told of it; "" where somebody was. */
export function nobodyTold(incident) {
  if (incident.timeline.some((one) => one.kind === "message")) return "";
  const { receivers, silenced, inhibited_by: other } = incident;
  if (!receivers) return "Nobody was told: no receiver is set up.";
  if (silenced) return `Nobody was told: it is silenced by ${silenced.by}.`;
  if (other) return `Nobody was told: it belongs to incident ${other}.`;
  return "Nobody was told: none of the receivers is to be told of such an incident.";
}

/** Who was told what. */
export function messages(incident) {
  const sent = incident.timeline.filter((one) => one.kind === "message");
  if (!sent.length)
    return [element("p", { class: "muted" }, nobodyTold(incident))];
  return [
    records(
      "Messages",
      ["When", "What"],
      sent.map((one) => [time(one.at), one.text]),
    ),
  ];
}
