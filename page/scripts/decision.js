// The scores as dots, the threshold, and where it comes from.
import { $, draw, make, tried } from "./dom.js";
import { isAnomalous, on, scored, scoreText, shortly, state } from "./state.js";
import { chooseRate, moveThreshold } from "./threshold.js";
import { open } from "./viewer.js";

// Of the scores and the threshold that was calibrated: one set by hand moves within it, so that the plot stands still meanwhile.
function range() {
  const values = [...scored().map(photo => photo.score), state.anchor];
  const low = Math.min(...values), high = Math.max(...values), room = (high - low) * .06 || 1e-3;
  return [low - room, high + room];
}

export function showDecision() {
  if (state.rate !== null || state.anchor === undefined) state.anchor = state.threshold.score;
  const findings = scored(), [low, high] = range(), value = state.threshold.score;
  const anomalous = findings.filter(isAnomalous).length;
  $("threshold").step = 10 ** Math.floor(Math.log10((high - low) / 50));
  $("anomalous").textContent = `${anomalous} of ${findings.length} anomalous`;
  const slider = $("slider");
  if (document.activeElement !== slider || !slider.matches(":active")) {
    slider.min = low;
    slider.max = high;
  }
  slider.value = value;
  if (document.activeElement !== $("threshold")) $("threshold").value = scoreText(value);
  $("source").textContent = state.threshold.source;
  $("trust").textContent = state.trust;
  $("rate").parentElement.hidden = state.rates.length === 0;
  if ($("rate").options.length !== state.rates.length + 1) {
    const named = state.rates.map(rate => make("option", { value: rate, textContent: `about ${shortly(100 * rate)} %` }));
    $("rate").replaceChildren(make("option", { value: "", textContent: "none chosen", disabled: true }), ...named);
  }
  $("rate").value = state.rate === null ? "" : String(state.rate);
  showScores(findings, low, high, value);
}
on("decision", showDecision);

function showScores(findings, low, high, value) {
  const width = $("scores").clientWidth || 800, base = 64, x = score => 10 + (score - low) / (high - low) * (width - 20);
  const heights = new Map();    // dots of nearly the same score are stacked
  const dots = [...findings].sort((a, b) => a.score - b.score).map(photo => {
    const column = Math.round(x(photo.score) / 9), level = heights.get(column) || 0;
    heights.set(column, level + 1);
    const dot = draw("circle", { cx: x(photo.score), cy: base - 7 - Math.min(level, 6) * 9, r: 4 });
    dot.classList.toggle("alarm", isAnomalous(photo));
    dot.append(draw("title", {}, `${photo.name}: ${scoreText(photo.score)}`));
    dot.addEventListener("click", () => open(photo.number));
    return dot;
  });
  const place = x(Math.min(high, Math.max(low, value)));
  const cut = draw("line", { x1: place, x2: place, y1: 0, y2: base + 6, class: "cut" });
  $("scores").replaceChildren(draw("line", { x1: 10, x2: width - 10, y1: base, y2: base, class: "axis" }), ...dots, cut);
  $("lowest").textContent = scoreText(low);
  $("highest").textContent = scoreText(high);
}

$("slider").addEventListener("input", () => moveThreshold($("slider").valueAsNumber));
$("threshold").addEventListener("change", () => {
  moveThreshold($("threshold").valueAsNumber);
  if (!isFinite($("threshold").valueAsNumber)) $("threshold").value = scoreText(state.threshold.score);
});
$("rate").addEventListener("change", tried(async () => {
  if (!$("rate").value) return showDecision();
  await chooseRate(Number($("rate").value));
}));
addEventListener("resize", () => { if (!$("decision").hidden) showDecision(); });
