// The large view of one photograph.
import { $, make } from "./dom.js";
import { picture } from "./pictures.js";
import { isAnomalous, isJudged, on, ordered, photographed, scoreText, shortly, state, verdict } from "./state.js";

export function open(number) {
  state.opened = number;
  describe();
  if (!$("viewer").open) $("viewer").showModal();
}

function describe() {
  const photo = photographed(state.opened);
  if (!photo || photo.score === null) return $("viewer").close();
  const regions = state.threshold !== null && !isAnomalous(photo) ? [] : photo.regions;
  $("viewer-title").textContent = photo.name;
  $("viewer-normal").hidden = !state.takesReferences;
  const percentile = photo.normal_percentile;
  $("viewer-score").textContent = [`score ${scoreText(photo.score)}`,
    ...(percentile === null ? [] : [`higher than ${percentile > 99.9 ? "99.9" : Number(percentile.toPrecision(3))} % of normal images`]),
    ...(state.threshold === null ? [] : [`threshold ${scoreText(state.threshold.score)}`]),
    ...(isJudged(photo) ? [verdict(photo)] : []),
    `${photo.width} × ${photo.height} px`].join(" · ");
  const key = `${photo.number},${state.version}`;
  if ($("viewer-pictures").dataset.key !== key) {
    $("viewer-pictures").replaceChildren(picture(photo, "photo", true), picture(photo, "heat", true));
    $("viewer-pictures").dataset.key = key;
  }
  for (const overlay of $("viewer-pictures").querySelectorAll(".contours"))
    overlay.toggleAttribute("hidden", !$("show-contours").checked || regions.length === 0);
  const list = viewable(), place = list.findIndex(item => item.number === photo.number);
  $("viewer-previous").disabled = place <= 0;
  $("viewer-next").disabled = place === list.length - 1;
  $("viewer-regions").hidden = regions.length === 0 || !$("show-contours").checked;
  $("viewer-regions").tBodies[0].replaceChildren(...regions.map((region, index) => make("tr", {}, ...[index + 1,
    region.centroid.map(Math.round).join(", "), `${region.width} × ${region.height}`, region.area.toLocaleString("en"),
    `${Math.round(region.major_axis)} × ${Math.round(region.minor_axis)}`, `${Math.round(region.orientation)}°`,
    shortly(region.peak), shortly(region.mean)].map(text => make("td", { textContent: text })))));
}
on("decision", () => { if ($("viewer").open) describe(); });

const viewable = () => ordered().filter(photo => photo.score !== null);
function step(by) {
  const list = viewable(), place = list.findIndex(photo => photo.number === state.opened) + by;
  if (list[place]) open(list[place].number);
}

$("viewer-close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("click", event => { if (event.target === $("viewer")) $("viewer").close(); });
$("viewer-previous").addEventListener("click", () => step(-1));
$("viewer-next").addEventListener("click", () => step(1));
$("viewer").addEventListener("keydown", event => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
