// JSON whose large integers survive: what is beyond a double keeps the digits that the broker sent. Where the browser cannot do that
// (`JSON.rawJSON`), it is plain JSON.

/** Reads a text. Numbers that a double would round are objects that `stringify` writes as they came. */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => (isRounded(value, context?.source) ? JSON.rawJSON(context.source) : value));
}

function isRounded(value, source) {
  if (typeof value !== "number" || source === undefined || !JSON.rawJSON) return false;
  return !Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value));
}

/** Writes a value, on lines of its own where `isSpread`. */
export function stringify(value, isSpread = false) {
  return JSON.stringify(value, null, isSpread ? 2 : 0);
}
