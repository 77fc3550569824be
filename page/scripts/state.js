// The session's state as page/session.py gives it, and what follows from it.
import { $ } from "./dom.js";

export const state = { base: "", references: [], calibration: [], calibrated: [], photographs: [], threshold: null, ready: false, rates: [],
  rate: null, builtIn: 0, fileBytes: 0, drift: [], shapes: [], digits: 4, fitted: [], rotations: 1, version: 0, busy: 0, opened: null,
  takesReferences: true, compares: false, compared: [], fewest: {} };

// Displays register what they do when the server has given the whole state, when anything in it has changed, or the threshold alone.
const actions = { session: [], change: [], decision: [] };
export const on = (what, action) => actions[what].push(action);
export const announce = what => actions[what].forEach(action => action());

export const photographed = number => state.photographs.find(photo => photo.number === number);
export const scored = () => state.photographs.filter(photo => photo.score !== null);
export const uploadUrl = (number, kind) => `${state.base}/uploads/${number}/${kind}.jpg`;

// Of methods that compare photographs with each other: whether others are here than were compared, and whether they can be.
const differ = (items, numbers) => items.length !== numbers.length || items.some(item => !numbers.includes(item.number));
export const isStale = () => state.compares && differ(state.photographs, state.compared);
export const isComparable = () =>
  state.photographs.length >= state.fewest.compared && (!state.takesReferences || state.references.length > 0);
// Whether other calibration images are here than the threshold is of.
export const isUncalibrated = () => state.ready && state.calibration.length > 0 && differ(state.calibration, state.calibrated);

export const isAnomalous = photo => photo.reason !== "" || (state.threshold !== null && photo.score >= state.threshold.score);
export const isJudged = photo => photo.reason !== "" || state.threshold !== null;
export const verdict = photo => !isAnomalous(photo) ? "normal" : photo.reason ? `anomalous: ${photo.reason}` : "anomalous";

export const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
// So many digits that nine in ten different scores read differently: saturated ones differ late.
export function digitsOf(values) {
  const different = [...new Set(values)];
  for (let digits = 4; digits < 9; digits++)
    if (new Set(different.map(value => value.toPrecision(digits))).size >= .9 * different.length) return digits;
  return 9;
}
export const scoreText = value => Number(value.toPrecision(state.digits)).toString();
export const shortly = value => Number(value.toPrecision(4)).toString();

export const mode = () => document.querySelector("input[name=mode]:checked").value;
export function ordered() {
  const list = [...state.photographs];
  if ($("order").value === "score") list.sort((a, b) => (b.score ?? -1) - (a.score ?? -1));
  return list;
}
