// Tail: messages as they pass, of the addresses that match.

import { query, refusal, request, Unreachable } from "./api.js";
import { headers, payload, preview } from "./content.js";
import { badge, button, facts, field, form, h, link, replace, trouble } from "./dom.js";
import { bytes, clock, count, moment } from "./format.js";
import { eventsOf } from "./events.js";
import { parse } from "./json.js";
import { pause } from "./poll.js";

export const title = "Tail";

/** Messages that are shown, and that wait to be while it is paused; the oldest go first. */
const ROWS_MAX = 200;
const AGAIN_MS = 1_000;
/** Three times what the broker is silent at most. */
const SILENCE_MS = 45_000;
const OUTCOMES = { accepted: "good", duplicate: "warn" };

export function show({ view, signal }) {
  const list = h("div", { class: "list", role: "log", "aria-label": "Messages", "aria-live": "off" });
  const status = h("p", { class: "hint", role: "status" });
  let stream = new AbortController();
  let waiting = [];
  let [isPaused, isDrawing, seen, dropped, passed] = [false, false, 0, 0, 0];
  let said = "Not started.";

  const tell = () => replace(status, [said, ` ${count(seen)} seen`, dropped > 0 && `, ${count(dropped)} left out by the broker`, passed > 0 && `, ${count(passed)} passed over here`, isPaused && `, ${count(waiting.length)} wait`]);
  /** Once a frame at most, and not while the page is hidden; what waits is bounded. */
  const draw = () => {
    if (isDrawing) return;
    isDrawing = true;
    requestAnimationFrame(() => {
      isDrawing = false;
      if (!isPaused) {
        list.prepend(...waiting.reverse().map(row));
        waiting = [];
        while (list.children.length > ROWS_MAX) list.lastElementChild.remove();
      }
      tell();
    });
  };
  const take = (message) => {
    seen += 1;
    waiting.push(message);
    if (waiting.length > ROWS_MAX) {
      waiting.shift();
      passed += 1;
    }
  };
  const heard = ({ event, data }) => {
    if (event === "ready") said = "Live.";
    if (event === "dropped") dropped += Number(parse(data).count) || 0;
    if (event === "message") take(parse(data));
  };

  const follow = async (wanted) => {
    stream.abort();
    const mine = (stream = new AbortController());
    const ended = AbortSignal.any([signal, mine.signal]);
    for (let failures = 0; !ended.aborted; failures += 1) {
      try {
        said = "Connecting.";
        tell();
        for await (const event of events(wanted, ended)) {
          if (ended.aborted) return;
          if (event.event === "ready") failures = 0;
          heard(event);
          draw();
        }
        said = "The broker ended the stream;";
      } catch (error) {
        if (ended.aborted) return;
        if (error.status !== undefined && error.status !== 503) return refused(error);
        said = `${error.message[0].toUpperCase()}${error.message.slice(1)};`;
      }
      const wait = pause(AGAIN_MS, failures);
      said += ` tried again in ${Math.ceil(wait / 1000)} s.`;
      tell();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  };
  const refused = (error) => {
    said = "Not live.";
    tell();
    const isMissing = error.status === 404 && error.kind === "no_such_endpoint";
    replace(list, isMissing ? h("p", { class: "empty" }, "This broker has no live tail.") : trouble(error));
  };

  const start = form({ class: "row" }, (data) => {
    const patterns = String(data.get("match")).split(/\s+/).filter((pattern) => pattern !== "");
    [seen, dropped, passed, waiting] = [0, 0, 0, []];
    replace(list);
    follow({ match: patterns, payload: data.get("payload") === null ? undefined : "true" });
  },
  field("Addresses or patterns", h("input", { name: "match", value: "topic/>", required: true, autocomplete: "off", spellcheck: "false" }), "several with spaces between"),
  h("label", { class: "choice" }, h("input", { type: "checkbox", name: "payload" }), h("span", {}, "with payloads and headers")), h("button", { class: "primary" }, "Start"));
  const hold = button("Pause", () => {
    isPaused = !isPaused;
    replace(hold, isPaused ? "Go on" : "Pause");
    draw();
  });
  const stop = button("Stop", () => {
    stream.abort();
    said = "Stopped.";
    tell();
  });
  const clear = button("Clear", () => {
    waiting = [];
    replace(list);
    tell();
  });
  tell();
  view.append(start, h("div", { class: "buttons" }, hold, clear, stop), status, list);
}

/** The events of one stream, until it ends. */
async function* events(wanted, signal) {
  const answer = await request("GET", query("v1/tail", wanted), { signal });
  if (!answer.ok) throw await refusal(answer);
  try {
    yield* eventsOf(answer.body, SILENCE_MS);
  } catch (error) {
    throw signal.aborted || error instanceof RangeError ? error : new Unreachable();
  }
}

function row(of) {
  const outcome = of.outcome && badge(of.outcome.replaceAll("_", " "), OUTCOMES[of.outcome] ?? "bad");
  const summary = h("summary", {}, h("time", { title: moment(of.ts) }, clock(of.ts)), outcome, h("span", {}, of.to), of.from && h("span", {}, `from ${of.from}`), of.id && link(["messages", of.id], of.id.slice(-12), { class: "id", title: of.id }), h("span", { class: "preview" }, preview(of)));
  const box = h("details", {}, summary);
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    const about = facts([
      ["id", of.id && link(["messages", of.id], of.id)], ["to", of.to], ["from", of.from], ["published", moment(of.ts)], ["position", of.pos], ["kind", of.kind],
      ["error", of.error && [of.error, of.reason && `: ${of.reason}`]], ["sent instead to", of.instead?.join(", ")], ["delay", of.delay_ms && `${count(of.delay_ms)} ms`],
      ["recipients", of.recipients !== undefined && count(of.recipients)], ["level", of.ack], ["size", of.size !== undefined && bytes(of.size)], ["priority", of.priority !== undefined && count(of.priority)],
    ]);
    box.append(...[about, headers(of.headers), (of.payload !== undefined || of.payload_b64 !== undefined) && payload(of), of.truncated && h("p", { class: "hint" }, "The broker cut the payload.")].filter(Boolean));
  });
  return box;
}
