// Sessions: who is connected, and ending that.

import { at, change, query, read } from "./api.js";
import { confirm } from "./dialog.js";
import { button, done, field, form, h, replace, table } from "./dom.js";
import { count, moment } from "./format.js";
import { pages } from "./pages.js";

export const title = "Sessions";

const LIMIT = 50;

export function show({ view, search, load }) {
  const said = h("div");
  const list = h("div");
  let [user, offset] = [search.get("user") ?? "", Number(search.get("offset")) || 0];
  const refresh = () => load(list, async (signal) => {
    const found = await read(query("v1/sessions", { user, limit: LIMIT, offset }), { signal });
    return [table("Sessions", ["User", "Device", "Transport", "From", "Since", "Worker", "Session", "Action"], found.sessions.map(row), "There is no such session."), pages(found, (to) => {
      offset = to;
      refresh();
    })];
  });
  const close = ({ id, user }) => confirm({
    title: "Close this session?",
    text: `${id} of ${user} is ended, and its client is told not to come back by itself.`,
    action: "Close it",
    async submit() {
      await change("DELETE", at`v1/sessions/${id}`);
      replace(said, done(`Session ${id} of ${user} is closed.`));
      refresh();
    },
  });
  const row = (session) => [
    session.user, session.device, session.transport, session.remote, moment(session.connected_unix_ms), count(session.worker),
    h("code", {}, session.id), button("Close", () => close(session), "small danger", `Close session ${session.id} of ${session.user}`),
  ];
  const filter = form({ class: "row" }, (data) => {
    [user, offset] = [String(data.get("user")).trim(), 0];
    return refresh();
  }, field("User", h("input", { name: "user", value: user, autocomplete: "off", spellcheck: "false", placeholder: "all" })), h("button", {}, "Show"));
  view.append(filter, said, list);
  refresh();
}
