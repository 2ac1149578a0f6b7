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
   * Take in the series of another answer about these steps. It may begin later or have fewer of them,
   * as of what is measured seldom: what it has of a stretch goes to that stretch.
   */
  take(answer) {
    const rows = rowsOf(stretches(this.steps, this.bin), stretches(answer.steps, this.bin));
    for (const one of answer.series) this.series.set(keyOf(one.signal, one.label), columns(one, rows));
  }

  /**
   * Take in what has come since: answers in bins no longer than these, from the beginning of the last
   * one on. Returns false where the whole has to be asked for anew.
   */
  extend(answers) {
    const [{ steps, times }] = answers;
    if (!this.steps.length || !steps.length || steps[0] < this.steps.at(-1)) return false;
    if (answers.some(({ bin }) => bin > this.bin)) return false;
    const fresh = answers.flatMap((answer) => answer.series);
    if (fresh.some((one) => !this.series.has(keyOf(one.signal, one.label)))) return false;
    const given = stretches(steps, this.bin);
    const begins = steps.map((_, row) => row).filter((row) => given[row] !== given[row - 1]);
    const added = begins.map((row) => given[row]);
    const keep = this.steps.length - (added[0] === stretches(this.steps.slice(-1), this.bin)[0] ? 1 : 0);
    cut(this.steps, keep).push(...begins.map((row) => steps[row]));
    cut(this.times, keep).push(...begins.map((row) => times[row]));
    const news = new Map();
    for (const answer of answers) {
      const rows = rowsOf(added, stretches(answer.steps, this.bin));
      for (const one of answer.series) news.set(keyOf(one.signal, one.label), columns(one, rows));
    }
    const none = columns({}, added.map(() => []));
    for (const [key, column] of this.series) {
      const more = news.get(key);
      for (const name of COLUMNS) cut(column[name], keep).push(...(more ?? none)[name]);
      if (more?.forecast) column.forecast = more.forecast;
    }
    this.last = Math.max(...answers.map((answer) => answer.last_step ?? 0));
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

const COLUMNS = ["min", "max", "mean", "nonfinite", "rank", "low", "high"];

/** Which stretch of so many steps each of these lies in. An answer names a stretch by the first of its
 * steps that was measured, which is not the same one for every signal. */
function stretches(steps, bin) {
  return steps.map((step) => Math.floor(step / bin));
}

/** For each of the stretches that are wanted the rows of an answer, `given` by their stretches. */
function rowsOf(wanted, given) {
  const rows = new Map();
  given.forEach((stretch, row) => {
    if (rows.has(stretch)) rows.get(stretch).push(row);
    else rows.set(stretch, [row]);
  });
  return wanted.map((stretch) => rows.get(stretch) ?? []);
}

/** The columns of a series, each stretch from the rows that it has. */
function columns(one, rows) {
  const fit = (values, join) => rows.map((of) => (values ? joined(values, of, join) : null));
  const larger = (best, row) => (one.max?.[row] > (one.max?.[best] ?? -Infinity) ? row : best);
  return {
    min: fit(one.min, (values) => Math.min(...values)),
    max: fit(one.max, (values) => Math.max(...values)),
    mean: fit(one.mean, (values) => sum(values) / values.length),
    nonfinite: fit(one.nonfinite, sum),
    rank: rows.map((of) => (one.rank ? (one.rank[of.reduce(larger, of[0])] ?? null) : null)),
    low: fit(one.band?.low, (values) => values.at(-1)),
    high: fit(one.band?.high, (values) => values.at(-1)),
    banded: Boolean(one.band),
    forecast: one.forecast,
  };
}

/** The finite values of some rows put together: null where there is none. */
function joined(values, rows, join) {
  if (rows.length === 1) return Number.isFinite(values[rows[0]]) ? values[rows[0]] : null; // nearly always
  const finite = rows.map((row) => values[row]).filter(Number.isFinite);
  return finite.length ? join(finite) : null;
}

function sum(values) {
  return values.reduce((total, one) => total + one, 0);
}

function cut(list, length) {
  list.length = length;
  return list;
}
