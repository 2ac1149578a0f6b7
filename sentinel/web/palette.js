// Colors for numbers, in steps that look equally far apart, also to people who are color-blind.
//
// Small to large: viridis (van der Walt and Smith, matplotlib, CC0), turned round on a light page so
// that what is large is what stands out. Less to more than usual: blue over the page's own ground to
// orange, mixed in OKLab (Ottosson 2020), where equal distances look equal.

const VIRIDIS = [
  [68, 1, 84],
  [72, 24, 106],
  [71, 45, 123],
  [66, 64, 134],
  [59, 82, 139],
  [51, 99, 141],
  [44, 114, 142],
  [38, 130, 142],
  [33, 145, 140],
  [31, 160, 136],
  [40, 174, 128],
  [63, 188, 115],
  [94, 201, 98],
  [132, 212, 75],
  [173, 220, 48],
  [216, 226, 25],
  [253, 231, 37],
];
// Lightness, and the two axes of color (green to red, blue to yellow).
const DIVERGING = {
  light: { less: [0.42, -0.04, -0.15], usual: [0.965, 0, 0.004], more: [0.48, 0.13, 0.11] },
  dark: { less: [0.76, -0.05, -0.12], usual: [0.27, 0, -0.01], more: [0.82, 0.08, 0.14] },
};
const LEVELS = 256;

/** Of what is not finite: in neither palette, and always with stripes over it. */
export const NONFINITE = { light: ["#d6009c", "#ffffff"], dark: ["#ff3dc8", "#16001a"] };

/** "light" or "dark": what the page looks like now. */
export function theme() {
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") return chosen;
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

/** Call `changed` whenever the page comes to look otherwise. Returns what ends that. */
export function onTheme(changed) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = new MutationObserver(changed);
  system.addEventListener("change", changed);
  chosen.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  return () => {
    system.removeEventListener("change", changed);
    chosen.disconnect();
  };
}

/** 256 colors, `[red, green, blue]` each, from the smallest to the largest. */
export function sequential(look) {
  const anchors = look === "dark" ? VIRIDIS : [...VIRIDIS].reverse();
  return levels((t) => {
    const at = t * (anchors.length - 1);
    const low = Math.min(Math.floor(at), anchors.length - 2);
    return mix(anchors[low], anchors[low + 1], at - low).map(Math.round);
  });
}

/** 256 colors, from the least through what is usual to the most. */
export function diverging(look) {
  const { less, usual, more } = DIVERGING[look];
  return levels((t) => {
    const distance = Math.abs(2 * t - 1);
    return toRgb(mix(usual, t < 0.5 ? less : more, distance));
  });
}

function levels(color) {
  return Array.from({ length: LEVELS }, (_, i) => color(i / (LEVELS - 1)));
}

function mix(from, to, part) {
  return from.map((value, i) => value + (to[i] - value) * part);
}

function toRgb([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const held = Math.min(1, Math.max(0, linear));
    return Math.round(255 * (held <= 0.0031308 ? 12.92 * held : 1.055 * held ** (1 / 2.4) - 0.055));
  });
}

/** Those of the page that a heat map is drawn with. */
export function pageColors() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { text: of("text"), muted: of("muted"), line: of("line"), critical: of("critical") };
}
