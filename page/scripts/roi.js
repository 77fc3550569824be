// The region of interest, drawn over the first reference; points are shares of its width and height.
import { $, complain, draw } from "./dom.js";
import { picture } from "./pictures.js";
import { state } from "./state.js";
import { inTurn, learn } from "./work.js";

const NEAR = .025;    // so close to its first corner a polygon is closed, and a shorter drag is a click
const drawing = { shapes: [], corners: [], from: null, to: null };
const far = (a, b) => Math.max(Math.abs(a[0] - b[0]), Math.abs(a[1] - b[1])) > NEAR;
const rectangle = ([x, y], [u, v]) => [[x, y], [u, y], [u, v], [x, v]];
const ignored = () => document.querySelector("input[name=roi-kind]:checked").value === "ignored";

function openRoi() {
  Object.assign(drawing, { shapes: [...state.shapes], corners: [], from: null, to: null });
  const frame = picture({ ...state.references[0], regions: [] }, "photo"), overlay = frame.querySelector("svg");
  frame.querySelector("img").draggable = false;
  overlay.setAttribute("viewBox", "0 0 1 1");
  const place = event => {
    const box = frame.getBoundingClientRect(), share = (value, start, size) => Math.min(1, Math.max(0, (value - start) / size));
    return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
  };
  frame.addEventListener("pointerdown", event => {
    drawing.from = drawing.to = place(event);
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", event => {
    if (!drawing.from) return;
    drawing.to = place(event);
    showRoi();
  });
  frame.addEventListener("pointerup", event => {
    if (!drawing.from) return;
    const from = drawing.from, to = place(event), corners = drawing.corners;
    drawing.from = null;
    if (far(from, to)) addShape(rectangle(from, to));
    else if (corners.length > 2 && !far(corners[0], to)) addShape(corners);
    else corners.push(to);
    showRoi();
  });
  $("roi-picture").replaceChildren(frame);
  showRoi();
  $("roi").showModal();
}
function addShape(points) {
  drawing.shapes.push({ points, ignored: ignored() });
  drawing.corners = [];
}
function showRoi() {
  const joined = points => points.map(point => point.join()).join(" "), { shapes, corners, from, to } = drawing;
  const dragged = from && far(from, to) ? [{ points: rectangle(from, to), ignored: ignored() }] : [];
  $("roi-picture").querySelector("svg").replaceChildren(
    ...[...shapes, ...dragged].map(shape => draw("polygon", { points: joined(shape.points), class: shape.ignored ? "ignored" : "" })),
    draw("polyline", { points: joined(corners.length === 1 ? [corners[0], [corners[0][0] + .01, corners[0][1]]] : corners) }));
  $("roi-undo").disabled = shapes.length + corners.length === 0;
  $("roi-apply").disabled = corners.length > 0;
}

$("draw-roi").addEventListener("click", openRoi);
$("roi-close").addEventListener("click", () => $("roi").close());
$("roi-undo").addEventListener("click", () => {
  (drawing.corners.length ? drawing.corners : drawing.shapes).pop();
  showRoi();
});
$("roi-apply").addEventListener("click", () => {
  $("roi").close();
  complain();
  inTurn(async () => {
    state.shapes = drawing.shapes;
    await learn();
  });
});
