// How an incident went on: which steps were bad, also after a resume, and since when all is well again.

import { count, plural } from "./format.js";

const AHEAD = 1000; // steps after it began that are looked at, one by one
const COUNTS = /^(nonfinite_\w+|skipped|overflow)$/; // signals that are bad when they are not 0
const APPLIED = "nonfinite_update";

/**
 * What became of values that are not finite and of skipped steps: `since` when all was well again (null: not yet),
 * `badSteps`, `last` the newest step, `resumed` the step of the last resume or null, `applied` to how many steps'
 * weights such a gradient went (null: not measured). Null of an incident about anything else.
 */
export async function recovery(context, incident, signals) {
  const wanted = new Set([...incident.timeline.map((one) => one.signal), APPLIED].filter(Boolean));
  const asked = signals.filter((one) => wanted.has(one.signal) && one.labels.every((label) => label === ""));
  if (!asked.length) return null;
  const from = incident.cause.step;
  const query = new URLSearchParams({ from, to: from + AHEAD - 1, points: 2 * AHEAD });
  asked.forEach(({ signal }) => query.append("signal", signal));
  const { steps, series } = await context.api(`/runs/${encodeURIComponent(incident.run)}/series?${query}`);
  const isBad = (one, at) => one.nonfinite[at] > 0 || (COUNTS.test(one.signal) && one.max[at] > 0);
  const badSteps = steps.filter((_, at) => series.some((one) => isBad(one, at)));
  if (!badSteps.length) return null;
  const applied = series.find((one) => one.signal === APPLIED);
  const resumes = incident.actions.filter((one) => one.action === "resume" && one.state === "done");
  return {
    badSteps,
    last: steps.at(-1),
    since: steps.find((step) => step > badSteps.at(-1)) ?? null,
    resumed: resumes.at(-1)?.step ?? null,
    applied: applied ? applied.max.filter((value) => value > 0).length : null,
  };
}

/** In a few words whether it is over; "" of an incident about anything else. */
export function recovered(course) {
  if (!course) return "";
  return course.since === null
    ? `not finite up to step ${count(course.last)}`
    : `finite again since step ${count(course.since)}`;
}

/** What came after a resume: the bad steps of it, and what the rules did then; "" where all went well. */
export function afterResume(course, alerts) {
  const after = course?.resumed === null ? [] : (course?.badSteps.filter((step) => step > course.resumed) ?? []);
  if (!after.length) return "";
  const range = after.length === 1 ? `Step ${count(after[0])}` : `Steps ${count(after[0])} to ${count(after.at(-1))}`;
  const still = alerts.some((one) => one.state === "firing");
  const rules = still
    ? "A rule acts once, when it begins to fire: those that still fire ask for no second pause, nor is anybody told again, until they have been resolved."
    : "A rule acts once, when it begins to fire: those that were firing already asked for no second pause.";
  return `${range} after the resume: still not finite (${plural(after.length, "step")}). ${rules}`;
}

/** Whether the weights have come through it; "" where that is not known. */
export function weights(incident, course) {
  if (incident.bad_weights) return `The weights are not finite any more: ${incident.bad_weights} is the first. Only a checkpoint from before helps.`;
  if (incident.bad_weights === "") return "The weights are finite: every rank has looked at its own.";
  if (!course || course.applied === null) return "";
  return course.applied
    ? `A gradient that was not finite was applied to the weights at ${plural(course.applied, "step")}.`
    : `No gradient that was not finite was applied since step ${count(course.badSteps[0])}: it has not spoilt the weights.`;
}
