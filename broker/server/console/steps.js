// Steps that change what a policy decides by: another version in one of three ways, and a document by hand.

import { at, change, read } from "./api.js";
import { ask } from "./dialog.js";
import { area, field, h, replace } from "./dom.js";
import { parse, stringify } from "./json.js";

const WAYS = [
  ["shadow", "Shadow", "asked beside the active version and compared with it, decides nothing"],
  ["canary", "Canary", "decides for a share of senders"],
  ["active", "Active", "decides for everybody at once; the version before is kept for a rollback"],
];

const ACTIONS = { shadow: "Start the shadow", canary: "Start the canary", active: "Swap" };

function json(text, what) {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`${what}: ${error.message}`);
  }
}

/** The document of the active version, or of what is tried while there is none. */
export function known(policy) {
  return policy.document ?? policy.candidate?.document ?? policy.previous?.document;
}

/** A document by another revision or rules, in one of the ways. */
export function changed(document, { plugin, rules, config, way, percent }) {
  const { canary_percent: _, ...rest } = document;
  const made = { ...rest, mode: way === "shadow" ? "shadow" : "active" };
  if (rules !== undefined) made.rules = rules;
  if (plugin !== undefined) made.plugin = plugin;
  if (config !== undefined) made.config = config;
  if (way === "canary") made.canary_percent = percent;
  return made;
}

/** Revisions that have the hook: all kept ones of the policy's own plugin, the latest of others. */
async function revisions({ hook, plugin }) {
  const own = (plugin ?? "").split("@")[0];
  const [{ plugins }, mine] = await Promise.all([read("v1/plugins"), own === "" ? [] : read(at`v1/plugins/${own}`).then(({ revisions }) => revisions)]);
  const others = plugins.filter(({ name }) => name !== own);
  return [...mine.toReversed(), ...others].filter(({ hooks }) => hooks.includes(hook)).map(({ name, revision }) => `${name}@${revision}`);
}

/** The swap: which version, and how, unless the page was left before that can be asked. Says whether it was made. */
export async function swap(policy, isThere) {
  const document = known(policy);
  const isRules = document.rules !== undefined;
  const found = isRules ? [] : await revisions(document);
  if (!isRules && found.length === 0) throw new Error(`no plugin that was uploaded has the hook ${document.hook}`);
  if (!isThere()) return false;
  const serving = policy.version ?? "nothing";
  const select = h("select", { name: "plugin" }, found.map((version) => h("option", { value: version }, version === policy.version ? `${version} (active now)` : version)));
  const percent = h("input", { type: "number", name: "percent", min: 1, max: 99, value: 10, required: true });
  const ways = WAYS.map(([way, name, what], i) => h("label", { class: "choice" }, h("input", { type: "radio", name: "way", value: way, checked: i === 0 }), h("span", {}, h("strong", {}, name), ` ${what}`)));
  const share = field("Share of senders in percent", percent);
  const told = h("p", { class: "preview", role: "status" });
  const fields = h("div", { class: "stack" },
    isRules ? field("Rules (JSON)", area("rules", stringify(document.rules, true), 10)) : [field("Revision", select), field("Configuration (JSON)", area("config", stringify(document.config ?? {}, true), 4))],
    h("fieldset", {}, h("legend", {}, "How"), ways), share, told);
  const tell = () => {
    const way = fields.querySelector("input[name=way]:checked").value;
    share.hidden = percent.disabled = way !== "canary";
    const to = isRules ? "These rules" : select.value;
    const then = { shadow: "be asked beside it, and decide nothing", canary: `decide for ${percent.value} % of senders`, active: "decide for everybody" }[way];
    replace(told, `${policy.name}: ${serving} decides now. ${to} will ${then}.`);
    const button = fields.closest("form")?.querySelector("button.primary");
    if (button) replace(button, ACTIONS[way]);
  };
  fields.addEventListener("input", tell);
  tell();
  return ask({
    title: `Change what decides: ${policy.name}`, fields, action: ACTIONS.shadow,
    async submit(data) {
      const text = (name) => String(data.get(name));
      const given = isRules ? { rules: json(text("rules"), "Rules") } : { plugin: text("plugin"), config: json(text("config"), "Configuration") };
      const wanted = changed(document, { ...given, way: text("way"), percent: Number(data.get("percent")) });
      await change("PUT", at`v1/policies/${policy.name}`, { document: wanted });
    },
  });
}

/** A document by hand, of a policy that is named or of a new one. */
export async function write({ title, name, document, note, done }) {
  let of = name;
  const named = h("input", { name: "name", required: true, autocomplete: "off", spellcheck: "false" });
  const fields = h("div", { class: "stack" }, name === undefined && field("Name", named), field("Document (JSON)", area("document", stringify(document, true), 18)), note && h("p", { class: "preview" }, note));
  const isDone = await ask({
    title, fields, action: "Put it in force",
    async submit(data) {
      of = name ?? String(data.get("name")).trim();
      await change("PUT", at`v1/policies/${of}`, { document: json(String(data.get("document")), "Document") });
    },
  });
  if (isDone) done(of);
}
