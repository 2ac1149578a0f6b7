// Tables of what is on record.

import { element } from "./dom.js";
import { moment } from "./format.js";

/** A table that scrolls by itself. `rows` are lists of cells, or `{cells, ...attributes}`. */
export function records(label, heads, rows) {
  const line = (row) => {
    const { cells, ...attributes } = Array.isArray(row) ? { cells: row } : row;
    return element(
      "tr",
      attributes,
      cells.map((cell) => (cell?.tagName === "TH" ? cell : element("td", {}, cell))),
    );
  };
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    element(
      "table",
      { class: "records" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          heads.map((head) => element("th", { scope: "col" }, head)),
        ),
      ),
      element("tbody", {}, rows.map(line)),
    ),
  );
}

/** A moment as an element; nothing where it is not known. */
export function time(at) {
  return at ? element("time", { datetime: at }, moment(at)) : "";
}
