// The admin API: one way to ask, the token, and what a refusal is.

import { parse, stringify } from "./json.js";

const PLACE = "waspmq-admin-token";
/** Time for an answer to a question that changes nothing. */
const PATIENCE_MS = 15_000;
/** And for one that changes something: more than the broker takes for any. */
const CHANGE_PATIENCE_MS = 150_000;
/** What a header can carry. Another text is nobody's token, and is not sent. */
const IN_A_HEADER = /^[\x20-\x7e]*$/;

/** A refusal of the broker, as it put it. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the broker answered ${status}`);
    this.status = status;
    this.problem = problem;
  }

  /** What kind of problem it is, such as `no_candidate`. */
  get kind() {
    return String(this.problem.type ?? "").replace(/^urn:waspmq:problem:/, "");
  }
}

/** No answer at all. */
export class Unreachable extends Error {
  constructor(message = "the broker does not answer") {
    super(message);
  }
}

export function token() {
  return sessionStorage.getItem(PLACE);
}

export function keepToken(text) {
  sessionStorage.setItem(PLACE, text);
}

export function forgetToken() {
  sessionStorage.removeItem(PLACE);
}

/** A path with names escaped: `` at`v1/groups/${name}` ``. Relative, so that a proxy may serve the console below a path. */
export function at(texts, ...names) {
  return texts.reduce((path, text, i) => path + encodeURIComponent(names[i - 1]) + text);
}

/** What is given of a query. */
export function query(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const search = new URLSearchParams(given.flatMap(([name, value]) => [].concat(value).map((one) => [name, one]))).toString();
  return search === "" ? path : `${path}?${search}`;
}

/** A request that ends in an answer of the broker, whatever its status. Where the broker does not take this tab's token, all are told. */
export async function request(method, path, options = {}) {
  const { bearer = token() } = options;
  const answer = IN_A_HEADER.test(bearer ?? "") ? await send(method, path, bearer, options) : new Response(null, { status: 401 });
  // The answer may be to a token that was another's by now.
  if (answer.status === 401 && bearer === token()) dispatchEvent(new Event("waspmq-unauthorized"));
  return answer;
}

async function send(method, path, bearer, { body, type, signal }) {
  const headers = bearer ? { authorization: `Bearer ${bearer}` } : {};
  if (type) headers["content-type"] = type;
  try {
    return await fetch(new URL(path, document.baseURI), { method, headers, body, signal, cache: "no-store", redirect: "error", credentials: "same-origin" });
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
    throw new Unreachable();
  }
}

/** The refusal that an answer is. */
export async function refusal(answer) {
  const text = await answer.text().catch(() => "");
  let problem = {};
  try {
    problem = parse(text);
  } catch {
    // Not the broker's: something between it and this page.
  }
  return new Refused(answer.status, problem !== null && typeof problem === "object" ? problem : {});
}

async function answered(answer) {
  if (!answer.ok) throw await refusal(answer);
  try {
    return await answer.text();
  } catch {
    throw new Unreachable();
  }
}

/** The text of an answer. */
export async function text(path, { signal, bearer } = {}) {
  const timeout = AbortSignal.timeout(PATIENCE_MS);
  return answered(await request("GET", path, { signal: signal ? AbortSignal.any([signal, timeout]) : timeout, bearer }));
}

/** The document at a path. */
export async function read(path, options) {
  return parse(await text(path, options));
}

/** Asks for a change. `document` is sent as JSON, `bytes` as they are. Gives the answer's document, if there is one. */
export async function change(method, path, { document, bytes } = {}) {
  const sent = { signal: AbortSignal.timeout(CHANGE_PATIENCE_MS) };
  if (document !== undefined) Object.assign(sent, { body: stringify(document), type: "application/json" });
  if (bytes !== undefined) Object.assign(sent, { body: bytes, type: "application/wasm" });
  const answer = await request(method, path, sent).then(answered).catch((error) => {
    throw error instanceof Unreachable ? new Unreachable("the broker does not answer: whether this was done is not known") : error;
  });
  return answer === "" ? undefined : parse(answer);
}
