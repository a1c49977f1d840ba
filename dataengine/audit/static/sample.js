// The single view: one sample with all that is known of it, verdicts, and repairs in place.

import { get, media } from "./api.js";
import { Caption } from "./caption.js";
import { h, notice, percent, say, shown, spoken, visible } from "./dom.js";
import { checks, matrix, provenance } from "./evidence.js";
import { address, asked } from "./place.js";
import { Inspector, References } from "./references.js";
import { mainStill, Stage } from "./stage.js";
import { REASONS, Verdicts } from "./verdicts.js";

const FRESH = 20_000;

export class SampleScreen {
  #views = new Map();
  #sample = null;
  #entity = null;
  #neighbours = null;
  #looking = null;
  #pending = new Map();
  #done = [];
  #opening = 0;

  constructor(app) {
    this.app = app;
    const select = (entity) => this.select(entity === this.#entity ? null : entity);
    this.stage = new Stage(app.layers, (entity) => this.select(entity));
    this.caption = new Caption({ select, choose: (span) => this.inspector.propose(span), apply: (span) => this.respan(span) });
    this.references = new References({ select, move: (entity, subject) => this.repair({ type: "move_attribute", entity, subject }), toggle: (entity) => this.stage.toggleEntity(entity), isHidden: (entity) => this.stage.isHidden(entity) });
    this.inspector = new Inspector({ repair: (action) => this.repair(action), beginWords: (entity) => this.caption.begin(entity), applyWords: (span) => this.respan(span), close: () => this.select(null), link: () => this.copyLink() });
    this.verdicts = new Verdicts({ decide: (action, stay) => this.decide(action, stay), undo: () => this.undo(), go: (direction) => this.go(direction), setting: (name, on) => this.app.set(name, on) }, app.settings);
    this.facts = h("div.sample-facts", {});
    this.problems = h("div.problems", {});
    this.evidence = h("div.evidence", {});
    this.history = h("section.panel.history", { "aria-label": "What you did" });
    this.aside = h("div.aside", { tabindex: -1 }, this.problems, this.caption.element, this.references.element, this.inspector.element, this.evidence);
    this.element = h("div.single", {}, h("div.left", {}, this.facts, this.stage.element), this.aside, this.verdicts.element);
  }

  get sample() {
    return this.#sample;
  }

  /** Shows the sample at `position` at once if it was fetched ahead, else when it is there. */
  async open(position, entity = null) {
    const opening = ++this.#opening;
    if (this.#sample?.position === position && this.#sample.generation === this.app.session.generation) {
      this.select(entity, false);
      return this.#lookAround();
    }
    this.element.setAttribute("aria-busy", "true");
    let view;
    try {
      view = await this.#fetch(position);
    } catch (error) {
      this.element.removeAttribute("aria-busy");
      return this.app.failed(error, () => this.open(position, entity));
    }
    if (opening !== this.#opening) return undefined;
    this.element.removeAttribute("aria-busy");
    this.aside.scrollTop = 0;
    this.#show(view, entity);
    say(`Sample ${position}. ${view.subjects.length} subjects. ${view.findings.filter((f) => !f.passed).length} failed checks.`);
    return this.#lookAround();
  }

  #fetch(position) {
    const known = this.#views.get(position);
    if (known && Date.now() - known.at < FRESH && known.me === this.app.me) return known.view;
    const view = get(`/api/samples/${position}`, { me: this.app.me });
    this.#views.set(position, { view, at: Date.now(), me: this.app.me });
    view.catch(() => this.#views.delete(position));
    if (this.#views.size > 12) this.#views.delete(this.#views.keys().next().value);
    return view;
  }

  forget() {
    this.#views.clear();
    this.#sample = null;
  }

  #show(view, entity) {
    this.#sample = view;
    this.#entity = null;
    const there = view.entities.some((e) => e.id === entity) ? entity : null;
    this.problems.replaceChildren(...this.#troubles(view));
    this.caption.set(view);
    this.references.set(view);
    this.stage.set(view);
    this.#drawFacts(view);
    const select = (id) => view.entities.some((e) => e.id === id) && this.select(id);
    this.#drawHistory(view);
    this.evidence.replaceChildren(...[checks(view, this.app.questions, select), matrix(view, select), this.history, provenance(view)].filter(Boolean));
    this.verdicts.set(view, this.#pending.get(view.position));
    this.select(there, false);
    document.title = `${view.position} · ${this.app.session.dataset}`;
  }

  #troubles(view) {
    const told = [];
    if (view.problem) told.push(h("div.problem", {}, h("b", {}, "This sample is damaged. "), ...visible(view.problem), " The rest of the dataset works."));
    if (view.stale) told.push(h("div.problem", {}, h("b", {}, "Your repairs no longer apply and are not shown: "), ...visible(view.stale)));
    return told;
  }

  #drawFacts(view) {
    const risk = view.risk === null ? null : h("span.risk", { class: view.risk >= 0.5 ? "high" : view.risk >= 0.2 ? "some" : "low", title: "how likely the checks find a person to reject it" }, "risk ", h("b", {}, percent(view.risk)));
    const failed = view.findings.filter((f) => !f.passed);
    this.facts.replaceChildren(...[
      risk, failed.length ? h("span.badge.bad", {}, `${failed.length} failed`) : view.findings.length ? h("span.badge.good", {}, "checks passed") : null,
      h("span", { title: shown(view.source_names[0] ?? view.source) }, shown((view.source_names[0] ?? view.source).split("/").at(-1), 36)),
      h("span", {}, `${view.width} × ${view.height}`), view.fps ? h("span", {}, `${(view.frames / view.fps).toFixed(1)} s`) : null, h("span", {}, view.split),
      h("span.key", { title: view.key }, view.key.slice(0, 10)),
      ...view.state.others.map((other) => h("span.badge", { title: other.reasons.map(spoken).join(", ") }, `${shown(other.auditor, 20)}: ${other.verdict ?? "repaired"}`)),
    ].filter(Boolean));
  }

  #drawHistory(view) {
    const { events } = view.state;
    this.history.hidden = !events.length;
    this.history.replaceChildren(h("h2", {}, "What you did"), h("ol", {}, ...events.map((event) => h("li", {}, h("span", {}, told(event.action)), h("time", { datetime: event.at }, new Date(event.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
      h("button.link", { type: "button", onclick: () => this.#undoEvent(view.position, event.id) }, "undo")))));
  }

  /** Chooses an entity everywhere at once: on the frames, in the caption, among the references, in the address. */
  select(entity, record = true) {
    this.#entity = entity;
    this.stage.focus(entity);
    this.caption.focus(entity);
    this.references.focus(entity);
    this.inspector.set(this.#sample, entity, (span) => this.caption.textOf(span));
    if (entity) this.references.card(entity)?.scrollIntoView({ block: "nearest" });
    if (record) this.app.replace({ entity });
  }

  /** Finds out what stands beside the sample; resolves when that is known. */
  #lookAround() {
    this.#looking = this.#findNeighbours();
    return this.#looking;
  }

  async #findNeighbours() {
    const position = this.#sample.position;
    this.#neighbours = null;
    this.verdicts.placeAt(null);
    try {
      const found = await get(`/api/samples/${position}/neighbours`, { ...asked(this.app.place.query), me: this.app.me, skip_decided: this.app.settings.skip });
      if (this.#sample?.position !== position) return;
      this.#neighbours = found;
      this.verdicts.placeAt(found);
      if (found.next !== null) this.#fetch(found.next).then((view) => this.#ahead(view), () => {});
    } catch {
      // Whoever goes on is told then.
    }
  }

  /** Fetches the pictures of the sample that comes next. */
  #ahead(view) {
    const wanted = view.stills.map((frame) => `frames/${frame}`);
    wanted.sort((a) => (a === `frames/${view.stills[mainStill(view)]}` ? -1 : 0));
    for (const entity of view.entities) wanted.push(`references/${entity.reference}`);
    for (const what of wanted) new Image().src = media(view, what);
  }

  async go(direction) {
    await this.#looking;
    if (!this.#neighbours) await this.#lookAround();
    const to = direction > 0 ? this.#neighbours?.next : this.#neighbours?.previous;
    if (to === null || to === undefined) return notice(direction > 0 ? "This is the last one of this list." : "This is the first one of this list.", { seconds: 3 });
    this.#neighbours = null;
    return this.app.go({ view: "sample", sample: to, entity: null });
  }

  // --- What the auditor does ------------------------------------------------------------------------------------------

  #send(action, label) {
    const { position, generation } = this.#sample;
    const sent = this.app.outbox.send({ position, generation, auditor: this.app.me, action, label });
    const entry = { position, outbox: sent.id, event: null };
    if (action.type !== "undo") this.#done.push(entry);
    this.#views.delete(position);
    sent.done.then(
      (answer) => {
        entry.event = answer.event;
        this.#pending.delete(position);
        this.#views.set(position, { view: Promise.resolve(answer.sample), at: Date.now(), me: this.app.me });
        if (this.#sample?.position === position) this.#renew(answer.sample);
      },
      (error) => {
        this.#done = this.#done.filter((other) => other !== entry);
        this.#pending.delete(position);
        if (this.#sample?.position === position) this.verdicts.set(this.#sample);
        notice(`Not recorded: ${error.message} ${error.remedy ?? ""}`, { kind: "bad" });
        if (error.status === 409) this.app.checkEdition();
      },
    );
    return { ...sent, entry };
  }

  /** The same sample after a repair: the chosen entity stays, under its new name if it got one. */
  #renew(view) {
    const before = this.#sample;
    let entity = this.#entity;
    if (entity && !view.entities.some((e) => e.id === entity)) {
      const number = before.entities.find((e) => e.id === entity)?.reference;
      entity = view.entities.find((e) => e.reference === number && e.kind === "attribute")?.id ?? null;
    }
    this.#show(view, entity);
    this.app.replace({ entity });
  }

  async decide(action, stay = false) {
    if (!(await this.app.named())) return;
    const { position } = this.#sample;
    this.#pending.set(position, action);
    this.verdicts.set(this.#sample, action);
    this.#send(action, action.verdict);
    say(`${{ accept: "Accepted", reject: "Rejected", unsure: "Unsure about" }[action.verdict]} sample ${position}.`);
    if (!stay && this.app.settings.advance) {
      await this.#looking;
      if (this.#sample.position === position && this.#neighbours?.next !== null && this.#neighbours) this.go(1);
      else if (this.#neighbours?.next === null) notice("That was the last one of this list.", { kind: "good", seconds: 5 });
    }
  }

  async repair(action) {
    if (!(await this.app.named())) return;
    this.element.classList.add("working");
    try {
      await this.#send(action, action.type).done;
      say(`Done: ${told(action)}.`);
    } catch {
      // `#send` has said why.
    } finally {
      this.element.classList.remove("working");
    }
  }

  respan({ start, end }) {
    const entity = this.#sample.entities.find((e) => e.id === this.#entity);
    if (!entity) return;
    document.getSelection().removeAllRanges();
    this.caption.stop();
    const name = entity.kind === "face" || entity.kind === "body" ? `s${entity.subject}` : entity.id;
    this.repair({ type: "respan", entity: name, start, end });
  }

  /** Undoes the last thing done in this window, wherever it was; else the last thing in force on this sample. */
  async undo() {
    const last = this.#done.pop();
    if (!last) {
      const event = this.#sample.state.events.at(-1);
      if (!event) return notice("There is nothing to undo here.", { seconds: 3 });
      return this.#undoEvent(this.#sample.position, event.id);
    }
    if (last.event === null && this.app.outbox.cancel(last.outbox)) {
      this.#pending.delete(last.position);
      say("Undone before it was sent.");
      if (this.#sample.position !== last.position) return this.app.go({ view: "sample", sample: last.position, entity: null });
      return this.verdicts.set(this.#sample);
    }
    if (last.event === null) {
      this.#done.push(last);
      return notice("It is just being sent; try again.", { seconds: 3 });
    }
    return this.#undoEvent(last.position, last.event);
  }

  async #undoEvent(position, event) {
    if (!(await this.app.named())) return;
    this.#done = this.#done.filter((entry) => entry.event !== event);
    if (this.#sample.position !== position) await this.app.go({ view: "sample", sample: position, entity: null });
    if (this.#sample.position !== position) return;
    try {
      await this.#send({ type: "undo", event }, "undo").done;
      say("Undone.");
    } catch {
      // `#send` has said why.
    }
  }

  copyLink() {
    const { position, generation } = this.#sample;
    const link = new URL(address({ view: "sample", sample: position, entity: this.#entity, edition: generation, query: this.app.place.query }), location.href).href;
    const done = navigator.clipboard?.writeText(link);
    if (done) done.then(() => notice("The link is in the clipboard.", { seconds: 3 }), () => notice(link));
    else notice(link);
  }

  // --- Keys -----------------------------------------------------------------------------------------------------------

  /** Handles a key; says whether it did. */
  key(event) {
    const { key } = event;
    const entity = this.#sample?.entities.find((e) => e.id === this.#entity) ?? null;
    if (!this.#sample) return false;
    if (key === "Escape") {
      if (!this.#entity) return false;
      const card = this.references.card(this.#entity);
      this.select(null);
      card?.focus();
      return true;
    }
    if (event.shiftKey && (key === "ArrowLeft" || key === "ArrowRight") && entity?.kind === "attribute") return this.#give(entity, key === "ArrowRight" ? 1 : -1);
    if (/^[1-7]$/.test(key)) return this.#did(this.verdicts.toggle(REASONS[Number(key) - 1]));
    if (entity) {
      if (key === "s") return this.#did(this.caption.begin(entity));
      if (key === "e") return this.#did(this.inspector.editLabel());
      if (key === "h") return this.#did(this.stage.toggleEntity(entity.id));
      if (key === "Delete") return this.#did(this.repair({ type: "delete_entity", entity: entity.kind === "face" ? `s${entity.subject}` : entity.id }));
      if (key === "Enter" && this.inspector.proposal && !event.target.closest("button, a, input, summary")) return this.#did(this.respan(this.inspector.proposal));
    }
    const work = {
      a: () => this.verdicts.give("accept"), r: () => this.verdicts.give("reject"), u: () => this.verdicts.give("unsure"), z: () => this.undo(),
      j: () => this.go(1), k: () => this.go(-1), ArrowRight: () => this.go(1), ArrowLeft: () => this.go(-1),
      ",": () => this.stage.step(-1), ".": () => this.stage.step(1), "[": () => this.stage.stepStill(-1), "]": () => this.stage.stepStill(1),
      " ": () => this.stage.toggleVideo(), m: () => this.stage.toggleLayer("masks"), b: () => this.stage.toggleLayer("boxes"), l: () => this.stage.toggleLayer("labels"),
      n: () => this.verdicts.note.focus(), c: () => this.copyLink(),
    }[key];
    if (!work) return false;
    if (key === " " && event.target.closest("button, a, summary, input, select")) return false;
    if (key.startsWith("Arrow") && event.target.closest("input, select")) return false;
    return this.#did(work());
  }

  #did() {
    return true;
  }

  #give(entity, direction) {
    const subjects = this.#sample.subjects.map((subject) => subject.index);
    const at = subjects.indexOf(entity.subject) + direction;
    if (at < 0 || at >= subjects.length) return true;
    this.repair({ type: "move_attribute", entity: entity.id, subject: subjects[at] }).then(() => this.#entity && this.references.card(this.#entity)?.focus());
    return true;
  }
}

/** An action in words. */
function told(action) {
  switch (action.type) {
    case "verdict": return [action.verdict, ...action.reasons.map(spoken)].join(", ") + (action.note ? `: ${shown(action.note, 80)}` : "");
    case "move_attribute": return `moved ${action.entity} to s${action.subject}`;
    case "respan": return `tied ${action.entity} to other words`;
    case "relabel": return `renamed ${action.entity} to ${shown(action.text, 60)}`;
    case "delete_entity": return `deleted ${action.entity}`;
    case "choose_still": return `cut ${action.entity} from still ${action.still + 1}`;
    default: return "undone";
  }
}
