// Overview: whether the broker serves, what passes through it and how fast, and who changed what last.

import { read, text } from "./api.js";
import { badge, facts, h, link, region, svg, table, trouble } from "./dom.js";
import { bytes, count, duration, latency, moment, percent, rate } from "./format.js";
import { buckets, by, parse, quantile, rate as growth, Ring, since, sum } from "./metrics.js";

export const title = "Overview";

const EVERY_MS = 2_000;
/** Readings that are kept: what the lines show, and over what latencies are reckoned. */
const READINGS_MAX = 60;
const CHANGES_MAX = 8;
const QUANTILES = [0.5, 0.99, 0.999];

export function show({ view, poll }) {
  const readings = new Ring(READINGS_MAX);
  // Apart from what changes all the time, so that it is read out once.
  const alarm = region(view);
  const state = region(view);
  const figures = region(view, { class: "cards" });
  const audit = region(view);
  let epoch;
  poll(EVERY_MS, async (signal) => {
    const [status, unready, metrics, changes] = await Promise.all([
      read("v1/status", { signal }), readiness(signal), text("metrics", { signal }), audited(signal),
    ]);
    // Another run of the broker counts anew.
    if (epoch !== status.epoch) readings.items.length = 0;
    epoch = status.epoch;
    readings.push(reading(metrics));
    alarm.update(unready, () => unready !== undefined && h("div", { class: "trouble", role: "alert" }, h("strong", {}, "Not ready"), h("span", {}, unready)));
    state.update(JSON.stringify([status, unready]), () => about(status, unready));
    figures.update(readings.items.at(-1), () => cards(readings.items));
    audit.update(JSON.stringify(changes.problem ?? changes), () => [h("h2", {}, "Latest changes"), changes.problem ? trouble(changes) : changed(changes)]);
  });
}

/** The last changes, or the refusal to tell them, which is no reason to show nothing else. */
function audited(signal) {
  return read(`v1/audit?limit=${CHANGES_MAX}`, { signal }).catch((error) => {
    if (error.problem) return error;
    throw error;
  });
}

/** Why the broker is not ready; nothing where it is. */
async function readiness(signal) {
  try {
    await text("readyz", { signal });
    return undefined;
  } catch (error) {
    if (error.status === 503) return error.message;
    throw error;
  }
}

/** The figures of one answer of `/metrics`. */
function reading(metrics) {
  const samples = parse(metrics);
  return {
    at: performance.now(),
    published: sum(samples, "waspmq_messages_published_total", ({ outcome }) => outcome === "accepted"),
    refused: sum(samples, "waspmq_messages_published_total", ({ outcome }) => outcome !== "accepted" && outcome !== "duplicate"),
    delivered: sum(samples, "waspmq_messages_delivered_total"),
    dropped: sum(samples, "waspmq_messages_dropped_total"),
    redelivered: sum(samples, "waspmq_redeliveries_total"),
    letters: sum(samples, "waspmq_dead_letters_total"),
    cpu: sum(samples, "process_cpu_seconds_total"),
    drops: by(samples, "waspmq_messages_dropped_total", "reason"),
    transports: by(samples, "waspmq_connections", "transport"),
    connections: sum(samples, "waspmq_connections"),
    queued: sum(samples, "waspmq_outbound_queue_bytes"),
    waiting: sum(samples, "waspmq_deliveries_in_flight"),
    stored: sum(samples, "waspmq_inbox_messages"),
    storedBytes: sum(samples, "waspmq_store_bytes"),
    memory: sum(samples, "process_resident_memory_bytes"),
    delivery: buckets(samples, "waspmq_delivery_latency_seconds"),
    acks: buckets(samples, "waspmq_ack_latency_seconds"),
    commits: buckets(samples, "waspmq_journal_commit_seconds"),
  };
}

function about(status, unready) {
  const isReady = unready === undefined;
  const word = !isReady && status.phase === "ready" ? "not ready" : status.phase;
  return facts([
    ["State", badge(word, isReady ? "good" : "bad")], ["Version", status.version], ["Node", status.node],
    ["Up for", duration(status.uptime_ms)], ["Workers", count(status.workers)], ["Sessions", link(["sessions"], count(status.sessions))],
    ["Policy generation", link(["policies"], count(status.generation))],
  ]);
}

function cards(readings) {
  const now = readings.at(-1);
  const rates = (name) => readings.slice(1).map((reading, i) => growth(reading[name], readings[i][name], (reading.at - readings[i].at) / 1000));
  const latest = (name) => rates(name).at(-1);
  const named = (counts) => [...counts].filter(([, amount]) => amount > 0).map(([name, amount]) => `${name} ${count(amount)}`).join(", ");
  return [
    card("Published", rate(latest("published")), rates("published"), [["refused", rate(latest("refused"))], ["so far", count(now.published)]]),
    card("Delivered", rate(latest("delivered")), rates("delivered"), [["again", rate(latest("redelivered"))], ["so far", count(now.delivered)]]),
    card("Dropped", rate(latest("dropped")), rates("dropped"), [["so far", count(now.dropped)], ["why", named(now.drops)]], now.dropped > 0 && latest("dropped") > 0 ? "bad" : undefined),
    card("Connections", count(now.connections), readings.map(({ connections }) => connections), [["by transport", named(now.transports)]]),
    latencies("Delivery latency, p50", readings, "delivery"),
    latencies("Acknowledgement, p50", readings, "acks"),
    latencies("Journal commit, p50", readings, "commits"),
    card("Outbound queues", bytes(now.queued), readings.map(({ queued }) => queued), [["wait for an ack", count(now.waiting)]]),
    card("Store", bytes(now.storedBytes), undefined, [["messages", count(now.stored)], ["dead letters made", link(["dead-letters"], count(now.letters))]]),
    card("CPU", percent(latest("cpu")), rates("cpu"), [["memory", now.memory === undefined ? undefined : bytes(now.memory)]]),
  ];
}

function card(name, value, line, more, state) {
  return h("section", { class: "card", "data-state": state }, h("h2", {}, name), h("p", { class: "figure" }, value), line && spark(name, line), facts(more));
}

/** Quantiles of what came while the page was open; of all there was before where that is nothing. */
function latencies(name, readings, key) {
  const now = readings.at(-1)[key];
  const lately = since(now, readings[0][key]);
  const isLately = readings.length > 1 && lately.at(-1)?.[1] > 0;
  const of = isLately ? lately : now;
  const [median, ...others] = QUANTILES.map((q) => latency(quantile(of, q)));
  const span = isLately ? `last ${duration(readings.at(-1).at - readings[0].at)}` : "since the start";
  return card(name, median, undefined, [["p99", others[0]], ["p99.9", others[1]], ["over", span]]);
}

/** A line of the last values. Moments without one are gaps. */
function spark(name, values) {
  const known = values.filter((value) => value !== undefined);
  const [width, height, most] = [120, 32, Math.max(...known, 0) || 1];
  const step = width / (READINGS_MAX - 1);
  let isDrawing = false;
  const points = values.map((value, i) => {
    if (value === undefined) return (isDrawing = false), "";
    const command = isDrawing ? "L" : "M";
    isDrawing = true;
    return `${command}${(width - (values.length - 1 - i) * step).toFixed(1)} ${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`;
  });
  const label = `${name}, lately: at most ${count(most)}`;
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("path", { d: points.join("") || "M0 0", fill: "none" }));
}

function changed({ changes }) {
  const rows = changes.toReversed().map(({ unix_ms, who, what, name, from, to, generation }) => [moment(unix_ms), who, what, name, from, to, count(generation)]);
  return table("Latest changes", ["When", "Who", "What", "Name", "From", "To", "Generation"], rows, "Nothing was changed yet.");
}
