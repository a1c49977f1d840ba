// Dialogs: the keys there are, and who audits.

import { h } from "./dom.js";

// Parts that begin with a blank stand between keys.
const KEYS = [
  ["Verdict", [[["A"], "accept"], [["R"], "reject"], [["U"], "unsure"], [["1", " … ", "7"], "reasons, in the order of the bar"], [["N"], "note"], [["Z"], "undo the last thing you did"]]],
  ["Going on", [[["J", " or ", "→"], "next sample"], [["K", " or ", "←"], "previous sample"], [["G"], "back to the list"], [["/"], "search captions"], [["C"], "copy a link"], [["?"], "this help"]]],
  ["Looking", [[[",", " and ", "."], "frame back and on"], [["[", " and ", "]"], "previous and next still"], [["Space"], "play and stop the clip"], [["M", " ", "B", " ", "L"], "masks, boxes, labels"], [["H"], "hide the chosen entity"], [["Tab"], "walk through references and everything else"]]],
  ["Repairing what is chosen", [[["Shift", " ", "←", " ", "→"], "give an attribute to another subject (or drag it)"], [["S"], "choose other words with the arrow keys (or select them)"], [["E"], "change the label"], [["Del"], "delete it"], [["Esc"], "let go"]]],
];

export function help() {
  const dialog = h("dialog.help", { "aria-labelledby": "help-title" },
    h("form", { method: "dialog" },
      h("div.dialog-head", {}, h("h2", { id: "help-title" }, "Keys"), h("button.close", { "aria-label": "Close" }, "×")),
      h("div.key-groups", {}, ...KEYS.map(([title, keys]) => h("section", {}, h("h3", {}, title), h("dl", {}, ...keys.flatMap(([key, what]) => [h("dt", {}, ...key.map((part) => (part.startsWith(" ") ? part : h("kbd", {}, part)))), h("dd", {}, what)]))))),
      h("p.quiet", {}, "Every decision is saved when it is made. A repair can be undone like a verdict; the shards themselves stay as they are until ", h("code", {}, "dataengine audit apply"), " writes a new version.")));
  return opened(dialog);
}

/** Asks for the auditor's name; resolves with it, or null. */
export function askName(known, current) {
  const list = h("datalist", { id: "known-names" }, ...known.map((name) => h("option", { value: name })));
  const input = h("input", { name: "auditor", list: "known-names", value: current ?? "", maxlength: 64, required: true, pattern: ".*\\S.*", autocomplete: "off", autofocus: true, placeholder: "e.g. mia" });
  const dialog = h("dialog.name", { "aria-labelledby": "name-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "name-title" }, "Who audits?"),
      h("p.quiet", {}, "Your name stands beside your decisions. Each auditor has a queue of their own, and does not see what others said before having decided."),
      h("label.field", {}, h("span", {}, "Name"), input, list),
      h("div.dialog-foot", {}, h("button", { type: "submit", value: "", formnovalidate: true }, "Only look"), h("button.primary", { type: "submit", value: "named" }, "Start"))));
  // Enter takes the form's first button otherwise.
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); dialog.querySelector("button.primary").click(); } });
  opened(dialog);
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    const name = input.value.normalize("NFC").trim();
    resolve(dialog.returnValue === "named" && name ? name : null);
  }));
}

function opened(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.showModal();
  return dialog;
}
