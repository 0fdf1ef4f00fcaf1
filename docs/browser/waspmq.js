// WaspMQ for a page: one session, over WebSocket, WebTransport or server-sent events, with the same methods. No library, no build step.
//
//   import { connect } from "./waspmq.js";
//
//   const broker = await connect("ws://127.0.0.1:9470/ws", {
//     user: "carol",
//     onMessage: (message) => console.log(message.from, message.payload),
//   });
//   await broker.subscribe("topic/chat");
//   const receipt = await broker.publish("topic/chat", { text: "hello" });
//
// With "https://127.0.0.1:9470/wt" it is WebTransport, with "http://127.0.0.1:9470/sse" server-sent events and requests. A connection that was lost is not made again here: `onClose` says that it is
// gone, and `welcome.resume_token` is what a new one can go on with (docs/PROTOCOL.md).

import { Splitter, decode, encodeMessage } from "./binary.js";

/** Requests without an answer. What is above is refused, so that a page that is faster than its network does not fill its memory. */
const REQUESTS_MAX = 1024;
/** The longest message that is taken from a stream. */
const MESSAGE_MAX = 16 * 1024 * 1024;
/** The longest message that is taken from a stream of its own. */
const BESIDE_MAX = 4 * 1024 * 1024;
/** Bytes of a message that has a stream of its own, where those are asked for. */
const LONG = 16 * 1024;
/** Such streams of the broker that are read at a time; more wait. */
const TAKEN_MAX = 16;
/** Such streams of the page that are under way; what is above goes on the main one. */
const SENT_MAX = 4;
/** How long a goodbye waits for these. */
const SENT_MS = 10_000;
/** How long the broker may take to close after a goodbye. */
const CLOSE_MS = 3000;
/** Letters of the frames that share a request. */
const REQUEST_LETTERS = 64 * 1024;

/** What the broker answered instead of doing what it was asked; `code` and `name` are those of docs/ERRORS.md. */
export class Refused extends Error {
  constructor({ code, name, message, retry_ms }) {
    super(`${name}: ${message}`);
    Object.assign(this, { code, reason: name, retry_ms });
  }
}

/** The connection ended, or there never was one; `code` is the close code, where there is one. */
export class Closed extends Error {
  constructor({ code, reason }) {
    super(reason ? `closed: ${reason}` : `closed (${code})`);
    Object.assign(this, { code, reason });
  }
}

/**
 * Connects and gives the session, once the broker has welcomed it.
 *
 * `url`          `ws://` or `wss://` for WebSocket, `https://` for WebTransport, `http://` or `https://` with the path `/sse` for
 *                server-sent events
 * `user`, `device`, `token`, `resume`   as in the frame `connect`
 * `fingerprint`  SHA-256 of a certificate of the broker's own, as it prints it at start; for WebTransport
 * `streams`      whether long messages have streams of their own, so that others do not wait for them; for WebTransport. They come in
 *                another order than they were sent in, and without a place (docs/QUIC.md)
 * `onMessage`    is given each message. Bytes are a Uint8Array in `payload`. What asks for it is acknowledged when this returns
 * `onNotice`     is given other frames that answer nothing, such as `overflow` and `goaway`
 * `onClose`      is given `{ code, reason }` when a session ends, whoever ended it
 */
export async function connect(url, options = {}) {
  const { user, device, token, resume, fingerprint, streams, ...callbacks } = options;
  const connection = new Connection(callbacks);
  const opened = open(new URL(url), { fingerprint, streams }, connection);
  return connection.begin(await opened, compact({ type: "connect", user, device, token, resume, streams }));
}

function open(url, options, connection) {
  if (url.pathname.endsWith("/sse")) return serverSentEvents(url, connection);
  return url.protocol === "https:" ? webTransport(url, options, connection) : webSocket(url, connection);
}

/** A session with the broker. Made by `connect`. */
class Connection {
  #callbacks;
  #transport;
  #welcomed = Promise.withResolvers();
  #waiting = new Map();
  #lastRef = 0;
  /** Why the broker closes, once it has said so on the connection itself. */
  #said;
  #end;
  /** The frame that the broker answered `connect` with. */
  welcome;

  constructor(callbacks) {
    this.#callbacks = callbacks;
    // Whoever waits for it is told; nobody does when the transport does not open.
    this.#welcomed.promise.catch(() => {});
  }

  /** Sends the first frame on a transport that is open, and waits for its answer. */
  async begin(transport, frame) {
    this.#transport = transport;
    if (!this.#end) transport.send(frame);
    await this.#welcomed.promise;
    return this;
  }

  /** Fulfilled with the session's first frame; rejected where there is no session. */
  get welcomed() {
    return this.#welcomed.promise;
  }

  /** What the transport says of itself: its name, and extensions that were negotiated. */
  get transport() {
    return this.#transport.describe();
  }

  /** Receives what is published to an address or a pattern from now on; `queue` and `from` as in docs/PROTOCOL.md. */
  async subscribe(to, { queue, from } = {}) {
    await this.#ask({ type: "subscribe", to, queue, from });
  }

  async unsubscribe(to, { queue } = {}) {
    await this.#ask({ type: "unsubscribe", to, queue });
  }

  /**
   * Publishes a JSON value, or bytes as a Uint8Array, and gives the receipt: `{ id, level, recipients }`. `more` has the other
   * fields of the frame: `ack`, `headers`, `ttl_ms` and so on.
   */
  async publish(to, payload, more = {}) {
    return this.#ask({ ...more, type: "publish", to, payload });
  }

  /** Says goodbye. `onClose` is called when it is done. */
  close() {
    if (this.#end) return;
    this.#transport.send({ type: "disconnect" });
    this.#transport.finish();
  }

  #ask(frame) {
    if (this.#end) return Promise.reject(new Closed(this.#end));
    if (this.#waiting.size >= REQUESTS_MAX) {
      return Promise.reject(new Error(`${REQUESTS_MAX} requests wait for an answer`));
    }
    const ref = (this.#lastRef += 1);
    const answer = Promise.withResolvers();
    this.#waiting.set(ref, answer);
    try {
      this.#transport.send(compact({ ...frame, ref }));
    } catch (error) {
      // A value that has no JSON, or a text that is too long for its place.
      this.#waiting.delete(ref);
      answer.reject(error);
    }
    return answer.promise;
  }

  /** The transport has a frame. */
  take(frame) {
    const answer = this.#waiting.get(frame.ref);
    if (answer) {
      this.#waiting.delete(frame.ref);
      frame.type === "error" ? answer.reject(new Refused(frame)) : answer.resolve(frame);
    } else if (frame.type === "message") {
      this.#deliver(frame);
    } else if (frame.type === "welcome") {
      this.welcome = frame;
      this.#welcomed.resolve();
    } else if (frame.type === "close") {
      // What says so later, and less, may have been lost on its way.
      this.#said = { code: frame.code, reason: frame.message || frame.name };
    } else if (frame.type === "error" && !this.welcome) {
      this.#welcomed.reject(new Refused(frame));
    } else if (frame.type !== "pong") {
      this.#callbacks.onNotice?.(frame);
    }
  }

  #deliver(message) {
    try {
      this.#callbacks.onMessage?.(message);
    } catch (error) {
      // It comes again, to whoever can do something with it.
      reportError(error);
      return;
    }
    if (message.ack) {
      this.#transport.send(compact({ type: "ack", ids: [message.id], queue: message.queue }));
    }
  }

  /** The transport has ended. Only the first time counts. */
  ended(code, reason) {
    if (this.#end) return;
    this.#end = this.#said ?? { code, reason };
    for (const answer of this.#waiting.values()) answer.reject(new Closed(this.#end));
    this.#waiting.clear();
    this.#welcomed.reject(new Closed(this.#end));
    if (this.welcome) this.#callbacks.onClose?.(this.#end);
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// WebSocket, JSON profile. The browser answers the broker's pings and compresses by itself.

function webSocket(url, connection) {
  const socket = new WebSocket(url, ["waspmq.v1.json"]);
  const opened = Promise.withResolvers();
  socket.onmessage = ({ data }) => connection.take(fromJson(JSON.parse(data)));
  socket.onclose = ({ code, reason }) => {
    // 1006 without a word is all a page learns of a connection that was refused.
    opened.reject(new Closed({ code, reason: reason || "the broker is not there, or does not let this page in" }));
    connection.ended(code, reason);
  };
  socket.onopen = () =>
    opened.resolve({
      send: (frame) => socket.send(JSON.stringify(toJson(frame))),
      finish: () => socket.close(1000),
      describe: () => ({ name: "WebSocket", extensions: socket.extensions, protocol: socket.protocol }),
    });
  return opened.promise;
}

function toJson(frame) {
  if (!(frame.payload instanceof Uint8Array)) return frame;
  const { payload, ...rest } = frame;
  return { ...rest, payload_b64: btoa(Array.from(payload, (byte) => String.fromCharCode(byte)).join("")) };
}

function fromJson(frame) {
  if (frame.payload_b64 === undefined) return frame;
  const { payload_b64, ...rest } = frame;
  return { ...rest, payload: Uint8Array.from(atob(payload_b64), (letter) => letter.charCodeAt(0)) };
}

// ---------------------------------------------------------------------------------------------------------------------------------
// Server-sent events, JSON profile, and what is said by requests, one after the other

function serverSentEvents(url, connection) {
  const waiting = [];
  let source;
  let isPosting = false;
  const end = (code, reason) => {
    source?.close();
    waiting.length = 0;
    connection.ended(code, reason);
  };
  const post = async () => {
    // Frames behind one that was refused go alone, so that each is answered for itself.
    let alone = 0;
    while (waiting.length > 0) {
      const count = alone > 0 ? 1 : together(waiting);
      const headers = { Authorization: `Bearer ${connection.welcome.resume_token}` };
      const answer = await fetch(new URL("frames", url), { method: "POST", headers, body: waiting.slice(0, count).join("\n") });
      if (answer.status === 503) {
        await new Promise((resolve) => setTimeout(resolve, 1000 * (answer.headers.get("Retry-After") ?? 1)));
        continue;
      }
      if (answer.status === 400 && count > 1) {
        alone = count;
        continue;
      }
      alone = Math.max(0, alone - count);
      waiting.splice(0, count);
      if (answer.status === 400) connection.take(await answer.json());
      else if (!answer.ok) throw new Error((await answer.json()).message);
    }
    // Not later, for whoever was just answered may send the next frame before anything that waits for this function goes on.
    isPosting = false;
  };
  const send = (frame) => {
    if (frame.type === "connect") {
      source = events(url, frame, connection, end);
      return;
    }
    waiting.push(JSON.stringify(toJson(frame)));
    if (isPosting) return;
    isPosting = true;
    // Frames that are sent in one go share a request.
    Promise.resolve()
      .then(post)
      .catch(({ message }) => end(undefined, message));
  };
  return {
    send,
    finish: () => setTimeout(() => end(1000, ""), CLOSE_MS),
    describe: () => ({ name: "server-sent events" }),
  };
}

/** The events of a session. A browser would connect again by itself; whether to is up to the page, as with the other transports. */
function events(url, { user, device, token, resume }, connection, end) {
  const place = new URL(url);
  const id = resume && [resume.token, ...(resume.positions ?? [])].join(",");
  for (const [name, value] of Object.entries(compact({ user, device, token, last_event_id: id }))) place.searchParams.set(name, value);
  const source = new EventSource(place);
  source.onmessage = ({ data }) => connection.take(fromJson(JSON.parse(data)));
  // What was refused is all a page learns.
  source.onerror = () =>
    end(undefined, connection.welcome ? "the events ended" : "the broker is not there, or does not let this page in");
  return source;
}

/** How many of the first frames share a request. */
function together(frames) {
  let letters = 0;
  const over = frames.findIndex((frame) => (letters += frame.length) > REQUEST_LETTERS);
  return over < 0 ? frames.length : Math.max(1, over);
}

// ---------------------------------------------------------------------------------------------------------------------------------
// WebTransport, binary profile, on one stream, and on others where that is asked for

async function webTransport(url, { fingerprint, streams }, connection) {
  const transport = new WebTransport(url, pinned(fingerprint));
  transport.closed.then(
    ({ closeCode, reason }) => connection.ended(closeCode, reason),
    (error) => connection.ended(undefined, error.message),
  );
  try {
    await transport.ready;
  } catch (error) {
    throw new Closed({ reason: `${error.message} Is this the certificate's fingerprint, and may this page connect?` });
  }
  const stream = await transport.createBidirectionalStream(streams ? { sendOrder: 0 } : {});
  const writer = stream.writable.getWriter();
  read(stream.readable, connection).then(
    // The broker closes, too; that it did may get lost.
    () => setTimeout(() => transport.close(), CLOSE_MS),
    ({ message }) => transport.close({ closeCode: 0, reason: message }),
  );
  // Why a write failed says `closed`.
  const write = (message) => writer.write(message).catch(() => {});
  const sending = new Set();
  const send = (frame) => {
    const message = encodeMessage(frame);
    if (streams && frame.type === "publish" && message.length >= LONG && sending.size < SENT_MAX) {
      const sent = sendBeside(transport, message, frame.priority).catch(() => write(message));
      sending.add(sent);
      sent.finally(() => sending.delete(sent));
    } else if (frame.type === "disconnect") {
      // What is said on the main stream passes the others.
      settled(sending).then(() => write(message));
    } else {
      write(message);
    }
  };
  // Before the welcome they would be messages of no session.
  if (streams) connection.welcomed.then(() => takeStreams(transport.incomingUnidirectionalStreams, connection)).catch(() => {});
  return {
    send,
    // The broker closes. The writer is left open: where the stream and the session end in the same moment, Chromium may tell the page
    // of a lost connection instead of the close code.
    finish: () => settled(sending).then(() => setTimeout(() => transport.close(), CLOSE_MS)),
    describe: () => ({ name: "WebTransport" }),
  };
}

async function read(readable, connection, most = MESSAGE_MAX) {
  const splitter = new Splitter(most);
  const reader = readable.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      for (const message of splitter.push(value)) {
        for (const frame of decode(message)) connection.take(frame);
      }
    }
  } catch (error) {
    // The broker need not send the rest.
    reader.cancel(error).catch(() => {});
    throw error;
  }
}

/** Reads the streams that the broker opens, some at a time. One that breaks off, or has what is not understood, is dropped. */
async function takeStreams(streams, connection) {
  const reading = new Set();
  const reader = streams.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const taken = read(value, connection, BESIDE_MAX).catch(() => {});
    reading.add(taken);
    taken.finally(() => reading.delete(taken));
    if (reading.size >= TAKEN_MAX) await Promise.race(reading);
  }
}

/** Sends a message on a stream of its own. An error means that it was not: the broker lets no stream be opened, or is gone. */
async function sendBeside(transport, message, priority = 0) {
  // The main stream is before all of them.
  const stream = await transport.createUnidirectionalStream({ sendOrder: priority - 10 });
  const writer = stream.getWriter();
  writer.write(message).catch(() => {});
  // A broker that does not want it has its reason, and does not want it on the other stream either.
  await writer.close().catch(() => {});
}

/** Waits until messages are sent, for a while. */
async function settled(sending) {
  if (sending.size === 0) return;
  const late = Promise.withResolvers();
  const timer = setTimeout(late.resolve, SENT_MS);
  await Promise.race([Promise.all(sending), late.promise]);
  clearTimeout(timer);
}

/** The options that make the browser take exactly this certificate, whoever signed it. */
function pinned(fingerprint) {
  if (!fingerprint) return {};
  const digits = fingerprint.replaceAll(/[\s:]/g, "");
  if (!/^[0-9a-f]{64}$/i.test(digits)) throw new TypeError("a fingerprint is 32 bytes in hexadecimal digits");
  const value = Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
  return { serverCertificateHashes: [{ algorithm: "sha-256", value }] };
}

/** Without fields that are absent. */
function compact(frame) {
  return Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== undefined));
}
