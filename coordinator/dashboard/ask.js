// Requests to the service that this page came from. The mark in the headers shows that no other page sent them.

const KEY = "hearth-key";
const DEADLINE_MS = 15000;

/** What the service, or the way to it, said no with. */
export class Refusal extends Error {
  constructor(status, message, code, retryAfterS) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export function key() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return "";
  }
}

/** Keeps a key until this tab is closed. */
export function setKey(text) {
  try {
    sessionStorage.setItem(KEY, text.trim());
  } catch {
    // A browser that stores nothing asks again.
  }
}

export function headers(extra) {
  const all = { "x-hearth": "1", ...extra };
  if (key()) all.authorization = `Bearer ${key()}`;
  return all;
}

/** The refusal in an answer that is not 2xx. */
export async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error || {};
  } catch {
    // Not JSON: the status has to do.
  }
  const retry = Number(answer.headers.get("retry-after")) || undefined;
  const text = error.message || `the service answered with status ${answer.status}`;
  return new Refusal(answer.status, text, error.code, retry);
}

export const UNREACHED = "The coordinator does not answer. Is it still running on this machine?";

/** Asks, with a body as POST, without as GET. */
export async function ask(path, body) {
  const how = { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(DEADLINE_MS) };
  if (body !== undefined) {
    how.method = "POST";
    how.headers["content-type"] = "application/json";
    how.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Refusal(0, UNREACHED, "unreached");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}
