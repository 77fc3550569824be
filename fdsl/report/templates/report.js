"use strict";
(() => {
  const PAGE = 60;
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = id => document.getElementById(id);
  const sections = [...document.querySelectorAll("section.category")];
  const state = { category: -1, list: [], place: 0, page: 0, thresholds: [], mode: 0 };
  const categories = data.categories.map((item, index) => {
    const slider = sections[index].querySelector("input.threshold");
    const scores = item.scores;
    const start = item.threshold === null ? Number(slider.max) : item.threshold;
    state.thresholds.push(start);
    const ranked = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
    return { ...item, scores, ranked, start, slider, section: sections[index],
      low: Number(slider.min), high: Number(slider.max) };
  });
  const current = () => categories[state.category];
  const threshold = () => state.thresholds[state.category];

  function make(tag, properties, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  // ---- what the threshold makes of an image
  // Photographs of an evaluation have labels; of those of an inspection some have a reason to be anomalous whatever their score.
  const alarm = (item, index, at) => Boolean(item.reasons?.[index]) || item.scores[index] >= at;
  const flipped = (item, index) => alarm(item, index, threshold()) !== alarm(item, index, item.start);
  const labelOf = (item, index) => item.labels && (item.labels[index] ? "defect" : "normal");
  function verdict(item, index) {
    const raised = alarm(item, index, threshold());
    if (!item.labels) return raised ? "anomalous" : "normal";
    if (item.labels[index]) return raised ? "detected" : "missed";
    return raised ? "false alarm" : "passed";
  }
  function badges(item, index, right) {
    const text = verdict(item, index), wrong = ["missed", "false alarm", "anomalous"].includes(text);
    const list = [];
    if (wrong || right) list.push(make("span", { className: wrong ? "badge wrong" : "badge", textContent: text }));
    if (flipped(item, index)) list.push(make("span", { className: "badge flip", textContent: "flipped" }));
    return list;
  }
  // The defect's name, or why a photograph cannot be judged.
  const remark = (item, index) => !item.labels ? item.reasons[index] : item.labels[index] ? item.defects[index] : "normal";
  const scoreText = (score, item) => Number(score.toPrecision(item.digits)).toString();

  // ---- pictures: one file holds the panels side by side, and one of them is let through
  const many = data.panels.length;
  function crop(item, index, mode, large, strip = large || !item.thumbnails) {
    const [height, width] = item.sizes[index], file = (strip ? item.pictures : item.thumbnails)[index];
    if (!file) return large && item.thumbnails ? crop(item, index, mode, large, false)
      : make("span", { className: "crop none", textContent: "no picture" });
    const gap = strip ? data.gap : 0, total = many * width + (many - 1) * gap;
    const image = make("img", { alt: "", loading: "lazy", decoding: "async" });
    const box = make("span", { className: "crop" }, image);
    box.style.aspectRatio = `${width} / ${height}`;
    image.style.setProperty("--wide", `${100 * total / width}%`);
    image.style.setProperty("--step", `${-100 * (width + gap) / total}%`);
    box.style.width = large ? `min(${width}px, calc(${many > 2 ? 38 : 70}vh * ${width / height}), var(--room))` : `${100 * Math.min(1, width / height)}%`;
    if (large) box.style.setProperty("--mode", mode);
    if (strip && item.thumbnails)
      image.addEventListener("error", () => box.replaceWith(crop(item, index, mode, large, false)), { once: true });
    image.src = file;
    return box;
  }

  // ---- the grid, a page at a time
  function wanted(item, index) {
    const kind = $("filter").value, text = $("find").value.trim().toLowerCase();
    if (text && !(item.images[index] + "\n" + remark(item, index)).toLowerCase().includes(text)) return false;
    return kind === "all" || [verdict(item, index), labelOf(item, index)].includes(kind) || (kind === "flipped" && flipped(item, index));
  }
  function rebuild(keepPage) {
    const item = current(), order = $("sort").value, at = threshold();
    const list = item.ranked.filter(index => wanted(item, index));
    if (order === "up") list.reverse();
    if (order === "near") list.sort((a, b) => Math.abs(item.scores[a] - at) - Math.abs(item.scores[b] - at));
    if (order === "name") list.sort((a, b) => item.images[a] < item.images[b] ? -1 : 1);
    state.list = list;
    const last = Math.max(0, Math.ceil(list.length / PAGE) - 1);
    turn(keepPage ? Math.min(state.page, last) : 0);
  }
  function turn(page) {
    const item = current(), first = page * PAGE, listed = state.list.slice(first, first + PAGE);
    state.page = page;
    state.place = Math.min(Math.max(state.place, first), Math.max(first, first + listed.length - 1));
    $("grid").replaceChildren(...listed.map(index => make("li", {}, tile(item, index))));
    $("empty").hidden = listed.length > 0;
    const total = state.list.length.toLocaleString("en");
    $("range").textContent = listed.length ? `${first + 1}–${first + listed.length} of ${total}` : "";
    $("previous").disabled = page === 0;
    $("next").disabled = first + PAGE >= state.list.length;
    judge();
  }
  function tile(item, index) {
    const button = make("button", { type: "button", className: "tile", title: item.images[index] },
      make("span", { className: "thumb" }, crop(item, index, state.mode, false)),
      make("span", { className: "line" },
        make("span", { className: "score" }, make("span", { className: "dot" }), scoreText(item.scores[index], item)),
        make("span", { className: `label ${labelOf(item, index) ?? ""}`, textContent: remark(item, index) })),
      make("span", { className: "name", textContent: item.images[index].split("/").pop() }),
      make("span", { className: "verdicts" }));
    button.dataset.image = index;
    return button;
  }
  function judge() {
    const item = current();
    for (const button of $("grid").querySelectorAll(".tile")) {
      const index = Number(button.dataset.image);
      button.lastChild.replaceChildren(...badges(item, index, false));
      button.querySelector(".dot").classList.toggle("alarm", alarm(item, index, threshold()));
      button.setAttribute("aria-label", [item.images[index], remark(item, index),
        `score ${scoreText(item.scores[index], item)}`, verdict(item, index)].join(", "));
    }
  }

  // ---- the threshold: counts, lines and points of the plots, verdicts
  function setThreshold(value) {
    const item = current();
    if (!isFinite(value)) return;
    state.thresholds[state.category] = value;
    item.slider.value = value;
    item.section.querySelector(".threshold-value").value = scoreText(value, item);
    const tally = item.labels ? ofLabelled(item) : ofAll(item, value);
    const share = (part, whole) => whole ? part / whole : NaN;
    const recall = share(tally.detected, tally.detected + tally.missed);
    const precision = share(tally.detected, tally.detected + tally["false alarm"]);
    const text = { ...tally, recall: perCent(recall), precision: perCent(precision) };
    for (const output of item.section.querySelectorAll("[data-count]")) output.textContent = text[output.dataset.count];
    const [left, right, width] = data.histogram, [charts, roc, pr] = item.section.querySelectorAll("svg.chart");
    const x = left + (inRange(item, value) - item.low) / (item.high - item.low) * (width - left - right);
    const area = charts.querySelector(".alarm"), line = charts.querySelector(".threshold");
    area.setAttribute("x", x);
    area.setAttribute("width", width - right - x);
    if (line) line.setAttribute("d", line.getAttribute("d").replace(/^M[\d.]+/, `M${x}`));
    if (item.labels) {
      point(roc, share(tally["false alarm"], tally["false alarm"] + tally.passed), recall);
      point(pr, recall, precision);
    }
    const counts = item.labels ? `${tally.missed} missed, ${tally["false alarm"]} false alarms` : `${tally.anomalous} of ${item.all.length} anomalous`;
    $("readout").textContent = `${scoreText(value, item)}: ${counts}`;
    if ($("filter").value in tally || $("sort").value === "near") rebuild(true); else judge();
    if ($("viewer").open) describe();
  }
  function ofLabelled(item) {
    const tally = { detected: 0, missed: 0, "false alarm": 0, passed: 0, flipped: 0 };
    item.scores.forEach((_, index) => { tally[verdict(item, index)]++; tally.flipped += flipped(item, index); });
    return tally;
  }
  function ofAll(item, value) {    // also of photographs without a tile
    const count = (scores, at) => scores.filter(score => score >= at).length;
    const from = at => count(item.all, at) - count(item.reasoned, at);    // the others are anomalous at any threshold
    const anomalous = from(value) + item.reasoned.length;
    return { anomalous, normal: item.all.length - anomalous, flipped: Math.abs(from(value) - from(item.start)) };
  }
  const perCent = value => isNaN(value) ? "–" : (100 * value).toFixed(1) + " %";
  function point(chart, x, y) {
    const circle = chart.querySelector("circle"), [left, right, top, bottom, width, height] = data.curve;
    if (!circle) return;
    circle.setAttribute("visibility", isNaN(x) || isNaN(y) ? "hidden" : "visible");
    circle.setAttribute("cx", left + (x || 0) * (width - left - right));
    circle.setAttribute("cy", height - bottom - (y || 0) * (height - top - bottom));
  }
  function nextScore(up) {
    const above = current().scores.filter(score => up ? score > threshold() : score < threshold());
    if (above.length) setThreshold(above.reduce((a, b) => up ? Math.min(a, b) : Math.max(a, b)));
  }
  const inRange = (item, value) => Math.min(item.high, Math.max(item.low, value));
  const nudge = by => setThreshold(inRange(current(), threshold() + by * (current().high - current().low)));

  // ---- categories, modes, the large view
  function show(index, scroll) {
    if (!categories[index]) return;
    state.category = index;
    state.place = 0;
    const item = current();
    sections.forEach((section, position) => { section.hidden = position !== index; });
    document.querySelectorAll(".tabs a").forEach((link, position) =>
      position === index ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
    for (const slot of item.section.querySelectorAll("[data-reference]:empty"))
      slot.append(make("img", { alt: "reference photo", src: item.references[slot.dataset.reference] }));
    rebuild(false);
    setThreshold(threshold());
    if (scroll) {
      document.querySelector(".tabs a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
      item.section.scrollIntoView();
    }
  }
  function setMode(mode) {
    state.mode = mode;
    $("grid").style.setProperty("--mode", mode);
    document.querySelector(`input[name=mode][value="${mode}"]`).checked = true;
  }
  function move(step) {
    const focused = document.activeElement.closest?.(".tile"), open = $("viewer").open;
    const next = focused || open ? state.place + step : state.place;
    if (!state.list.length || next < 0 || next >= state.list.length) return;
    state.place = next;
    if (Math.floor(next / PAGE) !== state.page) turn(Math.floor(next / PAGE));
    if (open) describe(true);
    else $("grid").children[next - state.page * PAGE].firstChild.focus();
  }
  function describe(pictures) {
    const item = current(), index = state.list[state.place];
    if (index === undefined) return $("viewer").close();
    state.viewed = state.place;
    $("viewer-place").textContent = [item.name, `${state.place + 1} of ${state.list.length}`].filter(Boolean).join(", ");
    $("viewer-title").textContent = item.images[index].split("/").pop();
    $("viewer-badges").replaceChildren(...badges(item, index, true));
    const original = item.originals?.[index];
    const file = original ? make("a", { href: original, textContent: item.images[index] }) : item.images[index];
    const facts = [["Score", scoreText(item.scores[index], item)], ["Threshold", scoreText(threshold(), item)],
      [item.labels ? "Label" : "Reason", remark(item, index)], ["File", file]].filter(([, value]) => value);
    $("viewer-facts").replaceChildren(...facts.map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", {}, value))));
    if (pictures) $("panels").replaceChildren(...data.panels.map((name, mode) => {
      const picture = crop(item, index, mode, true);
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", `${name} of ${item.images[index]}`);
      return make("figure", {}, picture, make("figcaption", { textContent: name }));
    }));
  }

  // ---- events
  const placeOf = button => state.list.indexOf(Number(button.dataset.image));
  $("grid").addEventListener("click", event => {
    const button = event.target.closest(".tile");
    if (!button) return;
    state.place = placeOf(button);
    describe(true);
    $("viewer").showModal();
  });
  $("grid").addEventListener("focusin", event => { state.place = placeOf(event.target.closest(".tile")); });
  $("viewer").addEventListener("close", () => {    // by now the browser has put the focus back to where it was opened
    state.place = state.viewed;
    $("grid").children[state.place - state.page * PAGE]?.firstChild.focus();
  });
  $("viewer").addEventListener("click", event => { if (event.target === $("viewer")) $("viewer").close(); });
  const clicks = { previous: () => turn(state.page - 1), next: () => turn(state.page + 1),
    "viewer-previous": () => move(-1), "viewer-next": () => move(1), "viewer-close": () => $("viewer").close(),
    "show-help": () => $("help").showModal() };
  for (const [id, action] of Object.entries(clicks)) $(id).addEventListener("click", action);
  for (const id of ["filter", "sort", "find"]) $(id).addEventListener("input", () => rebuild(false));
  for (const item of categories) {
    item.slider.addEventListener("input", () => setThreshold(item.slider.valueAsNumber));
    const number = item.section.querySelector(".threshold-value");
    number.addEventListener("change", () => setThreshold(isFinite(number.valueAsNumber) ? number.valueAsNumber : threshold()));
    item.section.querySelector(".reset").addEventListener("click", () => setThreshold(item.start));
  }
  for (const input of document.querySelectorAll("input[name=mode]"))
    input.addEventListener("change", () => setMode(Number(input.value)));
  addEventListener("hashchange", () => show(Number(location.hash.slice(2)), true));

  const keys = { j: () => move(1), ArrowRight: () => move(1), k: () => move(-1), ArrowLeft: () => move(-1),
    "[": () => nudge(-.01), "]": () => nudge(.01), "{": () => nextScore(false), "}": () => nextScore(true),
    0: () => setThreshold(current().start), n: () => step(1), p: () => step(-1),
    "/": () => { if (!$("viewer").open) $("find").focus(); }, "?": () => $("help").showModal() };
  function step(by) {
    const next = state.category + by;
    if (categories[next] && !$("viewer").open) location.hash = `c${next}`;
  }
  document.addEventListener("keydown", event => {
    const typing = event.target.matches("input:not([type=range]):not([type=radio]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (event.key.startsWith("Arrow") && event.target.matches("input")) return;
    const action = keys[event.key] || (event.key >= 1 && event.key <= many ? () => setMode(event.key - 1) : null);
    if (!action) return;
    event.preventDefault();
    action();
  });

  // ---- theme and sortable table
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  function stored(name) {    // some browsers refuse storage to a page from the disk
    try {
      if (name) localStorage.setItem("fdsl-theme", name);
      return localStorage.getItem("fdsl-theme");
    } catch { return name; }
  }
  function setTheme(name) {
    if (name) document.documentElement.dataset.theme = name;
    const dark = (document.documentElement.dataset.theme || (prefers.matches ? "dark" : "light")) === "dark";
    $("theme").textContent = dark ? "Light" : "Dark";
    return dark;
  }
  setTheme(stored());
  prefers.addEventListener("change", () => setTheme());
  $("theme").addEventListener("click", () => {
    const name = setTheme() ? "light" : "dark";
    setTheme(name);
    stored(name);
  });
  document.querySelectorAll("#summary thead tr:last-child th").forEach((head, column) => {
    head.replaceChildren(make("button", { type: "button", textContent: head.textContent }));
    head.firstChild.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort"), down = was ? was === "ascending" : column > 0;
      const text = row => row.cells[column].textContent;
      const value = row => column ? parseFloat(text(row).replaceAll(",", "")) : text(row);
      const rows = [...$("summary").tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        return x !== x ? 1 : y !== y ? -1 : (x < y ? 1 : x > y ? -1 : 0) * (down ? 1 : -1);
      });
      $("summary").tBodies[0].append(...rows);
      document.querySelectorAll("#summary thead th").forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });

  document.documentElement.classList.add("scripted");
  if (categories.length) { setMode(data.mode); show(Number(location.hash.slice(2)) || 0, Boolean(location.hash)); }
  else $("images").hidden = true;
})();
