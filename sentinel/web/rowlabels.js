// Names of modules beside a heat map: short enough to be read, and grouped where rows are thin.

/**
 * The parts of each name: `group` is what a block of the model has in common ("layers.11"), `rest`
 * what is left of it. What all names begin with is left out of both.
 */
export function parts(names) {
  const split = names.map((name) => name.split("."));
  let shared = 0;
  const limit = Math.min(...split.map((one) => one.length - 1));
  while (shared < limit && split.every((one) => one[shared] === split[0][shared])) shared += 1;
  if (names.length < 2 || (shared > 0 && /^\d+$/.test(split[0][shared] ?? ""))) shared = 0;
  return split.map((one) => {
    const left = one.slice(shared);
    const numbered = left.findIndex((part) => /^\d+$/.test(part));
    const cut = numbered < 0 ? 0 : numbered + 1;
    return { group: left.slice(0, cut).join("."), rest: left.slice(cut).join(".") };
  });
}

/** Rows that follow each other in one group: `{group, first, count}`. */
export function groups(labels) {
  const found = [];
  labels.forEach(({ group, rest }, row) => {
    const name = group || rest;
    const last = found.at(-1);
    if (last && group && last.group === name) last.count += 1;
    else found.push({ group: name, first: row, count: 1 });
  });
  return found;
}

/** A row's name, as much of it as is so wide: the block's number and the end go last. */
export function fit({ group, rest }, width, measure) {
  const number = group.split(".").at(-1);
  const end = rest.split(".").at(-1);
  const forms = [
    [group, rest],
    [number, rest],
    [number, end],
  ].map((parts) => parts.filter(Boolean).join("."));
  return forms.find((form) => measure(form) <= width) ?? cut(number, end || group, width, measure);
}

function cut(number, text, width, measure) {
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (measure(`${number}…${text.slice(middle)}`) <= width) high = middle;
    else low = middle + 1;
  }
  return `${number}…${text.slice(low)}`;
}

/** Of these `{at, ...}` in pixels as many as stand at least `apart`, the first ones first. */
export function thinned(items, apart) {
  const kept = [];
  for (const item of items) {
    if (kept.every((one) => Math.abs(one.at - item.at) >= apart)) kept.push(item);
  }
  return kept;
}
