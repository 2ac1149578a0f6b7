// What speaks for the cause of an incident, and what came of it: evidence, actions, alerts, messages.

import { element } from "./dom.js";
import { count } from "./format.js";
import { records, time } from "./records.js";

/** What else speaks for the cause; a stack is open where it is of the rank to blame. */
export function evidence(incident) {
  if (!incident.evidence.length)
    return [element("p", { class: "muted" }, "Nothing else speaks for the cause.")];
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

/** All its alerts. */
export function alertTable(incident) {
  return records(
    "Alerts",
    ["Step", "Rule", "State", "What"],
    incident.alerts.map((one) => [
      count(one.step),
      one.rule,
      element(
        "span",
        { class: "tag", dataset: { kind: one.state === "firing" ? one.severity : "" } },
        `${one.severity}, ${one.state}`,
      ),
      one.summary,
    ]),
  );
}

/** Who was told what. */
export function messages(incident) {
  const sent = incident.timeline.filter((one) => one.kind === "message");
  if (!sent.length)
    return [element("p", { class: "muted" }, "Nobody was told: no receiver is set up, or it is silenced.")];
  return [
    records(
      "Messages",
      ["When", "What"],
      sent.map((one) => [time(one.at), one.text]),
    ),
  ];
}
