// Elements out of code. Whatever comes from a dataset becomes a text node: nothing here reads markup.

const STATES = /^(aria-|draggable$|spellcheck$)/; // "false" is a value of theirs
const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("button.big", {onclick, "aria-label": …}, "text", child, …)`. Null and false children are left out. */
export function h(name, properties = {}, ...children) {
  return filled(document.createElement(tag(name)), name, properties, children);
}

/** The same in SVG. */
export function s(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag(name)), name, properties, children);
}

function tag(name) {
  return name.split(/[.#]/, 1)[0];
}

function filled(element, name, properties, children) {
  const classes = name.match(/\.[\w-]+/g);
  if (classes) element.setAttribute("class", classes.map((c) => c.slice(1)).join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (STATES.test(key)) element.setAttribute(key, String(value));
    else if (value === false) continue;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.setAttribute("class", [element.getAttribute("class"), value].filter(Boolean).join(" "));
    else if (key === "value" && element instanceof HTMLElement) element.value = value;
    else if (key === "checked") element.checked = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets CSS custom properties and styles from code; the page's policy forbids style attributes. */
export function styled(element, styles) {
  for (const [key, value] of Object.entries(styles)) element.style.setProperty(key, value);
  return element;
}

const said = document.getElementById("said");

/** Tells a screen reader. */
export function say(text) {
  said.textContent = text;
}

/** Shows a notice that stays until it is closed, or `seconds` long. */
export function notice(text, { kind = "info", seconds = 0, action = null } = {}) {
  const box = h("div.notice", { class: kind }, h("span", {}, ...visible(text)));
  const close = () => box.remove();
  if (action) box.append(h("button", { type: "button", onclick: () => { close(); action.run(); } }, action.name));
  box.append(h("button.close", { type: "button", "aria-label": "Close", onclick: close }, "×"));
  const holder = document.getElementById("notices");
  for (const old of holder.children) if (old.firstChild.textContent === box.firstChild.textContent) old.remove();
  holder.append(box);
  if (seconds) setTimeout(close, seconds * 1000);
  return close;
}

const HIDDEN = /[\p{C}]/u;
const JOINERS = new Set(["\u200c", "\u200d"]);

/**
 * Text as nodes, with control, format and unassigned characters spelt out: U+202E would turn the line round.
 * Each stretch is a span that knows where it starts, in code points, so that selections can be read back.
 */
export function visible(text, start = 0) {
  const nodes = [];
  let plain = "";
  let plainStart = start;
  let at = start;
  const flush = () => {
    if (plain) nodes.push(h("span", { "data-start": plainStart }, plain));
    plain = "";
  };
  for (const character of text) {
    const shown = /\s/.test(character) ? " " : character;
    if (HIDDEN.test(shown) && !JOINERS.has(shown)) {
      flush();
      const code = shown.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      nodes.push(h("span.hidden", { "data-start": at, "data-length": 1, title: "a character that does not show" }, `⟨U+${code}⟩`));
    } else {
      if (!plain) plainStart = at;
      plain += shown;
    }
    at += 1;
  }
  flush();
  return nodes;
}

/** The same as one string, for attributes and titles. */
export function shown(text, limit = 200) {
  const characters = Array.from(text.slice(0, 4 * limit), (c) =>
    /\s/.test(c) ? " " : HIDDEN.test(c) && !JOINERS.has(c) ? `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩` : c);
  return characters.length > limit ? characters.slice(0, limit - 1).join("") + "…" : characters.join("");
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u202f%`;
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
export const spoken = (name) => name.replaceAll("_", " ");
