// One incident: what went wrong first, where, how sure that is, and what to do now.

import { around, momentCharts } from "./around.js";
import { blackBox } from "./blackbox.js";
import { element } from "./dom.js";
import { actionTable, alertTable, evidence, messages } from "./findings.js";
import { heatmap } from "./heatmap.js";
import { lookOnly, orderButtons } from "./orders.js";
import { quietButtons } from "./quiet.js";
import { recovery } from "./recovery.js";
import { runPath } from "./router.js";
import { timeline } from "./timeline.js";
import { verdict } from "./verdict.js";

const SETTLE = 300; // ms in which news is gathered before the page looks again
const PACE = 2000; // ms between two looks while steps come in that the page shows
const MAPS = [
  ["layer_grad_norm", "label", "Gradient norm of each layer"],
  ["layer_update_ratio", "label", "Update ratio of each layer"],
  ["loss", "rank", "Loss of each rank"],
  ["step_seconds", "rank", "Step time of each rank"],
  ["collective_wait_seconds", "rank", "Wait in collectives of each rank"],
  ["exposed_communication_seconds", "rank", "Exposed communication of each rank"],
];

/** See app.js. */
export async function show(root, context) {
  const page = new IncidentPage(root, context);
  await page.begin();
  return () => page.end();
}

class IncidentPage {
  constructor(root, context) {
    this._root = root;
    this._context = context;
    this._id = context.parameters.incident;
    this._ended = false;
    this._map = null;
    this._drawn = new Map(); // of each part, what it was drawn from
  }

  /** Draw everything, and hear of what changes. */
  async begin() {
    await this._read();
    const { incident } = this;
    this._context.title(`${incident.cause.rule} in ${incident.run}`);
    this._build();
    this._draw();
    this._charts();
    const mine = (event) => event.run === this.incident.run && this._soon();
    const step = (event) => event.run === this.incident.run && this._shows(event.step) && this._soon(PACE);
    this._context.live({ incident: mine, alert: mine, action: mine, state: mine, step, open: () => this._soon() });
  }

  /** Look no more. */
  end() {
    this._ended = true;
    clearTimeout(this._timer);
    this._orders?.end();
    this._map?.end();
  }

  async _read() {
    const { api } = this._context;
    const incident = await api(`/incidents/${encodeURIComponent(this._id)}`);
    const run = encodeURIComponent(incident.run);
    const empty = (fallback) => () => fallback;
    const found = await Promise.all([
      api(`/status?run=${run}`).then(([status]) => status, empty(null)),
      api(`/audit?run=${run}`).catch(empty({ rows: [] })),
      api(`/runs/${run}/signals`).catch(empty([])),
    ]);
    this.incident = incident;
    [this._status, this._audit, this._signals] = found;
    this._course = await recovery(this._context, incident, this._signals).catch(empty(null));
  }

  /** Whether there is something new to be seen at this step: near the moment, or until all is well again. */
  _shows(step) {
    return step <= around(this.incident, this._course).to || (this._course && this._course.since === null);
  }

  /** Look again, once what comes together has come, and never twice at the same time. */
  _soon(wait = SETTLE) {
    this._timer ??= setTimeout(async () => {
      this._news = false;
      try {
        await this._read();
        if (this._ended) return;
        this._draw();
        await this._charts();
      } catch (error) {
        if (!this._ended) this._context.notice(error.message);
      }
      this._timer = null;
      if (this._news && !this._ended) this._soon();
    }, wait);
    this._news = true;
  }

  _build() {
    const part = (title, ...more) =>
      element("section", { class: "panel" }, element("h2", {}, title), ...more);
    const place = () => element("div", { class: "part" });
    this._places = {
      verdict: place(),
      charts: place(),
      map: place(),
      timeline: place(),
      evidence: place(),
      alerts: place(),
      actions: place(),
      box: place(),
      messages: place(),
    };
    const { verdict, charts, map, timeline: times, evidence, alerts, actions, box, messages } = this._places;
    charts.className = "smallcharts";
    this._desk = element("div", { class: "desk" });
    this._top = element(
      "section",
      { class: "panel verdict", "aria-label": "What went wrong" },
      verdict,
      this._desk,
    );
    this._root.replaceChildren(
      this._top,
      part("Around the moment", charts),
      part("Layers and ranks", map),
      element(
        "div",
        { class: "columns" },
        part("What moved first", times),
        element(
          "div",
          { class: "stack" },
          part("Evidence", evidence),
          part("Actions", actions),
          part("Alerts", alerts),
          part("Messages", messages),
        ),
      ),
      part("Black box", box),
    );
    this._buildDesk();
  }

  _buildDesk() {
    if (this._context.role === "viewer") {
      this._desk.append(lookOnly(this._context));
      return;
    }
    this._places.quiet = element("div", { class: "orders-buttons" });
    this._desk.append(this._places.quiet);
    this._orders = orderButtons(this._desk, this._context, {
      run: this.incident.run,
      onDone: () => this._soon(),
    });
  }

  _draw() {
    const { incident, _status: status } = this;
    const actions = this._actions();
    const { state, acknowledged, evidence: found, alerts, blackboxes, timeline: times, ...head } = incident;
    const course = this._course;
    const step = ["finished", "lost"].includes(status?.state) ? status.step : 0;
    const hold = status?.hold && { ...status.hold, held_s: null, cost_hours: null };
    this._top.dataset.kind = state === "open" ? incident.severity : "good";
    this._put("verdict", [head, state, acknowledged, alerts, status?.state, step, hold, actions, course], () =>
      verdict(incident, status, actions, this._signals, course),
    );
    this._put("timeline", [times, course], () => timeline(incident, course));
    this._put("evidence", [found, times, head, course], () => evidence(incident, course));
    this._put("actions", actions, () => [actionTable(actions)]);
    this._put("alerts", alerts, () => [alertTable(incident)]);
    this._put("messages", [times, head], () => messages(incident));
    this._put("box", blackboxes, () => blackBox(this._context, incident));
    if (!this._orders) return;
    this._orders.update(status);
    const say = (text, kind) => this._orders.say(text, kind);
    this._put("quiet", [state, acknowledged], () =>
      quietButtons(this._context, incident, { say, onDone: () => this._soon() }),
    );
  }

  /** Draw a part anew, but only if what it shows has changed: somebody may be reading it. */
  _put(name, data, made) {
    const key = JSON.stringify(data);
    if (this._drawn.get(name) === key) return;
    this._drawn.set(name, key);
    this._places[name].replaceChildren(...made());
  }

  /** What was done because of it, with its result: from the record, where that can be read. */
  _actions() {
    const latest = new Map();
    for (const row of this._audit.rows) {
      if (row.incident !== this._id || !["pause", "resume", "stop", "checkpoint"].includes(row.action))
        continue;
      const open = [...latest.values()]
        .reverse()
        .find((one) => one.action === row.action && one.by === row.by && one.state === "requested");
      if (open && row.state !== "requested") Object.assign(open, row, { asked: open.asked });
      else latest.set(row.number, { ...row, asked: row.at });
    }
    return latest.size
      ? [...latest.values()]
      : this.incident.actions.map((one) => ({ ...one, asked: one.at, reason: "", detail: "" }));
  }

  async _charts() {
    const { incident } = this;
    const { from, to } = around(incident, this._course);
    this._drawMap(from, to);
    try {
      await momentCharts(this._places.charts, this._context, incident, this._signals, { from, to });
    } catch (error) {
      this._places.charts.replaceChildren(element("p", { class: "error" }, error.message));
    }
  }

  _drawMap(from, to) {
    const known = new Map(this._signals.map((one) => [one.signal, one]));
    const choices = MAPS.filter(
      ([signal, rows]) => known.has(signal) && (rows === "label" || known.get(signal).by_rank),
    ).map(([signal, rows, title]) => ({ signal, rows, title }));
    if (!choices.length) {
      this._places.map.replaceChildren(
        element("p", { class: "muted" }, "No layer and no rank of this run is measured by itself."),
      );
      return;
    }
    const { cause, run } = this.incident;
    const highlight = { row: cause.module, rank: cause.rank, step: cause.step };
    const key = `${from} ${to} ${cause.module} ${cause.step}`;
    if (this._map && this._mapKey === key) return this._map.update({});
    this._mapKey = key;
    if (this._map) return this._map.update({ from, to, highlight });
    this._places.map.replaceChildren();
    const onPick = (step) => this._context.go(`${runPath(run)}?${new URLSearchParams({ step, from, to })}`);
    this._map = heatmap(this._places.map, this._context, {
      run,
      from,
      to,
      choices,
      highlight,
      onPick,
      ...firstMap(choices, cause),
    });
  }
}

/** The map on which the cause is to be seen: of layers if it is in one, else of ranks. */
function firstMap(choices, { signal, module, rank }) {
  const ofRanks = choices.filter((one) => one.rows === "rank");
  const own = ofRanks.find((one) => one.signal === signal) ?? ofRanks[0];
  const { signal: shown, rows } = (module === null && rank !== null && own) || choices[0];
  return { signal: shown, rows };
}
