// The reference images: a column for each subject, the face on top, its attributes under it; then objects and background.

import { media, whyBroken } from "./api.js";
import { h, percent, s, shown, visible } from "./dom.js";
import { icon, together } from "./stage.js";

const DRAGGED = "text/x-dataengine-entity";

export class References {
  #sample;
  #focus = null;
  #dragged = null;

  /** `select(entity)`, `move(entity, subject)`, `toggle(entity)`: what happens to cards; `isHidden(entity)` asks. */
  constructor(actions) {
    Object.assign(this, actions);
    this.element = h("section.references", { "aria-label": "References by subject" });
  }

  set(sample) {
    this.#sample = sample;
    const restore = this.element.contains(document.activeElement) ? document.activeElement.getAttribute("data-entity") : null;
    const columns = sample.subjects.map((subject) => this.#column(subject));
    const around = sample.entities.filter((e) => e.subject === null);
    if (around.length) columns.push(this.#around(around));
    this.element.replaceChildren(...columns);
    this.element.style.setProperty("--columns", columns.length);
    this.focus(this.#focus);
    if (restore) this.card(restore)?.focus();
  }

  card(entity) {
    return this.element.querySelector(`button.card[data-entity="${CSS.escape(entity)}"]`);
  }

  focus(entity) {
    this.#focus = entity;
    for (const card of this.element.querySelectorAll("button.card")) {
      const id = card.getAttribute("data-entity");
      card.setAttribute("aria-pressed", id === entity);
      card.parentElement.classList.toggle("focused", Boolean(entity) && together(id, entity));
      card.parentElement.classList.toggle("dimmed", Boolean(entity) && !together(id, entity));
    }
  }

  #column(subject) {
    const entities = subject.entities.map((id) => this.#sample.entities.find((e) => e.id === id)).filter(Boolean);
    const [face, ...rest] = entities;
    const column = h("div.column", { class: `c-${subject.colour}`, role: "group", "aria-label": `${shown(subject.noun)}, subject ${subject.index}`, "data-subject": subject.index },
      h("h3", {}, h("span.dot"), h("bdi", {}, ...visible(subject.noun)), h("span.share", { title: "share of the annotator's votes for this face" }, percent(subject.owner_share))),
      this.#card(face, "face"), ...rest.filter((e) => e.kind === "attribute").map((e) => this.#card(e, "attribute")),
      h("p.drop", { "aria-hidden": "true" }, "give it to this one"), ...rest.filter((e) => e.kind === "body").map((e) => this.#card(e, "body")));
    column.addEventListener("dragover", (event) => {
      if (!this.#accepts(subject.index)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "move";
      column.classList.add("over");
    });
    column.addEventListener("dragleave", (event) => { if (!column.contains(event.relatedTarget)) column.classList.remove("over"); });
    column.addEventListener("drop", (event) => {
      event.preventDefault();
      column.classList.remove("over");
      if (this.#accepts(subject.index)) this.move(this.#dragged, subject.index);
    });
    return column;
  }

  #accepts(subject) {
    const entity = this.#sample.entities.find((e) => e.id === this.#dragged);
    return Boolean(entity) && entity.kind === "attribute" && entity.subject !== subject;
  }

  #around(entities) {
    return h("div.column.around", { role: "group", "aria-label": "Objects and background" },
      h("h3", {}, "Around"), ...entities.map((e) => this.#card(e, e.kind)));
  }

  #card(entity, role) {
    const movable = entity.kind === "attribute" && this.#sample.subjects.length > 1;
    const label = role === "face" ? "face" : role === "body" ? "whole body" : shown(entity.text);
    const button = h("button.card", {
      type: "button", "data-entity": entity.id, draggable: movable, "aria-pressed": false,
      "aria-label": `${label}, ${entity.id}${movable ? ", can be moved to another subject with Shift and the arrow keys" : ""}`,
      onclick: () => this.select(entity.id),
    }, this.#picture(entity), h("span.label", {}, role === "face" || role === "body" ? label : h("bdi", {}, ...visible(entity.text))));
    if (movable) {
      button.addEventListener("dragstart", (event) => {
        this.#dragged = entity.id;
        event.dataTransfer.setData(DRAGGED, entity.id);
        event.dataTransfer.effectAllowed = "move";
        this.element.classList.add("dragging");
        for (const column of this.element.querySelectorAll("[data-subject]")) column.classList.toggle("target", Number(column.getAttribute("data-subject")) !== entity.subject);
      });
      button.addEventListener("dragend", () => {
        this.#dragged = null;
        this.element.classList.remove("dragging");
        for (const column of this.element.querySelectorAll("[data-subject]")) column.classList.remove("target", "over");
      });
    }
    const seen = this.isHidden(entity.id);
    const eye = entity.kind === "background" || !entity.located ? null
      : h("button.eye", { type: "button", "aria-pressed": seen, title: "Hide on the frames (H)", "aria-label": `Hide ${label} on the frames`,
          onclick: (event) => { this.toggle(entity.id); event.currentTarget.setAttribute("aria-pressed", this.isHidden(entity.id)); } }, icon("eye"));
    return h("div.holder-of-card", { class: `c-${entity.colour} ${role}` }, button, eye, entity.other_clip ? h("span.tag", { title: "cut from another clip" }, "other clip") : null, entity.cut_anew ? h("span.tag", {}, "cut anew") : null);
  }

  #picture(entity) {
    if (entity.cut_anew) return this.#crop(entity);
    const address = media(this.#sample, `references/${entity.reference}`);
    const image = h("img", { src: address, alt: "", decoding: "async", draggable: false });
    const pane = h("span.pane", { class: entity.kind === "face" || entity.kind === "background" ? "whole" : "cut" }, image);
    image.addEventListener("error", async () => {
      pane.classList.add("broken");
      pane.replaceChildren("damaged");
      pane.setAttribute("title", shown(await whyBroken(address), 300));
    });
    return pane;
  }

  /** What will be cut from the other still when repairs are applied. */
  #crop(entity) {
    const { width, height } = this.#sample;
    const [x0, y0, x1, y1] = entity.box;
    const picture = s("svg", { viewBox: `${x0} ${y0} ${x1 - x0} ${y1 - y0}`, "aria-hidden": "true" });
    const image = s("image", { href: media(this.#sample, `frames/${entity.frame}`), width, height });
    if (entity.outline) {
      const id = `cut-${entity.id.replace(".", "-")}`;
      picture.append(s("clipPath", { id }, s("path", { d: entity.outline, "clip-rule": "evenodd" })));
      image.setAttribute("clip-path", `url(#${id})`);
    }
    picture.append(image);
    return h("span.pane.cut", {}, picture);
  }
}

/** What is known of the chosen entity, and everything that can be done to it. */
export class Inspector {
  #sample;
  #entity = null;
  #proposal = null;

  /** `repair(action)`, `beginWords(entity)`, `applyWords(span)`, `close()`, `link()`. */
  constructor(actions) {
    Object.assign(this, actions);
    this.element = h("section.inspector", { "aria-label": "Chosen entity", hidden: true });
  }

  set(sample, id, textOf) {
    this.#sample = sample;
    this.textOf = textOf;
    this.#entity = sample.entities.find((e) => e.id === id) ?? null;
    this.#proposal = null;
    this.#draw();
  }

  /** Other words that were selected for the entity; null when none are. */
  propose(span) {
    this.#proposal = span;
    this.#drawWords();
  }

  get proposal() {
    return this.#proposal;
  }

  editLabel() {
    this.label?.focus();
    this.label?.select();
  }

  #draw() {
    const entity = this.#entity;
    this.element.hidden = !entity;
    if (!entity) return this.element.replaceChildren();
    const { subjects, stills } = this.#sample;
    const isPerson = entity.kind === "face" || entity.kind === "body";
    const words = isPerson ? `s${entity.subject}` : entity.id;
    this.label = h("input", { type: "text", value: entity.text, maxlength: 100, "aria-label": "Label", autocomplete: "off", spellcheck: false });
    const rename = h("form.rename", { onsubmit: (event) => {
      event.preventDefault();
      const text = this.label.value.trim();
      if (text && text !== entity.text) this.repair({ type: "relabel", entity: words, text });
    } }, this.label, h("button", { type: "submit", title: "Change the words in the caption (E)" }, "Rename"));
    this.words = h("div.choose-words", {});
    const parts = [
      h("div.facts", {}, h("b", { class: `c-${entity.colour}` }, h("span.dot"), ` ${entity.id}`), ...facts(entity, this.#sample).map((fact) => h("span", {}, fact)), h("span.tools", {},
        h("button.danger", { type: "button", title: "Delete (Del)", onclick: () => this.repair({ type: "delete_entity", entity: entity.kind === "face" ? words : entity.id }) }, entity.kind === "face" ? "Delete subject" : "Delete"),
        h("button", { type: "button", title: "Copy a link to this sample and entity (C)", onclick: () => this.link() }, "Link"),
        h("button.close", { type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: () => this.close() }, "×"))),
      h("div.row", {}, h("span.name", {}, "Words"), rename, this.words),
    ];
    const row = h("div.row", {});
    if (entity.kind === "attribute" && subjects.length > 1) {
      row.append(h("div.part", {}, h("span.name", {}, "Whose"), h("div.choices", { role: "group", "aria-label": "Whose it is" }, ...subjects.map((subject) =>
        h("button", { type: "button", class: `c-${subject.colour}`, "aria-pressed": subject.index === entity.subject, disabled: subject.index === entity.subject,
          onclick: () => this.repair({ type: "move_attribute", entity: entity.id, subject: subject.index }) }, h("span.dot"), shown(subject.noun, 18))))));
    }
    if (entity.kind !== "background" && entity.located) {
      row.append(h("div.part", {}, h("span.name", {}, "Frame"), h("div.choices", { role: "group", "aria-label": "Still that the reference is cut from" }, ...stills.map((frame, still) =>
        h("button", { type: "button", "aria-pressed": still === entity.still, disabled: still === entity.still,
          onclick: () => this.repair({ type: "choose_still", entity: entity.id, still }) }, `${(frame / this.#sample.fps).toFixed(2)} s`)))));
    }
    if (row.children.length) parts.push(row);
    this.element.replaceChildren(...parts);
    this.#drawWords();
  }

  #drawWords() {
    if (!this.#entity || !this.words) return;
    const span = this.#proposal;
    this.words.replaceChildren(span
      ? h("button.primary", { type: "button", title: "Tie these words (Enter)", onclick: () => this.applyWords(span) }, "Tie ", h("q", {}, ...visible(this.textOf(span).slice(0, 60))))
      : h("button", { type: "button", title: "Choose other words of the caption (S), or select them there", onclick: () => this.beginWords(this.#entity) }, "Other words…"));
  }
}

function facts(entity, sample) {
  const [x0, y0, x1, y1] = entity.box;
  const told = [];
  if (entity.kind !== "background") told.push(`${Math.round(x1 - x0)} × ${Math.round(y1 - y0)} px`, percent(entity.area_share, 1));
  told.push(`score ${entity.score.toFixed(2)}`);
  if (entity.kind === "face") {
    if (entity.frontal !== null) told.push(`frontal ${entity.frontal.toFixed(2)}`);
    if (entity.visible !== null) told.push(`visible ${entity.visible.toFixed(2)}`);
    if (entity.sharpness !== null) told.push(`sharpness ${entity.sharpness.toFixed(0)}`);
    const subject = sample.subjects.find((one) => one.index === entity.subject);
    if (subject && subject.likeness !== null) told.push(`least likeness over frames ${subject.likeness.toFixed(2)}`);
  }
  return told;
}

