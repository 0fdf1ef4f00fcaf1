// Streams of their own in docs/browser, against a WebTransport that is made of Node's streams. No browser.

import assert from "node:assert/strict";
import test from "node:test";
import { Splitter, encode, encodeLength } from "../../docs/browser/binary.js";

// As in browsers and later versions of Node.js.
Promise.withResolvers ??= () => {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};
globalThis.reportError ??= console.error;
const { connect } = await import("../../docs/browser/waspmq.js");

const LONG = "x".repeat(20_000);

/** The session of a page, from the broker's side. */
class Peer {
  /** What came on the main stream, and what each of the others has, and whether that is over. */
  main = [];
  others = [];
  /** Whether what the page sends on streams of its own is read. */
  isReading = true;
  allowed = Infinity;
  closed = Promise.withResolvers();
  #changed = Promise.withResolvers();

  constructor() {
    this.toMain = Promise.withResolvers();
    this.incomingUnidirectionalStreams = new ReadableStream({ start: (controller) => (this.streams = controller) });
    this.gate = Promise.withResolvers();
    this.gate.resolve();
  }

  /** The class that the page makes its session with. */
  get transport() {
    const peer = this;
    return class {
      ready = Promise.resolve();
      closed = peer.closed.promise;
      incomingUnidirectionalStreams = peer.incomingUnidirectionalStreams;

      async createBidirectionalStream() {
        const readable = new ReadableStream({ start: (controller) => peer.toMain.resolve(controller) });
        return { readable, writable: peer.sink(peer.main) };
      }

      async createUnidirectionalStream({ sendOrder }) {
        if (peer.others.length >= peer.allowed) throw new Error("no stream");
        const stream = { sendOrder, types: [], isOver: false };
        peer.others.push(stream);
        return peer.sink(stream.types, () => (stream.isOver = true), () => peer.gate.promise);
      }

      close() {
        peer.closed.resolve({ closeCode: 0, reason: "" });
      }
    };
  }

  /** Takes messages, by the numbers of their frames. */
  sink(taken, close = () => {}, wait = () => {}) {
    const splitter = new Splitter(1 << 24);
    return new WritableStream({
      write: async (bytes) => {
        await wait();
        for (const message of splitter.push(bytes)) taken.push(message[0]);
        this.#change();
      },
      close: async () => {
        await wait();
        close();
        this.#change();
      },
    });
  }

  #change() {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  async until(holds) {
    while (!holds()) await this.#changed.promise;
  }

  async say(bytes) {
    (await this.toMain.promise).enqueue(bytes);
  }

  /** Opens a stream with these pieces; an error in their place breaks it off. */
  open(...pieces) {
    let isCancelled = false;
    const stream = new ReadableStream({
      start(controller) {
        for (const piece of pieces) piece instanceof Error ? controller.error(piece) : controller.enqueue(piece);
        if (!pieces.some((piece) => piece instanceof Error)) controller.close();
      },
      cancel: () => (isCancelled = true),
    });
    this.streams.enqueue(stream);
    return () => isCancelled;
  }
}

const CONNECT = 0x01;
const PUBLISH = 0x02;
const DISCONNECT = 0x0f;

function framed(number, body) {
  const frame = Buffer.alloc(6 + body.length);
  frame.set([number, 1]);
  frame.writeUInt32LE(body.length, 2);
  frame.set(body, 6);
  return Buffer.concat([encodeLength(frame.length), frame]);
}

const WELCOME = framed(0x81, Uint8Array.of(1, 0x73, 0, 1, 0x6e, 0, 0, 1, 1));

/** A message to `all` without a place. */
function message(payload) {
  const head = Buffer.alloc(46);
  head.writeUInt16LE(3, 42);
  return framed(0x82, Buffer.concat([head, Buffer.from("all"), Buffer.from(payload)]));
}

async function session(options = {}) {
  const peer = new Peer();
  globalThis.WebTransport = peer.transport;
  const got = [];
  const waiting = [];
  const onMessage = ({ payload }) => {
    got.push(Buffer.from(payload).toString());
    waiting.shift()?.();
  };
  const arrived = async (count) => {
    while (got.length < count) await new Promise((resolve) => waiting.push(resolve));
    return got;
  };
  const connecting = connect("https://127.0.0.1:9470/wt", { user: "a", streams: true, onMessage, ...options });
  return { peer, connecting, arrived, got };
}

async function welcomed(options) {
  const it = await session(options);
  await it.peer.say(WELCOME);
  return { ...it, broker: await it.connecting };
}

test("the page asks for streams only if it is told to", () => {
  const last = (frame) => encode({ type: "connect", user: "a", ...frame }).at(-1);
  assert.deepEqual([last({}), last({ streams: true })], [0, 1]);
});

test("messages come beside the main stream, also before the welcome, whatever becomes of others", async () => {
  const { peer, connecting, arrived, got } = await session();
  const bytes = message("early");
  peer.open(bytes.subarray(0, 7), bytes.subarray(7));
  await peer.until(() => peer.main.length > 0);
  assert.deepEqual(got, []);
  await peer.say(WELCOME);
  await connecting;
  assert.deepEqual(await arrived(1), ["early"]);
  peer.open(message("cut").subarray(0, 20));
  peer.open(message("reset").subarray(0, 20), new Error("reset"));
  const isCancelled = peer.open(encodeLength(1 << 24), message("never"));
  // More than are read at a time, and the main stream goes on.
  for (let n = 0; n < 40; n += 1) peer.open(message(`m${n}`));
  await peer.say(message("main"));
  const expected = ["early", "main", ...Array.from({ length: 40 }, (_, n) => `m${n}`)];
  assert.deepEqual([...(await arrived(42))].sort(), expected.sort());
  assert.ok(isCancelled());
});

test("long publishes go beside the main stream, short ones and what is too many on it, the goodbye behind all", async () => {
  const { peer, broker } = await welcomed();
  peer.gate = Promise.withResolvers();
  for (let n = 0; n < 5; n += 1) broker.publish("all", LONG, { priority: n }).catch(() => {});
  broker.publish("all", "short").catch(() => {});
  await peer.until(() => peer.main.length === 3);
  assert.deepEqual(peer.main, [CONNECT, PUBLISH, PUBLISH]);
  assert.deepEqual(peer.others.map(({ sendOrder }) => sendOrder), [-10, -9, -8, -7]);
  broker.close();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(peer.main.length, 3);
  peer.gate.resolve();
  await peer.until(() => peer.main.length === 4);
  assert.equal(peer.main[3], DISCONNECT);
  for (const { types, isOver } of peer.others) assert.deepEqual({ types, isOver }, { types: [PUBLISH], isOver: true });
});

test("where no stream is to be had, the main one has everything", async () => {
  const { peer, broker } = await welcomed();
  peer.allowed = 0;
  broker.publish("all", LONG).catch(() => {});
  await peer.until(() => peer.main.length === 2);
  assert.deepEqual(peer.main, [CONNECT, PUBLISH]);
  const plain = await welcomed({ streams: undefined });
  plain.broker.publish("all", LONG).catch(() => {});
  await plain.peer.until(() => plain.peer.main.length === 2);
  assert.deepEqual(plain.peer.others, []);
});
