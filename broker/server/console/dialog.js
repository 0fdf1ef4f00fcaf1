// Questions in front of the page: confirmations, and forms that change something.

import { button, form, h } from "./dom.js";

/**
 * Opens a dialog with a form; `submit` gets its fields. Closes when that is done, and says whether it was: not where it was closed before, as whoever
 * did so has gone on to something else.
 */
export function ask({ title, fields, action, kind, submit }) {
  return new Promise((resolve) => {
    let isDone = false;
    const doIt = async (data) => {
      await submit(data);
      isDone = true;
      dialog.close();
    };
    const cancel = button("Cancel", () => dialog.close());
    const asked = form({ class: "stack" }, doIt, h("h2", { id: "dialog-title" }, title), fields, h("div", { class: "buttons" }, cancel, h("button", { class: kind ?? "primary" }, action)));
    const dialog = h("dialog", {}, asked);
    dialog.setAttribute("aria-labelledby", "dialog-title");
    dialog.addEventListener("close", () => {
      dialog.remove();
      removeEventListener("hashchange", leave);
      resolve(isDone);
    });
    const leave = () => dialog.close();
    addEventListener("hashchange", leave);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks whether something that cannot be taken back shall be done, and does it. */
export function confirm({ title, text, action, submit, kind = "danger" }) {
  return ask({ title, fields: h("p", {}, text), action, kind, submit });
}
