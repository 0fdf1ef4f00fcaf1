// Messages: how far one is with each of its recipients, which policies decided what about it, and publishing one.

import { at, change, query, read } from "./api.js";
import { area, badge, done, facts, field, form, h, link, table } from "./dom.js";
import { count, cut, moment, nanoseconds } from "./format.js";
import { parse, stringify } from "./json.js";

export const title = "Messages";

const STATES = { acked: "good", stored: "good", under_way: "warn", planned: "warn", sent: "warn", retrying: "warn", delayed: "warn", incomplete: "bad", expired: "bad", dead_lettered: "bad", dropped: "bad", nacked: "bad", failed: "bad" };
const DECISION_CHARS_MAX = 2_000;

export function show(context) {
  const { view, names, search } = context;
  const [id] = names;
  const to = search.get("to") ?? "";
  const find = form({ class: "row" }, (data) => {
    const wanted = query(at`messages/${String(data.get("id")).trim()}`, { to: String(data.get("to")).trim() });
    // The same one again is asked for again.
    if (location.hash === `#/${wanted}`) dispatchEvent(new Event("hashchange"));
    location.hash = `#/${wanted}`;
  },
  field("Message id", h("input", { name: "id", value: id, required: true, pattern: "\\s*[0-9a-fA-F]{32}\\s*", title: "32 hexadecimal digits", maxlength: 40, autocomplete: "off", spellcheck: "false" })),
  field("Address", h("input", { name: "to", value: to, autocomplete: "off", spellcheck: "false", placeholder: "only for stored ones not found without" })), h("button", { class: "primary" }, "Find"));
  view.append(find);
  if (id !== undefined) {
    const [ledger, explained] = [h("section"), h("section")];
    view.append(h("h2", {}, "Delivery"), ledger, h("h2", {}, "Policies"), explained);
    context.load(ledger, (signal) => read(query(at`v1/messages/${id}`, { to }), { signal }).then(delivery, unknown));
    context.load(explained, (signal) => read(at`v1/explain/${id}`, { signal }).then(explanation, unknown));
  }
  view.append(h("h2", {}, "Publish a test message"), publish());
}

/** That nothing is known of a message is no fault. */
function unknown(error) {
  if (error.status === 404) return h("p", { class: "empty" }, error.message);
  throw error;
}

function state(word) {
  return badge(word.replace("_", " "), STATES[word]);
}

function delivery(of) {
  const plan = of.plan && `quorum ${of.plan.quorum}, ${count(of.plan.attempts)} attempts of ${count(of.plan.timeout_ms)} ms`;
  const rows = of.recipients.flatMap((recipient) => [
    [recipient.recipient, "", state(recipient.state), count(recipient.attempts), recipient.cause, recipient.at && moment(recipient.at)],
    ...recipient.devices.map((device) => [
      device.user && device.user, [device.device ?? "no device", device.session && [" ", h("small", {}, device.session)]], state(device.state), count(device.attempt),
      [device.cause, device.reason && ` (${device.reason})`], times(device),
    ]),
  ]);
  return [
    facts([
      ["State", state(of.state)], ["To", link(["history", of.to], of.to)], ["From", of.from ?? "the admin API"], ["Published", moment(of.ts)], ["Level", of.level], ["Known from", of.source.replace("_", " ")],
      ["Due", of.due && moment(of.due)], ["Position", of.pos], ["Plan", plan],
    ]),
    table("Recipients", ["Recipient", "Device", "State", "Attempts", "Cause", "When"], rows, "No recipient is known."),
    of.dead_letters.length > 0 && h("p", {}, badge(`${count(of.dead_letters.length)} dead letters`, "bad"), " ", link(["dead-letters", of.id], "show")),
  ];
}

function times({ sent_at, acked_at }) {
  const told = [sent_at && `sent ${moment(sent_at)}`, acked_at && `acked ${moment(acked_at)}`].filter(Boolean);
  return told.join(", ");
}

function explanation(of) {
  const rows = of.decisions.map((one) => [
    one.question, link(["policies", one.policy], one.policy), one.plugin, one.shadow ? "shadow" : one.version, count(one.generation), one.ns === null ? "–" : `${one.timed ? "" : "~ "}${nanoseconds(one.ns)}`,
    one.decision === null ? "" : h("code", {}, cut(stringify(one.decision), DECISION_CHARS_MAX)), notes(one),
  ]);
  const held = Object.entries(of.outcome).map(([hook, { by, decision }]) => [hook, [h("code", {}, cut(stringify(decision), DECISION_CHARS_MAX)), by === null ? "" : ` by ${by}`]]);
  return [
    facts([["Published to", of.address], ...held]),
    table("Decisions", ["Question", "Policy", "Version", "As", "Generation", "Time", "Decision", "Note"], rows, "No policy was asked."),
    of.left_out > 0 && h("p", { class: "hint" }, `${count(of.left_out)} more decisions were not recorded.`),
  ];
}

function notes({ cached, failed, cause, attempt, audience }) {
  return [
    cached && "cached", failed && `failed: ${failed.outcome}${failed.instead ? `, instead: ${failed.instead}` : ""}`, cause && `attempt ${count(attempt)} ended with ${cause}`,
    audience && `for ${audience.codecs.join(", ") || "no codec"}${audience.dictionary ? " with a dictionary" : ""}`,
  ].filter(Boolean).join("; ");
}

function publish() {
  const text = (name, attributes = {}) => h("input", { name, autocomplete: "off", spellcheck: "false", ...attributes });
  const levels = ["accepted", "stored", "delivered"].map((level) => h("option", {}, level));
  return form({ class: "grid" }, async (data) => {
    const given = (name) => String(data.get(name) ?? "").trim();
    const document = { to: given("to"), payload: data.get("kind") === "text" ? String(data.get("payload")) : json(given("payload")), ack: given("ack"), headers: lines(given("headers")), priority: Number(given("priority")) };
    if (given("key")) document.key = given("key");
    if (given("ttl")) document.ttl_ms = Number(given("ttl"));
    if (given("delay")) document.delay_ms = Number(given("delay"));
    const { id, level, recipients } = await change("POST", "v1/publish", { document });
    return done([`${level}, recipients: ${count(recipients)}, `, link(["messages", id], id)]);
  },
  field("To", text("to", { required: true, placeholder: "topic/orders.eu" })), field("Level", h("select", { name: "ack" }, levels)),
  h("div", { class: "wide" }, field("Payload", area("payload", '{"hello":"world"}', 3))),
  field("Payload is", h("select", { name: "kind" }, h("option", { value: "json" }, "JSON"), h("option", { value: "text" }, "a text"))),
  field("Headers", h("textarea", { name: "headers", rows: 2, spellcheck: "false", placeholder: "name: value, one a line" })), field("Key", text("key")),
  field("Priority", text("priority", { type: "number", min: 0, max: 9, value: 0 })), field("Time to live (ms)", text("ttl", { type: "number", min: 0 })), field("Delay (ms)", text("delay", { type: "number", min: 0 })),
  h("div", { class: "buttons" }, h("button", { class: "primary" }, "Publish")));
}

function json(text) {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`the payload is not JSON: ${error.message}`);
  }
}

function lines(text) {
  const named = text.split("\n").filter((line) => line.trim() !== "").map((line) => {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`a header has a name, a colon and a value: ${line}`);
    return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
  });
  return Object.fromEntries(named);
}
