// The signals around the moment at which an incident began, as small charts.

import { element } from "./dom.js";
import { words } from "./format.js";
import { smallChart } from "./smallchart.js";

const BEFORE = 30; // steps
const AFTER = 12;
const MOST = 6; // charts
const HOW = { mean: "mean of all ranks", max: "most of any rank" }; // else they are summed
const ALWAYS = ["loss", "grad_norm", "step_seconds"];

/** The steps around the moment: `from` and `to`, until all was well again (`course`: see recovery.js). */
export function around(incident, course) {
  const last = Math.max(
    0,
    ...incident.timeline.map((one) => one.step ?? 0),
    ...incident.actions.map((one) => one.step),
  );
  const { step } = incident.cause;
  const until = course ? (course.since ?? course.last) + AFTER / 2 : 0;
  return {
    from: Math.max(1, step - BEFORE),
    to: Math.max(step + AFTER, Math.min(Math.max(last + 3, until), step + 4 * BEFORE)),
  };
}

/** The signals that an incident is about, in the order in which they moved. */
export function concerned(incident, signals) {
  const known = new Map(signals.map((one) => [one.signal, one]));
  const named = [incident.cause.signal, ...incident.timeline.map((one) => one.signal), ...ALWAYS];
  return [...new Set(named)]
    .map((name) => known.get(name))
    .filter(Boolean)
    .slice(0, MOST);
}

/** Draw them into `root`: each rank's own values where they are kept, or what was made of them. */
export async function momentCharts(root, context, incident, signals, { from, to }) {
  const run = encodeURIComponent(incident.run);
  const drawn = await Promise.all(
    concerned(incident, signals).map(async (signal) => {
      const ask = (what, more) =>
        context.api(
          `/runs/${run}/${what}?${new URLSearchParams({ signal: signal.signal, from, to, ...more })}`,
        );
      const ranks = signal.by_rank && signal.labels.every((label) => label === "");
      const found = ranks
        ? byRank(await ask("heatmap", { rows: "rank", columns: to - from + 1 }), incident)
        : null;
      const shown = found?.lines.length
        ? found
        : reduced(await ask("series", { points: Math.max(2, to - from + 1) }), incident, signal);
      if (!shown.steps.length) return null;
      return smallChart({
        title: words(signal.signal),
        help: signal.help,
        unit: signal.unit,
        at: incident.cause.step,
        ...shown,
      });
    }),
  );
  const charts = drawn.filter(Boolean);
  root.replaceChildren(
    ...(charts.length
      ? charts
      : [element("p", { class: "muted" }, "Nothing is kept of the steps around it.")]),
  );
}

function byRank(answer, incident) {
  const lines = answer.rows.map((rank, row) => ({
    name: `rank ${rank}`,
    values: answer.values[row],
    blamed: incident.cause.rank !== null && Number(rank) === incident.cause.rank,
  }));
  return { steps: answer.steps, lines: lines.filter((line) => line.values.some((value) => value !== null)) };
}

/** Where ranks are not kept apart: the one value of all of them, of each label. */
function reduced(answer, incident, { reduction }) {
  const { cause } = incident;
  const lines = answer.series.slice(0, 40).map((one) => ({
    name: one.label || "all ranks",
    values: one.max.map((value, at) =>
      one.nonfinite[at] > 0 && one.nonfinite[at] !== null && typeof value !== "string" ? "NaN" : value,
    ),
    blamed: one.label !== "" && one.label === cause.module,
  }));
  return { steps: answer.steps, lines, reduced: HOW[reduction] ?? "all ranks together" };
}
