// How a run stands because of an incident, in words: the same as in Sentinel's messages.

import { duration, moment } from "./format.js";

const THEN = { resume: "all ranks go on", stop: "the run is stopped", hold: "it stays held" };

/** The action that says how the run stands now: several may ask for the same pause. */
function latest(actions) {
  let last = null;
  for (const action of actions) {
    if (last && pauses(last) && asksAgain(action)) continue;
    last = action;
  }
  return last;
}

/** How the run stands: `hold` as /status has it, `actions` the oldest first, `step` how far it came. */
export function standing(hold, state, actions, step) {
  const last = latest(actions);
  const over = { finished: "has finished", lost: "is lost: its ranks left without a word" }[state];
  if (over) {
    const went = last?.action === "resume" && last.state === "done";
    return `The run ${went ? `went on from step ${last.step}, by ${last.by}, and ` : ""}${over}, at step ${step}.`;
  }
  if (!hold || state !== "held")
    return last ? outcome(last) : "Sentinel only warns: it has not touched the run.";
  const held = `All ranks are held at step ${hold.step}; nothing is torn down.`;
  return !last || pauses(last) || asksAgain(last) ? held : `${held} ${outcome(last)}`;
}

/** What became of one action: `{action, state, step, by, detail}`. */
export function outcome(action) {
  const because = action.detail ? `: ${action.detail}` : ".";
  const sentences = {
    "pause requested": "All ranks are being brought to a stand at the same step.",
    "pause done": `All ranks are held at step ${action.step}; nothing is torn down.`,
    "pause refused": `The run was not paused${because}`,
    "pause failed": `The run could not be paused${because}`,
    "pause lapsed": `The pause lapsed and all ranks went on${because}`,
    "checkpoint requested": "All ranks save a checkpoint after the same step, and go on.",
    "checkpoint done": `All ranks saved a checkpoint after step ${action.step}.`,
    "resume requested": `${action.by} has asked the run to go on.`,
    "resume done": `The run goes on from step ${action.step}, by ${action.by}${because}`,
    "stop requested": `${action.by} has asked the run to stop.`,
    "stop done": `The run was stopped at step ${action.step}, by ${action.by}.`,
  };
  return (
    sentences[`${action.action} ${action.state}`] ??
    `${action.action} (by ${action.by}): ${action.state}${because}`
  );
}

/** What comes, and when, if nobody answers; "" where the run is not held. */
export function ends(hold) {
  if (!hold?.unattended) return "";
  if (!hold.ends) return "If nobody answers, it stays held.";
  const left = (Date.parse(hold.ends) - Date.now()) / 1000;
  const when = left > 0 ? ` in ${duration(left)}, at ${moment(hold.ends)}` : ` at ${moment(hold.ends)}`;
  return `If nobody answers, ${THEN[hold.unattended]}${when}.`;
}

function pauses(action) {
  return action.action === "pause" && ["requested", "done"].includes(action.state);
}

function asksAgain(action) {
  return action.action === "pause" && ["requested", "refused"].includes(action.state);
}
