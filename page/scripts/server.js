// Requests to page/server.py.
const BUSY_WAITS = 120;
const readJson = answer => answer.json().catch(() => ({}));

// The answer, as JSON unless `read` takes it otherwise. An Error has the server's sentence and the status, 0 without a server.
export async function ask(method, path, body, headers = {}, read = readJson) {
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
export const askJson = (method, path, value) => ask(method, path, JSON.stringify(value), { "Content-Type": "application/json" });
export const isGone = error => error.status === 0 || error.status === 404;
