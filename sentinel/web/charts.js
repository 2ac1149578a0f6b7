// All charts of a run: one axis, one cursor, one question for what is in view.

import { Chart, colors } from "./chart.js";
import { FIRST, POINTS, bandsOf, chartsOf, questions, seriesPath } from "./chartlist.js";
import { element } from "./dom.js";
import { count } from "./format.js";
import { incidentPath, runPath } from "./router.js";
import { Track } from "./track.js";
import { Window } from "./window.js";

const FINEST = 4000; // bins that may be asked for
const PAUSE = 200; // ms between two looks at a run that goes on, at least
const LEARN = 10_000; // ms between two looks at what there is to draw: some is measured seldom
const AHEAD = 0.08; // of the steps in view, as room for forecasts
const TAILS = [["Last 10,000", 10_000], ["Last 1,000", 1000], ["Last 200", 200]];

/** What there is to draw, to be compared. */
const drawable = (signals) => JSON.stringify(signals.map(({ signal, labels }) => [signal, labels]));

/** The charts. `onView` is called when other steps have come into view. */
export class Charts {
  constructor(context, run, { onView }) {
    this._context = context;
    this._path = `/runs/${encodeURIComponent(run)}`;
    this._run = run;
    this._onView = onView;
    this._window = new Window(context.query);
    this._axis = context.query.get("axis") === "time" ? "time" : "step";
    this._marks = [];
    this._charts = [];
    this._number = 0;
    this.signals = [];
    this.isOver = false; // the run has ended: nothing is to come
    this._bar = element("div", { class: "view-bar", role: "toolbar", "aria-label": "What is in view" });
    this._grid = element("div", { class: "charts" });
    this._missing = element("p", { class: "muted" });
    this.root = element("section", { class: "charts-all", "aria-label": "Charts" }, this._bar, this._grid, this._missing);
  }

  /** Ask for what there is, draw it, and follow the run. */
  async begin() {
    const first = this._ask([FIRST]);
    const [answers, signals, marks] = await Promise.all([first, this._context.api(`${this._path}/signals`), this._context.api(`${this._path}/marks`)]);
    if (this._ended) return;
    this._marks = marks;
    this._learn(signals);
    this._takeNew(answers);
    this._build();
    this._drawAll();
    requestAnimationFrame(() => setTimeout(() => performance.mark("sentinel:charts"))); // it has been painted
    this._rest().catch((error) => this._failed(error));
    this._keys();
    this._stop = this._context.live({
      step: (event) => event.run === this._run && this._later(),
      open: () => this._later(),
      lost: () => this._later(),
    });
    const themed = () => this._drawAll();
    const sized = new ResizeObserver(() => this._charts.forEach((chart) => chart.resize()));
    sized.observe(this._grid);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    window.addEventListener("themechange", themed);
    dark.addEventListener("change", themed);
    this._ends = [() => sized.disconnect(), () => window.removeEventListener("themechange", themed), () => dark.removeEventListener("change", themed)];
  }

  /** Be gone. */
  end() {
    this._ended = true;
    this._number += 1;
    clearTimeout(this._timer);
    this._stop?.();
    this._ends?.forEach((end) => end());
    this._charts.forEach((chart) => chart.end());
  }

  /** From which step to which, as the heat maps are to ask: undefined is the end of what there is. */
  asked() {
    const { from, to } = this._window.asked();
    return [from, to];
  }

  /** Mark this step in all charts, and say so in the address. */
  moment(step) {
    this._window.step = step;
    this._context.setQuery({ step });
    this._charts.forEach((chart) => chart.redraw());
    this._showBar();
  }

  /** What happened may have become more. */
  async refreshMarks() {
    this._marks = await this._context.api(`${this._path}/marks`);
    this._charts.forEach((chart) => chart.redraw());
  }

  /** Save what is in view as a file of JSON. */
  async save() {
    const answers = await this._ask(questions(this._specs(), false));
    const file = new Blob([JSON.stringify({ ...answers[0], series: answers.flatMap(({ series }) => series) })], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(file), download: `${this._run.replace(/[^\w.-]+/g, "_")}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  _specs() {
    return this._charts.map((chart) => chart.spec);
  }

  _ask(asked, within = this._window.asked()) {
    return Promise.all(asked.map((question) => this._context.api(seriesPath(this._run, question, within))));
  }

  _learn(signals) {
    this.signals = signals;
    this._learned = performance.now();
    const { drawn, missing } = chartsOf(signals);
    this._drawn = drawn;
    this._missing.replaceChildren(
      ...(missing.length
        ? [`Not measured: ${missing.map((title) => title.toLowerCase()).join("; ")}. `, element("a", { href: runPath(this._run, "coverage") }, "Why")]
        : []),
    );
  }

  _takeNew(answers) {
    const track = new Track(answers[0]);
    this._window.extent(track.first, track.last);
    this._track = track;
    answers.slice(1).forEach((answer) => track.take(answer));
  }

  /** Figures for what can be drawn; groups that few look at are closed at first. */
  _build() {
    const page = {
      axis: this._axis,
      marks: () => this._marks,
      step: () => this._window.step,
      span: () => this._view(),
      ahead: () => this._window.live,
      goesOn: () => !this.isOver,
      zoom: (from, to) => this._change((view) => view.zoom(from, to)),
      out: () => this._change((view) => view.all()),
      open: (incident) => this._context.go(incidentPath(incident)),
    };
    this._charts.forEach((chart) => chart.end());
    this._charts = this._drawn.map((spec) => new Chart(spec, page));
    const groups = new Map();
    const opened = new Set([...this.root.querySelectorAll("details[open] > summary")].map((node) => node.textContent));
    for (const chart of this._charts) {
      const name = chart.spec.group;
      if (name && !groups.has(name)) groups.set(name, this._group(name));
      (name ? groups.get(name).firstChild.nextSibling : this._grid).append(chart.root);
    }
    this._grid.replaceChildren(...this._charts.filter((chart) => !chart.spec.group).map((chart) => chart.root));
    this.root.querySelectorAll("details").forEach((node) => node.remove());
    this._missing.before(...groups.values());
    for (const [name, group] of groups) group.open = opened.has(name);
    if (!this._charts.length) this._grid.replaceChildren(element("p", { class: "panel muted" }, "No step has been judged yet: charts appear with the first."));
    this._showBar();
  }

  _group(name) {
    const group = element("details", { class: "chart-group" }, element("summary", {}, name), element("div", { class: "charts" }));
    group.addEventListener("toggle", () => this._draw(this._charts.filter((chart) => chart.spec.group === name && group.open)));
    return group;
  }

  /** The steps that the axis shows: with some room for forecasts while it follows the run. */
  _view() {
    const [from, to] = this._window.span();
    const ahead = this._window.live && this._hasForecast() ? (to - from) * AHEAD : 0;
    return [from, Math.max(to, from + 1) + Math.round(ahead)];
  }

  _hasForecast() {
    return !this.isOver && [...this._track.series.values()].some(({ forecast }) => forecast);
  }

  _drawAll() {
    this._draw(this._inView());
  }

  /** Those that are in no closed group. */
  _inView() {
    return this._charts.filter((chart) => !chart.root.closest("details:not([open])"));
  }

  /** All that changes the page comes first, and then what asks how wide it has become: once. */
  _draw(charts) {
    const look = colors();
    const shown = charts.filter((chart) => chart.prepare(this._track, look));
    const widths = new Map();
    for (const { root, width } of shown) if (!widths.has(root.parentNode)) widths.set(root.parentNode, width);
    shown.forEach((chart) => chart.plot(widths.get(chart.root.parentNode)));
  }

  /** After the first paint: normal ranges, signals with labels, and those of closed groups. */
  async _rest() {
    const had = new Set(FIRST.signals);
    const missing = questions(this._specs(), false).map(({ signals, ...how }) => ({ ...how, signals: signals.filter((one) => !had.has(one)) }));
    await this._add([...missing.filter(({ signals }) => signals.length), ...this._bands()]);
  }

  _bands() {
    const signals = bandsOf(this._specs());
    return signals.length ? [{ signals, labels: [], band: true }] : [];
  }

  /** Ask for more about what is in view, and draw it. */
  async _add(asked) {
    const [number, track] = [this._number, this._track];
    if (!asked.length || !track.steps.length) return;
    const answers = await this._ask(asked);
    if (number !== this._number || track !== this._track) return;
    answers.forEach((answer) => track.take(answer));
    this._drawAll();
  }

  /** Ask for all that is in view, anew. */
  async _reload() {
    const number = ++this._number;
    const answers = await this._ask(questions(this._specs(), false));
    if (number !== this._number || !answers.length) return;
    this._takeNew(answers);
    this._drawAll();
    this._showBar();
    await this._add(this._bands());
  }

  _later() {
    this._stale = true;
    if (this._timer || this._ended || !this._window.live) return;
    this._timer = setTimeout(async () => {
      this._stale = false;
      await this._update().catch(() => {});
      this._timer = 0;
      if (this._stale) this._later();
    }, Math.max(0, (this._looked ?? 0) + PAUSE - performance.now()));
  }

  async _update() {
    this._looked = performance.now();
    const isEmpty = !this._charts.length || !this._track.steps.length;
    if (isEmpty || this._looked - this._learned > LEARN) {
      const [before, signals] = [this.signals, await this._context.api(`${this._path}/signals`)];
      if (this._ended) return;
      this._learn(signals);
      if (isEmpty ? this._drawn.length : drawable(signals) !== drawable(before)) {
        this._build();
        return this._reload();
      }
      if (isEmpty) return;
    }
    const number = this._number;
    const answers = await this._ask(questions(this._specs(), true), { from: this._track.steps.at(-1), points: FINEST });
    if (number !== this._number || !this._window.live) return;
    const { bin } = this._track;
    if (!this._track.extend(answers) || this._track.steps.length > 2 * POINTS) return this._reload();
    this._window.extent(this._track.first, this._track.last);
    if (bin === this._track.bin) this._draw(this._inView().filter((chart) => !chart.refresh()));
    this._showBar();
  }

  /** Bring other steps into view. */
  _change(change) {
    change(this._window);
    this._context.setQuery(this._window.query());
    this._showBar();
    this._reload().catch((error) => this._failed(error));
    this._onView();
  }

  _setAxis(axis) {
    this._axis = axis;
    this._context.setQuery({ axis: axis === "time" ? "time" : null });
    this._build();
    this._drawAll();
  }

  _toggleLive() {
    this._change((view) => {
      const [from, to] = view.span();
      if (view.live) view.zoom(from, to);
      else view.follow(to - from);
    });
  }

  _showBar() {
    const { live, whole, tail } = this._window;
    const [from, to] = this._window.span();
    const button = (text, pressed, onclick, title) => element("button", { type: "button", "aria-pressed": String(pressed), onclick, title }, text);
    const focused = [...this._bar.querySelectorAll("button")].indexOf(document.activeElement);
    this._bar.replaceChildren(
      element(
        "span",
        { class: "group" },
        button("All", whole, () => this._change((view) => view.all())),
        TAILS.filter(([, steps]) => this._window.last - this._window.first > steps).map(([text, steps]) => button(text, live && tail === steps, () => this._change((view) => view.follow(steps)))),
      ),
      button(live ? "● Live" : "Live", live, () => this._toggleLive(), "Follow the run as steps come in (l)"),
      element(
        "span",
        { class: "group" },
        button("Steps", this._axis === "step", () => this._setAxis("step")),
        button("Time", this._axis === "time", () => this._setAxis("time")),
      ),
      element("span", { class: "muted view-says" }, this._says(from, to)),
    );
    if (focused >= 0) this._bar.querySelectorAll("button")[focused]?.focus();
  }

  _says(from, to) {
    const { bin } = this._track ?? { bin: 1 };
    const chosen = this._window.step === null ? "" : ` · step ${count(this._window.step)} marked`;
    return `steps ${count(from)} to ${count(to)}, ${bin === 1 ? "every step" : `${count(bin)} steps a point`}${chosen}`;
  }

  _keys() {
    const change = (what, act) => [what, () => this._change(act)];
    this._context.keys({
      l: ["follow the run, or stand still", () => this._toggleLive()],
      t: ["time or steps along the axis", () => this._setAxis(this._axis === "time" ? "step" : "time")],
      "[": change("earlier steps", (view) => view.pan(-1)),
      "]": change("later steps", (view) => view.pan(1)),
      "+": change("zoom in (or drag over a chart)", (view) => view.scale(0.5)),
      "-": change("zoom out", (view) => view.scale(2)),
      0: change("all steps (or click a chart twice)", (view) => view.all()),
    });
  }

  _failed(error) {
    if (!this._ended && error.name !== "AbortError") this._context.notice(error.message);
  }
}
