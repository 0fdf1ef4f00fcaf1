// Plugins: components that were uploaded, their revisions, and the next upload.

import { at, change, read } from "./api.js";
import { confirm } from "./dialog.js";
import { badge, button, done, field, form, h, link, table } from "./dom.js";
import { bytes, count } from "./format.js";

export const title = "Plugins";

/** As the broker refuses more, before it is sent. */
const COMPONENT_BYTES_MAX = 24 * 1024 * 1024;

export function show(context) {
  context.names.length > 0 ? one(context, context.names[0]) : all(context);
}

function all({ view, load }) {
  const list = h("div");
  load(list, async (signal) => {
    const { plugins, refused } = await read("v1/plugins", { signal });
    const rows = plugins.map((of) => [link(["plugins", of.name], of.name), ...columns(of)]);
    return [table("Plugins", ["Plugin", ...COLUMNS], rows, "No plugin was uploaded yet."), refusals(refused)];
  });
  view.append(list, h("h2", {}, "Upload"), upload());
}

const COLUMNS = ["Revision", "Hooks", "Size", "Lane", "Digest"];

function columns({ revision, hooks, size_bytes, lane, lane_reason, digest }) {
  const why = lane_reason && `the component ${lane_reason}`;
  return [count(revision), hooks.join(", "), bytes(size_bytes), h("span", { title: why }, lane), h("code", { title: digest }, digest.slice(0, 12))];
}

function refusals(refused) {
  const rows = refused.map(({ name, revision, reason }) => [`${name}@${revision}`, reason]);
  return rows.length > 0 && [h("h2", {}, badge("refused", "bad"), " of an earlier run"), table("Refused revisions", ["Revision", "Why"], rows, "")];
}

/** Of a plugin that is named, or of any. */
function upload(name, uploaded = () => {}) {
  const file = h("input", { type: "file", name: "component", accept: ".wasm,application/wasm", required: true });
  const named = name === undefined && field("Plugin", h("input", { name: "name", required: true, autocomplete: "off", spellcheck: "false", placeholder: "as the file is called" }));
  file.addEventListener("change", () => {
    const input = named && named.querySelector("input");
    if (input && input.value === "") input.value = (file.files[0]?.name ?? "").replace(/\.wasm$/, "");
  });
  return form({ class: "row" }, async (data) => {
    const component = data.get("component");
    if (component.size > COMPONENT_BYTES_MAX) throw new Error(`a component has at most ${bytes(COMPONENT_BYTES_MAX)}, this one has ${bytes(component.size)}`);
    const to = name ?? String(data.get("name")).trim();
    const of = await change("POST", at`v1/plugins/${to}/revisions`, { bytes: await component.arrayBuffer() });
    uploaded();
    return done([link(["plugins", of.name], `${of.name}@${of.revision}`), ` is there: ${of.hooks.join(", ")}, ${bytes(of.size_bytes)}, lane ${of.lane}.`]);
  }, field("Component", file), named, h("button", { class: "primary" }, "Upload"));
}

function one({ view, load }, name) {
  const list = h("div");
  const refresh = () => load(list, async (signal) => {
    const { revisions, refused } = await read(at`v1/plugins/${name}`, { signal });
    return [table("Revisions", COLUMNS, revisions.toReversed().map(columns), "No revision is kept."), refusals(refused)];
  });
  const remove = async () => {
    const isDone = await confirm({
      title: "Delete this plugin?",
      text: `All revisions of ${name} are removed. The broker refuses while a policy uses one, or could roll back to one.`,
      action: "Delete it",
      submit: () => change("DELETE", at`v1/plugins/${name}`),
    });
    if (isDone) location.hash = "#/plugins";
  };
  view.append(h("p", { class: "path" }, link(["plugins"], "Plugins"), " / ", h("strong", {}, name)), list, h("h2", {}, "Upload the next revision"), upload(name, refresh), h("div", { class: "buttons" }, button("Delete the plugin…", remove, "danger")));
  refresh();
}
