// Dead letters: what was given up for a recipient, publishing it anew, and removing it.

import { at, change, query, read } from "./api.js";
import { message, preview } from "./content.js";
import { confirm } from "./dialog.js";
import { badge, button, done, facts, field, form, h, link, replace } from "./dom.js";
import { count, moment } from "./format.js";
import { following } from "./pages.js";

export const title = "Dead letters";

const LIMIT = 50;
const CAUSES = ["timeout", "nack", "queue_full", "offline", "connection_lost", "stopped"];

export function show({ view, names, load }) {
  const [id] = names;
  const [said, list] = [h("div"), h("div")];
  let filter = {};
  let shown;
  const page = (after) => {
    shown = after;
    return load(list, async (signal) => {
      const found = await read(id === undefined ? query("v1/dead-letters", { ...filter, after, limit: LIMIT }) : at`v1/dead-letters/${id}`, { signal });
      const letters = found.dead_letters.map((letter) => row(letter, { requeue, purge }));
      const rest = found.next === null ? "" : " on this page: the ones behind are on the next";
      return [
        letters.length === 0 ? h("p", { class: "empty" }, `No letters${rest}.`) : h("div", { class: "list" }, letters),
        id === undefined && following({ next: found.next, isFirst: after === undefined }, page),
      ];
    });
  };
  const again = (text) => {
    replace(said, done(text));
    return page(shown);
  };
  const one = ({ id, recipient }) => query(at`v1/dead-letters/${id}`, { recipient });
  const requeue = async (letter) => {
    const path = query(`${at`v1/dead-letters/${letter.id}`}/requeue`, { recipient: letter.recipient });
    return again(requeued(await change("POST", path)));
  };
  const purge = (letter) => confirm({
    title: "Remove this letter?", text: `${letter.id} for ${letter.recipient} is lost.`, action: "Remove it",
    submit: async () => again(removed(await change("DELETE", one(letter)))),
  });
  if (id === undefined) view.append(filters((given) => ((filter = given), page())), bulk());
  else view.append(h("p", { class: "path" }, link(["dead-letters"], "Dead letters"), " / ", link(["messages", id], id)));
  view.append(said, list);
  page();

  function bulk() {
    const which = () => Object.entries(filter).map(([name, value]) => `${name} ${value}`).join(", ") || "no filter: all there are";
    return h("div", { class: "buttons" },
      button("Requeue all that match…", () => confirm({
        title: "Publish them anew?", text: `Every letter of the filter (${which()}), up to 1,000 at once, is published anew and removed when it is accepted.`, action: "Requeue", kind: "primary",
        submit: async () => again(requeued(await change("POST", "v1/dead-letters/requeue", { document: filter }))),
      })),
      button("Purge all that match…", () => confirm({
        title: "Remove them?", text: `Every letter of the filter (${which()}), up to 1,000 at once, is lost.`, action: "Purge",
        submit: async () => again(removed(await change("DELETE", query("v1/dead-letters", filter)))),
      }), "danger"));
  }
}

function filters(apply) {
  const causes = [h("option", { value: "" }, "any"), CAUSES.map((cause) => h("option", {}, cause))];
  const input = (name, placeholder) => h("input", { name, placeholder, autocomplete: "off", spellcheck: "false" });
  return form({ class: "row" }, (data) => {
    const given = [...data].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value !== "");
    return apply(Object.fromEntries(given));
  }, field("Cause", h("select", { name: "cause" }, causes)), field("Published to", input("to", "topic/orders.>")), field("Recipient", input("recipient", "user/bob")), h("button", { class: "primary" }, "Show"));
}

function row(letter, { requeue, purge }) {
  const summary = h("summary", {}, h("time", {}, moment(letter.at)), badge(letter.cause, "bad"), h("span", {}, letter.recipient), h("span", { class: "preview" }, preview(letter)));
  const box = h("details", {}, summary);
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    const actions = form({ class: "row" }, () => requeue(letter), h("button", { class: "primary" }, "Requeue"), button("Purge…", () => purge(letter), "danger"));
    const about = facts([
      ["For", letter.recipient], ["Published to", letter.to], ["Cause", `${letter.cause}: ${letter.detail}`], ["Attempts", count(letter.attempts)], ["Given up", moment(letter.at)],
      ["Generation", letter.generation === null ? undefined : count(letter.generation)],
    ]);
    box.append(about, message(letter), actions);
  });
  return box;
}

function requeued({ requeued, failed, more, messages, failures }) {
  const why = failures.length > 0 ? ` (${failures[0].detail})` : "";
  const links = messages.slice(0, 3).map(({ id }) => [" ", link(["messages", id], id)]);
  return [`${count(requeued)} requeued, ${count(failed)} not accepted${why}${more ? "; there are more: requeue again" : ""}.`, links];
}

function removed({ purged, more }) {
  return `${count(purged)} removed${more ? "; there are more: purge again" : ""}.`;
}
