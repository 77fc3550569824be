// A photograph or its heat map with the contours of its regions.
import { draw, make } from "./dom.js";
import { state, uploadUrl } from "./state.js";

const NUMBERED = 10;    // regions that have their number in the picture

export function picture(photo, mode, numbered = false) {
  const frame = make("div", { className: "picture" });
  frame.style.aspectRatio = `${photo.width} / ${photo.height}`;
  frame.style.setProperty("--ratio", photo.width / photo.height);
  frame.style[photo.width >= photo.height ? "width" : "height"] = "100%";
  frame.append(make("img", { src: `${uploadUrl(photo.number, mode)}?v=${state.version}`, loading: "lazy",
    alt: `${mode === "heat" ? "Heat map" : "Photograph"} of ${photo.name}` }));
  const overlay = draw("svg", { viewBox: `0 0 ${photo.width} ${photo.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  overlay.classList.add("contours");
  for (const region of photo.regions)
    overlay.append(draw("polygon", { points: region.outline.map(point => point.join()).join(" ") }));
  if (numbered && photo.regions.length > 1) {
    const size = Math.max(photo.width, photo.height) / 28;
    photo.regions.slice(0, NUMBERED).forEach((region, index) => overlay.append(draw("text", { x: region.x, "font-size": size,
      y: region.y > size * 1.2 ? region.y - size * .25 : region.y + region.height + size }, index + 1)));
  }
  frame.append(overlay);
  return frame;
}
