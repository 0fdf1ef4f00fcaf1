// History: stored messages of an address, page by page.

import { at, query, read } from "./api.js";
import { badge, field, form, h } from "./dom.js";
import { moment } from "./format.js";
import { message, preview } from "./content.js";
import { following } from "./pages.js";

export const title = "History";

const LIMIT = 50;

export function show({ view, names, load }) {
  const address = names.join("/");
  const open = form({ class: "row" }, (data) => {
    const wanted = `#/history/${encodeURIComponent(String(data.get("address")).trim())}`;
    if (location.hash === wanted) dispatchEvent(new Event("hashchange"));
    location.hash = wanted;
  }, field("Address", h("input", { name: "address", value: address, required: true, autocomplete: "off", spellcheck: "false", placeholder: "user/alice" })), h("button", { class: "primary" }, "Show"));
  view.append(open);
  if (address === "") return;
  const list = h("div");
  view.append(list);
  const page = (after) => load(list, async (signal) => {
    const found = await read(query(at`v1/history/${address}`, { after, limit: LIMIT }), { signal });
    return [
      found.gap && h("p", {}, badge("gap", "warn"), " Messages behind this place were removed for their age or to make room."),
      found.messages.length === 0 ? h("p", { class: "empty" }, "Nothing is stored here.") : h("div", { class: "list" }, found.messages.map(row)),
      following({ next: found.next, isFirst: after === undefined }, page),
    ];
  });
  page();
}

function row(of) {
  const summary = h("summary", {}, h("time", {}, moment(of.ts)), h("span", {}, of.from ?? "the admin API"), h("span", { class: "preview" }, preview(of)));
  const box = h("details", {}, summary);
  // Made when it is wanted: a page may have megabytes.
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) box.append(message(of));
  });
  return box;
}
