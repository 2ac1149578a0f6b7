// One chart: uPlot, with the range that is normal, the marks of the run, and a legend of values.

import { element } from "./dom.js";
import { count, moment, quantity } from "./format.js";
import { keyOf } from "./track.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const HEIGHT = 176; // CSS pixels
const LEAST = 200; // CSS pixels of width
const NEAR = 6; // CSS pixels within which a mark is pointed at
const WINDOW = 200; // steps at most that a forecast is made from
const FORESEEN = 20; // times as many steps it is good for
const SPARSE = 0.3; // share of gaps from which on a line is drawn across them
const BINARY = Array.from({ length: 50 }, (_, power) => 2 ** power); // bytes between ticks
const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/**
 * A chart of `spec` (see chartlist.js). `page` has `axis` ("step" or "time"), `marks`, `step` (a
 * moment to show, or null), `ahead` (whether it follows a run that goes on), `zoom(from, to)`, `out()` and
 * `open(incident)`.
 */
export class Chart {
  constructor(spec, page) {
    this.spec = spec;
    this._page = page;
    this._legend = element("dl", { class: "legend" });
    this._at = element("span", { class: "chart-at muted" });
    this._note = element("p", { class: "chart-note muted", hidden: !spec.note }, spec.note ?? "");
    this._place = element("div", { class: "chart-place" });
    this.root = element(
      "figure",
      { class: "panel chart", dataset: { chart: spec.id } },
      element("figcaption", {}, element("h3", {}, spec.title), this._at),
      this._legend,
      this._place,
      this._note,
    );
  }

  /** Have a figure of this in these `colors()`, which `plot` draws: false where there is nothing to draw. */
  prepare(track, look) {
    this.end();
    this._track = track;
    this._colors = look;
    this._lines = this.spec.lines.filter(([signal, label]) => track.series.has(keyOf(signal, label)));
    this.root.hidden = !this._lines.some((line) => this._column(line).max.some((value) => value !== null) || this._column(line).nonfinite.some(Boolean));
    if (!this.root.hidden) this._makeLegend();
    return !this.root.hidden;
  }

  /** How wide the figure is, in CSS pixels. */
  get width() {
    return this._place.clientWidth;
  }

  /** Draw what was prepared. */
  plot(width) {
    this._plot = new uPlot(this._options(Math.max(LEAST, width)), this._data(), this._place);
    this.root.plot = this._plot; // where tests read back what is drawn
    this._show(null);
  }

  /** Draw what has been added to the track; false where it has to be drawn from the beginning. */
  refresh() {
    if (!this._plot) return false;
    this._plot.setData(this._data(), false);
    this._plot.setScale("x", this._range());
    this._show(this._plot.cursor.idx);
    return true;
  }

  /** Draw the marks anew. */
  redraw() {
    if (!this._plot) return;
    this._plot.redraw(false);
    this._sayForecast();
  }

  /** Follow the width of the page. */
  resize() {
    const width = this.width && Math.max(LEAST, this.width);
    if (this._plot && width && width !== this._plot.width) this._plot.setSize({ width, height: HEIGHT });
  }

  /** Be gone. */
  end() {
    this._plot?.destroy();
    this._plot = null;
  }

  _column([signal, label]) {
    return this._track.series.get(keyOf(signal, label));
  }

  _isLimit([signal]) {
    return this.spec.limits?.includes(signal) ?? false;
  }

  /** Columns as uPlot has them: x, the band, and mean, min and max of each line. */
  _data() {
    const banded = this._banded();
    const data = [this._page.axis === "time" ? this._times() : this._track.steps];
    if (banded) data.push(banded.low, banded.high);
    for (const line of this._lines) {
      const { mean, min, max } = this._column(line);
      data.push(mean, min, max);
    }
    return data;
  }

  /** Times never go back on an axis, also where a run went back to an earlier step. */
  _times() {
    let latest = -Infinity;
    return this._track.times.map((time) => (latest = Math.max(latest, time)));
  }

  _banded() {
    const line = this._lines.find((one) => this._column(one).banded);
    return line && this._column(line);
  }

  _range() {
    const [from, to] = this._page.span();
    if (this._page.axis === "step") return { min: from, max: to };
    const { steps } = this._track;
    const times = this._times();
    const pace = steps.length > 1 ? (times.at(-1) - times[0]) / (steps.at(-1) - steps[0] || 1) : 1;
    const time = (step) => (step > steps.at(-1) ? times.at(-1) + (step - steps.at(-1)) * pace : times[this._track.at(step)]);
    return { min: time(from), max: Math.max(time(to), time(from) + 1e-3) };
  }

  _options(width) {
    const banded = this._banded();
    const series = [{}];
    const bands = [];
    const hidden = { points: { show: false }, width: 0, stroke: "transparent" };
    if (banded) {
      series.push(hidden, hidden);
      bands.push({ series: [2, 1], fill: this._colors.band });
    }
    this._lines.forEach((line, i) => {
      const color = this._colorOf(line, i);
      const { mean, nonfinite } = this._column(line);
      const gaps = mean.filter((value, at) => value === null && !nonfinite[at]).length;
      const spanGaps = gaps > SPARSE * mean.length;
      series.push({ stroke: color, width: 1.5, dash: this._isLimit(line) ? [5, 4] : undefined, spanGaps, points: { size: 4, show: spanGaps || undefined } });
      series.push({ ...hidden, spanGaps }, { ...hidden, spanGaps });
      if (this._track.bin > 1) bands.push({ series: [series.length - 1, series.length - 2], fill: faint(color) });
    });
    return {
      width,
      height: HEIGHT,
      padding: [8, 26, 0, 0],
      legend: { show: false },
      series,
      bands,
      axes: this._axes(),
      scales: { x: { time: this._page.axis === "time", range: () => Object.values(this._range()) }, y: { range: padded } },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        sync: { key: "run", setSeries: false },
        points: { size: 5 },
        bind: { dblclick: () => () => this._page.out() },
      },
      hooks: {
        setCursor: [(plot) => this._show(plot.cursor.idx)],
        setSelect: [(plot) => this._selected(plot)],
        drawClear: [(plot) => this._drawMarks(plot)],
        draw: [(plot) => this._drawOver(plot)],
        ready: [(plot) => this._listen(plot)],
      },
    };
  }

  _axes() {
    const { muted, grid } = this._colors;
    const common = { stroke: muted, font: FONT, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    const x = { ...common, space: 70, size: 26 };
    x.values =
      this._page.axis === "step"
        ? (_, splits) => splits.map((step) => (Number.isInteger(step) ? count(step) : ""))
        : (_, splits, axis, space, apart) => splits.map((time) => clock(time, apart));
    const binary = this.spec.unit === "B" ? { incrs: BINARY } : {};
    return [x, { ...common, ...binary, size: 66, values: (_, splits) => splits.map((value) => quantity(value, this.spec.unit, 4)) }];
  }

  _colorOf(line, i) {
    return this._isLimit(line) ? this._colors.critical : this._colors.series[i % this._colors.series.length];
  }

  _makeLegend() {
    this._values = this._lines.map((line, i) => {
      const [signal, label, name] = line;
      const dot = element("span", { class: "legend-dot" });
      dot.style.background = this._colorOf(line, i);
      const value = element("dd", { dataset: { signal, label } });
      return { value, node: element("div", {}, element("dt", {}, dot, name), value) };
    });
    this._legend.replaceChildren(...this._values.map(({ node }) => node));
    if (this._banded()?.low.some((value) => value !== null)) this._legend.append(element("div", { class: "legend-band" }, element("dt", {}, element("span", { class: "legend-swatch" }), "normal range")));
  }

  /** The values under the pointer, or the newest. */
  _show(index) {
    const { steps, times, bin } = this._track;
    this._lines.forEach((line, i) => {
      const column = this._column(line);
      this._values[i].value.textContent = this._says(line[0], column, index);
    });
    const pointed = index !== null && index !== undefined;
    const until = pointed && bin > 1 ? `–${count(Math.min(steps[index] + bin - 1, this._track.last))}` : "";
    const mark = pointed ? this._marksAt(index) : "";
    this._at.textContent = pointed ? `step ${count(steps[index])}${until} · ${moment(times[index])}${mark}` : "";
    this._sayForecast();
  }

  /** A value at the pointer, or the newest: then with its step where others are newer. */
  _says(signal, column, pointed) {
    const index = pointed ?? newest(column);
    const unit = this.spec.unit;
    const { min, max, mean, nonfinite, rank } = column;
    const odd = nonfinite[index] ? `${this._track.bin > 1 ? `${count(nonfinite[index])} ` : ""}not finite` : "";
    if (index < 0 || mean[index] === null || mean[index] === undefined) return odd || "–";
    const wide = this._lines.length < 3 && this._track.bin > 1 && max[index] !== min[index] ? ` (${quantity(min[index], unit, 3)} to ${quantity(max[index], unit, 3)})` : "";
    const isOwn = this.spec.ofMost.includes(signal) && this._track.bin === 1;
    const known = rank[index] !== null && rank[index] !== undefined;
    const who = known ? (isOwn ? ` rank ${rank[index]}` : `, greatest on rank ${rank[index]}`) : "";
    const isOld = (pointed ?? null) === null && index < this._track.steps.length - 1;
    const when = isOld ? ` at step ${count(this._track.steps[index])}` : "";
    return `${quantity(mean[index], unit)}${wide}${who}${odd && `, ${odd}`}${when}`;
  }

  _marksAt(index) {
    const from = this._track.steps[index];
    const found = this._page.marks().filter(({ step }) => step >= from && step < from + this._track.bin);
    return found.length ? ` · ${found.map(({ text }) => text).join(", ")}` : "";
  }

  _forecast() {
    const line = this._lines.find((one) => this._column(one).forecast);
    return line ? { line, ...this._column(line).forecast } : null;
  }

  _sayForecast() {
    const forecast = this._forecast();
    if (!forecast) return;
    this._note.hidden = !this._page.goesOn();
    const limit = `the limit of ${quantity(forecast.limit, this.spec.unit, 3)}`;
    this._note.textContent = this._isNear(forecast)
      ? `At this pace it reaches ${limit} at about step ${count(forecast.reaches_step)}, in ${count(forecast.reaches_step - this._track.last)} steps.`
      : `Not growing towards ${limit} in the next ${count(this._foreseen())} steps.`;
  }

  /** How far one can see from what is drawn: what is said of more would be of noise. */
  _foreseen() {
    return FORESEEN * Math.min(WINDOW, this._track.last - this._track.first + 1);
  }

  _isNear(forecast) {
    return forecast.reaches_step !== null && forecast.reaches_step - this._track.last <= this._foreseen();
  }

  _selected(plot) {
    const { left, width } = plot.select;
    if (width < NEAR) return;
    const step = (at) => this._stepAt(plot.posToVal(at, "x"));
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this._page.zoom(step(left), step(left + width));
  }

  _stepAt(x) {
    if (this._page.axis === "step") return Math.round(x);
    const times = this._times();
    const index = times.findIndex((time) => time >= x);
    return this._track.steps[index < 0 ? times.length - 1 : index];
  }

  _xOf(step) {
    return this._page.axis === "step" ? step : this._times()[this._track.at(step)];
  }

  _listen(plot) {
    plot.over.addEventListener("click", () => {
      const near = this._near(plot);
      if (near) this._page.open(near.incident);
    });
    plot.over.addEventListener("mousemove", () => plot.over.classList.toggle("at-mark", this._near(plot) !== undefined));
  }

  _near(plot) {
    const distance = ({ step }) => Math.abs(plot.valToPos(this._xOf(step), "x") - plot.cursor.left);
    return this._page.marks().filter((mark) => mark.incident && distance(mark) <= NEAR).sort((one, other) => distance(one) - distance(other))[0];
  }

  /** Under the lines: what happened at which step. */
  _drawMarks(plot) {
    const [from, to] = this._page.span();
    for (const { step, kind, severity } of this._page.marks()) {
      if (step < from || step > to) continue;
      const color = kind === "incident" ? (this._colors[severity] ?? this._colors.warning) : this._colors.muted;
      vertical(plot, this._xOf(step), color, kind === "incident" ? [] : [2, 3], kind === "incident" ? 1.5 : 1);
    }
    const chosen = this._page.step();
    if (chosen !== null) vertical(plot, this._xOf(chosen), this._colors.accent, [], 2);
  }

  /** Over the lines: what was not finite, and where memory is going. */
  _drawOver(plot) {
    const { ctx, bbox } = plot;
    const x = plot.data[0];
    ctx.save();
    ctx.fillStyle = this._colors.critical;
    const size = 5 * devicePixelRatio;
    for (const line of this._lines) {
      this._column(line).nonfinite.forEach((odd, i) => {
        const at = odd ? plot.valToPos(x[i], "x", true) : -1;
        if (at < bbox.left || at > bbox.left + bbox.width) return;
        ctx.beginPath();
        ctx.moveTo(at - size, bbox.top);
        ctx.lineTo(at + size, bbox.top);
        ctx.lineTo(at, bbox.top + 1.6 * size);
        ctx.fill();
      });
    }
    this._drawForecast(plot);
    ctx.restore();
  }

  _drawForecast(plot) {
    const forecast = this._forecast();
    if (!forecast || !this._page.goesOn() || !this._isNear(forecast) || this._page.axis !== "step" || !this._page.ahead()) return;
    const column = this._column(forecast.line);
    const at = newest(column);
    if (at < 0) return;
    const { ctx, bbox } = plot;
    const begin = this._track.last;
    const end = this._page.span()[1];
    const y = (step) => plot.valToPos(column.mean[at] + (step - begin) * forecast.per_step, "y", true);
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = this._colorOf(forecast.line, 0);
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(plot.valToPos(begin, "x", true), y(begin));
    ctx.lineTo(plot.valToPos(end, "x", true), y(end));
    ctx.stroke();
  }
}

function vertical({ ctx, bbox, valToPos }, x, color, dash, width) {
  const at = Math.round(valToPos(x, "x", true));
  ctx.save();
  ctx.strokeStyle = color;
  ctx.lineWidth = width * devicePixelRatio;
  ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(at, bbox.top);
  ctx.lineTo(at, bbox.top + bbox.height);
  ctx.stroke();
  ctx.restore();
}

/** Room above and below; a line that never changes lies in the middle. */
function padded(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** A time as an axis has room for it: the day where ticks are days apart, else of the day. */
function clock(time, apart) {
  const said = moment(time);
  if (apart >= 86400) return said.slice(5, 10);
  return said.slice(11, apart < 60 ? 19 : 16);
}

function newest({ mean, nonfinite }) {
  for (let i = mean.length - 1; i >= 0; i -= 1) if (mean[i] !== null || nonfinite[i]) return i;
  return -1;
}

function faint(color) {
  return `color-mix(in srgb, ${color} 22%, transparent)`;
}

/** The colors of the page as it is now. */
export function colors() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["muted", "grid", "band", "critical", "warning", "info", "accent"];
  return {
    ...Object.fromEntries(names.map((name) => [name, of(name)])),
    series: [1, 2, 3, 4, 5, 6].map((number) => of(`series-${number}`)),
  };
}
