// Server-sent events out of a stream of text, for a request that carries a token, which `EventSource` cannot.

/** Characters of one event. More: the stream is given up. */
export const EVENT_CHARS_MAX = 8 * 1024 * 1024;

/** Takes a stream in pieces of any size and gives the events in it: `{event, data}`. Comments are no events. */
export class EventReader {
  #rest = "";
  #isFirst = true;
  #endsWithReturn = false;
  #event = "";
  #data = [];
  #size = 0;

  /** The events that this piece ends. */
  push(piece) {
    let text = piece;
    if (this.#isFirst && text !== "") {
      this.#isFirst = false;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    // A line's end may be cut between its two characters.
    if (this.#endsWithReturn && text.startsWith("\n")) text = text.slice(1);
    if (piece !== "") this.#endsWithReturn = text === "" ? false : text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      const event = this.#line(line);
      if (event) events.push(event);
    }
    this.#bound(this.#rest.length);
    return events;
  }

  #line(line) {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    if (name === "data") {
      this.#data.push(value);
      this.#size += value.length + 1;
      this.#bound(0);
    }
    return undefined;
  }

  /** An event without data is none. */
  #end() {
    const event = { event: this.#event || "message", data: this.#data.join("\n") };
    const isEvent = this.#data.length > 0;
    [this.#event, this.#data, this.#size] = ["", [], 0];
    return isEvent ? event : undefined;
  }

  #bound(more) {
    if (this.#size + more > EVENT_CHARS_MAX) throw new RangeError(`an event has more than ${EVENT_CHARS_MAX} characters`);
  }
}

/** The events of a body, until it ends. Fails where nothing is heard for so long: whoever went away without a word would be waited for. */
export async function* eventsOf(body, silenceMs) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventReader();
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`nothing was heard for ${silenceMs} ms`)), silenceMs)));
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
