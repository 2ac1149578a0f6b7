// The shell: the token, the pages and their addresses, the header, keys, and the live stream.
//
// Each page is a module that exports `async function show(root, context)`, which draws into `root`
// and may return a function that ends it.

import "./ahead.js"; // first: it asks for what comes first
import { ApiError, api, onAnswer, takeTokenFromAddress, token } from "./api.js";
import { element } from "./dom.js";
import { Header, tokenForm } from "./header.js";
import { Keyboard } from "./keyboard.js";
import { Live } from "./live.js";
import { followable, match } from "./router.js";

const main = document.getElementById("main");
const notices = document.getElementById("notices");
const header = new Header(document.getElementById("header"), { go, onToken: begin });
const keyboard = new Keyboard(go);
const live = new Live(connection);
let me = null; // the answer of /whoami
let unanswered = false; // the page in view could not be drawn since the daemon is gone
let drawing = false; // the page in view is asking for what it shows: all else waits
let shown = { number: 0, end: null, scope: null };

/** Follow an address of this page; others are the browser's. */
function go(path) {
  const url = new URL(path, location.href);
  const isHere = url.pathname === location.pathname && url.search === location.search;
  if (url.href !== location.href) history.pushState(null, "", url);
  if (isHere && url.hash && toPlace()) return;
  window.scrollTo(0, 0);
  route();
}

/** Bring the part of the page into view that the address names; whether there is one. */
function toPlace() {
  const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  place?.scrollIntoView?.();
  return Boolean(place);
}

/** A token has come or gone, or the page begins. */
async function begin() {
  me = null;
  header.whoami(null);
  if (!token()) {
    live.stop();
    header.connection("none");
    header.runs([], "");
    await leave();
    askForToken("");
    return;
  }
  live.start();
  await route();
}

async function route() {
  const number = await leave();
  const found = match(location.pathname);
  if (!found) return show(problem("There is no such page.", element("a", { href: "/" }, "Go to the overview")));
  if (!token()) return askForToken("");
  header.current(found.parameters.run ?? "");
  drawing = true;
  try {
    const [module] = await Promise.all([import(`./${found.page}.js`), whoami()]);
    if (number !== shown.number) return;
    await draw(module, found, number);
  } catch (error) {
    if (number === shown.number) failed(error);
  }
  if (number !== shown.number) return;
  drawing = false;
  if (token()) refreshRuns();
}

async function draw(module, found, number) {
  const root = element("div", { class: `page page-${found.page}` });
  show(root);
  const end = await module.show(root, contextOf(found, number));
  if (number !== shown.number) return end?.();
  shown.end = end ?? null;
  toPlace();
}

async function leave() {
  shown.end?.();
  shown.scope?.forEach((stop) => stop());
  shown = { number: shown.number + 1, end: null, scope: [] };
  unanswered = drawing = false;
  notices.replaceChildren();
  return shown.number;
}

/** What a page gets: see the comment at each. */
function contextOf(found, number) {
  const scope = shown.scope;
  return {
    /** Ask the daemon: parsed JSON, or ApiError. */
    api,
    /** Hear of events until the page is left; returns what stops it sooner. */
    live: (handlers) => kept(scope, live.listen(handlers)),
    /** Follow an address. */
    go,
    /** What this token may: "viewer", "operator" or "admin". */
    role: me.role,
    /** Who this is, as the record will call them. */
    by: me.by,
    /** The parts of the path: {run} or {incident}. */
    parameters: found.parameters,
    /** What stands behind the question mark. */
    query: new URLSearchParams(location.search),
    /** Change some of it without leaving the page: null takes one away. */
    setQuery: (changes) => setQuery(changes, number),
    /** Keys of this page: {key: [what it does, function]}. */
    keys: (keys) => kept(scope, keyboard.add(keys)),
    /** What the tab is called. */
    title: (text) => (document.title = `${text} · Sentinel`),
    /** Say something, by default something that went wrong. */
    notice: (text, kind = "error") => number === shown.number && notice(text, kind),
    /** A page that has asked for /runs says what it got, so that the header need not ask. */
    haveRuns,
  };
}

/** Until the page is left: at once where it was, while it was still being drawn. */
function kept(scope, stop) {
  if (scope === shown.scope) scope.push(stop);
  else stop();
  return stop;
}

function setQuery(changes, number) {
  if (number !== shown.number) return;
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}

async function whoami() {
  if (me) return;
  const asked = token();
  const found = await api("/whoami");
  if (asked !== token()) return; // somebody else has come meanwhile
  me = found;
  header.whoami(me);
}

function haveRuns(found) {
  const here = match(location.pathname)?.parameters.run ?? "";
  header.runs(found, here);
}

async function refreshRuns() {
  if (drawing || match(location.pathname)?.page === "overview") return; // the overview asks for them itself
  try {
    haveRuns(await api("/runs"));
  } catch {
    // The header's list is as it was; the page in view says what is wrong.
  }
}

function connection(state, status) {
  header.connection(state);
  if (state === "denied") askForToken(status === 403 ? "This token may not read here." : "This token is not valid any more.");
}

function askForToken(why) {
  document.title = "Sentinel";
  show(
    element(
      "section",
      { class: "page panel narrow", "aria-labelledby": "sign-in" },
      element("h1", { id: "sign-in" }, "A token is needed"),
      why && element("p", { class: "error" }, why),
      tokenForm(begin),
    ),
  );
  document.getElementById("token-field").focus();
}

function failed(error) {
  if (error instanceof ApiError && error.status === 401) {
    header.connection("none");
    live.stop();
    askForToken(token() ? "This token is not valid: it may have expired or been revoked." : "");
    return;
  }
  unanswered = error instanceof ApiError && error.status === 0;
  const retry = element("button", { type: "button", onclick: route }, "Try again");
  show(problem(error instanceof ApiError ? error.message : "This page could not be drawn.", retry));
  if (!(error instanceof ApiError)) console.error(error);
}

function problem(text, ...more) {
  return element("section", { class: "page panel narrow", role: "alert" }, element("h1", {}, text), ...more);
}

function notice(text, kind) {
  const close = element("button", { type: "button", class: "quiet", "aria-label": "Dismiss" }, "×");
  const line = element("div", { class: `notice ${kind}` }, element("span", {}, text), close);
  close.addEventListener("click", () => line.remove());
  notices.replaceChildren(line);
}

function show(node) {
  main.replaceChildren(node);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || !followable(event, link)) return;
  event.preventDefault();
  go(link.href);
});
window.addEventListener("popstate", route);
window.addEventListener("hashchange", () => takeTokenFromAddress() && begin());
onAnswer((status) => status && live.hurry());
live.listen({
  open: () => (unanswered ? route() : refreshRuns()),
  state: () => refreshRuns(),
});

takeTokenFromAddress();
header.connection(token() ? "reconnecting" : "none");
begin();
