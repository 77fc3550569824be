// The page of app.py: uploads one by one, then asks for scores, and decides in the browser while the threshold moves.
import { showCards, showThumbnails } from "./cards.js";
import "./decision.js";
import { $, complain, make, tried } from "./dom.js";
import "./roi.js";
import { announce, counted, digitsOf, isComparable, isStale, isUncalibrated, on, scored, state } from "./state.js";
import { open } from "./viewer.js";
import { download, enter, inTurn, learn, leave, scoreAll, takeAsReference, upload } from "./work.js";

on("change", () => {
  showReferences();
  showCalibration();
  showResults();
  showCards();
  if (!$("decision").hidden) announce("decision");
});

function showReferences() {
  showThumbnails("references");
  $("learn").disabled = state.references.length === 0 || state.busy > 0;
  $("draw-roi").disabled = $("learn").disabled;
  $("draw-roi").textContent = state.shapes.length ? `Region of interest (${counted(state.shapes.length, "shape")})` : "Region of interest";
  $("built-in").hidden = state.builtIn === 0;
  $("built-in").textContent = `It is fitted to ${counted(state.builtIn, "reference")} already; others take their place.`;
}
on("session", () => {
  const choices = [...$("rotations").options].map(option => option.value);
  if (!choices.includes(String(state.rotations)))
    $("rotations").append(make("option", { value: state.rotations, textContent: state.rotations }));
  $("rotations").value = state.rotations;
  $("fitted").textContent = state.fitted.length ? `Fitted to ${counted(state.fitted.length, "reference")}${rotated()}.` : "";
});
// What "auto" came to.
function rotated() {
  if (state.rotations !== "auto") return "";
  return state.rotated > 1 ? `, each in ${state.rotated} rotated copies` : ", not rotated";
}

function showCalibration() {
  showThumbnails("calibration");
  const given = state.calibrated.length, used = state.calibrationScores;
  $("calibrated").textContent = isUncalibrated() || !state.calibration.length || !given || given === used
    ? "" : `${used} of ${given} count; the others cannot be judged by the references.`;
}

function showResults() {
  const findings = scored();
  $("results").hidden = state.photographs.length === 0;
  state.digits = digitsOf([...findings.map(photo => photo.score), ...(state.threshold === null ? [] : [state.threshold.score])]);
  $("save-results").disabled = findings.length === 0;
  $("save-detector").disabled = !state.ready;
  $("decision").hidden = findings.length === 0 || state.threshold === null;
  $("compare").hidden = !isStale() || !isComparable() || findings.length === 0;
  $("sees").hidden = !state.compares || findings.length === 0;
  $("sees").textContent = "These scores see the test images: each one is compared with the others, and most of them must be normal."
    + (isStale() ? " What was taken out counts until all are compared again." : "")
    + (state.fewest.bulk && findings.length < state.fewest.bulk ? ` From ${state.fewest.bulk} on they give a threshold.` : "");
  $("drift").hidden = state.drift.length === 0;
  $("drift").replaceChildren(...state.drift.map(({ sentence, name }) => make("li", {}, `${sentence[0].toUpperCase()}${sentence.slice(1)}; see `,
    make("button", { className: "quiet", type: "button", textContent: name,
      onclick: () => open(state.photographs.find(photo => photo.name === name)?.number) }))));
}

for (const drop of document.querySelectorAll(".drop")) {
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    inTurn(() => upload(drop.dataset.kind, files));
  });
  for (const name of ["dragenter", "dragover"])
    drop.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    const files = [...event.dataTransfer.files];
    inTurn(() => upload(drop.dataset.kind, files));
  });
}
for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());    // a missed drop loads no file
$("compare").addEventListener("click", () => { complain(); inTurn(scoreAll); });
$("learn").addEventListener("click", () => { complain(); inTurn(learn); });
$("rotations").addEventListener("change", () => { if (state.references.length) inTurn(learn); });
for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", () => announce("change"));
for (const id of ["order", "show-contours"]) $(id).addEventListener("change", () => announce("change"));
$("viewer-normal").addEventListener("click", () => {
  const number = state.opened;
  $("viewer").close();
  complain();
  inTurn(() => takeAsReference(number));
});
$("leave").addEventListener("click", tried(leave));
for (const [id, path, name] of [["save-results", "results.zip", "fdsl-results.zip"],
  ["save-detector", "detector.safetensors", "detector.safetensors"]])
  $(id).addEventListener("click", tried(async () => {
    complain();
    const link = make("a", { href: URL.createObjectURL(await download(path)), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }));

inTurn(enter);
