// The page: its forms and its log. What talks to the broker is waspmq.js.

import { connect } from "./waspmq.js";

/** Lines of the log; the oldest go first. */
const LINES_MAX = 500;
/** Letters of a payload that are shown. */
const SHOWN_MAX = 500;
const PLACES = { websocket: "ws://127.0.0.1:9470/ws", webtransport: "https://127.0.0.1:9470/wt", sse: "http://127.0.0.1:9470/sse" };

const forms = Object.fromEntries(["connect", "subscribe", "publish"].map((id) => [id, document.getElementById(id)]));
const log = document.getElementById("log");
let broker;

forms.connect.elements.url.value = PLACES.websocket;
forms.connect.elements.user.value = `page-${Math.floor(Math.random() * 1000)}`;

for (const choice of forms.connect.elements.transport) {
  choice.onchange = () => (forms.connect.elements.url.value = PLACES[choice.value]);
}

on(forms.connect, async ({ url, user, token, fingerprint, transport }) => {
  show("note", `connecting to ${url}`);
  broker?.close();
  broker = await connect(url, {
    user: user || undefined,
    token: token || undefined,
    fingerprint: transport === "webtransport" ? fingerprint : undefined,
    onMessage: ({ to, from, payload }) => show("message", `${to} from ${from ?? "the admin API"}: ${text(payload)}`),
    onNotice: (frame) => show("note", JSON.stringify(frame)),
    onClose: ended,
  });
  const { name, extensions } = broker.transport;
  ready(true, `connected by ${name}`);
  show("done", `session ${broker.welcome.session} by ${name} ${extensions ?? ""}`);
});

on(forms.subscribe, async ({ to }, button) => {
  const isEnd = button?.name === "unsubscribe";
  await (isEnd ? broker.unsubscribe(to) : broker.subscribe(to));
  show("done", `${isEnd ? "unsubscribed from" : "subscribed to"} ${to}`);
});

on(forms.publish, async ({ to, payload, ack }) => {
  const { level, id, recipients } = await broker.publish(to, value(payload), { ack });
  show("done", `${level} ${id}, recipients: ${recipients}`);
});

document.getElementById("close").onclick = () => broker.close();
document.getElementById("clear").onclick = () => log.replaceChildren();

/** Does `action` with what a form holds, and tells what went wrong. */
function on(form, action) {
  form.onsubmit = async (event) => {
    event.preventDefault();
    try {
      await action(Object.fromEntries(new FormData(form)), event.submitter);
    } catch (error) {
      show("failed", error.message);
    }
  };
}

function ended({ code, reason }) {
  show("failed", `the connection is closed: ${[code, reason].filter(Boolean).join(" ") || "without a reason"}`);
  ready(false, "not connected");
}

function ready(isReady, state) {
  for (const form of [forms.subscribe, forms.publish]) form.querySelector("fieldset").disabled = !isReady;
  document.getElementById("close").disabled = !isReady;
  forms.connect.querySelector("button").disabled = isReady;
  document.getElementById("state").value = state;
}

/** What was typed: JSON where it is that, else a text. */
function value(typed) {
  try {
    return JSON.parse(typed);
  } catch {
    return typed;
  }
}

function text(payload) {
  if (payload instanceof Uint8Array) return `${payload.length} bytes`;
  const shown = typeof payload === "string" ? payload : JSON.stringify(payload);
  return shown.length <= SHOWN_MAX ? shown : `${shown.slice(0, SHOWN_MAX)}… (${shown.length})`;
}

/** Never as HTML: what is shown was written by others. */
function show(kind, what) {
  const line = document.createElement("li");
  line.className = kind;
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  line.append(time, what);
  log.prepend(line);
  while (log.childElementCount > LINES_MAX) log.lastElementChild.remove();
}
