// Policies: all of them at a glance, and a new one.

import { read } from "./api.js";
import { badge, button, h, link, region, table } from "./dom.js";
import { count, nanoseconds } from "./format.js";
import { breaker, one, state, tried } from "./policy.js";
import { write } from "./steps.js";

export const title = "Policies";

const EVERY_MS = 2_000;
const TEMPLATE = { hook: "routing", plugin: "name@1", match: ["topic/>"], config: {}, order: 100, mode: "active", on_failure: "open" };
const COLUMNS = ["Policy", "Hook", "Version", "State", "Candidate", "Breaker", "Match", "Calls", "Failures", "p50", "p99", "Generation"];

export function show(context) {
  context.names.length > 0 ? one(context, context.names[0]) : all(context);
}

function all({ view, poll }) {
  const make = () => write({ title: "New policy", document: TEMPLATE, note: "If there is one of this name, it is put in its place.", done: (name) => (location.hash = `#/policies/${encodeURIComponent(name)}`) });
  view.append(h("div", { class: "buttons" }, button("New policy…", make)));
  const list = region(view);
  poll(EVERY_MS, async (signal) => {
    const found = await read("v1/policies", { signal });
    list.update(JSON.stringify(found), () => [
      h("p", { class: "hint" }, `Generation ${count(found.generation)} of the active set.`),
      table("Policies", COLUMNS, found.policies.map(row), "No policy is in place."),
    ]);
  });
}

function row(policy) {
  const name = link(["policies", policy.name], policy.name);
  if (policy.state === "refused" && policy.reason !== undefined) {
    return [name, policy.document?.hook, policy.version, badge("refused", "bad"), policy.reason, undefined, matches(policy.document), undefined, undefined, undefined, undefined, count(policy.generation)];
  }
  const document = policy.document ?? policy.candidate?.document;
  return [
    name, document?.hook, policy.version ?? "none", state(policy), tried(policy.candidate), breaker(policy.breaker), matches(document), count(policy.calls), count(policy.failures),
    nanoseconds(policy.latency.p50_ns), nanoseconds(policy.latency.p99_ns), count(policy.generation),
  ];
}

function matches(document) {
  return (document?.match ?? []).join(", ");
}
