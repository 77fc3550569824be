// The findings as cards, and the thumbnails of normal images.
import { $, make } from "./dom.js";
import { picture } from "./pictures.js";
import { isAnomalous, isJudged, mode, on, ordered, scoreText, state, uploadUrl, verdict } from "./state.js";
import { open } from "./viewer.js";
import { forget, inTurn } from "./work.js";

const removal = (kind, item) => make("button", { className: "forget", type: "button", textContent: "×", ariaLabel: `Remove ${item.name}`,
  onclick: () => inTurn(() => forget(kind, item.number)) });

export function showThumbnails(kind) {
  const numbers = [...$(kind).children].map(node => Number(node.dataset.number));
  if (numbers.join() !== state[kind].map(item => item.number).join())
    $(kind).replaceChildren(...state[kind].map(item => thumbnail(kind, item)));
}
function thumbnail(kind, item) {
  const node = make("li", {}, make("img", { src: uploadUrl(item.number, "photo"), loading: "lazy", alt: item.name, title: item.name }),
    removal(kind, item));
  node.dataset.number = item.number;
  return node;
}

const cards = new Map();    // number -> its card, made anew only when the finding or the picture changes
function card(photo) {
  const key = [photo.score, state.digits, photo.reason, state.version, mode(), photo.failed, state.ready, JSON.stringify(photo.regions)].join();
  const made = cards.get(photo.number);
  if (made && made.key === key) return made.node;
  const node = make("li", { className: photo.score === null ? "card waiting" : "card" });
  node.dataset.number = photo.number;
  const frame = make("span", { className: "frame" });
  const words = photo.failed ? "could not be scored" : state.ready || !state.takesReferences ? "waiting" : "needs references";
  frame.append(photo.score !== null ? picture(photo, mode()) : mode() === "photo" ? picture(photo, "photo") : words);
  node.append(make("button", { className: "open", type: "button", disabled: photo.score === null,
    onclick: () => open(photo.number) }, frame, make("span", { className: "line" },
    make("span", { className: "score", textContent: photo.score === null ? "" : scoreText(photo.score) }),
    make("span", { className: "badge", hidden: true })), make("span", { className: "name", textContent: photo.name, title: photo.name })),
  removal("photographs", photo));
  cards.set(photo.number, { key, node });
  return node;
}

export function showCards() {
  const nodes = ordered().map(card), focused = document.activeElement;
  if (nodes.length !== $("cards").children.length || nodes.some((node, place) => $("cards").children[place] !== node))
    $("cards").replaceChildren(...nodes);
  if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  judge();
}
function judge() {
  for (const photo of state.photographs) {
    const node = cards.get(photo.number)?.node;
    if (!node || photo.score === null) continue;
    const badge = node.querySelector(".badge"), alarm = isAnomalous(photo);
    badge.hidden = !isJudged(photo);
    badge.textContent = verdict(photo);
    badge.classList.toggle("alarm", alarm);
    const overlay = node.querySelector(".contours");
    if (overlay) overlay.toggleAttribute("hidden", !$("show-contours").checked || (state.threshold !== null && !alarm));
  }
}
on("decision", judge);

$("viewer").addEventListener("close", () => cards.get(state.opened)?.node.querySelector(".open").focus());
