// Groups and their members.

import { at, change, query, read } from "./api.js";
import { confirm } from "./dialog.js";
import { button, done, field, form, h, link, replace, table } from "./dom.js";
import { count } from "./format.js";
import { pages } from "./pages.js";

export const title = "Groups";

const LIMIT = 50;
const NAME = { autocomplete: "off", spellcheck: "false", required: true };

export function show(context) {
  context.names.length > 0 ? one(context, context.names[0]) : all(context);
}

function all({ view, load }) {
  const list = h("div");
  const refresh = (offset = 0) => load(list, async (signal) => {
    const found = await read(query("v1/groups", { limit: LIMIT, offset }), { signal });
    const rows = found.groups.map(({ group, member_count }) => [link(["groups", group], group), count(member_count)]);
    return [table("Groups", ["Group", "Members"], rows, "There is no group."), pages(found, refresh)];
  });
  const make = form({ class: "row" }, async (data) => {
    const group = String(data.get("group")).trim();
    await change("PUT", at`v1/groups/${group}`);
    location.hash = `#/groups/${encodeURIComponent(group)}`;
  }, field("New group", h("input", { name: "group", ...NAME })), h("button", {}, "Make it"));
  view.append(make, list);
  refresh();
}

function one({ view, load }, group) {
  const [said, list] = [h("div"), h("div")];
  const refresh = (offset = 0) => load(list, async (signal) => {
    const found = await read(query(at`v1/groups/${group}/members`, { limit: LIMIT, offset }), { signal });
    const rows = found.members.map((user) => [user, sessionsOf(user), button("Take out", () => take(user), "small danger", `Take out ${user}`)]);
    return [table("Members", ["User", "Sessions", "Action"], rows, "It has no member."), pages(found, refresh)];
  });
  const take = (user) => confirm({
    title: "Take this member out?",
    text: `${user} is no member of ${group} any more, on all sessions.`,
    action: "Take out",
    async submit() {
      await change("DELETE", at`v1/groups/${group}/members/${user}`);
      replace(said, done(`${user} is taken out.`));
      refresh();
    },
  });
  const remove = async () => {
    const isDone = await confirm({
      title: "Remove this group?",
      text: `All memberships of ${group} end.`,
      action: "Remove it",
      submit: () => change("DELETE", at`v1/groups/${group}`),
    });
    if (isDone) location.hash = "#/groups";
  };
  const add = form({ class: "row" }, async (data) => {
    const user = String(data.get("user")).trim();
    await change("PUT", at`v1/groups/${group}/members/${user}`);
    refresh();
    return done(`${user} is a member.`);
  }, field("Add a member", h("input", { name: "user", ...NAME })), h("button", {}, "Add"));
  view.append(h("p", { class: "path" }, link(["groups"], "Groups"), " / ", h("strong", {}, group)), add, said, list, h("div", { class: "buttons" }, button("Remove the group…", remove, "danger")));
  refresh();
}

function sessionsOf(user) {
  return h("a", { href: `#/sessions?${new URLSearchParams({ user })}` }, "show");
}
