// What speaks for which remedy before a held run goes on: from the incident's rules, and what is known of its state.

import { count, plural } from "./format.js";

const OF_THE_DATA = /^(nonfinite_\w+|loss|skipped|overflow|grad_norm)$/; // what a bad batch moves

/** The open incident of a run, whole, or null. */
export async function openIncident(api, run) {
  const { open_incident: id } = await api(`/runs/${encodeURIComponent(run)}`);
  return id ? api(`/incidents/${encodeURIComponent(id)}`) : null;
}

/** Sentences for who is about to resume a run that is held at `step`. */
export function recommended(incident, step, checkpoints) {
  if (!incident) return [];
  const { cause, advised, bad_weights: bad } = incident;
  const from = [...checkpoints].reverse().find((one) => one.last_good && one.step !== null && one.step < cause.step);
  const isData = OF_THE_DATA.test(cause.signal);
  const since = step - cause.step + 1;
  const back = from && `roll back to ${from.tag}, ${plural(step - from.step, "step")} back, from before it began`;
  const on = isData ? "leave out batches, lower the learning rate, or both" : "look at what is advised above first";
  const known = back
    ? `${back}${isData ? `, and leave out the ${plural(step - from.step, "batch", "batches")} since` : ""}`
    : bad
      ? "stop it: the weights are spoilt, and no good checkpoint from before it began is known"
      : on;
  return [
    advised[0] && `${advised[0].rule} says: ${advised[0].text}`,
    `It began at step ${count(cause.step)}, ${plural(since, "step")} up to the hold${isData && !back ? "; how many of the batches to come are bad is not known" : ""}.`,
    bad && `The weights are not finite: ${bad} is the first.`,
    bad === "" && "The weights are finite on every rank.",
    !from && "No good checkpoint from before it began is known: there is nothing to go back to.",
    `Recommended: ${known}.`,
  ].filter(Boolean);
}
