// What changes the session: uploads, fitting, calibration, scores, removals; one after the other.
import { $, complain, tried } from "./dom.js";
import { ask, askJson, isGone } from "./server.js";
import { announce, isComparable, isStale, isUncalibrated, photographed, scored, state } from "./state.js";
import { chooseRate, flush } from "./threshold.js";

const KEY = "fdsl-visitor", RATE = 0.01;

let queue = Promise.resolve();
export const inTurn = action => {
  const safe = tried(action);
  return queue = queue.then(safe, safe);
};

export async function enter() {
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
export async function leave() {
  sessionStorage.removeItem(KEY);
  await ask("DELETE", state.base).catch(() => {});
  location.reload();
}

function take(answer) {
  Object.assign(state, answer);
  announce("session");
  announce("change");
}

export async function upload(kind, files) {
  const problems = [];
  for (const [index, file] of [...files].entries()) {
    $("progress").textContent = files.length > 1 ? `Uploading ${index + 1} of ${files.length}` : "Uploading";
    if (file.size > state.fileBytes) {
      problems.push(`${file.name}: is larger than ${Math.floor(state.fileBytes / 2 ** 20)} MiB`);
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
      announce("change");
    } catch (error) {
      problems.push(error.message);
      if (isGone(error)) break;
    }
  }
  $("progress").textContent = "";
  complain(...problems);
  if (kind === "references" && files.length > problems.length) await learn();
  else await scoreAll();
}

export async function learn() {
  if (state.takesReferences && !state.references.length) return;
  if (state.compares && !isComparable()) return waitForMore();
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
    const answer = await askJson("POST", `${state.base}/${path}`, { ...values, rate: state.rate ?? RATE });
    state.version++;
    take(answer);
  } catch (error) {
    take(await ask("GET", state.base));
    throw error;
  } finally {
    clearInterval(timer);
    state.busy--;
    $("decision").inert = false;
    announce("change");
    $("progress").textContent = "";
  }
}

function waitForMore() {
  const what = [...(state.takesReferences && !state.references.length ? ["a reference"] : []),
    ...(state.photographs.length < state.fewest.compared ? [`${state.fewest.compared} photographs to compare`] : [])];
  $("progress").textContent = state.photographs.length || state.references.length ? `Waits for ${what.join(" and ")}` : "";
}

async function calibrate() {
  await flush();
  await work("calibrate", {}, "progress", "Scoring");
}

export async function scoreAll() {
  if (isStale()) return isComparable() ? learn() : waitForMore();
  if (!state.ready) return;
  const problems = [];
  if (isUncalibrated()) await calibrate().catch(error => problems.push(error.message));
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
    announce("change");
  }
  $("progress").textContent = "";
  if (problems.length) complain(...problems);
  if (waiting.length > problems.length) {    // what they show as a whole
    state.drift = (await ask("GET", state.base)).drift;
    announce("change");
  }
  if (state.fewest.bulk && state.threshold === null && scored().length >= state.fewest.bulk)
    await chooseRate(RATE);    // there is no normal image: the threshold is of the photographs' own bulk
}

export async function forget(kind, number) {
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

export async function takeAsReference(number) {
  await flush();
  take(await ask("POST", `${state.base}/photographs/${number}/reference`));
  await learn();
}

export async function download(path) {
  await flush();
  return ask("GET", `${state.base}/${path}`, undefined, {}, answer => answer.blob());
}
