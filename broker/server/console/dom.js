// Making elements. Every text goes in as text: there is no way here to have markup, styles or addresses out of a string.

import { visible } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
/** What attributes may be set; `href` leads to a place of this page only. */
const ATTRIBUTES = new Set([
  "aria-current", "aria-hidden", "aria-label", "aria-live", "accept", "autocomplete", "class", "checked", "cols", "d", "data-label", "data-state", "datetime",
  "disabled", "fill", "for", "height", "href", "id", "inputmode", "list", "max", "maxlength", "method", "min", "name", "open", "pattern", "placeholder",
  "preserveAspectRatio", "required", "role", "rows", "scope", "selected", "spellcheck", "tabindex", "title", "type", "value", "viewBox", "width",
]);

/** An element with attributes, listeners (functions) and children: elements, texts, numbers; nothing is left out. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An element of a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") {
      element.addEventListener(name, value);
      continue;
    }
    if (!ATTRIBUTES.has(name)) throw new TypeError(`no attribute is called ${name}`);
    if (name === "href" && !String(value).startsWith("#/")) throw new TypeError("a link leads out of the page");
    element.setAttribute(name, value === true ? "" : name === "title" ? visible(String(value)) : String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  const there = children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false);
  return there.map((child) => (child instanceof Node ? child : visible(String(child))));
}

/** Puts children in the place of all that an element has. */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
}

/** Puts children in the place of all that an element has. What was chosen by the keyboard is so still, where it is there again. */
export function renew(element, children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : undefined;
  replace(element, children);
  const isIt = (one) => one.textContent === focused.textContent && ["href", "aria-label"].every((name) => one.getAttribute(name) === focused.getAttribute(name));
  if (focused) [...element.querySelectorAll(focused.localName)].find(isIt)?.focus();
}

/** A link to a page of the console, `link(["messages", id], id)`. */
export function link(path, text, attributes = {}) {
  return h("a", { href: `#/${path.map(encodeURIComponent).join("/")}`, ...attributes }, text);
}

/** A word with a colour: `good`, `warn`, `bad`, or none. */
export function badge(text, state) {
  return h("span", { class: "badge", "data-state": state }, text);
}

/** Names with their values; those without a value are left out. */
export function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return h("dl", { class: "facts" }, there.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** A table; on a narrow screen its rows are cards. A cell is text or an element. */
export function table(name, columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column))));
  const cells = (row) => row.map((cell, i) => h("td", { "data-label": columns[i] }, h("span", {}, cell)));
  return h("table", { "aria-label": name }, head, h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))));
}

/** A field with its label. */
export function field(label, control, hint) {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));
}

/** A text area that has a text as it is, what cannot be seen included. */
export function area(name, text, rows) {
  const made = h("textarea", { name, rows, spellcheck: "false", autocomplete: "off" });
  made.value = text;
  return made;
}

/** A button; `label` says more than its text, where there are several alike. */
export function button(text, click, kind, label) {
  return h("button", { type: "button", class: kind, click, "aria-label": label && visible(label) }, text);
}

/** What went wrong, told at once to those who listen to the page. */
export function trouble(error) {
  const problem = error.problem ?? {};
  const place = [problem.key && `key: ${problem.key}`, problem.line && `line ${problem.line}, column ${problem.column}`].filter(Boolean);
  const title = problem.title ?? (error.status ? `Status ${error.status}` : undefined);
  return h("div", { class: "trouble", role: "alert" }, title && h("strong", {}, title), h("span", {}, error.message), place.length > 0 && h("small", {}, place.join("; ")));
}

/** What was done. */
export function done(text) {
  return h("p", { class: "done", role: "status" }, text);
}

/** A form that says what became of it: `submit` gets its fields and gives what is shown. One submission at a time. */
export function form(attributes, submit, ...children) {
  const said = h("div", { class: "said" });
  const made = h("form", attributes, ...children, said);
  let isBusy = false;
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isBusy) return;
    isBusy = true;
    made.classList.add("busy");
    replace(said);
    try {
      replace(said, await submit(new FormData(made), event.submitter));
    } catch (error) {
      replace(said, trouble(error));
    }
    made.classList.remove("busy");
    isBusy = false;
  });
  return made;
}

/** A part of a page that is made anew only when its key is another one, so that what somebody reads or types in stays. What was opened in it is open still. */
export function region(parent, attributes = {}) {
  const element = h("div", attributes);
  parent.append(element);
  let shown;
  return {
    element,
    update(key, build) {
      if (key === shown) return;
      shown = key;
      const opened = [...element.querySelectorAll("details")].map(({ open }) => open);
      renew(element, build());
      element.querySelectorAll("details").forEach((box, i) => (box.open ||= opened[i] ?? false));
    },
  };
}
