// Which steps are in view: all of them, the last so many, or from one to another.

const SHORTEST = 8; // steps

/** The stretch of steps in view. Follows the run while `to` is null. */
export class Window {
  /** From the address: `from` and `to`, or `step`, around which a stretch is shown. */
  constructor(query) {
    const number = (name) => (/^\d+$/.test(query.get(name) ?? "") ? Number(query.get(name)) : null);
    this.first = 0;
    this.last = 0;
    this.step = number("step");
    this.from = number("from");
    this.to = number("to");
    this.tail = null;
    if (this.from !== null && this.to !== null && this.to <= this.from) this.to = null;
    if (this.step !== null && this.from === null && this.to === null) {
      this.from = Math.max(0, this.step - 500);
      this.to = this.step + 500;
    }
  }

  /** The run has steps from here to there. */
  extent(first, last) {
    this.first = first ?? 0;
    this.last = last ?? 0;
  }

  /** Whether new steps come into view by themselves. */
  get live() {
    return this.to === null;
  }

  /** Whether all of the run is in view. */
  get whole() {
    return this.live && this.from === null && this.tail === null;
  }

  /** From which step to which. */
  span() {
    const to = this.to ?? this.last;
    if (this.tail !== null && this.live) return [Math.max(this.first, to - this.tail + 1), to];
    return [this.from ?? this.first, to];
  }

  /** What is asked for: `{from, to}`, without what the daemon knows better. */
  asked() {
    const [from] = this.span();
    const asked = {};
    if (!this.whole) asked.from = from;
    if (!this.live) asked.to = this.to;
    return asked;
  }

  /** All of it, as it grows. */
  all() {
    Object.assign(this, { from: null, to: null, tail: null });
  }

  /** The last so many steps, as they come. */
  follow(steps) {
    Object.assign(this, { from: null, to: null, tail: Math.max(SHORTEST, steps) });
  }

  /** From here to there. */
  zoom(from, to) {
    const middle = (from + to) / 2;
    const half = Math.max(SHORTEST, to - from) / 2;
    const low = Math.max(this.first, Math.round(middle - half));
    Object.assign(this, { from: low, to: Math.max(low + SHORTEST, Math.min(this.last, Math.round(middle + half))), tail: null });
  }

  /** Half a window back (-1) or on (1). */
  pan(direction) {
    const [from, to] = this.span();
    const by = Math.max(1, Math.round((to - from) / 2));
    const moved = Math.max(this.first - from, Math.min(this.last - to, direction * by));
    this.zoom(from + moved, to + moved);
  }

  /** Nearer (a factor below 1) or farther. */
  scale(factor) {
    const [from, to] = this.span();
    const width = (to - from) * factor;
    if (factor > 1 && width >= this.last - this.first) return this.all();
    if (this.live) return this.follow(Math.round(width));
    const middle = this.step !== null && this.step > from && this.step < to ? this.step : (from + to) / 2;
    this.zoom(middle - width / 2, middle + width / 2);
  }

  /** What the address says of it. */
  query() {
    return { from: this.from, to: this.to };
  }
}
