// Where the time of a search went, as a bar and as figures.

import { element, refill } from "./dom.js";

const NAMES = { detector: "find regions (first trip)", decode: "decode", detect: "detect", crop: "crop", embed: "embed", describe: "describe", lookup: "look up", network: "network and server" };

// `timings` are the service's own (`timings_ms`), `outsideMs` what this page waited, `detectorMs` the trip before it.
export function showTiming(section, timings, outsideMs, detectorMs) {
  const stages = Object.entries(timings).filter(([name]) => name !== "total");
  const parts = [["detector", detectorMs], ...stages, ["network", Math.max(0, outsideMs - (timings.total ?? 0))]].filter(([, ms]) => ms > 0);
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  const bar = parts.map(([, ms], i) => {
    const part = element("span", { className: `part-${i % 8}` });
    part.style.width = `${(100 * ms) / total}%`;
    return part;
  });
  const figures = parts.map(([name, ms], i) => figure(NAMES[name] ?? name, ms, element("span", { className: `swatch part-${i % 8}` })));
  refill(section.querySelector(".bar"), bar);
  refill(section.querySelector("dl"), [...figures, figure("in all", total, null)]);
  section.hidden = false;
}

function figure(name, ms, swatch) {
  return element("div", {}, element("dt", {}, swatch, swatch ? " " : null, name), element("dd", {}, `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`));
}
