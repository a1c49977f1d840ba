// The caption: each phrase underlined in its subject's colour, and choosing other words for one by mouse or by keyboard.

import { count, h, visible } from "./dom.js";

export class Caption {
  #sample;
  #characters = [];
  #words = [];
  #focus = null;
  #choice = null;

  /** `select(entity)` a phrase was clicked; `choose(span or null)` other words are proposed; `apply(span)` they are right. */
  constructor({ select, choose, apply }) {
    Object.assign(this, { select, choose, apply });
    this.text = h("p.caption", { dir: "auto", tabindex: -1 });
    this.hint = h("p.hint", { hidden: true });
    this.element = h("section.words", { "aria-label": "Caption" }, this.text, this.hint);
    document.addEventListener("selectionchange", () => this.#selected());
    this.text.addEventListener("keydown", (event) => this.#key(event));
  }

  set(sample) {
    this.#sample = sample;
    this.#characters = Array.from(sample.caption);
    this.#words = wordsOf(this.#characters);
    this.#choice = null;
    this.#draw();
  }

  focus(entity) {
    this.#focus = entity;
    if (this.choosing) this.stop();
    else this.#draw();
  }

  get choosing() {
    return this.#choice !== null;
  }

  /** The words that are proposed, in code points. */
  get span() {
    if (!this.#choice) return null;
    const [first, last] = this.#choice;
    return { start: this.#words[first].start, end: this.#words[last].end };
  }

  textOf({ start, end }) {
    return this.#characters.slice(start, end).join("");
  }

  /** Begins choosing words for an entity by keyboard, at those it has. */
  begin(entity) {
    if (!this.#words.length) return;
    const at = this.#words.findIndex((word) => word.end > entity.span[0]);
    let last = this.#words.findIndex((word) => word.end >= entity.span[1]);
    if (last < 0) last = this.#words.length - 1;
    const first = Math.max(0, at);
    this.#choice = [first, Math.max(first, last)];
    this.#draw();
    this.text.focus();
    this.choose(this.span);
  }

  stop() {
    this.#choice = null;
    this.#draw();
    this.choose(null);
  }

  #key(event) {
    if (!this.#choice || event.ctrlKey || event.metaKey || event.altKey) return;
    const [first, last] = this.#choice;
    const most = this.#words.length - 1;
    if (event.key === "ArrowRight") this.#choice = event.shiftKey ? [first, Math.min(most, last + 1)] : [Math.min(most, first + 1), Math.min(most, Math.max(first + 1, last + 1))];
    else if (event.key === "ArrowLeft") this.#choice = event.shiftKey ? [first, Math.max(first, last - 1)] : [Math.max(0, first - 1), first === 0 ? last : Math.max(0, last - 1)];
    else if (event.key === "Enter") return this.#take(event, () => this.apply(this.span));
    else if (event.key === "Escape") return this.#take(event, () => this.stop());
    else return;
    this.#take(event, () => { this.#draw(); this.choose(this.span); });
  }

  #take(event, work) {
    event.preventDefault();
    event.stopPropagation();
    work();
  }

  /** Text that was selected with the mouse becomes the proposal, without the blanks at its ends. */
  #selected() {
    const selection = document.getSelection();
    if (!this.#focus || !selection.rangeCount || selection.isCollapsed) return;
    const range = selection.getRangeAt(0);
    if (!this.text.contains(range.startContainer) || !this.text.contains(range.endContainer)) return;
    let start = offset(range.startContainer, range.startOffset);
    let end = offset(range.endContainer, range.endOffset);
    if (start === null || end === null) return;
    while (start < end && /\s/.test(this.#characters[start])) start += 1;
    while (end > start && /\s/.test(this.#characters[end - 1])) end -= 1;
    if (start < end) this.choose({ start, end });
  }

  #draw() {
    const { entities, caption_length: length } = this.#sample;
    const first = new Map();
    for (const entity of entities) {
      const name = `${entity.span}`;
      if (!first.has(name) || entity.kind === "face") first.set(name, entity);
    }
    const phrases = [...first.values()].sort((a, b) => a.span[0] - b.span[0]);
    const nodes = [];
    let at = 0;
    for (const entity of phrases) {
      const [start, end] = entity.span;
      if (start < at || end > this.#characters.length || start >= end) continue;
      nodes.push(...this.#piece(at, start));
      const phrase = h("span.phrase", { class: `c-${entity.colour}`, "data-entity": entity.id, title: entity.id, onclick: () => this.select(entity.id) }, ...this.#piece(start, end));
      if (this.#focus) phrase.classList.add(sameWords(entity.id, this.#focus) ? "focused" : "dimmed");
      nodes.push(phrase);
      at = end;
    }
    nodes.push(...this.#piece(at, this.#characters.length));
    const cut = length - this.#characters.length;
    if (cut > 0) nodes.push(h("span.more", {}, ` … and ${count(cut, "more character")}`));
    this.text.replaceChildren(...nodes);
    this.text.classList.toggle("choosing", this.choosing);
    this.hint.hidden = !this.choosing;
    this.hint.replaceChildren(...(this.choosing ? [kbd("←"), kbd("→"), " other words  ", kbd("Shift"), " + ", kbd("→"), " more  ", kbd("Enter"), " take  ", kbd("Esc"), " leave"] : []));
  }

  /** A stretch of the caption; the proposed words inside of it are marked. */
  #piece(start, end) {
    const span = this.span;
    const part = (from, to) => (from < to ? visible(this.#characters.slice(from, to).join(""), from) : []);
    if (!span || span.end <= start || span.start >= end) return part(start, end);
    const from = Math.max(start, span.start);
    const to = Math.min(end, span.end);
    return [...part(start, from), h("span.proposed", {}, ...part(from, to)), ...part(to, end)];
  }
}

/** Whether two names stand for the same words: a subject's face and body share its noun. */
function sameWords(entity, focus) {
  const words = (name) => name.replace(/\.(face|body)$/, "");
  return words(entity) === words(focus);
}

/** Where words stand, in code points. */
function wordsOf(characters) {
  const words = [];
  characters.forEach((character, at) => {
    if (!/[\p{L}\p{N}\p{M}'’_-]/u.test(character)) return;
    const last = words.at(-1);
    const wide = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u.test(character);
    if (last && last.end === at && !wide && !last.wide) last.end = at + 1;
    else words.push({ start: at, end: at + 1, wide });
  });
  return words;
}

/** A place of a selection in code points of the caption. */
function offset(node, position) {
  const holder = (node.nodeType === Node.TEXT_NODE ? node.parentElement : node).closest("[data-start]");
  if (holder) {
    const start = Number(holder.getAttribute("data-start"));
    if (holder.hasAttribute("data-length")) return start + (position > 0 ? 1 : 0);
    return start + Array.from(holder.textContent.slice(0, node.nodeType === Node.TEXT_NODE ? position : holder.textContent.length * position)).length;
  }
  // Between elements: the next text begins there, or the last one ends there.
  const next = node.childNodes[position];
  const target = next?.querySelector?.("[data-start]") ?? (next?.matches?.("[data-start]") ? next : null);
  if (target) return Number(target.getAttribute("data-start"));
  const all = [...node.querySelectorAll("[data-start]")];
  const last = all.at(-1);
  return last ? Number(last.getAttribute("data-start")) + Array.from(last.textContent).length : null;
}

export function kbd(key) {
  return h("kbd", {}, key);
}
