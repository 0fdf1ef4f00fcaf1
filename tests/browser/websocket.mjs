// WebSocket from a real browser, which compresses what it sends and is sent compressed messages: the echo example,
// then the broker.

import assert from "node:assert/strict";
import { broker, metric, pageOf, program, run, start } from "./support.mjs";

await run({
  async "the echo example"(chrome, opened) {
    const echo = opened(await start(program("examples/ws_echo"), ["127.0.0.1:0"], [/ws:\/\/(\S+)/]));
    const [address] = echo.groups;
    const page = await pageOf(chrome, `http://${address}`);
    const seen = await page.evaluate(talkToEcho, address);
    assert.match(seen.extensions, /^permessage-deflate\b/);
    assert.match(seen.extensions, /server_no_context_takeover/);
    assert.deepEqual(seen.wrong, []);
    assert.equal(seen.closed, 1000);
    return `${seen.extensions}; ${seen.count} messages came back`;
  },

  async "the broker"(chrome, opened) {
    const { address, webSocket, call } = await broker(opened);
    // Pages of other origins may not connect.
    const page = await pageOf(chrome, `http://${address}`);
    const seen = await page.evaluate(talkToBroker, webSocket);
    assert.equal(seen.protocol, "waspmq.v1.json");
    assert.match(seen.extensions, /^permessage-deflate\b/);
    assert.equal(seen.came, seen.sent);
    const said = [];
    for (const way of ["in", "out"]) {
      const wire = await metric({ call }, bytes(`wire_${way}`));
      const plain = await metric({ call }, bytes(`plain_${way}`));
      assert.ok(wire > 0 && wire * 10 < plain, `${way}: ${plain} bytes as ${wire}`);
      said.push(`${way} ${plain} bytes as ${wire}`);
    }
    return `${seen.extensions}; ${said.join(", ")}`;
  },
});

function bytes(side) {
  return `waspmq_compression_bytes_total{codec="deflate",side="${side}"}`;
}

// In the page.
async function talkToEcho(address) {
  const socket = new WebSocket(`ws://${address}/`);
  socket.binaryType = "arraybuffer";
  const arrived = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => {
    arrived.push(data);
    wake();
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  const noise = crypto.getRandomValues(new Uint8Array(60_000));
  const messages = [
    "",
    "a",
    "Grüße, 世界 🐝 ".repeat(10_000),
    new Uint8Array(1_000_000).fill(7),
    noise,
    ...Array.from({ length: 500 }, (_, i) => JSON.stringify({ order: i, text: "x".repeat(i) })),
  ];
  messages.forEach((message) => socket.send(message));
  const closed = new Promise((resolve) => (socket.onclose = ({ code }) => resolve(code)));
  const ended = closed.then(() => wake());
  while (arrived.length < messages.length && socket.readyState === WebSocket.OPEN) {
    await Promise.race([new Promise((resolve) => (wake = resolve)), ended]);
  }
  const isSame = (a, b) => {
    if (typeof a === "string" || b === undefined) return a === b;
    const bytes = new Uint8Array(b);
    return a.length === bytes.length && a.every((byte, i) => byte === bytes[i]);
  };
  const wrong = messages.flatMap((message, i) => (isSame(message, arrived[i]) ? [] : [i]));
  socket.close(1000);
  return { extensions: socket.extensions, wrong, count: arrived.length, closed: await closed };
}

// In the page.
async function talkToBroker(url) {
  const socket = new WebSocket(url, ["waspmq.v1.json"]);
  const frames = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => {
    frames.push(JSON.parse(data));
    wake();
  };
  const next = async (type) => {
    while (frames.length === 0) await new Promise((resolve) => (wake = resolve));
    const frame = frames.shift();
    if (frame.type !== type) throw new Error(`${type} was expected: ${JSON.stringify(frame).slice(0, 200)}`);
    return frame;
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  const say = (frame) => socket.send(JSON.stringify(frame));
  say({ type: "connect", user: "page" });
  await next("welcome");
  say({ type: "subscribe", ref: 1, to: "topic/browser" });
  await next("ok");
  const sent = "the quick brown fox ".repeat(10_000);
  say({ type: "publish", to: "topic/browser", payload: sent });
  const { payload } = await next("message");
  const { extensions, protocol } = socket;
  socket.close();
  return { extensions, protocol, sent, came: payload };
}
