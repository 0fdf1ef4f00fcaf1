// The console's parts that need no page: the metrics, quantiles, events, JSON, words, the documents of steps, asking again. No browser.

import assert from "node:assert/strict";
import test from "node:test";
import { change, forgetToken, keepToken, query, read } from "../../broker/server/console/api.js";
import { EVENT_CHARS_MAX, EventReader, eventsOf } from "../../broker/server/console/events.js";
import * as format from "../../broker/server/console/format.js";
import { parse as parseJson, stringify } from "../../broker/server/console/json.js";
import * as metrics from "../../broker/server/console/metrics.js";
import { pause, poll } from "../../broker/server/console/poll.js";
import { changed, known } from "../../broker/server/console/steps.js";

const TEXT = `# HELP waspmq_connections Open connections.
# TYPE waspmq_connections gauge
waspmq_connections{transport="websocket"} 3
waspmq_connections{transport="quic"} 2
plain_total 1.5e3 1790000000
odd{a="x\\"}\\\\ \\n",b="{,}"} +Inf
broken{a="x} 1
nothing
text{a="b"} not-a-number
traced_total{a="b"} 7 # {trace_id="x"} 1.0
latency_seconds_bucket{le="0.1",kind="user"} 1
latency_seconds_bucket{le="+Inf",kind="user"} 4
latency_seconds_bucket{le="0.2",kind="user"} 2
latency_seconds_bucket{le="0.1",kind="topic"} 1
latency_seconds_bucket{le="0.2",kind="topic"} 2
latency_seconds_bucket{le="+Inf",kind="topic"} 2
# EOF
`;

test("metrics are read with their labels, and what is none is passed over", () => {
  const samples = metrics.parse(TEXT);
  assert.equal(metrics.sum(samples, "waspmq_connections"), 5);
  assert.equal(metrics.sum(samples, "waspmq_connections", ({ transport }) => transport === "quic"), 2);
  assert.equal(metrics.sum(samples, "plain_total"), 1500);
  assert.equal(metrics.sum(samples, "absent_total"), undefined);
  assert.deepEqual([...metrics.by(samples, "waspmq_connections", "transport")], [["websocket", 3], ["quic", 2]]);
  assert.deepEqual(samples.get("odd"), [{ labels: { a: 'x"}\\ \n', b: "{,}" }, value: Infinity }]);
  assert.deepEqual(samples.get("traced_total"), [{ labels: { a: "b" }, value: 7 }]);
  for (const name of ["broken", "nothing", "text"]) assert.equal(samples.has(name), false, name);
});

test("buckets of all label sets are added up and rise", () => {
  assert.deepEqual(metrics.buckets(metrics.parse(TEXT), "latency_seconds"), [[0.1, 2], [0.2, 4], [Infinity, 6]]);
  assert.deepEqual(metrics.buckets(metrics.parse(TEXT), "absent"), []);
});

test("quantiles lie in the bucket that has them", () => {
  const of = [[0.1, 0], [0.2, 10], [0.4, 10], [0.8, 20], [Infinity, 20]];
  const close = (q, expected) => assert.ok(Math.abs(metrics.quantile(of, q).value - expected) < 1e-9, `${q}: ${metrics.quantile(of, q).value}`);
  close(0, 0.1);
  close(0.25, 0.15);
  close(0.5, 0.2);
  close(0.75, 0.6);
  close(1, 0.8);
  assert.deepEqual(metrics.quantile([[0.1, 1], [5, 1], [Infinity, 2]], 0.99), { value: 5, isOver: true });
  assert.equal(metrics.quantile([[0.1, 0], [Infinity, 0]], 0.5), undefined);
  assert.equal(metrics.quantile([], 0.5), undefined);
});

test("a histogram that began anew is taken whole, and a counter has no rate then", () => {
  const before = [[1, 5], [Infinity, 9]];
  assert.deepEqual(metrics.since([[1, 6], [Infinity, 12]], before), [[1, 1], [Infinity, 3]]);
  assert.deepEqual(metrics.since([[1, 1], [Infinity, 2]], before), [[1, 1], [Infinity, 2]]);
  assert.deepEqual(metrics.since([[1, 1]], undefined), [[1, 1]]);
  assert.equal(metrics.rate(30, 10, 2), 10);
  for (const [now, then, seconds] of [[10, 30, 2], [undefined, 1, 2], [1, undefined, 2], [2, 1, 0]]) assert.equal(metrics.rate(now, then, seconds), undefined);
});

test("a ring keeps the last items", () => {
  const ring = new metrics.Ring(3);
  for (let n = 0; n < 10; n += 1) ring.push(n);
  assert.deepEqual(ring.items, [7, 8, 9]);
});

test("events are the same in pieces of any size and with any line ends", () => {
  const text = '\uFEFF: hello\n\nevent: ready\ndata: {}\n\nid: 7\ndata:a\ndata: b\ndata\n\nevent: message\n\n:\nevent: dropped\nretry: 5\ndata: {"count":1}\n\ndata: not ended\n';
  const expected = [{ event: "ready", data: "{}" }, { event: "message", data: "a\nb\n" }, { event: "dropped", data: '{"count":1}' }];
  for (const ends of ["\n", "\r", "\r\n"]) {
    const stream = text.replaceAll("\n", ends);
    for (let size = 1; size <= stream.length; size += 1) {
      const reader = new EventReader();
      const found = [];
      for (let at = 0; at < stream.length; at += size) found.push(...reader.push(stream.slice(at, at + size)));
      assert.deepEqual(found, expected, `pieces of ${size}, ends ${JSON.stringify(ends)}`);
    }
  }
});

test("an event without an end is given up, in one line or in many", () => {
  const endless = (piece) => {
    const reader = new EventReader();
    for (let size = 0; size <= EVENT_CHARS_MAX; size += piece.length) reader.push(piece);
  };
  assert.throws(() => endless("x".repeat(65_536)), RangeError);
  assert.throws(() => endless(`data: ${"x".repeat(65_536)}\n`), RangeError);
  assert.doesNotThrow(() => endless(`data: ${"x".repeat(65_536)}\n\n`));
});

test("a stream on which nothing is heard is given up", { timeout: 10_000 }, async () => {
  let isCancelled = false;
  const stream = (ends) => new ReadableStream({
    start(to) {
      to.enqueue(new TextEncoder().encode("data: a\n\ndata: b\n\n"));
      if (ends) to.close();
    },
    cancel: () => (isCancelled = true),
  });
  const read = async (body, silenceMs) => {
    const found = [];
    for await (const { data } of eventsOf(body, silenceMs)) found.push(data);
    return found;
  };
  assert.deepEqual(await read(stream(true), 60_000), ["a", "b"]);
  await assert.rejects(read(stream(false), 20), /nothing was heard/);
  assert.ok(isCancelled);
});

test("integers beyond a double keep their digits where the language can", () => {
  const text = '{"a":12345678901234567890,"b":1,"c":-9223372036854775808,"d":1.5,"e":"12345678901234567890"}';
  const read = parseJson(text);
  assert.deepEqual([read.b, read.d, read.e], [1, 1.5, "12345678901234567890"]);
  if (JSON.rawJSON) {
    assert.equal(stringify(read), text);
    assert.equal(format.count(read.a), "12345678901234567890");
  }
});

test("values are told in words", () => {
  const check = (told, expected) => assert.equal(told, expected);
  check(format.count(1234567), "1,234,567");
  check(format.count(null), "–");
  check(format.rate(0.1234), "0.123/s");
  check(format.rate(1234.5), "1,235/s");
  check(format.bytes(0), "0 B");
  check(format.bytes(1023), "1,023 B");
  check(format.bytes(1536), "1.5 KiB");
  check(format.nanoseconds(412), "412 ns");
  check(format.nanoseconds(16_475), "16.5 µs");
  check(format.nanoseconds(2e9), "2 s");
  check(format.latency({ value: 0.0005, isOver: false }), "500 µs");
  check(format.latency({ value: 5, isOver: true }), "> 5 s");
  check(format.latency(undefined), "–");
  check(format.duration(999), "0 s");
  check(format.duration(90_061_000), "1 d 1 h");
  check(format.duration(3_600_000), "1 h 0 min");
  check(format.moment(null), "–");
  assert.match(format.moment(1_790_000_000_000), /^2026-09-2\d \d\d:\d\d:20\.000$/);
  check(format.cut("abcdef", 3), "abc… (3 more characters)");
  check(format.cut("abc", 3), "abc");
});

test("what cannot be seen, or turns the text around it, is told by its number", () => {
  assert.equal(format.visible("a\u202Eb\u0000c\u200Bd\ne\tf ü 🐝"), "a\\u202eb\\u0000c\\u200bd\ne\tf ü 🐝");
  // Bidirectional marks, soft hyphens, fillers and tags are as unseen as what is older.
  assert.equal(format.visible("\u061Ca\u00ADb\u3164c\u034Fd\u{E0041}\r"), "\\u061ca\\u00adb\\u3164c\\u034fd\\u{e0041}\\u000d");
});

test("a query has what is given", () => {
  assert.equal(query("v1/sessions", { user: "", limit: 50, after: undefined, offset: 0 }), "v1/sessions?limit=50&offset=0");
  assert.equal(query("v1/tail", { match: ["topic/>", "user/a b"], payload: undefined }), "v1/tail?match=topic%2F%3E&match=user%2Fa+b");
  assert.equal(query("v1/groups", {}), "v1/groups");
});

/** What a page has around `api.js`: gives how often all were told that the token is not taken, and what was asked with which. */
function around(t, answer) {
  const [kept, told, asked] = [new Map(), [], []];
  const there = {
    sessionStorage: { getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text), removeItem: (name) => kept.delete(name) },
    document: { baseURI: "http://localhost/" },
    dispatchEvent: ({ type }) => told.push(type),
    fetch: (url, { headers }) => (asked.push(headers.authorization), answer()),
  };
  for (const [name, value] of Object.entries(there)) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
  return { told, asked };
}

test("a token that is not taken is told once, and not when it is another's turn by now", async (t) => {
  const answers = [];
  const { told, asked } = around(t, () => (answers.push(deferred()), answers.at(-1).promise));
  const refused = () => new Response("{}", { status: 401 });
  keepToken("old");
  const late = read("v1/status");
  keepToken("new");
  answers[0].resolve(refused());
  await assert.rejects(late, { status: 401 });
  assert.deepEqual(told, []);
  const now = read("v1/status");
  answers[1].resolve(refused());
  await assert.rejects(now, { status: 401 });
  assert.deepEqual(told, ["waspmq-unauthorized"]);
  assert.deepEqual(asked, ["Bearer old", "Bearer new"]);
  // What no header can carry is refused here, as the broker would.
  for (const text of ["to\nken", "tok€n", "tok…"]) await assert.rejects(read("v1/status", { bearer: text }), { status: 401 });
  assert.equal(asked.length, 2);
  forgetToken();
  await assert.rejects(read("v1/status", { bearer: "\u0000" }), { status: 401 });
  assert.equal(told.length, 1);
});

test("of a change without an answer it is not said that it was not done", async (t) => {
  around(t, () => Promise.reject(new TypeError("Failed to fetch")));
  await assert.rejects(read("v1/status"), { message: "the broker does not answer" });
  await assert.rejects(change("DELETE", "v1/dead-letters"), /whether this was done is not known/);
});

test("a step changes the version, the way and nothing else", () => {
  const document = { hook: "routing", plugin: "p@1", match: ["all"], order: 7, config: { a: 1 }, mode: "active", canary_percent: 5 };
  const rest = { hook: "routing", match: ["all"], order: 7 };
  const to = (way) => changed(document, { plugin: "p@2", config: {}, way, percent: 9 });
  assert.deepEqual(to("shadow"), { ...rest, plugin: "p@2", config: {}, mode: "shadow" });
  assert.deepEqual(to("canary"), { ...rest, plugin: "p@2", config: {}, mode: "active", canary_percent: 9 });
  assert.deepEqual(to("active"), { ...rest, plugin: "p@2", config: {}, mode: "active" });
  const rules = { hook: "routing", rules: [1], match: ["all"], mode: "off" };
  assert.deepEqual(changed(rules, { rules: [2], way: "active" }), { ...rules, rules: [2], mode: "active" });
  assert.equal(known({ document, candidate: { document: rules } }), document);
  assert.equal(known({ document: null, candidate: { document: rules } }), rules);
  assert.equal(known({ document: null, candidate: null, previous: { document: rules } }), rules);
});

test("tries grow rarer and stay bounded", () => {
  assert.deepEqual([0, 1, 2, 10, 2000].map((failures) => pause(2_000, failures)), [2_000, 4_000, 8_000, 30_000, 30_000]);
  assert.equal(pause(60_000, 3), 60_000);
});

/** A page that is hidden or not. */
class Page extends EventTarget {
  hidden = false;

  turn(hidden) {
    this.hidden = hidden;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

test("a hidden page asks nothing, a page that is back asks at once, one that was left never again", { timeout: 10_000 }, async () => {
  const [page, leave] = [new Page(), new AbortController()];
  let [asked, told, heard] = [0, [], deferred()];
  const next = () => (heard = deferred()).promise;
  const work = async () => {
    asked += 1;
    if (asked === 2) throw new Error("gone");
  };
  const tell = (error, pauseMs) => {
    told.push([error?.message, pauseMs]);
    heard.resolve();
  };
  let hears = next();
  poll({ every: 5, work, tell, signal: leave.signal, page });
  await hears;
  hears = next();
  await hears;
  page.turn(true);
  assert.deepEqual(told, [[undefined, undefined], ["gone", 10]]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(asked, 2);
  hears = next();
  page.turn(false);
  await hears;
  assert.deepEqual(told[2], [undefined, undefined]);
  leave.abort();
  page.turn(true);
  page.turn(false);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(asked, 3);
});

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}
