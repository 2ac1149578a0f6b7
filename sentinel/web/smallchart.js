// One signal around a moment: the rank that is to blame beside the others.

import { drawing, element } from "./dom.js";
import { count, plural, quantity } from "./format.js";

const WIDTH = 320;
const HEIGHT = 112;
const LEFT = 4;
const TOP = 22;
const BOTTOM = 18;
const ROOM = 64; // that a step at either end needs beside the one at which it began
const EACH = 8; // up to so many other ranks are drawn one by one

/**
 * A chart as a figure. `steps`, `lines` `[{name, values, blamed}]` with null for what was not
 * measured and words for what is not finite, `at` the step at which it began.
 */
export function smallChart({ title, help, unit, steps, lines, at, reduced }) {
  const blamed = lines.find((line) => line.blamed);
  const others = lines.filter((line) => !line.blamed);
  const y = scale(lines);
  const x = (column) => LEFT + ((WIDTH - 2 * LEFT) * (column + 0.5)) / Math.max(1, steps.length);
  const began = steps.findIndex((step) => step >= at);
  const place = { x, y, columns: steps.length };
  const many = others.length > EACH;
  const read = reading(steps, began, blamed, others, unit, reduced);
  const svg = drawing(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      class: "smallchart",
      role: "img",
      "aria-label": `${title}: ${read}`,
    },
    began >= 0 && marker(x(began), steps[began]),
    many ? spread(others, place) : others.map((line) => course(line, place, blamed ? "other" : "all")),
    blamed && course(blamed, place, "blamed"),
    drawing("text", { x: LEFT, y: TOP - 9, class: "axis" }, y.top === null ? "" : quantity(y.top, unit, 3)),
    drawing(
      "text",
      { x: LEFT, y: HEIGHT - BOTTOM - 2, class: "axis" },
      y.bottom === null ? "" : quantity(y.bottom, unit, 3),
    ),
    !(began >= 0 && x(began) < LEFT + ROOM) &&
      drawing("text", { x: LEFT, y: HEIGHT - 5, class: "axis" }, count(steps[0])),
    !(began >= 0 && x(began) > WIDTH - LEFT - ROOM) &&
      drawing("text", { x: WIDTH - LEFT, y: HEIGHT - 5, class: "axis end" }, count(steps.at(-1))),
  );
  return element(
    "figure",
    { class: "smallchart-figure" },
    element("figcaption", { title: help ?? "" }, element("strong", {}, title)),
    svg,
    element("p", { class: "smallchart-reading" }, read),
  );
}

/** What was measured when it began, in words. */
function reading(steps, began, blamed, others, unit, reduced) {
  if (began < 0) return "nothing was measured at that step";
  const at = (line) => quantity(line.values[began], unit, 3);
  const parts = [];
  if (blamed) parts.push(`${blamed.name}: ${at(blamed)}`);
  const values = others
    .map((line) => line.values[began])
    .filter((value) => value !== null && value !== undefined);
  const finite = values.filter((value) => typeof value === "number");
  if (others.length && !blamed && others.length === 1)
    parts.push(`${reduced ?? others[0].name}: ${at(others[0])}`);
  else if (finite.length) {
    const [low, high] = [Math.min(...finite), Math.max(...finite)].map((value) => quantity(value, unit, 3));
    const who = blamed
      ? others.length === 1
        ? others[0].name
        : `the other ${count(others.length)}`
      : plural(others.length, "rank");
    parts.push(`${who}: ${low === high ? low : `${low} to ${high}`}`);
  }
  if (finite.length < values.length && (blamed || others.length > 1))
    parts.push(`${plural(values.length - finite.length, "other")} not finite`);
  return `step ${count(steps[began])}: ${parts.join("; ") || "not measured"}`;
}

/** Finite values to heights: logarithmic where they are far apart. */
function scale(lines) {
  const values = lines.flatMap((line) => line.values).filter((value) => typeof value === "number");
  if (!values.length) return { of: () => HEIGHT / 2, top: null, bottom: null };
  let bottom = Math.min(...values);
  let top = Math.max(...values);
  const over = bottom > 0 && top / bottom > 100 ? Math.log10 : (value) => value;
  const flat = top === bottom;
  const [low, high] = flat ? [over(bottom) - 1, over(top) + 1] : [over(bottom), over(top)];
  const room = HEIGHT - TOP - BOTTOM - 12;
  const of = (value) => TOP + room - ((over(value) - low) / (high - low)) * room;
  if (flat) [bottom, top] = [null, top];
  return { of, top, bottom };
}

function marker(x, step) {
  return drawing(
    "g",
    { class: "began" },
    drawing("line", { x1: x, x2: x, y1: TOP - 6, y2: HEIGHT - BOTTOM }),
    drawing("text", { x: Math.max(28, Math.min(WIDTH - 28, x)), y: HEIGHT - 5 }, `step ${count(step)}`),
  );
}

function course({ values }, { x, y }, kind) {
  let path = "";
  let pen = false;
  const bad = [];
  const lone = [];
  values.forEach((value, column) => {
    const finite = typeof value === "number";
    if (finite) {
      path += `${pen ? "L" : "M"}${x(column).toFixed(1)} ${y.of(value).toFixed(1)}`;
      if (!pen && typeof values[column + 1] !== "number")
        lone.push(drawing("circle", { cx: x(column), cy: y.of(value), r: 2 }));
    } else if (value !== null && value !== undefined) bad.push(cross(x(column)));
    pen = finite;
  });
  return drawing("g", { class: `course ${kind}` }, path && drawing("path", { d: path }), lone, bad);
}

/** What is not finite has no height: a cross at the upper edge. */
function cross(x) {
  const [top, size] = [TOP - 2, 3];
  return drawing("path", {
    class: "bad",
    d: `M${x - size} ${top - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}`,
  });
}

/** Many ranks: from the least to the most of them. */
function spread(others, { x, y, columns }) {
  const up = [];
  const down = [];
  for (let column = 0; column < columns; column += 1) {
    const values = others.map((line) => line.values[column]).filter((value) => typeof value === "number");
    if (!values.length) continue;
    up.push(`${x(column)} ${y.of(Math.max(...values))}`);
    down.unshift(`${x(column)} ${y.of(Math.min(...values))}`);
  }
  return up.length > 0 && drawing("path", { class: "spread", d: `M${[...up, ...down].join("L")}Z` });
}
