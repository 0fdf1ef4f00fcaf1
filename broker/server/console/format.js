// Values as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const NONE = "–";

/** A number, with what `json.js` kept as it came. */
export function count(value) {
  if (value === undefined || value === null) return NONE;
  if (typeof value === "object") return String(value.rawJSON);
  return typeof value === "number" ? whole.format(value) : String(value);
}

export function rate(value) {
  if (value === undefined) return NONE;
  return `${value >= 100 ? whole.format(value) : precise.format(value)}/s`;
}

export function percent(share) {
  return share === undefined ? NONE : `${precise.format(share * 100)} %`;
}

export function bytes(value) {
  if (typeof value !== "number") return count(value);
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [amount, unit] = [value, 0];
  while (amount >= 1024 && unit < units.length - 1) [amount, unit] = [amount / 1024, unit + 1];
  return `${unit === 0 ? whole.format(amount) : precise.format(amount)} ${units[unit]}`;
}

/** A short time, from nanoseconds. */
export function nanoseconds(value) {
  if (typeof value !== "number") return count(value);
  // What is rounded to a thousand is one of the next unit.
  const [divisor, unit] = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]].find(([least]) => value >= least * 0.9995) ?? [1, "ns"];
  return `${precise.format(value / divisor)} ${unit}`;
}

/** A quantile of a histogram of seconds. */
export function latency(quantile) {
  if (quantile === undefined) return NONE;
  return `${quantile.isOver ? "> " : ""}${nanoseconds(quantile.value * 1e9)}`;
}

/** A long time: its two greatest units. */
export function duration(milliseconds) {
  const seconds = Math.floor(milliseconds / 1_000);
  const parts = [[Math.floor(seconds / 86_400), "d"], [Math.floor(seconds / 3_600) % 24, "h"], [Math.floor(seconds / 60) % 60, "min"], [seconds % 60, "s"]];
  const first = parts.findIndex(([amount, unit]) => amount > 0 || unit === "s");
  return parts.slice(first, first + 2).map(([amount, unit]) => `${amount} ${unit}`).join(" ");
}

/** A moment of this machine's time zone, from milliseconds since 1970. */
export function moment(unixMs) {
  const date = new Date(typeof unixMs === "number" ? unixMs : NaN);
  if (Number.isNaN(date.getTime())) return count(unixMs);
  const two = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(unixMs)}`;
}

/** The time of day of a moment. */
export function clock(unixMs) {
  const date = new Date(unixMs);
  const two = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)}`;
}

// Characters that cannot be seen, or that turn around what stands beside them. Lines and tabs stay.
const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

/** A text with what could hide or mislead in it told by its number. */
export function visible(text) {
  return text.replace(UNSEEN, (character) => {
    const number = character.codePointAt(0).toString(16).padStart(4, "0");
    return number.length > 4 ? `\\u{${number}}` : `\\u${number}`;
  });
}

/** The beginning of a text, with how much of it is left out. */
export function cut(text, max) {
  return text.length <= max ? text : `${text.slice(0, max)}… (${whole.format(text.length - max)} more characters)`;
}
