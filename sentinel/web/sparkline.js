// A line of a few points without axes, for overviews.

import { drawing } from "./dom.js";
import { count, quantity } from "./format.js";

const [WIDTH, HEIGHT] = [240, 44];

/** `steps` and `values` as an SVG; values that were not finite are marks at the bottom. */
export function sparkline({ steps, values }, name) {
  const finite = values.filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const x = (i) => ((i / Math.max(1, values.length - 1)) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 3 - ((value - low) / (high - low || 1)) * (HEIGHT - 6)).toFixed(1);
  const says = finite.length
    ? `${name} from ${quantity(finite[0])} to ${quantity(finite.at(-1))}, steps ${count(steps[0])} to ${count(steps.at(-1))}`
    : `${name} has not been measured`;
  return drawing(
    "svg",
    { class: "sparkline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": says },
    lines(values).map((points) =>
      drawing("polyline", { points: points.map((i) => `${x(i)},${y(values[i])}`).join(" "), "vector-effect": "non-scaling-stroke" }),
    ),
    values.map((value, i) =>
      typeof value === "string" ? drawing("line", { class: "nonfinite", x1: x(i), x2: x(i), y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }) : null,
    ),
  );
}

/** Runs of indices without a gap between them. */
function lines(values) {
  const found = [[]];
  values.forEach((value, i) => (Number.isFinite(value) ? found.at(-1).push(i) : found.push([])));
  return found.filter((points) => points.length);
}
