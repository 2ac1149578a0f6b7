// The buttons with which a person gives orders to a run, and what became of each order.

import { confirm } from "./confirm.js";
import { element } from "./dom.js";
import { duration, plural } from "./format.js";
import { openIncident, recommended } from "./recommendation.js";
import { outcome } from "./standing.js";

const LOOK = 400; // ms between two looks at what became of an order
const HOLDS = [1800, 7200, 28800, 86400]; // s
const THEN = { resume: "all ranks go on", stop: "the run is stopped", hold: "it stays held" };
const OFFERED = {
  running: ["pause", "checkpoint", "stop"],
  held: ["resume", "stop"],
};
const LABELS = {
  pause: ["Pause…", "primary"],
  resume: ["Resume…", "primary"],
  checkpoint: ["Save checkpoint…", ""],
  stop: ["Stop…", "danger"],
};

/**
 * Buttons for the orders that a run can take as it stands. Options: `run`, `onDone()` after an
 * order has come to its end. Returns `{update(status), say(text, kind), end()}`; `update` takes an
 * entry of /status, and is to be called once before anything is shown.
 */
export function orderButtons(root, context, options) {
  return new Orders(root, context, options);
}

/** Why somebody who may only look has no buttons. */
export function lookOnly(context) {
  return element(
    "p",
    { class: "muted orders-none" },
    `You are looking on as ${context.by} (${context.role}): orders need a token with the role operator. `,
    "An administrator makes one with ",
    element("code", {}, "sentinel token add NAME --role operator"),
    ".",
  );
}

class Orders {
  constructor(root, context, { run, onDone }) {
    this._context = context;
    this._run = run;
    this._onDone = onDone;
    this._ended = false;
    this._busy = false;
    this._buttons = element("div", { class: "orders-buttons" });
    this._said = element("p", { class: "orders-said", role: "status" });
    this._node = element("div", { class: "orders" }, this._buttons, this._said);
    root.append(this._node);
  }

  /** How the run stands now. */
  update(status) {
    const before = this._shown;
    this._status = status;
    this._shown = `${status?.state} ${this._busy}`;
    if (before !== this._shown) this._draw();
  }

  /** Say what became of something. */
  say(text, kind = "") {
    this._said.className = `orders-said ${kind}`;
    this._said.textContent = text;
  }

  /** Look for nothing any more. */
  end() {
    this._ended = true;
  }

  _draw() {
    const state = this._status?.state;
    const offered = OFFERED[state] ?? [];
    const made = offered.map((action) => {
      const [label, kind] = LABELS[action];
      const button = element(
        "button",
        { type: "button", class: kind, onclick: () => this._ask(action) },
        label,
      );
      button.disabled = this._busy;
      return button;
    });
    const why =
      {
        pausing: "The run is coming to a stand: orders can be given once it is held.",
        resuming: "The run is about to go on: orders can be given once it does.",
      }[state] ?? `The run is ${state ?? "gone"}: it takes no orders any more.`;
    this._buttons.replaceChildren(...(made.length ? made : [element("span", { class: "muted" }, why)]));
  }

  async _ask(action) {
    const question = await this._question(action);
    const values = question && (await confirm(question));
    if (!values || this._ended) return;
    this._setBusy(true);
    this.say("Asking…");
    try {
      const path = `/runs/${encodeURIComponent(this._run)}/${action}`;
      const { id } = await this._context.api(path, { method: "POST", body: question.body(values) });
      await this._follow(id);
    } catch (error) {
      this.say(`${capital(error.message)}.`.replace(/\.\.$/, "."), "error");
    }
    this._setBusy(false);
    if (!this._ended) this._onDone?.();
  }

  _setBusy(busy) {
    this._busy = busy;
    if (!this._ended) this.update(this._status);
  }

  /** Look at an order until it has come to its end. */
  async _follow(id) {
    while (!this._ended) {
      const found = await this._context.api(`/actions/${id}`);
      const bad = ["refused", "failed", "lapsed"].includes(found.state);
      this.say(outcome(found), bad ? "error" : found.state === "done" ? "good" : "");
      if (found.state !== "requested") return;
      await new Promise((resolve) => setTimeout(resolve, LOOK));
    }
  }

  async _question(action) {
    const ranks = this._status.world_size;
    const all = ["", "The one rank", "Both ranks"][ranks] ?? `All ${plural(ranks, "rank")}`;
    const run = this._run;
    if (action === "pause") return pauseQuestion(run, all);
    if (action === "resume") return this._resumeQuestion(run, all);
    const question = {
      stop: {
        title: `Stop run ${run}?`,
        effect: () =>
          `${all} of run ${run} leave their training loop after the same step, with exit status 0. The job ends: it cannot be resumed from here.`,
        verb: "Stop the run",
        danger: true,
      },
      checkpoint: {
        title: `Save a checkpoint of run ${run}?`,
        effect: () =>
          `${all} of run ${run} save a checkpoint after the same step, a few steps from now, and go on.`,
        verb: "Save a checkpoint",
      },
    }[action];
    return { ...question, body: () => ({}) };
  }

  async _resumeQuestion(run, all) {
    const { api } = this._context;
    const failed = (error) => {
      this.say(`The checkpoints could not be listed: ${error.message}.`, "error");
      return [];
    };
    const [checkpoints, incident] = await Promise.all([
      api(`/checkpoints?run=${encodeURIComponent(run)}`).catch(failed),
      openIncident(api, run).catch(() => null),
    ]);
    const step = this._status.hold?.step ?? this._status.step;
    return { ...resumeQuestion(run, all, step, checkpoints), intro: recommended(incident, step, checkpoints) };
  }
}

function pauseQuestion(run, all) {
  return {
    title: `Pause run ${run}?`,
    fields: [
      {
        name: "hold_for",
        label: "Hold for up to",
        kind: "select",
        value: "7200",
        options: HOLDS.map((s) => [String(s), duration(s)]),
      },
      {
        name: "unattended",
        label: "If nobody answers by then",
        kind: "select",
        value: "resume",
        options: Object.entries(THEN),
      },
    ],
    effect: ({ hold_for, unattended }) =>
      `${all} of run ${run} will stand still after the same step, a few steps from now. Nothing is torn down, and the machines stay taken. ` +
      (unattended === "hold"
        ? "The run stays held until somebody answers."
        : `If nobody answers within ${duration(Number(hold_for))}, ${THEN[unattended]}.`),
    body: ({ hold_for, unattended }) => ({ hold_for: Number(hold_for), unattended }),
    verb: "Pause the run",
  };
}

function resumeQuestion(run, all, step, checkpoints) {
  const known = [...checkpoints].reverse();
  const good = known.find((one) => one.last_good);
  const back = (one) => (one.step === null ? "" : `, ${plural(step - one.step, "step")} back`);
  const tags = known.map((one) => [one.tag, `${one.tag} (${one.state}${back(one)})`]);
  return {
    title: `Resume run ${run}?`,
    fields: [
      {
        name: "rollback",
        label: "Roll back to",
        kind: "select",
        value: "",
        options: [
          ["", known.length ? "nothing: go on from here" : "nothing: no checkpoint is known"],
          ...(good ? [["last-good", `last good: ${good.tag}${back(good)}`]] : []),
          ...tags,
        ],
      },
      {
        name: "rewind",
        label: "and go back in the data as well",
        kind: "checkbox",
        value: false,
        disabled: !known.length,
      },
      {
        name: "skip_batches",
        label: "Leave out batches (of each rank)",
        kind: "number",
        value: 0,
        min: 0,
        max: 1000000,
        step: 1,
      },
      {
        name: "lr_scale",
        label: "Learning rate times",
        kind: "number",
        value: 1,
        min: 0.000001,
        max: 1000,
        step: "any",
      },
      { name: "checkpoint", label: "Save the state as it stands first", kind: "checkbox", value: false },
      {
        name: "force",
        label: "Force it: also with weights that are not finite, or from a checkpoint not known to be good",
        kind: "checkbox",
        value: false,
      },
    ],
    effect: (values) => resumeEffect(values, all, run, step, good, known),
    body: (values) => values,
    verb: "Resume the run",
  };
}

function resumeEffect(values, all, run, step, good, known) {
  const { rollback, rewind, skip_batches: skip, lr_scale: scale, checkpoint, force } = values;
  if (!Number.isInteger(skip) || skip < 0 || skip > 1e6)
    return { text: "", refuse: "Batches to leave out: a whole number from 0 to 1,000,000." };
  if (!(scale > 0 && scale <= 1000))
    return { text: "", refuse: "Learning rate times: a number above 0 and up to 1,000." };
  if (rewind && !rollback)
    return { text: "", refuse: "Going back in the data needs a checkpoint to roll back to." };
  const tag = rollback === "last-good" ? `the last good checkpoint, ${good.tag}` : `checkpoint ${rollback}`;
  const does = [
    checkpoint && "save the state as it stands",
    rollback && `load ${tag} (this cannot be taken back)`,
    rewind && "go back to the data that came after it",
    skip > 0 && `leave out the next ${plural(skip, "batch", "batches")} each`,
    scale !== 1 && `multiply the learning rate by ${scale}`,
    rollback ? "go on from there" : `go on from step ${step}`,
  ].filter(Boolean);
  const same = does.length > 1 ? "" : " Nothing is changed: the same weights meet the data that comes next.";
  const text = `${all} of run ${run} will ${does.length > 1 ? `${does.slice(0, -1).join(", ")}, and ` : ""}${does.at(-1)}. It is done by all ranks, or by none.${same}`;
  if (force)
    return {
      text,
      warning:
        "Forced: the run goes on even with weights that are NaN or infinite, or from a checkpoint that is not known to be good. What is trained then may be lost.",
    };
  const chosen = known.find((one) => one.tag === rollback);
  const doubtful = chosen && chosen.state !== "healthy";
  const why = doubtful && chosen.why ? ` (${chosen.why})` : "";
  return { text, warning: doubtful ? `Checkpoint ${chosen.tag} is ${chosen.state}${why}: it may be refused unless it is forced.` : "" };
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
