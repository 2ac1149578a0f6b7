// The cells of a heat map: what was measured in each, and where it lies on a scale.

const USUAL_FROM = 5; // cells before the moment that make a usual level
const MOST_TIMES = 64; // beyond this many times the usual, more looks alike,
const MOST_SHARE = 0.995; // and beyond what so many of the cells have

/**
 * The answer of /heatmap. Where a signal is measured now and then only, so that most columns would
 * be empty, those without any value are left out.
 */
export class Grid {
  constructor(answer) {
    const full = answer.steps.map((_, column) => answer.values.some((row) => row[column] !== null));
    const sparse = 2 * full.filter(Boolean).length < full.length;
    const kept = full.map((has) => has || !sparse);
    const chosen = (list) => list.filter((_, column) => kept[column]);
    this.signal = answer.signal;
    this.unit = answer.unit;
    this.bin = answer.bin;
    this.rows = answer.rows;
    this.droppedRows = answer.dropped_rows;
    this.steps = chosen(answer.steps);
    this.emptyColumns = answer.steps.length - this.steps.length;
    this._values = answer.values.map(chosen);
    this._nonfinite = answer.nonfinite.map(chosen);
    this.negative = this._values.some((row) => row.some((value) => value < 0));
  }

  /** The largest finite value of a cell; null where there is none. */
  value(row, column) {
    const value = this._values[row][column];
    return typeof value === "number" ? value : null;
  }

  /** "missing", "nonfinite" (at least one value of the cell was) or "finite". */
  state(row, column) {
    const value = this._values[row][column];
    if (value === null) return "missing";
    return typeof value === "string" || this._nonfinite[row][column] > 0 ? "nonfinite" : "finite";
  }

  /** What a cell without a finite value has: "NaN", "Infinity" or "-Infinity". */
  word(row, column) {
    const value = this._values[row][column];
    return typeof value === "string" ? value : "NaN or Infinity";
  }

  /** How many values of a cell were not finite. */
  badCount(row, column) {
    return this._nonfinite[row][column];
  }

  /** The column that has this step, or the nearest; -1 where there is no column at all. */
  column(step) {
    let best = -1;
    this.steps.forEach((first, column) => {
      if (first <= step || best < 0) best = column;
    });
    return best;
  }

  /** The column in which this step was measured; -1 where it was not. */
  columnOf(step) {
    const column = this.column(step);
    const first = this.steps[column];
    return first <= step && step < first + this.bin ? column : -1;
  }

  /** Each row's own usual level: the median of what it had before step `until`, or of all. */
  usual(until) {
    return this.rows.map((_, row) => {
      const before = this._finite(row, (column) => until === undefined || this.steps[column] < until);
      return median(before.length >= USUAL_FROM ? before : this._finite(row, () => true));
    });
  }

  /** The median of all rows, column by column. */
  others() {
    return this.steps.map((_, column) =>
      median(this.rows.map((_, row) => this.value(row, column)).filter((value) => value !== null)),
    );
  }

  /** The rows in the order of their newest value on this scale; what is not finite first. */
  byLatest(place) {
    const last = this.rows.map((_, row) => {
      for (let column = this.steps.length - 1; column >= 0; column -= 1) {
        const state = this.state(row, column);
        if (state !== "missing") return state === "nonfinite" ? Infinity : place(row, column);
      }
      return -Infinity;
    });
    return this.rows.map((_, row) => row).sort((a, b) => last[b] - last[a] || a - b);
  }

  _finite(row, wanted) {
    return this.steps
      .map((_, column) => (wanted(column) ? this.value(row, column) : null))
      .filter((value) => value !== null);
  }
}

/** The values as they are, on a logarithmic scale; a linear one where some are negative. */
export function absolute(grid) {
  const values = grid.rows.flatMap((_, row) => grid._finite(row, () => true)).sort((a, b) => a - b);
  const logarithmic = !grid.negative;
  const from = logarithmic ? values.findIndex((value) => value > 0) : 0;
  const shown = from < 0 ? [] : values.slice(from);
  // A few tiny values are not to take the colors from all others.
  let low = shown[Math.floor(shown.length / 50)] ?? (logarithmic ? 0.1 : 0);
  let high = shown.at(-1) ?? 1;
  if (high === low) [low, high] = logarithmic ? [low / 2, high * 2] : [low - 1, high + 1];
  const over = logarithmic ? Math.log10 : (value) => value;
  const span = over(high) - over(low);
  const place = (row, column) => {
    const value = grid.value(row, column);
    return value <= low ? 0 : Math.min(1, (over(value) - over(low)) / span);
  };
  const ticks = (logarithmic ? decades(low, high) : [low, (low + high) / 2, high]).map((value) => ({
    at: (over(value) - over(low)) / span,
    value,
  }));
  return { kind: "sequential", place, ticks, low, high };
}

/** How many times the level that `level(row, column)` says: log2, the same to both sides. */
export function relative(grid, level) {
  const times = (row, column) => {
    const value = grid.value(row, column);
    const usual = level(row, column);
    if (value === null || usual === null) return null;
    if (usual === 0 || value === 0) return value === usual ? 1 : value === 0 ? 0 : Infinity;
    return value / usual;
  };
  const distances = grid.rows
    .flatMap((_, row) => grid.steps.map((_, column) => Math.abs(Math.log2(times(row, column) ?? 1))))
    .filter(Number.isFinite)
    .sort((a, b) => a - b);
  const most = distances[Math.floor(distances.length * MOST_SHARE)] ?? 0;
  const limit = Math.min(Math.log2(MOST_TIMES), Math.max(1, most));
  const place = (row, column) => {
    const found = times(row, column);
    if (found === null) return 0.5;
    return 0.5 + Math.max(-limit, Math.min(limit, Math.log2(found))) / (2 * limit);
  };
  const step = Math.max(1, Math.ceil(Math.floor(limit) / 2));
  const ticks = [];
  for (let power = -Math.floor(limit / step) * step; power <= limit; power += step) {
    ticks.push({ at: 0.5 + power / (2 * limit), times: 2 ** power });
  }
  return { kind: "diverging", place, ticks, times };
}

function decades(low, high) {
  const wide = Math.log10(high / low) > 2;
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const digit of wide ? [1] : [1, 2, 5]) {
      const value = Number(`${digit}e${power}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found.length > 1 ? found : [low, high];
}

function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The row of this name, or of the nearest module around or below it. */
export function rowOf(rows, wanted) {
  const exact = rows.indexOf(wanted);
  if (exact >= 0) return exact;
  const around = rows.findIndex((row) => wanted.startsWith(`${row}.`));
  return around >= 0 ? around : rows.findIndex((row) => row.startsWith(`${wanted}.`));
}
