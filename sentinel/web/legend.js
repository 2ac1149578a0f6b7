// What the colors of a heat map mean, with units.

import { element } from "./dom.js";
import { quantity } from "./format.js";
import { stripes } from "./heatpaint.js";

const WIDTH = 240;
const BAR = 10;
const MARGIN = 24; // for what the first and the last tick say

/** The bar of colors with its ticks, and the two cells that have no place on it. */
export function legend(scale, { palette, colors, look, ratio, unit, missing }) {
  const bar = canvas(WIDTH + 2 * MARGIN, 30, ratio, (pen) => {
    palette.forEach(([red, green, blue], i) => {
      pen.fillStyle = `rgb(${red} ${green} ${blue})`;
      pen.fillRect(MARGIN + (WIDTH * i) / palette.length, 0, WIDTH / palette.length + 1, BAR);
    });
    pen.font = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "top";
    let free = -Infinity;
    for (const tick of scale.ticks) {
      const text = tick.times === undefined ? quantity(tick.value, unit, 3) : timesText(tick.times);
      const x = MARGIN + WIDTH * tick.at;
      const half = pen.measureText(text).width / 2;
      const middle = Math.max(half, Math.min(WIDTH + 2 * MARGIN - half, x));
      pen.fillStyle = colors.line;
      pen.fillRect(x - 0.5, BAR, 1, 4);
      if (middle - half < free) continue;
      pen.fillStyle = colors.muted;
      pen.fillText(text, middle, BAR + 6);
      free = middle + half + 6;
    }
  });
  const what = scale.kind === "diverging" ? "usual" : "";
  bar.setAttribute("role", "img");
  bar.setAttribute(
    "aria-label",
    what ? "Colors: from less than usual to more than usual" : "Colors: from small to large",
  );
  return [
    bar,
    key("not finite (NaN, Infinity)", ratio, (pen) => {
      pen.fillStyle = stripes(pen, look, ratio);
      pen.fillRect(0, 0, 18, 12);
    }),
    missing &&
      key("not measured", ratio, (pen) => {
        pen.fillStyle = colors.line;
        for (let x = 2; x < 18; x += 5) for (let y = 2; y < 12; y += 5) pen.fillRect(x, y, 1, 1);
        pen.strokeStyle = colors.line;
        pen.strokeRect(0.5, 0.5, 17, 11);
      }),
  ].filter(Boolean);
}

function key(text, ratio, draw) {
  return element("span", { class: "heatmap-key" }, canvas(18, 12, ratio, draw), text);
}

function canvas(width, height, ratio, draw) {
  const made = element("canvas", { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  made.style.width = `${width}px`;
  made.style.height = `${height}px`;
  const pen = made.getContext("2d");
  pen.scale(ratio, ratio);
  draw(pen);
  return made;
}

function timesText(times) {
  if (times === 1) return "usual";
  return times > 1 ? `×${times}` : `÷${1 / times}`;
}
