// Asking the daemon: JSON under /api/v1, with the token that this tab keeps.

const KEY = "sentinel.token";
const SOON = 5000; // ms within which an answer that was asked for ahead is taken for new
const listeners = new Set();
const asked = new Map(); // by path: answers that nobody has wanted yet
let kept = null; // where sessionStorage is denied, for as long as the page is open

/** What a person reads when an answer is not what was asked for. `status` 0: no answer came. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** The token of this tab, or "". */
export function token() {
  try {
    return sessionStorage.getItem(KEY) ?? kept ?? "";
  } catch {
    return kept ?? "";
  }
}

/** Keep this token for as long as the tab is open; "" forgets it. */
export function keepToken(value) {
  kept = value;
  asked.clear(); // they are answers to somebody else
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Kept in memory only.
  }
}

/** Take the token out of a link's fragment, so that neither the address nor the history shows it. */
export function takeTokenFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found === null) return false;
  history.replaceState(history.state, "", location.pathname + location.search);
  keepToken(found.trim());
  return true;
}

/** Hear of every answer's status (0: none came), to show how the connection is. */
export function onAnswer(listener) {
  listeners.add(listener);
}

/** The headers that say who asks. */
export function credentials() {
  return { Authorization: `Bearer ${token()}` };
}

/** Ask for this now: the answer is for the first who wants it soon. */
export function ahead(path) {
  const answer = api(path);
  answer.catch(() => {}); // whoever wants it is told
  asked.set(path, answer);
  setTimeout(() => asked.delete(path), SOON);
}

/**
 * Ask, and return the parsed JSON. `body` is sent as JSON, `signal` aborts.
 * Throws ApiError with the daemon's own words, and AbortError when aborted.
 */
export async function api(path, { method = "GET", body, signal } = {}) {
  if (!token()) throw new ApiError(401, "This page needs a token.");
  const early = asked.get(path);
  if (early && method === "GET" && !signal) {
    asked.delete(path);
    return early;
  }
  const headers = credentials();
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell(0);
    throw new ApiError(0, "The daemon does not answer.");
  }
  tell(response.status);
  return read(response);
}

async function read(response) {
  let answer;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(response.status, `The daemon's answer could not be read (HTTP ${response.status}).`);
  }
  if (response.ok) return answer;
  throw new ApiError(response.status, answer?.error ?? `The daemon answered with HTTP ${response.status}.`);
}

function tell(status) {
  for (const listener of listeners) listener(status);
}
