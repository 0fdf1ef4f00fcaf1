// One policy: what decides, what is tried beside it, how it goes, and the steps from one version to another.

import { at, change, query, read } from "./api.js";
import { confirm } from "./dialog.js";
import { badge, button, done, facts, h, link, region, replace, table, trouble } from "./dom.js";
import { bytes, count, cut, nanoseconds } from "./format.js";
import { stringify } from "./json.js";
import { known, swap, write } from "./steps.js";

const EVERY_MS = 2_000;
const DECISION_CHARS_MAX = 2_000;
/** Differences that are shown at once. */
const SAMPLES_SHOWN = 8;

export function one({ view, poll }, name) {
  const said = h("div");
  view.append(h("p", { class: "path" }, link(["policies"], "Policies"), " / ", h("strong", {}, name)));
  const actions = region(view, { class: "buttons" });
  view.append(said);
  const [figures, trial, documents] = [region(view), region(view), region(view)];
  const draw = (policy) => {
    const { state, version, generation, candidate, previous, document, reason } = policy;
    const made = [state, version, generation, candidate?.version, candidate?.document, previous?.version, reason];
    actions.update(JSON.stringify(made), () => steps(policy, { said, again }));
    figures.update(JSON.stringify(policy), () => (reason === undefined ? about(policy) : refused(policy)));
    trial.update(JSON.stringify(candidate ?? null), () => candidate && candidateOf(candidate));
    documents.update(JSON.stringify([document, candidate?.document, previous]), () => shown(policy));
  };
  let last;
  /** What was asked before a change may be answered behind it: only the last question counts. */
  const again = async (signal) => {
    const mine = (last = {});
    const policy = await read(at`v1/policies/${name}`, { signal }).catch((error) => {
      if (error.status !== 404) throw error;
      return error;
    });
    if (mine === last) policy instanceof Error ? gone(policy) : draw(policy);
  };
  const gone = (error) => {
    [actions, trial, documents].forEach((part) => part.update("gone", () => []));
    figures.update("gone", () => trouble(error));
  };
  poll(EVERY_MS, again);
}

/** The buttons that there is a use for now. */
function steps(policy, { said, again }) {
  const { name, candidate, previous, reason } = policy;
  const now = policy.version ?? "nothing";
  const path = (step) => query(`${at`v1/policies/${name}`}/${step}`, { generation: policy.generation });
  const step = (text, action, submit) => () => confirm({
    title: `${action}?`, text, action, kind: "primary",
    async submit() {
      await submit();
      replace(said, done(`Done: ${text}`));
      await again().catch(() => {});
    },
  });
  const promote = step(`${candidate?.version} decides for everybody instead of ${now}.`, "Promote", () => change("POST", path("promote")));
  const back = candidate
    ? step(`The candidate ${candidate.version} is dropped${policy.version ? `, ${now} goes on deciding` : ", and the policy with it"}.`, "Roll back", () => change("POST", path("rollback")))
    : step(`${previous?.version} decides for everybody instead of ${now}.`, "Roll back", () => change("POST", path("rollback")));
  const remove = async () => {
    const isDone = await confirm({
      title: "Remove this policy?", text: `${name} decides nothing any more, and nothing is kept to go back to.`, action: "Remove it",
      submit: () => change("DELETE", at`v1/policies/${name}`),
    });
    if (isDone) location.hash = "#/policies";
  };
  let isAsking = false;
  const doSwap = async () => {
    if (isAsking) return;
    isAsking = true;
    try {
      if (await swap(policy, () => said.isConnected)) await again();
    } catch (error) {
      replace(said, trouble(error));
    }
    isAsking = false;
  };
  const edit = () => write({ title: `Document of ${name}`, name, document: known(policy), note: candidate && policy.version && `The candidate ${candidate.version} is dropped, unless this is a shadow or a canary itself.`, done: () => again().catch(() => {}) });
  return [
    reason === undefined && button("Swap…", doSwap, "primary"), candidate && button("Promote…", promote), (candidate || previous) && button("Roll back…", back),
    button("Edit document…", edit), button("Remove…", remove, "danger"),
  ];
}

function about(policy) {
  const { latency, instances, kept, outcomes, counters, histograms, exceeded, rollbacks, last_rollback, refused_versions, compressed } = policy;
  return [
    facts([
      ["State", state(policy)], ["Breaker", breaker(policy.breaker)], ["Version", policy.version ?? "none"], ["Hook", known(policy)?.hook],
      ["Match", (known(policy)?.match ?? []).join(", ")], ["Generation", count(policy.generation)], ["Lane", policy.lane],
      ["Roll back to", policy.candidate ? undefined : policy.previous?.version], ["Calls", count(policy.calls)], ["Failures", count(policy.failures)],
      ["p50", nanoseconds(latency.p50_ns)], ["p99", nanoseconds(latency.p99_ns)], ["p99.9", nanoseconds(latency.p999_ns)], ["Timed calls", count(latency.timed_calls)],
      ["Outcomes", pairs(outcomes)], ["Over limits", pairs(exceeded)], ["Instances", `${count(instances.serving)} serve, ${count(instances.spare)} spare, ${count(instances.replaced)} replaced, ${count(instances.recycled)} recycled`],
      ["Kept for it", kept.values + kept.buckets > 0 ? `${count(kept.values)} values, ${bytes(kept.value_bytes)}, ${count(kept.buckets)} buckets` : undefined],
      ["Its counters", pairs(counters)],
      ["Its histograms", Object.entries(histograms).map(([name, of]) => `${name} p50 ${count(of.p50)}, p99 ${count(of.p99)}, max ${count(of.max)}`).join("; ")],
      ["Compressed", Object.entries(compressed).map(([codec, of]) => `${codec} ${bytes(of.plain_bytes)} as ${bytes(of.packed_bytes)}`).join("; ")], ["Taken back", pairs(rollbacks)],
    ]),
    last_rollback && h("p", { class: "hint" }, `Last taken back: ${last_rollback.from} for ${last_rollback.to || "nothing"}, ${last_rollback.reason}${last_rollback.detail ? `: ${last_rollback.detail}` : ""} (generation ${count(last_rollback.generation)}).`),
    refused_versions.length > 0 && table("Versions that could not be brought back", ["Role", "Version", "Why"], refused_versions.map(({ role, version, reason }) => [role, version, reason]), ""),
  ];
}

function pairs(counts) {
  return Object.entries(counts ?? {}).filter(([, amount]) => amount !== 0).map(([name, amount]) => `${name} ${count(amount)}`).join(", ");
}

function refused(policy) {
  return [
    h("div", { class: "trouble" }, h("strong", {}, "It could not be brought back, and decides nothing until it is put anew"), h("span", {}, policy.reason)),
    facts([["State", badge("refused", "bad")], ["Version", policy.version], ["Generation", count(policy.generation)], ["Digest", policy.digest]]),
  ];
}

function candidateOf(candidate) {
  const { differences } = candidate;
  return h("section", {},
    h("h2", {}, "Candidate"),
    facts([
      ["Version", tried(candidate)], ["Breaker", breaker(candidate.breaker)], ["Calls", count(candidate.calls)], ["Failures", count(candidate.failures)],
      ["Passed by", count(candidate.passed_by)], ["Mean call", candidate.mean_ns === null ? undefined : nanoseconds(candidate.mean_ns)],
      ["Decided alike", differences && count(differences.same)], ["Differently", differences && count(differences.different)], ["Failed to decide", differences && count(differences.failed)],
    ]),
    differences && differences.samples.length > 0 && [h("h3", {}, "Decided differently"), compared(differences.samples)]);
}

function compared(samples) {
  const shown = (some) => table("Decided differently", ["Message", "Sender", "Address", "Active", "Shadow"], some.map(sample), "");
  const rest = samples.slice(SAMPLES_SHOWN);
  return [shown(samples.slice(0, SAMPLES_SHOWN)), rest.length > 0 && h("details", {}, h("summary", {}, `${count(rest.length)} more`), shown(rest))];
}

function sample({ id, sender, address, active, shadow }) {
  const decision = (of) => h("code", {}, cut(stringify(of), DECISION_CHARS_MAX));
  return [id === null ? "no id" : link(["messages", id], id), sender, address, decision(active), decision(shadow)];
}

function shown({ document, candidate, previous }) {
  const box = (name, of) => of && h("details", {}, h("summary", {}, name), h("pre", { tabindex: 0 }, stringify(of, true)));
  return [box("Document of the active version", document), box("Document of the candidate", candidate?.document), box("Document to roll back to", previous?.document)];
}

export function state({ state, on_probation }) {
  const kind = { active: "good", trial: "warn", refused: "bad" }[state];
  return [badge(state, kind), on_probation && [" ", badge("on probation", "warn")]];
}

export function breaker(word) {
  return badge(word, { closed: "good", "half-open": "warn", open: "bad" }[word]);
}

/** How a candidate is tried. */
export function tried(candidate) {
  if (!candidate) return undefined;
  const { mode, canary_percent } = candidate.document;
  return `${candidate.version}, ${mode === "shadow" ? "shadow" : `canary ${canary_percent} %`}`;
}
