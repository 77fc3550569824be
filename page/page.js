// The page of app.py: uploads one by one, then asks for scores, and decides in the browser while the threshold moves.
"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const state = { base: "", references: [], calibration: [], calibrated: [], photographs: [], threshold: null, ready: false, rates: [], rate: null, builtIn: 0,
    limits: {}, drift: [], shapes: [], digits: 4, fitted: [], rotations: 1, version: 0, busy: 0, opened: null, takesReferences: true, compares: false, compared: [], fewest: {} };
  const KEY = "fdsl-visitor", NUMBERED = 10;    // regions that have their number in the picture

  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }
  function draw(tag, attributes = {}, text = "") {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  }

  // ---- the server
  const BUSY_WAITS = 120;
  const readJson = answer => answer.json().catch(() => ({}));
  async function ask(method, path, body, headers = {}, read = readJson) {
    let answer;
    try {
      for (let wait = 0; wait === 0 || (answer.status === 503 && wait < BUSY_WAITS); wait++) {
        if (wait) await new Promise(done => setTimeout(done, 1000));
        answer = await fetch(path, { method, body, headers });
      }
    } catch {
      throw Object.assign(new Error("app.py does not answer any more; start it again and load this page again"), { status: 0 });
    }
    if (answer.ok) return read(answer);
    throw Object.assign(new Error((await readJson(answer)).error || `that failed (${answer.status})`), { status: answer.status });
  }
  const asJson = (method, path, value) => ask(method, path, JSON.stringify(value), { "Content-Type": "application/json" });
  const uploadUrl = (number, kind) => `${state.base}/uploads/${number}/${kind}.jpg`;

  function complain(...sentences) {
    $("problem").hidden = sentences.length === 0;
    $("problem").textContent = sentences.join("\n");
    if (sentences.length) $("problem").scrollIntoView({ block: "nearest" });
  }
  const tried = action => async (...values) => {
    try {
      await action(...values);
    } catch (error) {
      complain(error.message);
    }
  };

  async function enter() {
    let name = sessionStorage.getItem(KEY);
    if (name) {
      state.base = `sessions/${name}`;
      try {
        take(await ask("GET", state.base));
      } catch {
        name = null;
      }
    }
    if (!name) {
      name = (await ask("POST", "sessions")).name;
      sessionStorage.setItem(KEY, name);
      state.base = `sessions/${name}`;
      take(await ask("GET", state.base));
    }
    if (state.references.some(item => !state.fitted.includes(item.number))) await learn();
    else await scoreAll();
  }

  function take(answer) {
    Object.assign(state, answer);
    const choices = [...$("rotations").options].map(option => option.value);
    if (!choices.includes(String(state.rotations))) $("rotations").append(make("option", { value: state.rotations, textContent: state.rotations }));
    $("rotations").value = state.rotations;
    $("fitted").textContent = state.fitted.length
      ? `Fitted to ${counted(state.fitted.length, "reference")}${rotated()}.` : "";
    show();
  }
  const photographed = number => state.photographs.find(photo => photo.number === number);

  // ---- uploads
  let queue = Promise.resolve();
  const inTurn = action => (queue = queue.then(action, action));

  async function upload(kind, files) {
    const problems = [];
    for (const [index, file] of [...files].entries()) {
      $("progress").textContent = files.length > 1 ? `Uploading ${index + 1} of ${files.length}` : "Uploading";
      if (file.size > state.limits.file_bytes) {
        problems.push(`${file.name}: is larger than ${Math.floor(state.limits.file_bytes / 2 ** 20)} MiB`);
        continue;
      }
      try {
        await file.slice(0, 1).arrayBuffer();
      } catch {
        problems.push(`${file.name}: cannot be read; is it a folder?`);
        continue;
      }
      try {
        const added = await ask("POST", `${state.base}/${kind}?name=${encodeURIComponent(file.name)}`, file,
          { "Content-Type": "application/octet-stream" });
        if (!state[kind].some(item => item.number === added.number)) state[kind].push(added);
        show();
      } catch (error) {
        problems.push(error.message);
        if (gone(error)) break;
      }
    }
    $("progress").textContent = "";
    complain(...problems);
    if (kind === "references" && files.length > problems.length) await learn();
    else await scoreAll();
  }

  // What "auto" came to.
  function rotated() {
    if (state.rotations !== "auto") return "";
    return state.rotated > 1 ? `, each in ${state.rotated} rotated copies` : ", not rotated";
  }

  const gone = error => error.status === 0 || error.status === 404;

  // Where photographs are compared with each other: whether others are here than were compared, and whether they can be.
  const differ = (items, numbers) => items.length !== numbers.length || items.some(item => !numbers.includes(item.number));
  const stale = () => state.compares && differ(state.photographs, state.compared);
  const comparable = () => state.photographs.length >= state.fewest.compared && (!state.takesReferences || state.references.length > 0);

  async function learn() {
    if (state.takesReferences && !state.references.length) return;
    if (state.compares && !comparable()) return waitForMore();
    await flush();
    const asked = $("rotations").value, rotations = asked === "auto" ? asked : Number(asked);
    if (state.compares) $("progress").textContent = "Looking at all photographs";
    await work("learn", { rotations, shapes: state.shapes }, "fitted", "Fitting");
    await scoreAll();
  }

  // Has the detector changed, and shows `what` is done and how far it is; the threshold stands still meanwhile.
  async function work(path, values, id, what) {
    $(id).textContent = `${what}…`;
    const timer = setInterval(async () => {
      const answer = await ask("GET", `${state.base}/progress`).catch(() => ({}));
      if (answer.progress && state.busy) $(id).textContent = `${what}: ${answer.progress}`;
    }, 700);
    state.busy++;
    $("decision").inert = $("learn").disabled = true;
    try {
      const answer = await asJson("POST", `${state.base}/${path}`, { ...values, rate: state.rate ?? 0.01 });
      state.version++;
      take(answer);
    } catch (error) {
      take(await ask("GET", state.base));
      throw error;
    } finally {
      clearInterval(timer);
      state.busy--;
      $("decision").inert = false;
      showReferences();
      $("progress").textContent = "";
    }
  }

  function waitForMore() {
    const what = [...(state.takesReferences && !state.references.length ? ["a reference"] : []),
      ...(state.photographs.length < state.fewest.compared ? [`${state.fewest.compared} photographs to compare`] : [])];
    $("progress").textContent = state.photographs.length || state.references.length ? `Waits for ${what.join(" and ")}` : "";
  }

  // Whether other calibration images are here than the threshold is of.
  const uncalibrated = () => state.ready && state.calibration.length > 0 && differ(state.calibration, state.calibrated);

  async function calibrate() {
    await flush();
    await work("calibrate", {}, "progress", "Scoring");
  }

  async function scoreAll() {
    if (stale()) return comparable() ? learn() : waitForMore();
    if (!state.ready) return;
    const problems = [];
    if (uncalibrated()) await calibrate().catch(error => problems.push(error.message));
    const waiting = state.photographs.filter(photo => photo.score === null).map(photo => photo.number);
    for (const [index, number] of waiting.entries()) {
      if (!photographed(number)) continue;
      $("progress").textContent = `Scoring ${index + 1} of ${waiting.length}`;
      try {
        const row = await ask("POST", `${state.base}/photographs/${number}/score`);
        Object.assign(photographed(number) ?? {}, row, { failed: "" });
      } catch (error) {
        const photo = photographed(number);
        if (photo) problems.push(`${photo.name}: ${error.message}`);
        if (error.status === 0) break;
        if (photo) photo.failed = error.message;
      }
      show();
    }
    $("progress").textContent = "";
    if (problems.length) complain(...problems);
    if (waiting.length > problems.length) {    // what they show as a whole
      state.drift = (await ask("GET", state.base)).drift;
      show();
    }
    if (state.fewest.bulk && state.threshold === null && scored().length >= state.fewest.bulk) {
      pending = { rate: 0.01 };    // there is no normal image: the threshold is of the photographs' own bulk
      await flush();
    }
  }

  async function forget(kind, number) {
    const list = $(kind === "photographs" ? "cards" : kind), items = [...list.children];
    const at = items.findIndex(item => item.dataset.number === String(number));
    const next = (items[at + 1] || items[at - 1])?.dataset.number;
    complain();
    await flush();
    const answer = await ask("DELETE", `${state.base}/uploads/${number}`);
    if (kind !== "photographs") state.version++;
    take(answer);
    if (document.activeElement === document.body)    // the keyboard goes on where it was
      (list.querySelector(`[data-number="${next}"] .forget`) || document.querySelector(`.drop[data-kind=${kind}] input`)).focus();
    if (kind === "references" && state.references.length) await learn();
    else if (kind !== "photographs") await scoreAll();
  }

  // ---- the display
  const scored = () => state.photographs.filter(photo => photo.score !== null);
  const isAnomalous = photo => photo.reason !== "" || (state.threshold !== null && photo.score >= state.threshold.score);
  const isJudged = photo => photo.reason !== "" || state.threshold !== null;
  const verdict = photo => !isAnomalous(photo) ? "normal" : photo.reason ? `anomalous: ${photo.reason}` : "anomalous";
  const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  // So many digits that nine in ten different scores read differently: saturated ones differ late.
  function digitsOf(values) {
    const different = [...new Set(values)];
    for (let digits = 4; digits < 9; digits++)
      if (new Set(different.map(value => value.toPrecision(digits))).size >= .9 * different.length) return digits;
    return 9;
  }
  const scoreText = value => Number(value.toPrecision(state.digits)).toString();
  const shortly = value => Number(value.toPrecision(4)).toString();

  function show() {
    showNormal("references");
    showNormal("calibration");
    showReferences();
    $("results").hidden = state.photographs.length === 0;
    const findings = scored();
    state.digits = digitsOf([...findings.map(photo => photo.score), ...(state.threshold === null ? [] : [state.threshold.score])]);
    $("save-results").disabled = findings.length === 0;
    $("save-detector").disabled = !state.ready;
    $("decision").hidden = findings.length === 0 || state.threshold === null;
    $("compare").hidden = !stale() || !comparable() || findings.length === 0;
    $("sees").hidden = !state.compares || findings.length === 0;
    $("sees").textContent = "These scores see the test images: each one is compared with the others, and most of them must be normal."
      + (stale() ? " What was taken out counts until all are compared again." : "")
      + (state.fewest.bulk && findings.length < state.fewest.bulk ? ` From ${state.fewest.bulk} on they give a threshold.` : "");
    $("drift").hidden = state.drift.length === 0;
    $("drift").replaceChildren(...state.drift.map(({ sentence, name }) => make("li", {}, `${sentence[0].toUpperCase()}${sentence.slice(1)}; see `,
      make("button", { className: "quiet", type: "button", textContent: name,
        onclick: () => open(state.photographs.find(photo => photo.name === name)?.number) }))));
    showCards();
    if (!$("decision").hidden) showDecision();
  }

  function showNormal(kind) {
    const numbers = [...$(kind).children].map(node => Number(node.dataset.number));
    if (numbers.join() !== state[kind].map(item => item.number).join())
      $(kind).replaceChildren(...state[kind].map(item => thumbnail(kind, item)));
  }
  function showReferences() {
    $("learn").disabled = state.references.length === 0 || state.busy > 0;
    $("draw-roi").disabled = $("learn").disabled;
    $("draw-roi").textContent = state.shapes.length ? `Region of interest (${counted(state.shapes.length, "shape")})` : "Region of interest";
    $("built-in").hidden = state.builtIn === 0;
    $("built-in").textContent = `It is fitted to ${counted(state.builtIn, "reference")} already; others take their place.`;
    const given = state.calibrated.length, used = state.calibrationScores;
    $("calibrated").textContent = uncalibrated() || !state.calibration.length ? "" : given === used || !given
      ? "" : `${used} of ${given} count; the others cannot be judged by the references.`;
  }

  function thumbnail(kind, item) {
    const node = make("li", {}, make("img", { src: uploadUrl(item.number, "photo"), loading: "lazy", alt: item.name, title: item.name }),
      make("button", { className: "forget", type: "button", textContent: "×", ariaLabel: `Remove ${item.name}`,
        onclick: () => inTurn(tried(() => forget(kind, item.number))) }));
    node.dataset.number = item.number;
    return node;
  }

  function picture(photo, mode, numbered = false) {
    const frame = make("div", { className: "picture" });
    frame.style.aspectRatio = `${photo.width} / ${photo.height}`;
    frame.style.setProperty("--ratio", photo.width / photo.height);
    frame.style[photo.width >= photo.height ? "width" : "height"] = "100%";
    frame.append(make("img", { src: `${uploadUrl(photo.number, mode)}?v=${state.version}`, loading: "lazy",
      alt: `${mode === "heat" ? "Heat map" : "Photograph"} of ${photo.name}` }));
    const overlay = draw("svg", { viewBox: `0 0 ${photo.width} ${photo.height}`, preserveAspectRatio: "none",
      "aria-hidden": "true" });
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
    make("button", { className: "forget", type: "button", textContent: "×", ariaLabel: `Remove ${photo.name}`,
      onclick: () => inTurn(tried(() => forget("photographs", photo.number))) }));
    cards.set(photo.number, { key, node });
    return node;
  }
  const mode = () => document.querySelector("input[name=mode]:checked").value;

  function ordered() {
    const list = [...state.photographs];
    if ($("order").value === "score") list.sort((a, b) => (b.score ?? -1) - (a.score ?? -1));
    return list;
  }
  function showCards() {
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

  // ---- the threshold
  // Of the scores and the threshold that was calibrated: one set by hand moves within it, so that the plot stands still meanwhile.
  const range = () => {
    const values = [...scored().map(photo => photo.score), state.anchor];
    const low = Math.min(...values), high = Math.max(...values), room = (high - low) * .06 || 1e-3;
    return [low - room, high + room];
  };
  function showDecision() {
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
    if (document.activeElement !== $("threshold")) $("threshold").value = Number(value.toPrecision(6));
    $("source").textContent = state.threshold.source;
    $("trust").textContent = state.trust;
    $("rate").parentElement.hidden = state.rates.length === 0;
    if ($("rate").options.length !== state.rates.length + 1) {
      const named = state.rates.map(rate => make("option", { value: rate, textContent: `about ${shortly(100 * rate)} %` }));
      $("rate").replaceChildren(make("option", { value: "", textContent: "none chosen", disabled: true }), ...named);
    }
    $("rate").value = state.rate === null ? "" : String(state.rate);
    showScores(findings, low, high, value);
    judge();
    if ($("viewer").open) describe();
  }
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

  // The browser decides at once; the server, which makes the downloads, gets the last change, one request at a time.
  let settling, pending = null, sending = Promise.resolve();
  function moveThreshold(score) {
    if (!isFinite(score) || state.threshold === null) return;
    Object.assign(state, { threshold: { ...state.threshold, score, source: "set by hand" }, rate: null, trust: "" });
    showDecision();
    pending = { score };
    clearTimeout(settling);
    settling = setTimeout(tried(flush), 250);
  }
  function flush() {
    clearTimeout(settling);
    return sending = sending.catch(() => {}).then(async () => {
      while (pending) {
        const asked = pending;
        pending = null;
        const answer = await asJson("PUT", `${state.base}/threshold`, asked);
        if (pending) continue;
        if (answer.threshold?.level !== state.threshold?.level) state.version++;    // heat and contours follow the pixel threshold
        Object.assign(state, { threshold: answer.threshold, rate: answer.rate, trust: answer.trust });
        for (const row of answer.photographs) Object.assign(photographed(row.number) ?? {}, row);
        show();
      }
    });
  }

  // ---- the large view
  function open(number) {
    state.opened = number;
    describe();
    if (!$("viewer").open) $("viewer").showModal();
  }
  function describe() {
    const photo = state.photographs.find(item => item.number === state.opened);
    if (!photo || photo.score === null) return $("viewer").close();
    const alarm = isAnomalous(photo), regions = state.threshold !== null && !alarm ? [] : photo.regions;
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
    const place = viewable().findIndex(item => item.number === photo.number);
    $("viewer-previous").disabled = place <= 0;
    $("viewer-next").disabled = place === viewable().length - 1;
    $("viewer-regions").hidden = regions.length === 0 || !$("show-contours").checked;
    $("viewer-regions").tBodies[0].replaceChildren(...regions.map((region, index) => make("tr", {}, ...[index + 1,
      region.centroid.map(Math.round).join(", "), `${region.width} × ${region.height}`, region.area.toLocaleString("en"),
      `${Math.round(region.major_axis)} × ${Math.round(region.minor_axis)}`, `${Math.round(region.orientation)}°`,
      shortly(region.peak), shortly(region.mean)].map(text => make("td", { textContent: text })))));
  }
  const viewable = () => ordered().filter(photo => photo.score !== null);
  function step(by) {
    const list = viewable(), place = list.findIndex(photo => photo.number === state.opened) + by;
    if (list[place]) open(list[place].number);
  }

  // ---- the region of interest, drawn over the first reference; points are shares of its width and height
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

  // ---- events
  $("draw-roi").addEventListener("click", openRoi);
  $("roi-close").addEventListener("click", () => $("roi").close());
  $("roi-undo").addEventListener("click", () => {
    (drawing.corners.length ? drawing.corners : drawing.shapes).pop();
    showRoi();
  });
  $("roi-apply").addEventListener("click", () => {
    $("roi").close();
    complain();
    inTurn(tried(async () => {
      state.shapes = drawing.shapes;
      await learn();
    }));
  });
  for (const drop of document.querySelectorAll(".drop")) {
    const input = drop.querySelector("input");
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = "";
      inTurn(tried(() => upload(drop.dataset.kind, files)));
    });
    for (const name of ["dragenter", "dragover"])
      drop.addEventListener(name, event => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", event => {
      event.preventDefault();
      drop.classList.remove("over");
      const files = [...event.dataTransfer.files];
      inTurn(tried(() => upload(drop.dataset.kind, files)));
    });
  }
  for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());    // a missed drop loads no file
  $("compare").addEventListener("click", () => { complain(); inTurn(tried(scoreAll)); });
  $("learn").addEventListener("click", () => { complain(); inTurn(tried(learn)); });
  $("rotations").addEventListener("change", () => { if (state.references.length) inTurn(tried(learn)); });
  $("slider").addEventListener("input", () => moveThreshold($("slider").valueAsNumber));
  $("threshold").addEventListener("change", () => {
    moveThreshold($("threshold").valueAsNumber);
    if (!isFinite($("threshold").valueAsNumber)) $("threshold").value = Number(state.threshold.score.toPrecision(6));
  });
  $("rate").addEventListener("change", tried(async () => {
    if (!$("rate").value) return showDecision();
    pending = { rate: Number($("rate").value) };
    await flush();
  }));
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", show);
  for (const id of ["order", "show-contours"]) $(id).addEventListener("change", show);
  $("viewer-close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("click", event => { if (event.target === $("viewer")) $("viewer").close(); });
  $("viewer-previous").addEventListener("click", () => step(-1));
  $("viewer-next").addEventListener("click", () => step(1));
  $("viewer-normal").addEventListener("click", () => {
    const number = state.opened;
    $("viewer").close();
    complain();
    inTurn(tried(async () => {
      await flush();
      take(await ask("POST", `${state.base}/photographs/${number}/reference`));
      await learn();
    }));
  });
  $("viewer").addEventListener("close", () => cards.get(state.opened)?.node.querySelector(".open").focus());
  $("viewer").addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("leave").addEventListener("click", tried(async () => {
    sessionStorage.removeItem(KEY);
    await ask("DELETE", state.base).catch(() => {});
    location.reload();
  }));
  for (const [id, path, name] of [["save-results", "results.zip", "fdsl-results.zip"], ["save-detector", "detector.safetensors", "detector.safetensors"]])
    $(id).addEventListener("click", tried(async () => {
      complain();
      await flush();
      const content = await ask("GET", `${state.base}/${path}`, undefined, {}, answer => answer.blob());
      const link = make("a", { href: URL.createObjectURL(content), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    }));
  addEventListener("resize", () => { if (!$("decision").hidden) showDecision(); });
  inTurn(tried(enter));
})();
