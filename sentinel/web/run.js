// A run: its charts as steps come in, what happened, heat maps, and orders to it.

import { Charts } from "./charts.js";
import { element } from "./dom.js";
import { culprit, firstFault, since, stateTag } from "./fault.js";
import { count, plural } from "./format.js";
import { incidentPath, runPath } from "./router.js";
import { ticking } from "./ticking.js";

const HEATMAPS = [
  {
    title: "Layers",
    rows: "label",
    choices: [
      { signal: "layer_grad_norm", rows: "label", title: "gradient norm" },
      { signal: "layer_update_ratio", rows: "label", title: "update ratio" },
    ],
  },
  {
    title: "Ranks",
    rows: "rank",
    choices: [
      { signal: "step_seconds", rows: "rank", title: "step time" },
      { signal: "exposed_communication_seconds", rows: "rank", title: "wait in collectives" },
    ],
  },
];

/** Draw the page of a run. */
export async function show(root, context) {
  const { run } = context.parameters;
  const path = runPath(run);
  context.title(run);
  const page = {
    run,
    path,
    context,
    head: element("div", { class: "run-head" }),
    incidents: element("section", { class: "panel", id: "incidents", "aria-labelledby": "incidents-title" }),
    open: element("div", { hidden: true }),
    orders: element("div", {}),
    maps: element("div", { class: "maps" }),
    ends: [],
  };
  page.charts = new Charts(context, run, { onView: () => viewChanged(page) });
  root.append(page.head, page.open, page.orders, page.charts.root, page.incidents, page.maps);
  const known = context.api(`/runs/${encodeURIComponent(run)}`).then((found) => showHead(page, found));
  await Promise.all([known, page.charts.begin()]);
  follow(page);
  drawRest(page).catch((error) => page.ended || context.notice(error.message));
  return () => {
    page.ended = true;
    page.charts.end();
    clearTimeout(page.timer);
    page.ends.forEach((end) => end());
  };
}

/** What can wait until the charts are drawn: its modules are asked for only then. */
async function drawRest(page) {
  await showIncidents(page);
  const [{ heatmap }, orders] = await Promise.all([import("./heatmap.js"), import("./orders.js")]);
  if (page.ended) return;
  drawMaps(page, heatmap);
  await offerOrders(page, orders);
}

function showHead(page, known) {
  page.known = known;
  const { run, context } = page;
  const links = [
    ["Coverage", runPath(run, "coverage")],
    ["Record", runPath(run, "audit")],
    ["Incidents", "#incidents"],
  ];
  page.charts.isOver = known.ended !== null;
  page.step = element("span", { class: "run-step" }, count(known.step));
  page.head.replaceChildren(
    element("h1", {}, run, " ", stateTag(known.state)),
    element("p", { class: "muted run-facts" }, "step ", page.step, ` · ${plural(known.world_size, "rank")} · `, ticking(() => since(known))),
    element(
      "nav",
      { class: "run-links", "aria-label": "Of this run" },
      links.map(([name, href]) => element("a", { href }, name)),
      element("button", { type: "button", class: "link", onclick: () => page.charts.save().catch((error) => context.notice(error.message)) }, "JSON"),
    ),
    known.command && element("p", { class: "muted run-command" }, element("code", {}, known.command)),
  );
  [...page.head.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).forEach((node) => node.remove());
}

/** What happens to the run is shown as it happens. */
function follow(page) {
  const { context, run } = page;
  const again = (event) => {
    if (event.run !== undefined && event.run !== run) return;
    clearTimeout(page.timer);
    page.timer = setTimeout(() => refresh(page).catch(() => {}), 100);
  };
  context.live({
    open: again,
    step: (event) => {
      if (event.run === run) page.step.textContent = count(event.step);
    },
    state: again,
    incident: again,
    action: again,
  });
}

async function refresh(page) {
  const known = await page.context.api(`/runs/${encodeURIComponent(page.run)}`);
  if (page.ended) return;
  showHead(page, known);
  await Promise.all([showIncidents(page), showOrders(page), page.charts.refreshMarks()]);
}

async function showIncidents(page) {
  const found = await page.context.api(`/incidents?run=${encodeURIComponent(page.run)}`);
  if (page.ended) return;
  const newest = [...found].reverse();
  const open = newest.find(({ state }) => state === "open");
  page.cause = open?.cause;
  page.open.hidden = !open;
  page.open.replaceChildren(...(open ? [culprit(open.id, open.severity, open.cause)] : []));
  page.incidents.replaceChildren(
    element("h2", { id: "incidents-title" }, "Incidents"),
    newest.length
      ? element("ol", { class: "incident-list" }, newest.map(incidentRow))
      : element("p", { class: "muted" }, "None so far."),
  );
}

function incidentRow({ id, state, severity, cause }) {
  return element(
    "li",
    {},
    element(
      "a",
      { href: incidentPath(id), dataset: { item: id } },
      element("span", { class: "tag", dataset: { kind: state === "open" ? severity : "past" } }, state === "open" ? severity : `${severity}, ${state}`),
      " ",
      element("span", { class: "incident-line" }, firstFault(cause)),
    ),
  );
}

/** For operators, buttons; for viewers, why there are none. */
async function offerOrders(page, { lookOnly, orderButtons }) {
  const { context, run } = page;
  if (context.role === "viewer") {
    page.orders.replaceChildren(lookOnly(context));
    return;
  }
  page.buttons = orderButtons(page.orders, context, { run, onDone: () => refresh(page).catch(() => {}) });
  page.ends.push(() => page.buttons.end());
  await showOrders(page);
}

async function showOrders(page) {
  if (!page.buttons) return;
  const [status] = await page.context.api(`/status?run=${encodeURIComponent(page.run)}`);
  if (!page.ended && status) page.buttons.update(status);
}

/** A heat map of each kind that there is something to show of. */
function drawMaps(page, heatmap) {
  const has = (signal, rows) => page.charts.signals.some((one) => one.signal === signal && (rows === "label" || one.by_rank));
  const [from, to] = page.charts.asked();
  const highlight = page.cause && { row: page.cause.module, rank: page.cause.rank, step: page.cause.step };
  page.drawn = HEATMAPS.flatMap(({ title, rows, choices }) => {
    const offered = choices.filter(({ signal }) => has(signal, rows));
    if (!offered.length) return [];
    const section = element("section", { class: "panel map", "aria-label": `${title} by steps` }, element("h2", {}, `${title} by steps`));
    page.maps.append(section);
    const onPick = (step) => page.charts.moment(step);
    const map = heatmap(section, page.context, { run: page.run, signal: offered[0].signal, rows, from, to, choices: offered, title, highlight, onPick });
    page.ends.push(() => map.end());
    return [map];
  });
}

function viewChanged(page) {
  const [from, to] = page.charts.asked();
  page.drawn?.forEach((map) => map.update({ from, to }));
}
