// Numbers, units and times as people read them. What was not measured is a dash, never 0.

const MISSING = "–";
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL = ["", "k", "M", "G", "T", "P"];

/** 12,345: a step, or any other count. (Intl.NumberFormat takes longer to make than all else here.) */
export function count(value) {
  if (value === null || value === undefined) return MISSING;
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 run", "2 runs". */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** A value in its unit, to `digits` significant digits: "1.25 ms", "3.4 GiB", "NaN", "–". */
export function quantity(value, unit = "1", digits = 4) {
  if (value === null || value === undefined) return MISSING;
  if (typeof value === "string" || !Number.isFinite(value)) return String(value);
  switch (unit) {
    case "s":
      return seconds(value, digits);
    case "B":
      return scaled(value, 1024, BINARY, "", digits);
    case "B/s":
      return scaled(value, 1024, BINARY, "/s", digits);
    case "1/s":
      return scaled(value, 1000, DECIMAL, "/s", digits);
    case "Hz":
      return scaled(value, 1000, DECIMAL, "Hz", digits);
    case "W":
      return scaled(value, 1000, DECIMAL, "W", digits);
    case "C":
      return `${plain(value, digits)} °C`;
    case "%":
      return `${plain(value * 100, digits)} %`;
    case "1":
      return plain(value, digits);
    default:
      return `${plain(value, digits)} ${unit}`;
  }
}

function plain(value, digits) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return trimmed(value.toExponential(Math.min(digits, 4) - 1));
  if (size >= 10 ** digits) return count(value);
  return trimmed(value.toPrecision(digits));
}

function trimmed(text) {
  const [mantissa, exponent] = text.split("e");
  const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  return exponent === undefined ? short : `${short}e${exponent.replace("+", "")}`;
}

function scaled(value, base, names, suffix, digits) {
  let power = 0;
  let rest = value;
  while (Math.abs(rest) >= base && power < names.length - 1) {
    rest /= base;
    power += 1;
  }
  return `${plain(rest, digits)} ${names[power]}${suffix}`;
}

function seconds(value, digits) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return `${trimmed((value * 1e6).toPrecision(digits))} µs`;
  if (size < 1) return `${trimmed((value * 1e3).toPrecision(digits))} ms`;
  if (size < 120) return `${trimmed(value.toPrecision(digits))} s`;
  return duration(value);
}

/** How long: "45 s", "12 min 5 s", "3 h 20 min", "2 d 4 h". */
export function duration(value) {
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const [days, hours, minutes] = [whole / 86400, (whole % 86400) / 3600, (whole % 3600) / 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return `${minutes} min ${whole % 60} s`;
}

/** How long ago an ISO time is: "12 min ago". */
export function ago(iso) {
  const elapsed = (Date.now() - Date.parse(iso)) / 1000;
  if (elapsed < 1) return "just now";
  return `${elapsed < 60 ? duration(elapsed) : duration(elapsed).split(" ").slice(0, 2).join(" ")} ago`;
}

/** An ISO time, or seconds since 1970, here: "2026-05-04 13:05:09". */
export function moment(at) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** The same to the millisecond, with the zone of the clock: "2026-05-04 13:05:09.120 GMT+2". */
export function instant(iso) {
  const date = new Date(iso);
  const zone = new Intl.DateTimeFormat("en-US", { timeZoneName: "short" }).formatToParts(date);
  const named = zone.find(({ type }) => type === "timeZoneName")?.value ?? "";
  return `${moment(iso)}.${String(date.getMilliseconds()).padStart(3, "0")} ${named}`.trim();
}

/** When it is, shortly: "13:05", and the day too where that is another one than today. */
export function timeOfDay(iso) {
  const said = moment(iso);
  return said.slice(0, 10) === moment(Date.now() / 1000).slice(0, 10) ? said.slice(11, 16) : said.slice(0, 16);
}

/** A signal's name for people: "grad_norm" is "grad norm". */
export function words(name) {
  return name.replaceAll("_", " ");
}
