// The example of docs/browser in a real browser: the same checks over WebSocket, WebTransport and server-sent events, between them, and
// what the browser and the broker refuse.

import assert from "node:assert/strict";
import { broker, files, metric, pageOf, run } from "./support.mjs";

const EXAMPLE = "docs/browser";
const MESSAGES = 2_000;
const NAMES = { websocket: "WebSocket", webtransport: "WebTransport", sse: "server-sent events" };

/** A broker that lets one page in, that page, and where it connects. */
async function stage(chrome, opened) {
  const origin = await files(opened, EXAMPLE);
  const served = await broker(opened, `[access]\nallowed_origins = ["${origin}"]\n`);
  const page = await pageOf(chrome, origin);
  opened({ stop: () => page.close() });
  const { webSocket, webTransport, events, fingerprint } = served;
  const places = { websocket: { url: webSocket }, webtransport: { url: webTransport, fingerprint }, sse: { url: events } };
  return { origin, served, page, places };
}

await run({
  async "payloads come back as they were sent"(chrome, opened) {
    const { served, page, places } = await stage(chrome, opened);
    const handshake = await nextHandshake(page);
    const said = [];
    for (const [transport, place] of Object.entries(places)) {
      const member = await join(page, place, { user: transport });
      const { wrong, count, levels } = await member.evaluate(talk, `topic/${transport}`);
      assert.deepEqual(wrong, []);
      assert.deepEqual(levels, ["accepted"]);
      const delivered = await metric(served, `waspmq_messages_delivered_total{kind="topic",transport="${transport}"}`);
      assert.equal(delivered, count);
      said.push(`${count} over ${transport}`);
    }
    const { status, headers } = await handshake.answer;
    assert.equal(status, 101);
    const extensions = Object.entries(headers).find(([name]) => name.toLowerCase() === "sec-websocket-extensions")?.[1];
    assert.match(extensions, /^permessage-deflate\b/);
    assert.deepEqual(page.thrown, []);
    return `${said.join(", ")}; ${extensions}`;
  },

  async "long payloads have streams of their own, in both directions"(chrome, opened) {
    const { served, page, places } = await stage(chrome, opened);
    const member = await join(page, places.webtransport, { user: "long", streams: true });
    const { wrong, count, levels } = await member.evaluate(talk, "topic/long");
    assert.deepEqual(wrong, []);
    assert.deepEqual(levels, ["accepted"]);
    const outcomes = [["out", "sent"], ["out", "full"], ["in", "taken"], ["in", "refused"]];
    const counts = await Promise.all(outcomes.map(([direction, outcome]) =>
      metric(served, `waspmq_quic_streams_total{direction="${direction}",outcome="${outcome}"}`)));
    assert.deepEqual(counts, [3, 0, 3, 0]);
    assert.deepEqual(page.thrown, []);
    return `${counts[0]} of ${count} each way`;
  },

  async "messages cross from one transport to the other, in order"(chrome, opened) {
    const { origin, page, places } = await stage(chrome, opened);
    const [other, third] = [await pageOf(chrome, origin), await pageOf(chrome, origin)];
    const members = {
      websocket: await join(page, places.websocket, { user: "websocket" }),
      webtransport: await join(other, places.webtransport, { user: "webtransport" }),
      sse: await join(third, places.sse, { user: "sse" }),
    };
    const ways = [["websocket", "webtransport"], ["webtransport", "sse"], ["sse", "websocket"]];
    for (const [, to] of ways) await members[to].evaluate(({ broker }, to) => broker.subscribe(to), `topic/to.${to}`);
    const order = { count: MESSAGES };
    await Promise.all(ways.map(async ([from, to]) => {
      await members[from].evaluate(publishMany, { ...order, to: `topic/to.${to}` });
      const came = await members[to].evaluate(receiveMany, order);
      assert.deepEqual(came.senders, [from]);
      assert.deepEqual(came.wrong, []);
    }));
    // The other one acknowledges, so all of them have to write an ack that is understood.
    for (const [from, to] of ways) {
      const { level } = await members[from].evaluate(
        ({ broker }, to) => broker.publish(`user/${to}`, "for you", { ack: "delivered" }), to);
      assert.equal(level, "delivered");
    }
    return `${MESSAGES} each way, then one that is acknowledged`;
  },

  async "a certificate is taken by its fingerprint only"(chrome, opened) {
    const { served, page, places } = await stage(chrome, opened);
    const place = places.webtransport;
    const last = place.fingerprint.endsWith("0") ? "1" : "0";
    const wrong = await failure(page, { ...place, fingerprint: place.fingerprint.slice(0, -1) + last });
    assert.match(wrong.console, /CERT/);
    const none = await failure(page, { ...place, fingerprint: undefined });
    assert.match(none.console, /CERT/);
    assert.equal(await metric(served, 'waspmq_connections{transport="webtransport"}'), 0);
    await join(page, place, { user: "carol" });
    assert.equal(await metric(served, 'waspmq_connections{transport="webtransport"}'), 1);
    return `${wrong.console}; ${none.console}`;
  },

  async "a page of another origin is let in over no transport"(chrome, opened) {
    const { served, places } = await stage(chrome, opened);
    const stranger = await pageOf(chrome, await files(opened, EXAMPLE));
    const webSocket = await failure(stranger, places.websocket);
    assert.match(webSocket.console, /403/);
    const webTransport = await failure(stranger, places.webtransport);
    // What Chromium calls any answer but 2xx, on a connection whose certificate it took.
    assert.match(webTransport.console, /ERR_METHOD_NOT_SUPPORTED/);
    const events = await failure(stranger, places.sse);
    assert.match(events.console, /403|CORS/);
    for (const transport of Object.keys(places)) {
      assert.equal(await metric(served, `waspmq_connections{transport="${transport}"}`), 0, transport);
    }
    // The broker's own host may always connect.
    const own = await pageOf(chrome, `http://${served.address}`);
    await own.evaluate(openAlone, places.webtransport);
    return `${webSocket.console}; ${webTransport.console}; ${events.console}`;
  },

  async "another path has no session"(chrome, opened) {
    const { page, places } = await stage(chrome, opened);
    const { url, fingerprint } = places.webtransport;
    const { console } = await failure(page, { url: url.replace("/wt", "/other"), fingerprint });
    assert.match(console, /ERR_METHOD_NOT_SUPPORTED/);
    return console;
  },

  async "what the broker refuses is said with its code"(chrome, opened) {
    const { page, places } = await stage(chrome, opened);
    const said = [];
    for (const [transport, place] of Object.entries(places)) {
      const member = await join(page, place, { user: transport });
      const refused = await member.evaluate(({ broker }) => broker.publish("nowhere", 1).catch(({ code, reason }) => ({ code, reason })));
      assert.deepEqual(refused, { code: 1410, reason: "invalid_address" });
      assert.equal((await member.evaluate(({ broker }) => broker.publish("topic/a", 1))).recipients, 0);
      said.push(transport);
    }
    return `invalid_address over ${said.join(" and ")}`;
  },

  async "a session ends with the broker's code"(chrome, opened) {
    const { served, page, places } = await stage(chrome, opened);
    const ends = {};
    for (const [transport, place] of Object.entries(places)) {
      const kicked = await join(page, place, { user: "kicked" });
      const id = await kicked.evaluate(({ broker }) => broker.welcome.session);
      assert.equal((await served.call("DELETE", `/v1/sessions/${id}`)).ok, true);
      const left = await join(page, place, { user: "left" });
      await left.evaluate(({ broker }) => broker.close());
      ends[transport] = { kicked: await end(kicked), left: await end(left) };
    }
    const stay = Object.entries(places).map(async ([transport, place]) => [transport, await join(page, place, { user: transport })]);
    const staying = await Promise.all(stay);
    await served.stop();
    for (const [transport, member] of staying) ends[transport].drained = await end(member);
    const expected = {
      kicked: { code: 4002, reason: "kicked" },
      left: { code: 1000, reason: "" },
      drained: { code: 4100, reason: "draining" },
    };
    assert.deepEqual(ends, { websocket: expected, webtransport: expected, sse: expected });
    assert.deepEqual(page.thrown, []);
    return JSON.stringify(ends.webtransport);
  },

  async "the page does what its forms say"(chrome, opened) {
    const { page, places } = await stage(chrome, opened);
    // What was sent must not become part of the page.
    const payload = "Grüße, 世界 🐝 <b id=injected>bold</b>";
    for (const [transport, { url, fingerprint }] of Object.entries(places)) {
      await page.check(`#connect [value=${transport}]`);
      await page.fill("#connect [name=url]", url);
      await page.fill("#connect [name=user]", transport);
      if (fingerprint) await page.fill("#connect [name=fingerprint]", fingerprint);
      await page.click("#connect button:has-text('Connect')");
      await logged(page, "done", `by ${NAMES[transport]}`);
      await page.fill("#subscribe [name=to]", "topic/forms.>");
      await page.click("#subscribe button:has-text('Subscribe')");
      await logged(page, "done", "subscribed to topic/forms.>");
      await page.fill("#publish [name=to]", "topic/forms.a");
      await page.fill("#publish [name=payload]", payload);
      await page.click("#publish button:has-text('Send')");
      await logged(page, "message", `topic/forms.a from ${transport}: ${payload}`);
      await logged(page, "done", "recipients: 1");
      await page.click("#subscribe [name=unsubscribe]");
      await logged(page, "done", "unsubscribed from topic/forms.>");
      await page.click("#close");
      await logged(page, "failed", "the connection is closed");
      await page.click("#clear");
    }
    assert.equal(await page.locator("#injected").count(), 0);
    assert.deepEqual(page.thrown, []);
    return "all transports";
  },
});

/** A session in a page, which collects what it is sent. */
function join(page, place, options) {
  return page.evaluateHandle(openMember, { ...place, ...options });
}

/** How a session ended. */
function end(member) {
  return member.evaluate(({ closed }) => closed);
}

/** That a page cannot connect, and what the browser writes about it for developers. */
async function failure(page, place) {
  const written = page.waitForEvent("console", (message) => /connection to|EventSource|CORS|Failed to load/.test(message.text()));
  written.catch(() => {});
  const member = join(page, place, { user: "stranger" });
  await assert.rejects(member, /closed/i);
  // Without addresses, which differ from run to run.
  const [reason] = (await written).text().match(/net::[A-Z_.]+|Unexpected response code: \d+|CORS|status of \d+|$/);
  return { console: reason };
}

/** The answer to the next WebSocket handshake of a page, as the browser's developer tools have it. */
async function nextHandshake(page) {
  const session = await page.context().newCDPSession(page);
  const answer = new Promise((resolve) => {
    session.once("Network.webSocketHandshakeResponseReceived", ({ response }) => resolve(response));
  });
  await session.send("Network.enable");
  return { answer };
}

function logged(page, kind, text) {
  return page.locator(`#log .${kind}`, { hasText: text }).first().waitFor();
}

// In the page.
async function openMember({ url, ...options }) {
  const { connect } = await import("/waspmq.js");
  const messages = [];
  let wake = () => {};
  const closed = Promise.withResolvers();
  const broker = await connect(url, {
    ...options,
    onMessage: (message) => {
      messages.push(message);
      wake();
    },
    onClose: closed.resolve,
  });
  const next = async () => {
    while (messages.length === 0) await new Promise((resolve) => (wake = resolve));
    return messages.shift();
  };
  return { broker, next, closed: closed.promise };
}

// In the page: what a page of the broker's own host can do without the example.
async function openAlone({ url, fingerprint }) {
  const value = Uint8Array.from(fingerprint.split(":"), (pair) => parseInt(pair, 16));
  const transport = new WebTransport(url, { serverCertificateHashes: [{ algorithm: "sha-256", value }] });
  await transport.ready;
  transport.close();
}

// In the page.
async function talk({ broker, next }, to) {
  const noise = (length) => {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
    return bytes;
  };
  const payloads = [
    "",
    null,
    0.1,
    { list: [1, "two", { three: true }], "naïve key": "ключ" },
    "Grüße, 世界 🐝 \u0000 \u2028 \"quoted\" \\ \r\n",
    "Grüße, 世界 🐝 ".repeat(4_000),
    new Uint8Array(0),
    Uint8Array.of(0, 255, 10, 13),
    noise(100_000),
    noise(700_000),
  ];
  await broker.subscribe(to);
  const wrong = [];
  const levels = new Set();
  for (const [i, payload] of payloads.entries()) {
    const headers = { "x-i": String(i), "x-word": "naïve 🐝" };
    const receipt = await broker.publish(to, payload, { headers, priority: i % 10, key: "k" });
    const message = await next();
    levels.add(receipt.level);
    const isSame = payload instanceof Uint8Array
      ? message.payload instanceof Uint8Array && String(message.payload) === String(payload)
      : JSON.stringify(message.payload) === JSON.stringify(payload);
    const isWhole = message.id === receipt.id && message.to === to && JSON.stringify(message.headers) === JSON.stringify(headers) &&
      (message.priority ?? 0) === i % 10 && message.key === "k" && /^s\d+e\d+:\d+$/.test(message.pos) && receipt.recipients === 1;
    if (!isSame || !isWhole) wrong.push({ i, message: JSON.stringify(message).slice(0, 300) });
  }
  return { wrong, count: payloads.length, levels: [...levels] };
}

// In the page: below the bound of requests that wait.
async function publishMany({ broker }, { to, count }) {
  for (let first = 0; first < count; first += 500) {
    const part = Array.from({ length: Math.min(500, count - first) }, (_, i) => broker.publish(to, { order: first + i }));
    await Promise.all(part);
  }
}

// In the page.
async function receiveMany({ next }, { count }) {
  const senders = new Set();
  const wrong = [];
  for (let order = 0; order < count; order += 1) {
    const { from, payload } = await next();
    senders.add(from);
    if (payload.order !== order) wrong.push({ order, payload });
  }
  return { senders: [...senders], wrong };
}
