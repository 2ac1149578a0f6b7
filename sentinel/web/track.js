// The series that a run's charts show: asked for in bins, and brought up to date as steps come in.

/** A series's name in a track. */
export function keyOf(signal, label) {
  return `${signal}\n${label}`;
}

/**
 * Series on one axis of steps: `steps`, `times`, `bin`, and in `series` by `keyOf` a column each of
 * min, max, mean, nonfinite, rank, low, high; null where nothing (finite) was measured.
 */
export class Track {
  constructor(answer) {
    this.bin = answer.bin;
    this.first = answer.first_step;
    this.last = answer.last_step;
    this.steps = [...answer.steps];
    this.times = [...answer.times];
    this.series = new Map();
    this.take(answer);
  }

  /**
   * Take in the series of another answer about the same stretch, which may begin later or have fewer
   * steps, as of what is measured seldom; false where it is in other bins.
   */
  take(answer) {
    if (answer.steps.length && answer.bin !== this.bin) return false;
    const rows = rowsOf(this.steps, answer);
    for (const one of answer.series) this.series.set(keyOf(one.signal, one.label), columns(one, rows));
    return true;
  }

  /**
   * Take in what has come since: an answer in bins no longer than these, from the beginning of the
   * last one on. Returns false where the whole has to be asked for anew.
   */
  extend(answers) {
    const [{ bin, steps }] = answers;
    if (!this.steps.length || bin > this.bin || !steps.length || steps[0] < this.steps.at(-1)) return false;
    if (answers.some((one) => one.steps.length && one.bin !== bin)) return false;
    const fresh = answers.flatMap((answer) => answer.series);
    if (fresh.some((one) => !this.series.has(keyOf(one.signal, one.label)))) return false;
    const groups = grouped(steps, this.bin);
    const keep = this.steps.length - (groups[0].begin === this.steps.at(-1) ? 1 : 0);
    cut(this.steps, keep).push(...groups.map((group) => group.begin));
    cut(this.times, keep).push(...groups.map((group) => answers[0].times[group.rows[0]]));
    const given = new Map(answers.flatMap((answer) => aligned(steps, answer)));
    for (const [key, column] of this.series) extendOne(column, given.get(key), groups, keep);
    this.last = Math.max(...answers.map((answer) => answer.last_step));
    return true;
  }

  /** The index of the bin that this step lies in. */
  at(step) {
    let [low, high] = [0, this.steps.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.steps[middle] <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** For each of these steps the row of an answer that is about it, or -1. */
function rowsOf(steps, answer) {
  const known = new Map(answer.steps.map((step, row) => [step, row]));
  return steps.map((step) => known.get(step) ?? -1);
}

function aligned(steps, answer) {
  const rows = rowsOf(steps, answer);
  return answer.series.map((one) => [keyOf(one.signal, one.label), columns(one, rows)]);
}

function columns(one, rows) {
  const fit = (values) => rows.map((row) => (Number.isFinite(values?.[row]) ? values[row] : null));
  return {
    min: fit(one.min),
    max: fit(one.max),
    mean: fit(one.mean),
    nonfinite: fit(one.nonfinite),
    rank: fit(one.rank),
    low: fit(one.band?.low),
    high: fit(one.band?.high),
    banded: Boolean(one.band),
    forecast: one.forecast,
  };
}

/** Which rows belong to which bin of this length. */
function grouped(steps, bin) {
  const groups = [];
  steps.forEach((step, row) => {
    const begin = Math.floor(step / bin) * bin;
    if (groups.at(-1)?.begin === begin) groups.at(-1).rows.push(row);
    else groups.push({ begin, rows: [row] });
  });
  return groups;
}

function extendOne(column, fresh, groups, keep) {
  const values = (name, { rows }) => rows.map((row) => fresh?.[name][row] ?? null).filter((value) => value !== null);
  const largest = (group) => {
    const of = (row) => fresh?.max[row] ?? -Infinity;
    return group.rows.reduce((best, row) => (of(row) > of(best) ? row : best), group.rows[0]);
  };
  const made = {
    min: (group) => least(values("min", group)),
    max: (group) => most(values("max", group)),
    mean: (group) => mean(values("mean", group)),
    nonfinite: (group) => values("nonfinite", group).reduce((sum, one) => sum + one, 0),
    rank: (group) => fresh?.rank[largest(group)] ?? null,
    low: (group) => values("low", group).at(-1) ?? null,
    high: (group) => values("high", group).at(-1) ?? null,
  };
  for (const [name, make] of Object.entries(made)) cut(column[name], keep).push(...groups.map(make));
  if (fresh?.forecast) column.forecast = fresh.forecast;
}

function cut(list, length) {
  list.length = length;
  return list;
}

const least = (values) => (values.length ? Math.min(...values) : null);
const most = (values) => (values.length ? Math.max(...values) : null);
const mean = (values) => (values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : null);
