// The threshold: the browser decides at once; the server, which makes the downloads, gets the last change, one request at a time.
import { tried } from "./dom.js";
import { askJson } from "./server.js";
import { announce, photographed, state } from "./state.js";

let settling, pending = null, sending = Promise.resolve();

export function moveThreshold(score) {
  if (!isFinite(score) || state.threshold === null) return;
  Object.assign(state, { threshold: { ...state.threshold, score, source: "set by hand" }, rate: null, trust: "" });
  announce("decision");
  pending = { score };
  clearTimeout(settling);
  settling = setTimeout(tried(flush), 250);
}
export function chooseRate(rate) {
  pending = { rate };
  return flush();
}
export function flush() {
  clearTimeout(settling);
  return sending = sending.catch(() => {}).then(async () => {
    while (pending) {
      const asked = pending;
      pending = null;
      const answer = await askJson("PUT", `${state.base}/threshold`, asked);
      if (pending) continue;
      if (answer.threshold?.pixel_threshold !== state.threshold?.pixel_threshold) state.version++;    // heat and contours follow the pixel threshold
      Object.assign(state, { threshold: answer.threshold, rate: answer.rate, trust: answer.trust });
      for (const row of answer.photographs) Object.assign(photographed(row.number) ?? {}, row);
      announce("change");
    }
  });
}
