// Which charts a run's page has, of which signals, in which order.

export const POINTS = 600; // bins at most, of all that is in view
const MAX_LABELS = 6; // lines in one chart of a signal with labels
const MAX_LOGGED = 12; // charts of what the script logs

/**
 * A chart: `lines` are `[signal, name]` of signals without labels, `labeled` one signal that has a
 * line for each label. `unit` replaces the catalog's; `limits` are drawn as limits, not as lines;
 * `band` is the signal whose normal range is shaded.
 */
const CHARTS = [
  { id: "loss", band: "loss", title: "Loss", lines: [["loss", "loss"]] },
  { id: "grad-norm", band: "grad_norm", title: "Gradient norm", lines: [["grad_norm", "as the trainer says"], ["summed_grad_norm", "summed over shards"]] },
  { id: "update-norm", band: "update_norm", title: "Update norm", lines: [["update_norm", "of all parameters"]] },
  { id: "update-ratio", title: "Update ratio by layer", labeled: "layer_update_ratio" },
  { id: "lr", title: "Learning rate", lines: [["lr", "first group"]] },
  { id: "tokens", band: "tokens_per_second", title: "Throughput", lines: [["tokens_per_second", "tokens"]] },
  { id: "mfu", title: "Model FLOPs utilization", unit: "%", lines: [["model_flops_utilization", "of the device's peak"]] },
  { id: "step-time", band: "step_seconds", title: "Step time, slowest rank", lines: [["step_seconds", "step"]] },
  {
    id: "phases",
    title: "Phases of a step, slowest rank",
    lines: [
      ["forward_seconds", "forward"],
      ["backward_seconds", "backward"],
      ["optimizer_seconds", "optimizer"],
      ["data_seconds", "data"],
      ["exposed_communication_seconds", "communication"],
      ["checkpoint_seconds", "checkpoint"],
    ],
  },
  {
    id: "device-memory",
    title: "Device memory, fullest rank",
    lines: [["device_memory_reserved_bytes", "reserved"], ["device_memory_allocated_bytes", "allocated"], ["device_memory_limit_bytes", "limit"]],
    limits: ["device_memory_limit_bytes"],
  },
  {
    id: "host-memory",
    title: "Host memory, fullest",
    lines: [["host_memory_used_bytes", "in use"], ["host_memory_process_bytes", "the rank's process"], ["host_memory_limit_bytes", "limit"]],
    limits: ["host_memory_limit_bytes"],
  },
  { id: "collectives", title: "Collective times, slowest rank", labeled: "collective_seconds" },
  { id: "waits", title: "Wait in collectives, longest", labeled: "collective_wait_seconds" },
  { id: "loss-scale", title: "Loss scale", lines: [["loss_scale", "factor"]] },
  { id: "experts", title: "Expert imbalance by layer", labeled: "expert_imbalance", group: "Experts" },
  { id: "dropped-tokens", title: "Tokens dropped by experts", labeled: "expert_dropped_tokens", group: "Experts" },
  { id: "gpu-utilization", title: "GPU utilization, highest", unit: "%", lines: [["gpu_utilization", "kernels"], ["gpu_memory_utilization", "memory"]], group: "Hardware" },
  { id: "gpu-temperature", title: "GPU temperature, highest", lines: [["gpu_temperature_celsius", "GPU"], ["gpu_memory_temperature_celsius", "memory"]], group: "Hardware" },
  { id: "gpu-power", title: "GPU power, highest", lines: [["gpu_power_watts", "drawn"], ["gpu_power_limit_watts", "limit"]], limits: ["gpu_power_limit_watts"], group: "Hardware" },
  { id: "gpu-clock", title: "GPU clock, highest", lines: [["gpu_clock_hertz", "multiprocessors"]], group: "Hardware" },
];

/** What is asked for at once, before it is known what the run has: signals without labels. */
export const FIRST = {
  signals: CHARTS.filter((chart) => chart.lines && !chart.group).flatMap((chart) => chart.lines.map(([signal]) => signal)),
  labels: [],
  band: false,
};

/**
 * The charts that there is something to draw in, by the answer of /signals; and the titles of those
 * that there is nothing for.
 */
export function chartsOf(signals) {
  const known = new Map(signals.map((one) => [one.signal, one]));
  const drawn = [];
  const missing = [];
  for (const chart of CHARTS) {
    const found = withLines(chart, known);
    if (found.lines.some(([signal]) => !chart.limits?.includes(signal))) drawn.push(found);
    else missing.push(chart.title);
  }
  return { drawn: [...drawn, ...logged(known)], missing };
}

/** With the lines that there are. `ofMost` are those signals whose value is that of the rank that has most. */
function withLines(given, known) {
  const named = given.labeled ? [given.labeled] : given.lines.map(([signal]) => signal);
  const chart = { ...given, ofMost: named.filter((signal) => known.get(signal)?.reduction === "max") };
  const unit = (signal) => chart.unit ?? known.get(signal)?.unit ?? "1";
  if (!chart.labeled) {
    const lines = chart.lines.filter(([signal]) => known.has(signal)).map(([signal, name]) => [signal, "", name]);
    return { ...chart, lines, unit: lines.length ? unit(lines[0][0]) : "1" };
  }
  const labels = known.get(chart.labeled)?.labels ?? [];
  const picked = spread(labels, MAX_LABELS);
  const more = labels.length - picked.length;
  return {
    ...chart,
    lines: picked.map((label) => [chart.labeled, label, label]),
    unit: unit(chart.labeled),
    note: more > 0 ? `${picked.length} of ${labels.length}, spread over the model; all of them are in the heat map` : "",
  };
}

/** As many as fit, first and last among them. */
function spread(labels, most) {
  if (labels.length <= most) return labels;
  return Array.from({ length: most }, (_, i) => labels[Math.round((i * (labels.length - 1)) / (most - 1))]);
}

function logged(known) {
  const names = known.get("logged")?.labels ?? [];
  return names.slice(0, MAX_LOGGED).map((name) => ({
    id: `logged-${name}`,
    title: name,
    lines: [["logged", name, "logged by the script"]],
    unit: "1",
    ofMost: [],
  }));
}

/**
 * The series of these charts in as few questions as can be: `[{signals, labels, band}]`. Normal
 * ranges (`bands`) are dear to work out over a long run, so that they can be asked for by themselves.
 */
export function questions(charts, bands) {
  const banded = new Set(bands ? bandsOf(charts) : []);
  const plain = new Set();
  const labeled = new Map();
  for (const [signal, label] of charts.flatMap((chart) => chart.lines)) {
    if (label !== "") labeled.set(signal, [...(labeled.get(signal) ?? []), label]);
    else if (!banded.has(signal)) plain.add(signal);
  }
  return [
    { signals: [...plain], labels: [], band: false },
    { signals: [...banded], labels: [], band: true },
    ...[...labeled].map(([signal, labels]) => ({ signals: [signal], labels, band: false })),
  ].filter(({ signals }) => signals.length);
}

/** The path of one of these questions about a run: from which step to which (undefined: all), in how many points. */
export function seriesPath(run, { signals, labels, band }, { from, to, points = POINTS }) {
  const query = new URLSearchParams({ points: String(points) });
  if (band) query.set("band", "1");
  signals.forEach((signal) => query.append("signal", signal));
  labels.forEach((label) => query.append("label", label));
  if (from !== undefined) query.set("from", String(from));
  if (to !== undefined) query.set("to", String(to));
  return `/runs/${encodeURIComponent(run)}/series?${query}`;
}

/** The signals whose normal range is shaded. */
export function bandsOf(charts) {
  return charts.filter((chart) => chart.lines.some(([signal]) => signal === chart.band)).map((chart) => chart.band);
}
