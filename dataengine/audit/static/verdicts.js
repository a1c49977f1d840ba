// The bar at the bottom: where one is in the queue, the verdict, its reasons, undo.

import { h, spoken } from "./dom.js";

export const REASONS = ["swap", "wrong_mask", "phrase_absent", "wrong_identity", "missing_attribute", "bad_crop", "bad_caption"];
export const REASON_HELP = {
  swap: "an attribute is with the wrong person", wrong_mask: "a mask shows something else", phrase_absent: "words for what is not there",
  wrong_identity: "a face of somebody else", missing_attribute: "the caption names something that nobody has", bad_crop: "a cut that is useless", bad_caption: "a caption that is no good",
};
const VERDICTS = [["accept", "Accept", "A"], ["reject", "Reject", "R"], ["unsure", "Unsure", "U"]];

export class Verdicts {
  #reasons = new Set();

  /** `decide(verdict, reasons, note)`, `undo()`, `go(direction)`, `setting(name, on)`; `settings` as they are. */
  constructor(actions, settings) {
    Object.assign(this, actions);
    this.place = h("span.rank", {});
    this.previous = h("button.step", { type: "button", title: "Previous (K or ←)", "aria-label": "Previous sample", onclick: () => this.go(-1) }, "‹");
    this.next = h("button.step", { type: "button", title: "Next (J or →)", "aria-label": "Next sample", onclick: () => this.go(1) }, "›");
    this.buttons = new Map(VERDICTS.map(([name, text, key]) => [name, h("button.verdict", { type: "button", class: name, "aria-pressed": false, "aria-keyshortcuts": key, onclick: () => this.give(name) }, text, h("kbd", {}, key))]));
    this.reasons = new Map(REASONS.map((name, at) => [name, h("button.reason", { type: "button", "aria-pressed": false, title: REASON_HELP[name], onclick: () => this.toggle(name) }, h("kbd", {}, String(at + 1)), spoken(name))]));
    this.note = h("input.note", { type: "text", maxlength: 2000, placeholder: "Note (N)", "aria-label": "Note", autocomplete: "off" });
    this.back = h("button.undo", { type: "button", title: "Undo the last thing you did (Z)", onclick: () => this.undo() }, "Undo", h("kbd", {}, "Z"));
    const check = (name, text, title) => h("label.setting", { title }, h("input", { type: "checkbox", checked: settings[name], onchange: (event) => this.setting(name, event.target.checked) }), text);
    this.element = h("footer.bar", { "aria-label": "Verdict" },
      h("div.queue", {}, this.previous, this.place, this.next),
      h("div.verdicts", { role: "group", "aria-label": "Verdict" }, ...this.buttons.values()),
      h("div.reasons", { role: "group", "aria-label": "Reasons" }, ...this.reasons.values(), this.note),
      h("div.tail", {}, this.back, h("div.settings", {}, check("advance", "go on", "after a verdict, show the next sample"), check("skip", "skip decided", "pass over what you have decided"))));
  }

  set(sample, pending = null) {
    const { verdict, reasons, note } = pending ?? sample.state;
    this.#reasons = new Set(reasons);
    this.note.value = note ?? "";
    this.#show(verdict);
  }

  placeAt(neighbours) {
    this.place.replaceChildren(...(neighbours ? [h("b", {}, (neighbours.rank + 1).toLocaleString("en")), ` of ${neighbours.total.toLocaleString("en")}`] : ["…"]));
    this.previous.disabled = neighbours ? neighbours.previous === null : true;
    this.next.disabled = neighbours ? neighbours.next === null : true;
  }

  /** A reason for what is wrong; on a sample that is rejected already it is recorded at once. */
  toggle(name) {
    if (!this.#reasons.delete(name)) this.#reasons.add(name);
    this.#show(this.verdict);
    if (this.verdict === "reject") this.give("reject", { stay: true });
  }

  give(verdict, { stay = false } = {}) {
    const reasons = verdict === "accept" ? [] : REASONS.filter((name) => this.#reasons.has(name));
    this.decide({ type: "verdict", verdict, reasons, note: this.note.value.trim() }, stay);
  }

  #show(verdict) {
    this.verdict = verdict;
    for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", name === verdict);
    for (const [name, button] of this.reasons) button.setAttribute("aria-pressed", this.#reasons.has(name));
  }
}
