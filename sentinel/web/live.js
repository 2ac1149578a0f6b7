// What happens, as it happens: one stream of server-sent events for the whole tab.
//
// Read with fetch, since an EventSource cannot carry a token. A stream that says nothing, not even
// its heartbeat, is taken for dead. A tab that nobody looks at gives its stream back: browsers open
// few connections to one host, and the daemon has few listeners to give.

import { credentials, token } from "./api.js";

const SILENCE = 40_000; // ms; the daemon says something every 15 s
const HIDDEN = 30_000; // ms
const DELAYS = [250, 500, 1000, 2000, 4000, 8000]; // ms between attempts

/** The stream. `onState` hears "live", "reconnecting" or "denied" (with the HTTP status). */
export class Live {
  constructor(onState) {
    this._onState = onState;
    this._listeners = new Set();
    this._abort = null;
    this._attempts = 0;
    this._timer = 0;
    this._hide = 0;
    document.addEventListener("visibilitychange", () => this._visibility());
  }

  /**
   * Call handlers by the event's name: step, state, incident, alert, action, lost; `open` whenever
   * the stream begins, also again after a gap. Returns what stops it.
   */
  listen(handlers) {
    this._listeners.add(handlers);
    if (this._open) handlers.open?.({});
    return () => this._listeners.delete(handlers);
  }

  /** Begin, or begin anew with another token. */
  start() {
    this.stop();
    this._attempts = 0;
    if (token()) this._run();
  }

  /** Begin at once if an attempt is being waited for. */
  hurry() {
    if (this._timer) this.start();
  }

  /** End it. */
  stop() {
    clearTimeout(this._timer);
    this._timer = 0;
    this._open = false;
    this._abort?.abort();
    this._abort = null;
  }

  _visibility() {
    clearTimeout(this._hide);
    if (document.hidden) this._hide = setTimeout(() => this.stop(), HIDDEN);
    else if (!this._abort) this.start();
  }

  async _run() {
    const abort = new AbortController();
    this._abort = abort;
    let status = 0;
    try {
      const response = await fetch("/api/v1/events", {
        headers: credentials(),
        signal: abort.signal,
        cache: "no-store",
      });
      status = response.status;
      if (response.ok) await this._read(response.body.getReader(), abort);
    } catch {
      // Whatever ended it, it is begun again below.
    }
    if (this._abort !== abort) return; // stopped, or begun anew
    this._open = false;
    if (status === 401 || status === 403) {
      this._abort = null;
      this._onState("denied", status);
      return;
    }
    this._onState("reconnecting", status);
    const delay = DELAYS[Math.min(this._attempts, DELAYS.length - 1)];
    this._attempts += 1;
    this._timer = setTimeout(() => {
      this._timer = 0;
      this._run();
    }, delay * (0.8 + 0.4 * Math.random()));
  }

  async _read(reader, abort) {
    const decoder = new TextDecoder();
    let rest = "";
    this._open = true;
    this._attempts = 0;
    this._onState("live", 200);
    this._tell("open", {});
    for (;;) {
      const silence = setTimeout(() => reader.cancel(), SILENCE);
      const { done, value } = await reader.read().finally(() => clearTimeout(silence));
      if (done || abort.signal.aborted) return;
      rest += decoder.decode(value, { stream: true });
      const events = rest.split("\n\n");
      rest = events.pop();
      events.forEach((text) => this._event(text));
    }
  }

  _event(text) {
    let name = "message";
    let data = "";
    for (const line of text.split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data += line.slice(5);
    }
    if (data || name === "lost") this._tell(name, data ? JSON.parse(data) : {});
  }

  _tell(name, data) {
    for (const handlers of [...this._listeners]) handlers[name]?.(data);
  }
}
