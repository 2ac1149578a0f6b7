// A heat map of rows (layers or ranks) by steps.
//
// What it shows can be read back without the colors: each cell is told of at the pointer, and with
// the keyboard (arrows) in a line that screen readers hear.

import { element } from "./dom.js";
import { count, plural, quantity } from "./format.js";
import { Grid, absolute, relative, rowOf } from "./grid.js";
import { Layout, paint } from "./heatpaint.js";
import { legend } from "./legend.js";
import { diverging, onTheme, pageColors, sequential, theme } from "./palette.js";
import { parts } from "./rowlabels.js";

const SCALES = {
  usual: "against each row's own usual level",
  others: "against the other ranks at the same step",
  value: "as measured",
};
const ORDERS = { model: "in model order", latest: "largest now first" };
const PAUSE = 1000; // ms between two looks at a run that goes on, at least

/**
 * Draw a heat map into `root` and keep it up to date. Options: `run`, `signal`, `rows` ("label" or
 * "rank"), `from`, `to` (steps; without `to` it follows the run), `onPick(step, row)`, `highlight`
 * `{row, rank, step}`, `choices` `[{signal, rows, title}]` to choose from, `title`.
 * Returns `{update(options), end()}`.
 */
export function heatmap(root, context, options) {
  return new HeatMap(root, context, options);
}

class HeatMap {
  constructor(root, context, options) {
    this._context = context;
    this._options = options;
    this._grid = null;
    this._cursor = null;
    this._number = 0;
    this._asked = { at: 0, took: 0 };
    this._scale = options.rows === "rank" ? "others" : "usual";
    this._order = "model";
    this._build(root);
    this._ends = [
      onTheme(() => this._draw()),
      context.live({ step: (event) => event.run === this._options.run && this._follow(event.step) }),
    ];
    this._watch = new ResizeObserver(() => this._draw());
    this._watch.observe(this._frame);
    this._watchRatio();
    this._load();
  }

  /** Show something else of it, or the same as it is now. */
  update(changes) {
    const before = this._options;
    this._options = { ...before, ...changes };
    const { rows } = this._options;
    if (before.rows !== rows) this._scale = rows === "rank" ? "others" : "usual";
    if (["signal", "rows", "from", "to"].some((name) => before[name] !== this._options[name])) {
      this._select(null);
      this._controls();
    }
    this._load();
  }

  /** Be gone. */
  end() {
    this._number += 1;
    clearTimeout(this._timer);
    this._ends.forEach((stop) => stop());
    this._watch.disconnect();
    this._figure.remove();
  }

  _build(root) {
    this._canvas = element("canvas", { class: "heatmap-canvas", tabindex: "0", role: "application" });
    this._tip = element("div", { class: "heatmap-tip", hidden: true });
    this._said = element("p", { class: "unseen", "aria-live": "polite" });
    this._frame = element("div", { class: "heatmap-frame" }, this._canvas, this._tip);
    this._head = element("figcaption", { class: "heatmap-head" });
    this._legend = element("div", { class: "heatmap-legend" });
    this._note = element("p", { class: "heatmap-note muted" });
    this._figure = element(
      "figure",
      { class: "heatmap" },
      this._head,
      this._frame,
      this._legend,
      this._note,
      this._said,
    );
    root.append(this._figure);
    this._canvas.addEventListener("pointermove", (event) => this._point(event));
    this._canvas.addEventListener("pointerleave", () => this._select(null));
    this._canvas.addEventListener("blur", () => this._select(null));
    this._canvas.addEventListener("click", (event) => this._point(event) && this._pick());
    this._canvas.addEventListener("keydown", (event) => this._key(event));
    this._controls();
  }

  _controls() {
    const { choices, rows, signal, title } = this._options;
    const scales = Object.entries(SCALES).filter(([name]) => name !== "others" || rows === "rank");
    const chosen = choices?.findIndex((one) => one.signal === signal && one.rows === rows);
    const focused = [...this._head.children].indexOf(document.activeElement);
    this._head.replaceChildren(
      choices?.length
        ? select(
            "What to show",
            choices.map((one, i) => [String(i), one.title]),
            String(chosen),
            (value) => this.update({ signal: choices[value].signal, rows: choices[value].rows }),
          )
        : element("strong", {}, title ?? signal),
      select("Colors", scales, this._scale, (value) => {
        this._scale = value;
        this._draw();
      }),
      select(
        "Order of rows",
        Object.entries(rows === "rank" ? { ...ORDERS, model: "by rank" } : ORDERS),
        this._order,
        (value) => {
          this._order = value;
          this._draw();
        },
      ),
    );
    if (focused >= 0) this._head.children[focused]?.focus();
  }

  async _load() {
    const number = (this._number += 1);
    const { run, signal, rows, from, to } = this._options;
    const wide = this._frame.clientWidth || 600;
    const columns = Math.max(60, Math.min(400, Math.floor(wide / 3)));
    const asked = new URLSearchParams({ signal, rows, columns });
    if (from !== undefined && from !== null) asked.set("from", from);
    if (to !== undefined && to !== null) asked.set("to", to);
    const began = performance.now();
    try {
      const answer = await this._context.api(`/runs/${encodeURIComponent(run)}/heatmap?${asked}`);
      if (number !== this._number) return;
      this._grid = new Grid(answer);
      this._draw();
    } catch (error) {
      if (number === this._number) this._empty(error.message, "error");
    }
    this._asked = { at: performance.now(), took: performance.now() - began };
  }

  /** A step was done: look again, but never so often that the daemon or this page are busy with it. */
  _follow(step) {
    const { to } = this._options;
    const grid = this._grid;
    if (this._timer || (to !== undefined && to !== null)) return;
    if (grid?.steps.length && step < grid.steps.at(-1) + grid.bin) return;
    const wait = Math.max(0, this._asked.at + Math.max(PAUSE, 5 * this._asked.took) - performance.now());
    this._timer = setTimeout(async () => {
      await this._load();
      this._timer = 0;
    }, wait);
  }

  _empty(text, kind = "muted") {
    this._figure.dataset.state = kind === "error" ? "error" : "empty";
    this._frame.hidden = true;
    this._legend.replaceChildren();
    this._note.className = `heatmap-note ${kind}`;
    this._note.textContent = text;
  }

  _draw() {
    const grid = this._grid;
    if (!grid) return;
    if (!grid.rows.length || !grid.steps.length) {
      this._empty("Nothing of this was measured in these steps.");
      return;
    }
    this._frame.hidden = false;
    const width = this._frame.clientWidth;
    if (!width) return;
    const look = theme();
    const ratio = window.devicePixelRatio || 1;
    const pen = this._canvas.getContext("2d");
    this._level = this._leveled(grid);
    this._shown = this._level ? relative(grid, this._level) : absolute(grid);
    const ranks = this._options.rows === "rank";
    const order =
      this._order === "latest" ? grid.byLatest(this._shown.place) : grid.rows.map((_, row) => row);
    const labels = ranks ? grid.rows.map((rest) => ({ group: "", rest })) : parts(grid.rows);
    pen.font = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
    const measure = (text) => pen.measureText(text).width;
    this._layout = new Layout({ width, labels, order, columns: grid.steps.length, measure, ranks });
    this._canvas.width = Math.round(width * ratio);
    this._canvas.height = Math.round(this._layout.height * ratio);
    this._canvas.style.width = `${width}px`;
    this._canvas.style.height = `${this._layout.height}px`;
    this._look = {
      palette: this._shown.kind === "diverging" ? diverging(look) : sequential(look),
      colors: pageColors(),
      look,
      ratio,
      marked: this._marked(grid),
      sorted: this._order === "latest",
    };
    const { place, column } = this._cursor ?? {};
    if (place >= order.length || column >= grid.steps.length) this._select(null);
    this._paint();
    this._explain(grid);
  }

  _paint() {
    const pen = this._canvas.getContext("2d");
    paint(pen, this._layout, this._grid, this._shown, { ...this._look, cursor: this._cursor });
  }

  /** What a cell is held against, if not against zero. */
  _leveled(grid) {
    if (this._scale === "value" || grid.negative || this._hasNoUsual(grid)) return null;
    if (this._scale === "others") {
      const level = grid.others();
      return (_, column) => level[column];
    }
    const level = grid.usual(this._options.highlight?.step);
    return (row) => level[row];
  }

  /** One value is not to be held against itself. */
  _hasNoUsual(grid) {
    return this._scale === "usual" && grid.steps.length < 2;
  }

  _marked(grid) {
    const { row: label, rank, step } = this._options.highlight ?? {};
    const row = this._options.rows === "rank" ? rank : label;
    return {
      row: row === undefined || row === null ? -1 : rowOf(grid.rows, String(row)),
      column: step === undefined || step === null ? -1 : grid.columnOf(step),
    };
  }

  _explain(grid) {
    const { highlight, rows } = this._options;
    this._figure.dataset.state = "ready";
    const missing = grid.rows.some((_, row) => grid.steps.some((_, at) => grid.state(row, at) === "missing"));
    this._legend.replaceChildren(...legend(this._shown, { ...this._look, unit: grid.unit, missing }));
    const notes = [];
    if (this._scale !== "value" && grid.negative) notes.push("some values are negative: shown as measured");
    else if (this._scale === "others") notes.push("held against the median of all ranks at the same step");
    else if (this._hasNoUsual(grid)) notes.push("shown as measured: there is nothing before it to hold it against");
    else if (this._scale === "usual") {
      const before =
        highlight?.step === undefined ? "over the steps shown" : `before step ${count(highlight.step)}`;
      notes.push(`usual: each row's median ${before}`);
    }
    if (this._look.marked.row >= 0) {
      const [name, at] = [grid.rows[this._look.marked.row], count(highlight.step)];
      const [marks, but] = this._look.marked.column < 0 ? ["▸ marks", " (not measured at that step)"] : ["▸ and ▾ mark", ""];
      notes.unshift(`${marks} where it began: ${rows === "rank" ? "rank " : ""}${name}, step ${at}${but}`);
    }
    if (grid.bin > 1) notes.push(`a cell is the largest of ${plural(grid.bin, "step")}`);
    if (grid.emptyColumns)
      notes.push(
        grid.steps.length === 1
          ? `only step ${count(grid.steps[0])} of these was measured`
          : `measured at ${count(grid.steps.length)} steps of these: the others are left out`,
      );
    if (grid.droppedRows) notes.push(`${plural(grid.droppedRows, "row")} more not shown`);
    this._note.className = "heatmap-note muted";
    this._note.textContent = notes.length ? `${notes.join("; ")}.` : "";
    const what = rows === "rank" ? "rank" : "layer";
    this._canvas.setAttribute(
      "aria-label",
      `${this._options.signal.replaceAll("_", " ")} of ${plural(grid.rows.length, what)} over steps ` +
        `${grid.steps[0]} to ${grid.steps.at(-1)}. Arrow keys read the cells${this._options.onPick ? ", Enter goes to the moment" : ""}.`,
    );
  }

  _point(event) {
    if (!this._layout) return false;
    const box = this._canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const found = this._layout.at(x, y);
    this._select(found, x);
    return found !== null;
  }

  _key(event) {
    if (!this._layout) return;
    const last = { place: this._layout.order.length - 1, column: this._layout.columns - 1 };
    const by = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowLeft: [0, -by],
      ArrowRight: [0, by],
      ArrowUp: [-by, 0],
      ArrowDown: [by, 0],
      Home: [0, -last.column],
      End: [0, last.column],
    };
    if (event.key === "Enter" && this._cursor) this._pick();
    else if (event.key === "Escape" && this._cursor) this._select(null);
    else if (moves[event.key]) {
      const marked = this._look.marked;
      const start = {
        place: Math.max(0, this._layout.order.indexOf(marked.row)),
        column: marked.column >= 0 ? marked.column : last.column,
      };
      const [down, right] = this._cursor ? moves[event.key] : [0, 0];
      const from = this._cursor ?? start;
      const held = (value, most) => Math.max(0, Math.min(most, value));
      this._select({
        place: held(from.place + down, last.place),
        column: held(from.column + right, last.column),
      });
      this._said.textContent = this._tip.innerText;
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  _pick() {
    if (!this._cursor || !this._options.onPick) return;
    const row = this._layout.order[this._cursor.place];
    this._options.onPick(this._grid.steps[this._cursor.column], this._grid.rows[row]);
  }

  /** Tell of a cell; `at` is where the pointer is in it, from the left. */
  _select(cursor, at = null) {
    if (!this._layout || (cursor === null && this._cursor === null)) return;
    this._cursor = cursor;
    this._paint();
    this._tip.hidden = cursor === null;
    if (cursor === null) return;
    const row = this._layout.order[cursor.place];
    const { name, step, value, more } = this._told(row, cursor.column);
    const parts = [
      element("strong", {}, name),
      element("span", {}, step),
      element("span", { class: "heatmap-value" }, value),
    ];
    if (more) parts.push(element("span", {}, more));
    this._tip.replaceChildren(...parts);
    const x = at ?? this._layout.x(cursor.column + 0.5);
    const left = x > this._layout.width / 2 ? x - this._tip.offsetWidth - 14 : x + 14;
    const low = this._layout.height - this._tip.offsetHeight;
    this._tip.style.left = `${Math.max(0, Math.min(left, this._layout.width - this._tip.offsetWidth))}px`;
    this._tip.style.top = `${Math.max(0, Math.min(this._layout.y(cursor.place) + this._layout.rowHeight + 6, low))}px`;
  }

  /** A cell in words. */
  _told(row, column) {
    const grid = this._grid;
    const first = grid.steps[column];
    const state = grid.state(row, column);
    const value = grid.value(row, column);
    const shown = quantity(value, grid.unit);
    const times = state === "finite" && this._level ? this._shown.times(row, column) : null;
    const bad = grid.badCount(row, column);
    return {
      name: this._options.rows === "rank" ? `rank ${grid.rows[row]}` : grid.rows[row],
      step: grid.bin > 1 ? `steps ${count(first)} to ${count(first + grid.bin - 1)}` : `step ${count(first)}`,
      value: {
        missing: "not measured",
        finite: shown,
        nonfinite: value === null ? grid.word(row, column) : `NaN or Infinity in ${bad} of them`,
      }[state],
      more:
        times !== null
          ? `${timesText(times)} ${this._scale === "others" ? "the ranks' median" : "its usual"}`
          : state === "nonfinite" && value !== null && `largest finite: ${shown}`,
    };
  }

  _watchRatio() {
    const query = matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    const changed = () => (this._draw(), this._watchRatio());
    query.addEventListener("change", changed, { once: true });
    this._ends.push(() => query.removeEventListener("change", changed));
  }
}

/** "14 times", "1/3 of". */
function timesText(times) {
  if (times === Infinity || times === 0) return times === 0 ? "0 of" : "far above";
  if (times >= 1) return `${quantity(times, "1", 3)} times`;
  return `1/${quantity(1 / times, "1", 3)} of`;
}

function select(label, options, chosen, changed) {
  const made = element(
    "select",
    { "aria-label": label, onchange: () => changed(made.value) },
    options.map(([value, text]) => element("option", { value, selected: value === chosen }, text)),
  );
  return made;
}
