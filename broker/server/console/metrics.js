// The text format of `/metrics`, and what is reckoned from it: sums, rates, quantiles of histograms.

// Quoted values may have a brace in them.
const LINE = /^([a-zA-Z_:][\w:]*)(?:\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };

/** The samples of a text by name, each with its labels and its value. Comments and what is no sample are left out. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [, name, labels = "", value] = line.match(LINE) ?? [];
    if (name === undefined) continue;
    const sample = { labels: readLabels(labels), value: readNumber(value) };
    if (Number.isNaN(sample.value)) continue;
    const samples = found.get(name);
    samples ? samples.push(sample) : found.set(name, [sample]);
  }
  return found;
}

function readLabels(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (whole, character) => ESCAPES[character] ?? whole);
  }
  return labels;
}

function readNumber(text) {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}

/** The sum of a metric's samples that `isWanted`; undefined where there is none. */
export function sum(samples, name, isWanted = () => true) {
  const values = (samples.get(name) ?? []).filter(({ labels }) => isWanted(labels)).map(({ value }) => value);
  return values.length > 0 ? values.reduce((a, b) => a + b) : undefined;
}

/** A metric's sums by a label, in the order of the text. */
export function by(samples, name, label) {
  const sums = new Map();
  for (const { labels, value } of samples.get(name) ?? []) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
  return sums;
}

/** A histogram's buckets, `[upper bound, count up to it]`, rising; those of all its label sets are added up. */
export function buckets(samples, name) {
  const counts = new Map();
  for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
    const bound = readNumber(labels.le ?? "");
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** What came into a histogram between two readings; everything in it where there was another broker in between. */
export function since(now, before) {
  const isSame = before?.length === now.length && now.every(([bound, count], i) => bound === before[i][0] && count >= before[i][1]);
  return isSame ? now.map(([bound, count], i) => [bound, count - before[i][1]]) : now;
}

/**
 * The value below which the share `q` of a histogram is, taken as evenly spread in its bucket. `isOver`: it is in the last bucket, which has no
 * end, and `value` is where that one begins. Undefined where nothing was counted.
 */
export function quantile(buckets, q) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!(total > 0)) return undefined;
  const rank = q * total;
  const index = buckets.findIndex(([, count]) => count >= rank && count > 0);
  const [bound, count] = buckets[index];
  const [from, below] = index > 0 ? buckets[index - 1] : [0, 0];
  if (bound === Infinity) return { value: from, isOver: true };
  return { value: from + ((bound - from) * Math.max(rank - below, 0)) / (count - below), isOver: false };
}

/** How fast a counter grows; undefined where it cannot be told: no two readings, or it began anew. */
export function rate(now, before, seconds) {
  const isKnown = now !== undefined && before !== undefined && seconds > 0 && now >= before;
  return isKnown ? (now - before) / seconds : undefined;
}

/** The last `max` items. */
export class Ring {
  items = [];

  constructor(max) {
    this.max = max;
  }

  push(item) {
    this.items.push(item);
    if (this.items.length > this.max) this.items.shift();
  }
}
