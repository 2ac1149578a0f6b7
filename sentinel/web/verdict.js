// The top of an incident's page: what went wrong first, where, how sure that is, what is to be done.

import { around } from "./around.js";
import { element } from "./dom.js";
import { count, duration, moment, plural, quantity, words } from "./format.js";
import { nobodyTold } from "./findings.js";
import { afterResume, recovered, weights } from "./recovery.js";
import { runPath } from "./router.js";
import { ends, standing } from "./standing.js";
import { ticking } from "./ticking.js";

/**
 * It: `status` as /status has the run or null, `actions` the oldest first, `signals` of the run, `course` how it
 * went on (see recovery.js).
 */
export function verdict(incident, status, actions, signals, course) {
  const { cause } = incident;
  const unit = signals.find((one) => one.signal === cause.signal)?.unit ?? "1";
  const leading = incident.alerts.find(
    (one) =>
      one.rule === cause.rule &&
      one.step === cause.step &&
      (cause.rank === null || !one.labels.rank || Number(one.labels.rank) === cause.rank),
  );
  const now = standing(status?.hold, status?.state, actions, status?.step);
  const stands = incident.state === "open" ? now : resolvedText(incident, actions, now);
  const held = incident.state === "open" && status?.state === "held" ? status.hold : null;
  const well = recovered(course);
  const told =
    leading?.summary ||
    `${cause.rule}${cause.module ? ` in ${cause.module}` : ""} at step ${count(cause.step)}`;
  const where = cause.rank === null || told.includes(`rank ${cause.rank}`) ? "" : ` on rank ${cause.rank}`;
  const range = around(incident, course);
  const moments = new URLSearchParams({ from: range.from, to: range.to, step: cause.step });
  return [
    element(
      "p",
      { class: "verdict-tags" },
      incident.state === "open"
        ? element(
            "span",
            { class: "tag", dataset: { kind: incident.severity } },
            `${incident.severity === "critical" ? "⬣" : "▲"} ${incident.severity}`,
          )
        : element("span", { class: "tag", dataset: { kind: "good" } }, "✓ resolved"),
      status && element("span", { class: "tag", dataset: { kind: status.state } }, `run ${status.state}`),
      well && element("span", { class: "tag", dataset: { kind: course.since === null ? "critical" : "good" } }, well),
      incident.acknowledged &&
        element("span", { class: "tag" }, `looked after by ${incident.acknowledged.by}`),
      incident.silenced &&
        element(
          "span",
          { class: "tag" },
          `silenced by ${incident.silenced.by} until ${moment(incident.silenced.until)}`,
        ),
      element(
        "span",
        { class: "muted" },
        "run ",
        element("a", { href: runPath(incident.run) }, incident.run),
        ` · incident ${incident.id} · noticed ${moment(incident.opened_at)}`,
      ),
    ),
    element(
      "h1",
      {},
      `${told}${where}, `,
      element(
        "span",
        { class: "verdict-where" },
        `in run ${incident.run}${cause.host ? ` on ${cause.host}` : ""}: ${incident.certainty || "how sure is not known"}. ${stands}`,
      ),
    ),
    element(
      "dl",
      { class: "answers" },
      answer(
        "Went first",
        cause.module ?? words(cause.signal || cause.rule),
        `${words(cause.signal || cause.rule)}, rule ${cause.rule}`,
      ),
      answer(
        "Where",
        cause.rank === null ? "all ranks together" : `rank ${cause.rank}`,
        [cause.host && `host ${cause.host}`, cause.device].filter(Boolean).join(", "),
      ),
      answer(
        "Since",
        element(
          "a",
          { href: `${runPath(incident.run)}?${moments}`, title: "Show it on the run's charts" },
          `step ${count(cause.step)}`,
        ),
        measured(leading, unit),
      ),
      answer("How sure", incident.certainty || "not known", ""),
    ),
    element(
      "dl",
      { class: "answers wide" },
      answer(
        "Now",
        "",
        stands,
        held && ticking(() => ends(held)),
        afterResume(course, incident.alerts),
        incident.severity === "critical" && nobodyTold(incident),
      ),
      incident.advised.length > 0 &&
        answer(
          "What to do",
          "",
          incident.advised[0].text,
          weights(incident, course),
          moreAdvice(incident.advised.slice(1)),
        ),
    ),
    details(cause),
  ];
}

function answer(label, text, ...more) {
  const lines = more.filter(Boolean).map((line) => element("span", {}, line));
  return element(
    "div",
    { class: "answer" },
    element("dt", {}, label),
    element("dd", {}, text && element("strong", {}, text), lines),
  );
}

function moreAdvice(advice) {
  if (!advice.length) return "";
  return element(
    "details",
    {},
    element("summary", {}, `${plural(advice.length, "more", "more")}, from the other alerts`),
    advice.map(({ rule, text }) => element("p", {}, `${rule}: ${text}`)),
  );
}

function measured(leading, unit) {
  return leading ? `measured then: ${quantity(leading.value, unit)}` : "";
}

function resolvedText(incident, actions, now) {
  const took = (Date.parse(incident.changed_at) - Date.parse(incident.opened_at)) / 1000;
  const after = took > 0 ? ` after ${duration(took)}` : "";
  return `Resolved${after}. ${actions.length || now.startsWith("The run") ? now : ""}`.trim();
}

function details(cause) {
  const known = [
    ["Module", cause.module],
    ["Parameter", cause.parameter],
    ["Micro-batch", cause.micro_batch],
    ["Batch", cause.batch],
    ["Samples", cause.samples.join(", ")],
    ["Device", cause.device],
  ].filter(([, value]) => value !== null && value !== "");
  if (!known.length) return "";
  return element(
    "dl",
    { class: "facts" },
    known.map(([label, value]) =>
      element("div", {}, element("dt", {}, label), element("dd", {}, element("code", {}, String(value)))),
    ),
  );
}
