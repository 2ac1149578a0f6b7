// Acknowledging an incident, and silencing what is like it.

import { confirm } from "./confirm.js";
import { element } from "./dom.js";
import { duration, moment } from "./format.js";

const TIMES = [1800, 7200, 28800, 86400, 604800]; // s

/** The two buttons. `say(text, kind)` tells what became of it, `onDone` hears that something did. */
export function quietButtons(context, incident, { say, onDone }) {
  const open = incident.state === "open";
  const act = (ask) => async () => {
    try {
      const said = await ask();
      if (!said) return;
      say(said, "good");
      onDone();
    } catch (error) {
      say(error.message, "error");
    }
  };
  return [
    open &&
      !incident.acknowledged &&
      element(
        "button",
        { type: "button", onclick: act(() => acknowledge(context, incident)) },
        "Acknowledge…",
      ),
    open && element("button", { type: "button", onclick: act(() => silence(context, incident)) }, "Silence…"),
  ].filter(Boolean);
}

async function acknowledge(context, incident) {
  const sure = await confirm({
    title: "Acknowledge this incident?",
    effect: () =>
      `It goes on record that ${context.by} looks after incident ${incident.id} of run ${incident.run}. People are not reminded of it again. The run itself is not touched.`,
    verb: "Acknowledge",
  });
  if (!sure) return "";
  const { said } = await context.api(`/incidents/${encodeURIComponent(incident.id)}/acknowledge`, {
    method: "POST",
    body: {},
  });
  return `${said.charAt(0).toUpperCase()}${said.slice(1)}.`;
}

async function silence(context, incident) {
  const scopes = {
    rule: [
      `${incident.cause.rule} in run ${incident.run}`,
      [matcher("run", incident.run), matcher("rule", incident.cause.rule)],
    ],
    run: [`everything in run ${incident.run}`, [matcher("run", incident.run)]],
    everywhere: [`${incident.cause.rule} in every run`, [matcher("rule", incident.cause.rule)]],
  };
  const chosen = await confirm({
    title: "Silence alerts?",
    fields: [
      {
        name: "scope",
        label: "Of",
        kind: "select",
        value: "rule",
        options: Object.entries(scopes).map(([name, [text]]) => [name, text]),
      },
      {
        name: "seconds",
        label: "For",
        kind: "select",
        value: "7200",
        options: TIMES.map((time) => [String(time), duration(time)]),
      },
      {
        name: "comment",
        label: "Why",
        kind: "text",
        value: "",
        maxlength: 500,
        placeholder: "for those who wonder later",
      },
    ],
    effect: ({ scope, seconds }) =>
      `Nobody is told of ${scopes[scope][0]} for ${duration(Number(seconds))}. All of it is still judged and on record, and rules act on the run as before.`,
    verb: "Silence",
  });
  if (!chosen) return "";
  const body = {
    matchers: scopes[chosen.scope][1],
    seconds: Number(chosen.seconds),
    comment: chosen.comment,
  };
  const { silence: made } = await context.api("/silences", { method: "POST", body });
  return `Silence ${made.id}: nobody is told of ${scopes[chosen.scope][0]} until ${moment(made.until)}.`;
}

function matcher(name, value) {
  return `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}
