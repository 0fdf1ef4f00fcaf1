// What messages carry: payload and headers, of whatever kind and size.

import { button, facts, h, link, replace } from "./dom.js";
import { bytes, count, cut, moment } from "./format.js";
import { stringify } from "./json.js";

/** Characters of a payload that are shown at first, and when all of it is asked for. */
const SHOWN_MAX = 2_000;
const WHOLE_MAX = 200_000;
const PREVIEW_MAX = 120;

/** A payload of bytes: as text where it is one. */
function decoded(base64) {
  const data = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  try {
    return { kind: `text, ${bytes(data.length)}`, text: new TextDecoder("utf-8", { fatal: true }).decode(data) };
  } catch {
    const hex = Array.from(data.subarray(0, 1024), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return { kind: `bytes, ${bytes(data.length)}`, text: data.length > 1024 ? `${hex} …` : hex };
  }
}

/** A payload as text. Of JSON that was cut, a text is what is left. */
function read({ payload, payload_b64, truncated }, isSpread) {
  if (truncated && typeof payload === "string") return { kind: "the beginning of JSON", text: payload };
  if (payload_b64 !== undefined) {
    try {
      return decoded(payload_b64);
    } catch {
      return { kind: "base64", text: payload_b64 };
    }
  }
  return payload === undefined ? undefined : { kind: "JSON", text: stringify(payload, isSpread) };
}

/** One line of a payload. */
export function preview(message) {
  const found = read(message, false);
  return found === undefined ? "" : cut(found.text.slice(0, WHOLE_MAX).replace(/\s+/g, " "), PREVIEW_MAX);
}

/** The whole payload in a box, its beginning where it is long. */
export function payload(message) {
  const found = read(message, true);
  if (found === undefined) return h("p", { class: "empty" }, "no payload");
  const box = h("pre", { class: "payload", tabindex: 0, "aria-label": "payload" }, cut(found.text, SHOWN_MAX));
  const more = found.text.length > SHOWN_MAX && button("Show all", ({ target }) => {
    replace(box, cut(found.text, WHOLE_MAX));
    target.remove();
  }, "small");
  return h("div", { class: "content" }, h("small", {}, found.kind), box, more);
}

/** Names and values of headers. */
export function headers(of) {
  const pairs = Object.entries(of ?? {});
  return pairs.length > 0 && h("div", { class: "content" }, h("small", {}, "headers"), facts(pairs.map(([name, value]) => [name, String(value)])));
}

/** Everything about a stored message but its address. */
export function message(of) {
  const rest = facts([
    ["id", link(["messages", of.id], of.id)], ["from", of.from ?? "the admin API"], ["position", of.pos], ["published", moment(of.ts)], ["key", of.key],
    ["reply to", of.reply_to], ["priority", of.priority ? count(of.priority) : undefined], ["expires", of.expires && moment(of.expires)],
  ]);
  return h("div", {}, rest, headers(of.headers), payload(of));
}
