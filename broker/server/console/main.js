// The console's frame: signing in and out, which page is shown, and whether the broker answers.

import { forgetToken, keepToken, read, token } from "./api.js";
import { button, done, field, form, h, link, renew, replace, trouble } from "./dom.js";
import * as groups from "./groups.js";
import * as history from "./history.js";
import * as letters from "./letters.js";
import * as messages from "./messages.js";
import * as overview from "./overview.js";
import * as plugins from "./plugins.js";
import * as policies from "./policies.js";
import { poll } from "./poll.js";
import * as sessions from "./sessions.js";
import * as tail from "./tail.js";

const PAGES = { overview, sessions, groups, policies, plugins, messages, history, "dead-letters": letters, tail };
const [main, nav, signOut, connection] = ["main", "nav", "sign-out", "connection"].map((id) => document.getElementById(id));
let leave = new AbortController();

/** Where the address leads: a page, the names behind it, and its query. */
function place() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...names] = path.split("/").map(unescaped);
  return { name: Object.hasOwn(PAGES, name) ? name : "overview", names: names.filter((one) => one !== ""), search: new URLSearchParams(search) };
}

function unescaped(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A token that came with the address, as a command may print it, is taken once and not left there to be copied or kept. */
function takeToken() {
  const [, given] = location.hash.match(/^#token=(.+)$/) ?? [];
  if (given === undefined) return;
  window.history.replaceState(null, "", location.pathname + location.search);
  keepToken(unescaped(given));
}

/** What a page has to work with. `tell` is for what is asked again and again: whether the broker answers. */
function open({ name, names, search }, signal) {
  const view = h("div", { class: "page" });
  const title = h("h1", { tabindex: -1 }, PAGES[name].title);
  replace(main, title, view);
  document.title = `${PAGES[name].title} · WaspMQ`;
  const asked = new WeakMap();
  const context = {
    view, names, search, signal,
    poll: (every, work) => poll({ every, work, tell, signal }),
    /** Shows a part that has to be asked for first. Asked for again, it is the last answer that counts: the one before is not waited for. */
    async load(element, ask) {
      asked.get(element)?.abort();
      const mine = new AbortController();
      asked.set(element, mine);
      const ended = AbortSignal.any([signal, mine.signal]);
      const children = await ask(ended).catch((error) => [trouble(error), button("Try again", () => context.load(element, ask), "small")]);
      if (!ended.aborted) renew(element, children);
    },
  };
  PAGES[name].show(context);
  return title;
}

function tell(error, pauseMs) {
  connection.hidden = error === undefined;
  if (error !== undefined) replace(connection, `${error.message}; asked again in ${Math.ceil(pauseMs / 1000)} s`);
}

function show({ isMoved = false } = {}) {
  leave.abort();
  leave = new AbortController();
  connection.hidden = true;
  const isIn = token() !== null;
  nav.hidden = signOut.hidden = !isIn;
  if (!isIn) return askForToken();
  const where = place();
  for (const item of nav.querySelectorAll("a")) {
    item.dataset.page === where.name ? item.setAttribute("aria-current", "page") : item.removeAttribute("aria-current");
  }
  const title = open(where, leave.signal);
  // Readers of the screen hear which page it is; nothing moves when the console is opened.
  if (isMoved) title.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function askForToken(said) {
  document.title = "Sign in · WaspMQ";
  const input = h("input", { type: "password", name: "token", required: true, autocomplete: "off", spellcheck: "false", "aria-label": "Admin token" });
  const submit = async (data) => {
    const given = String(data.get("token")).trim();
    await read("v1/status", { bearer: given }).catch((error) => {
      throw error.status === 401 ? new Error("this is not the broker's admin token") : error;
    });
    keepToken(given);
    show({ isMoved: true });
  };
  const hint = [
    "It is in ", h("code", {}, "<data-dir>/admin-token"), " on the broker's machine, as printed when it started (", h("code", {}, "waspmq-data/admin-token"), " unless said otherwise), or it is ",
    h("code", {}, "admin.token"), " of its configuration. It stays in this tab until you sign out or close it.",
  ];
  replace(main, h("div", { class: "sign-in" }, h("h1", {}, "Sign in"), form({ class: "stack" }, submit, field("Admin token", input), h("p", { class: "hint" }, hint), h("div", { class: "buttons" }, h("button", { class: "primary" }, "Sign in")), said)));
  input.focus();
}

/** Ends what this tab knows, and what is shown. */
function out(said) {
  forgetToken();
  leave.abort();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  connection.hidden = nav.hidden = signOut.hidden = true;
  askForToken(said);
}

replace(nav, h("ul", {}, Object.entries(PAGES).map(([name, { title }]) => {
  const item = link([name], title);
  item.dataset.page = name;
  return h("li", {}, item);
})));
signOut.addEventListener("click", () => out(done("Signed out: the token is forgotten.")));
addEventListener("waspmq-unauthorized", () => {
  if (token() !== null) out(trouble(new Error("the broker does not take the token any more: sign in again")));
});
addEventListener("hashchange", () => {
  takeToken();
  show({ isMoved: true });
});
takeToken();
show();
