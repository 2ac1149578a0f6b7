// All runs: how each is, and what went wrong first where something did.

import { element } from "./dom.js";
import { culprit, since, stateTag } from "./fault.js";
import { count, plural, quantity } from "./format.js";
import { runPath } from "./router.js";
import { sparkline } from "./sparkline.js";
import { ticking } from "./ticking.js";

const SHOWN = [
  ["loss", "loss", "1"],
  ["grad_norm", "gradient norm", "1"],
  ["tokens_per_second", "tokens", "1/s"],
  ["model_flops_utilization", "MFU", "%"],
  ["step_seconds", "step", "s"],
  ["device_memory_reserved_bytes", "memory", "B"],
];
const REFRESH = 2000; // ms, at most this often, while steps come in

/** Draw the overview. */
export async function show(root, context) {
  const list = element("ol", { class: "cards" });
  const filter = element("input", {
    type: "search",
    placeholder: "Filter runs",
    "aria-label": "Filter runs by name or state",
    dataset: { filter: "" },
  });
  const summary = element("p", { class: "muted" });
  const page = { context, list, filter, summary, runs: [], causes: new Map(), open: true };
  filter.addEventListener("input", () => draw(page));
  context.title("Runs");
  await refresh(page);
  root.append(
    element("div", { class: "page-head" }, element("h1", {}, "Runs"), summary, element("span", { class: "spacer" }), filter),
    list,
  );
  follow(page);
  return () => {
    page.open = false;
    clearTimeout(page.timer);
  };
}

async function refresh(page) {
  const runs = await page.context.api("/runs");
  await learnCauses(page, runs);
  if (!page.open) return;
  page.runs = runs;
  page.context.haveRuns(runs);
  draw(page);
}

async function learnCauses(page, runs) {
  const causes = new Map();
  const opened = runs.filter((run) => run.open_incident);
  await Promise.all(
    opened.map(async ({ open_incident: id }) => {
      try {
        causes.set(id, (await page.context.api(`/incidents/${encodeURIComponent(id)}`)).cause);
      } catch {
        // The card links to the incident all the same.
      }
    }),
  );
  page.causes = causes;
}

/** Ask again when something has happened, but not more often than is of use. */
function follow(page) {
  const again = (delay) => {
    if (page.timer) return;
    page.timer = setTimeout(async () => {
      await refresh(page).catch(() => {});
      page.timer = 0;
    }, delay);
  };
  let begun = false;
  page.context.live({
    open: () => (begun ? again(0) : (begun = true)),
    step: () => again(REFRESH),
    state: () => again(200),
    incident: () => again(200),
    alert: () => again(200),
  });
}

function draw(page) {
  const wanted = page.filter.value.trim().toLowerCase();
  const found = page.runs.filter(({ run, state }) => `${run} ${state}`.toLowerCase().includes(wanted));
  const open = page.runs.filter((run) => run.incidents.open > 0).length;
  page.summary.textContent = page.runs.length
    ? `${plural(page.runs.length, "run")}, ${open ? `${count(open)} with an open incident` : "none with an open incident"}`
    : "";
  page.filter.hidden = page.runs.length === 0;
  const focused = document.activeElement?.closest?.("[data-item]")?.dataset.item;
  page.list.replaceChildren(...(found.length ? found.map((run) => card(run, page.causes)) : [nothing(page, wanted)]));
  if (focused) [...page.list.querySelectorAll("[data-item]")].find((item) => item.dataset.item === focused)?.focus();
}

function nothing(page, wanted) {
  if (page.runs.length) return element("li", { class: "panel muted" }, `No run matches “${wanted}”.`);
  return element(
    "li",
    { class: "panel empty" },
    element("h2", {}, "No run has reported to this daemon yet"),
    element("p", {}, "Put one line into the training script, and start it where it finds this daemon:"),
    element("pre", {}, element("code", {}, "import sentinel\n\nwatch = sentinel.attach(engine)")),
    element("p", {}, "To see what it looks like first, break a small training on purpose: ", element("code", {}, "sentinel drill nan")),
  );
}

function card(run, causes) {
  return element(
    "li",
    { class: "panel card", dataset: { run: run.run } },
    element(
      "div",
      { class: "card-name" },
      element(
        "h2",
        {},
        element("a", { href: runPath(run.run), dataset: { item: run.run } }, run.run),
        " ",
        stateTag(run.state),
      ),
      element("p", { class: "muted" }, standing(run)),
    ),
    element("div", { class: "card-loss" }, sparkline(run.sparkline, "loss")),
    element("dl", { class: "card-facts" }, SHOWN.filter(([signal]) => run.latest[signal] !== undefined).map((fact) => latest(run, fact))),
    element("p", { class: "card-foot muted" }, incidents(run), " · ", coverage(run)),
    run.open_incident && culprit(run.open_incident, run.incidents.worst, causes.get(run.open_incident)),
  );
}

function standing(run) {
  const parts = [`step ${count(run.step)}`, plural(run.world_size, "rank")];
  return [parts.join(" · "), " · ", ticking(() => since(run))];
}

function latest(run, [signal, name, unit]) {
  return element("div", {}, element("dt", {}, name), element("dd", { dataset: { signal } }, quantity(run.latest[signal], unit)));
}

function incidents({ run, incidents: { open, total, worst } }) {
  if (!total) return "no incidents";
  const text = open ? `${count(open)} open of ${plural(total, "incident")}` : `${plural(total, "incident")}, none open`;
  const link = element("a", { href: `${runPath(run)}#incidents` }, text);
  return worst && open ? [link, " ", element("span", { class: "tag", dataset: { kind: worst } }, worst)] : link;
}

/** What there cannot be in such a run is left out: it would hide what is lacking. */
function coverage({ run, coverage: { measured, missing, not_applicable, blind_rules, rules_not_applicable } }) {
  const blind = blind_rules - rules_not_applicable;
  const text = `${plural(measured, "signal")} measured, ${count(missing - not_applicable)} missing`;
  return element("a", { href: runPath(run, "coverage") }, blind ? `${text}, ${plural(blind, "rule")} blind` : text);
}
