// A heat map on its canvas: where everything is, and what it looks like.

import { count } from "./format.js";
import { NONFINITE } from "./palette.js";
import { fit, groups, thinned } from "./rowlabels.js";

const READABLE = 12; // px of a row that has a label of its own
const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const AXIS = 24; // px below the cells
const MARK = 16; // px above them

/** Where things are: `order` has the rows from top to bottom. */
export class Layout {
  constructor({ width, labels, order, columns, measure, ranks }) {
    this.labels = labels;
    this.order = order;
    this.columns = columns;
    this.ranks = ranks;
    this.rowHeight = heightOf(order.length);
    this.hasNames = this.rowHeight >= READABLE;
    const names = labels.map((label) => this._longest(label));
    const widest = Math.max(0, ...names.map(measure));
    this.gutter = Math.ceil(Math.min(widest + 32, Math.max(84, width * 0.34), 240));
    this.top = MARK;
    this.width = width;
    this.plotWidth = Math.max(40, width - this.gutter - 4);
    this.plotHeight = this.rowHeight * order.length;
    this.height = this.top + this.plotHeight + AXIS;
  }

  _longest(label) {
    return this.hasNames ? whole(shown(label, this.ranks)) : label.group || whole(shown(label, this.ranks));
  }

  /** The left edge of a column; of the one after the last, the right edge of the plot. */
  x(column) {
    return this.gutter + Math.round((this.plotWidth * column) / this.columns);
  }

  /** The upper edge of the row at this place from the top. */
  y(place) {
    return this.top + place * this.rowHeight;
  }

  /** The place from the top and the column under a point, or null. */
  at(x, y) {
    const column = Math.floor(((x - this.gutter) / this.plotWidth) * this.columns);
    const place = Math.floor((y - this.top) / this.rowHeight);
    const inside = column >= 0 && column < this.columns && place >= 0 && place < this.order.length;
    return inside ? { place, column } : null;
  }
}

function shown({ group, rest }, ranks) {
  return ranks ? { group: "", rest: `rank ${rest}` } : { group, rest };
}

function whole({ group, rest }) {
  return [group, rest].filter(Boolean).join(".");
}

function heightOf(rows) {
  if (rows <= 4) return 28;
  if (rows <= 16) return 20;
  if (rows <= 32) return 16;
  if (rows <= 48) return READABLE;
  return Math.max(3, Math.floor(560 / rows));
}

/** Draw it all. `colors` are the page's, `palette` 256 of the scale, `marked` the row and column. */
export function paint(pen, layout, grid, scale, { palette, colors, look, ratio, marked, cursor, sorted }) {
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, layout.width, layout.height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  ground(pen, layout, colors);
  cells(pen, layout, grid, scale, palette);
  broken(pen, layout, grid, look, ratio);
  if (layout.hasNames) rowNames(pen, layout, colors, marked, sorted);
  else groupNames(pen, layout, colors, marked, sorted);
  axis(pen, layout, grid, colors);
  if (marked.row >= 0 || marked.column >= 0) mark(pen, layout, colors, marked);
  if (cursor) outline(pen, layout, cursor.place, cursor.column, colors.text);
}

/** What shows where nothing was measured: the page's ground, dotted. */
function ground(pen, layout, colors) {
  pen.fillStyle = pattern(pen, 5, (dot) => {
    dot.fillStyle = colors.line;
    dot.fillRect(2, 2, 1, 1);
  });
  pen.fillRect(layout.gutter, layout.top, layout.plotWidth, layout.plotHeight);
}

function cells(pen, layout, grid, scale, palette) {
  const image = new ImageData(layout.columns, layout.order.length);
  layout.order.forEach((row, place) => {
    for (let column = 0; column < layout.columns; column += 1) {
      if (grid.state(row, column) !== "finite") continue;
      const [red, green, blue] = palette[Math.round(scale.place(row, column) * (palette.length - 1))];
      image.data.set([red, green, blue, 255], 4 * (place * layout.columns + column));
    }
  });
  const small = canvas(layout.columns, layout.order.length);
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, layout.gutter, layout.top, layout.plotWidth, layout.plotHeight);
}

function broken(pen, layout, grid, look, ratio) {
  pen.fillStyle = stripes(pen, look, ratio);
  layout.order.forEach((row, place) => {
    for (let column = 0; column < layout.columns; column += 1) {
      if (grid.state(row, column) !== "nonfinite") continue;
      const left = layout.x(column);
      pen.fillRect(left, layout.y(place), Math.max(2, layout.x(column + 1) - left), layout.rowHeight);
    }
  });
}

/** The pattern of what is not finite. */
export function stripes(pen, look, ratio) {
  const [color, stripe] = NONFINITE[look];
  const size = 6 * Math.max(1, Math.round(ratio));
  const made = pattern(pen, size, (tile) => {
    tile.fillStyle = color;
    tile.fillRect(0, 0, size, size);
    tile.strokeStyle = stripe;
    tile.lineWidth = size / 5;
    for (const from of [-size, 0, size]) {
      tile.beginPath();
      tile.moveTo(from - 1, size + 1);
      tile.lineTo(from + size + 1, -1);
      tile.stroke();
    }
  });
  made.setTransform(new DOMMatrix().scale(1 / Math.max(1, Math.round(ratio))));
  return made;
}

function pattern(pen, size, draw) {
  const tile = canvas(size, size);
  draw(tile.getContext("2d"));
  return pen.createPattern(tile, "repeat");
}

function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

function rowNames(pen, layout, colors, marked, sorted) {
  const measure = (text) => pen.measureText(text).width;
  let before = null;
  layout.order.forEach((row, place) => {
    const label = layout.labels[row];
    const own = row === marked.row;
    const y = layout.y(place) + layout.rowHeight / 2;
    const begins = label.group !== before;
    if (begins && place > 0 && !sorted && (label.group || before)) rule(pen, layout, colors, layout.y(place));
    before = label.group;
    pen.font = own ? `bold ${FONT}` : FONT;
    pen.fillStyle = own ? colors.critical : colors.text;
    pen.textAlign = "right";
    pen.fillText(fit(shown(label, layout.ranks), layout.gutter - 20, measure), layout.gutter - 8, y);
  });
  pen.font = FONT;
}

/** Rows too thin for names: a name for each block that has room, and always the marked row's. */
function groupNames(pen, layout, colors, marked, sorted) {
  const measure = (text) => pen.measureText(text).width;
  const items = [];
  const place = layout.order.indexOf(marked.row);
  if (place >= 0) {
    const label = shown(layout.labels[marked.row], layout.ranks);
    items.push({ at: layout.y(place) + layout.rowHeight / 2, label, own: true });
  }
  if (!sorted) {
    for (const { group, first, count: size } of groups(layout.labels)) {
      if (size > 1 && first > 0) rule(pen, layout, colors, layout.y(first));
      const label = shown({ group: "", rest: group }, layout.ranks);
      items.push({ at: layout.y(first) + (size * layout.rowHeight) / 2, label });
    }
  } else {
    layout.order.forEach((row, at) => {
      items.push({ at: layout.y(at) + layout.rowHeight / 2, label: shown(layout.labels[row], layout.ranks) });
    });
  }
  pen.textAlign = "right";
  for (const { at, label, own } of thinned(items, 13)) {
    pen.font = own ? `bold ${FONT}` : FONT;
    pen.fillStyle = own ? colors.critical : colors.text;
    pen.fillText(fit(label, layout.gutter - 20, measure), layout.gutter - 8, at);
  }
  pen.font = FONT;
}

function rule(pen, layout, colors, y) {
  pen.fillStyle = colors.line;
  pen.fillRect(0, y - 0.5, layout.gutter, 1);
}

function axis(pen, layout, grid, colors) {
  const y = layout.top + layout.plotHeight;
  const widest = pen.measureText(`step ${count(grid.steps.at(-1) ?? 0)}`).width;
  const every = Math.max(1, Math.ceil(((widest + 16) * layout.columns) / layout.plotWidth));
  for (let column = 0; column < layout.columns; column += every) {
    const middle = (layout.x(column) + layout.x(column + 1)) / 2;
    pen.fillStyle = colors.line;
    pen.fillRect(middle - 0.5, y + 1, 1, 4);
    pen.fillStyle = colors.muted;
    const text = column === 0 ? `step ${count(grid.steps[0])}` : count(grid.steps[column]);
    const half = pen.measureText(text).width / 2;
    pen.textAlign = "center";
    pen.fillText(text, Math.max(layout.gutter + half, Math.min(middle, layout.width - half - 1)), y + 14);
  }
}

/** The row that is to blame and the step at which it began. */
function mark(pen, layout, colors, { row, column }) {
  const place = layout.order.indexOf(row);
  pen.fillStyle = colors.critical;
  pen.strokeStyle = colors.critical;
  if (place >= 0) {
    const y = layout.y(place);
    triangle(pen, layout.gutter - 1, y + layout.rowHeight / 2, 0);
    pen.lineWidth = 1.5;
    pen.strokeRect(layout.gutter, y - 0.75, layout.plotWidth, layout.rowHeight + 1.5);
  }
  if (column >= 0) {
    const middle = (layout.x(column) + layout.x(column + 1)) / 2;
    triangle(pen, middle, layout.top - 1, Math.PI / 2);
    pen.lineWidth = 1;
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(layout.x(column) - 0.5, layout.top);
    pen.lineTo(layout.x(column) - 0.5, layout.top + layout.plotHeight);
    pen.stroke();
    pen.setLineDash([]);
  }
}

function triangle(pen, x, y, turn) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(turn);
  pen.beginPath();
  pen.moveTo(0, 0);
  pen.lineTo(-7, -4.5);
  pen.lineTo(-7, 4.5);
  pen.fill();
  pen.restore();
}

function outline(pen, layout, place, column, color) {
  const left = layout.x(column);
  const width = Math.max(3, layout.x(column + 1) - left);
  pen.lineWidth = 2;
  pen.strokeStyle = color;
  pen.strokeRect(left - 1, layout.y(place) - 1, width + 2, layout.rowHeight + 2);
}
