// Going through a list page by page.

import { button, h } from "./dom.js";
import { count } from "./format.js";

/** For lists of which the broker says how many there are. `go` gets the offset of another page. */
export function pages({ total, limit, offset }, go) {
  const last = Math.min(offset + limit, total);
  const shown = offset < total ? `${count(offset + 1)} to ${count(last)}` : "none";
  const told = total === 0 ? "" : `${shown} of ${count(total)}`;
  return h("div", { class: "pages" }, offset > 0 && button("Previous", () => go(Math.max(offset - limit, 0)), "small"), told, last < total && button("Next", () => go(offset + limit), "small"), button("Refresh", () => go(offset), "small"));
}

/** For lists of which the broker says where the next page begins. `go` gets that, or nothing for the first. */
export function following({ next, isFirst }, go) {
  return h("div", { class: "pages" }, !isFirst && button("First page", () => go(undefined), "small"), next !== null && button("Next page", () => go(next), "small"), isFirst && button("Refresh", () => go(undefined), "small"));
}
