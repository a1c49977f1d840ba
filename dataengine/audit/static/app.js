// The page's frame: who audits, where one is, what is saved, keys. Each view is a module of its own.

import { Away, openSession } from "./api.js";
import { count, h, notice, say, shown } from "./dom.js";
import { FiguresScreen } from "./figures.js";
import { GridScreen } from "./grid.js";
import { askName, help } from "./help.js";
import { Outbox } from "./outbox.js";
import { address, narrowed, read } from "./place.js";
import { SampleScreen } from "./sample.js";

const THEMES = { auto: "auto", light: "light", dark: "dark" };

class App {
  layers = { masks: true, boxes: true, labels: true };
  settings = { advance: remembered("advance", "on") === "on", skip: remembered("skip", "on") === "on" };
  me = remembered("auditor", "") || null;
  outbox = new Outbox();
  place = read();
  #asking = null;

  async start() {
    theme(remembered("theme", "auto"));
    this.main = document.getElementById("main");
    try {
      this.session = await openSession();
    } catch (error) {
      this.main.removeAttribute("aria-busy");
      return this.failed(error, () => this.start());
    }
    this.questions = new Map(this.session.checks.map((check) => [check.name, check.question]));
    this.#drawTop();
    this.grid = new GridScreen(this);
    this.sample = new SampleScreen(this);
    this.figures = new FiguresScreen(this);
    this.outbox.addEventListener("state", () => this.#showSaved());
    addEventListener("popstate", () => this.#open(read()));
    addEventListener("beforeunload", (event) => { if (this.outbox.size) event.preventDefault(); });
    addEventListener("online", () => this.outbox.flush());
    document.addEventListener("keydown", (event) => this.#key(event));
    this.outbox.flush();
    this.#showSaved();
    const { edition } = this.place;
    if (edition !== null && edition !== this.session.generation) notice("This link was made for another build of the dataset: the sample at this position may be another one.", { kind: "warn" });
    await this.#open({ ...this.place, edition: null });
    if (!this.me) await this.named();
    return undefined;
  }

  // --- Where one is ---------------------------------------------------------------------------------------------------

  /** Goes somewhere; what is not said stays. */
  go(changes) {
    const to = { ...this.place, ...changes, edition: null };
    history.pushState(null, "", address(to));
    return this.#open(to);
  }

  /** Says the same place more exactly. */
  replace(changes) {
    this.place = { ...this.place, ...changes };
    history.replaceState(null, "", address(this.place));
  }

  async #open(place) {
    const from = this.place;
    this.place = place;
    const screen = { grid: this.grid, sample: this.sample, statistics: this.figures }[place.view];
    if (this.main.firstChild !== screen.element) {
      this.main.replaceChildren(screen.element);
      scrollTo(0, 0);
    }
    this.main.removeAttribute("aria-busy");
    document.body.setAttribute("data-view", place.view);
    for (const tab of this.tabs.children) tab.setAttribute("aria-current", tab.getAttribute("data-view") === (place.view === "statistics" ? "statistics" : "grid") ? "page" : "false");
    this.filtered.hidden = place.view !== "sample" || !narrowed(place.query);
    this.filtered.textContent = `${count(narrowed(place.query), "filter")}`;
    await (place.view === "sample" ? screen.open(place.sample, place.entity) : screen.open(from.view === "sample" ? from.sample : null));
  }

  // --- Who, and how ---------------------------------------------------------------------------------------------------

  /** Whether the auditor has a name, asking for it if not. */
  async named(again = false) {
    if (this.me && !again) return true;
    this.#asking ??= askName(this.session.auditors, this.me).finally(() => { this.#asking = null; });
    const name = await this.#asking;
    if (!name) return Boolean(this.me);
    if (name !== this.me) {
      this.me = name;
      remember("auditor", name);
      this.who.textContent = shown(name, 24);
      this.sample.forget();
      this.grid.renamed();
      await this.#open(this.place);
    }
    return true;
  }

  set(name, on) {
    this.settings[name] = on;
    remember(name, on ? "on" : "off");
    if (name === "skip" && this.place.view === "sample") this.#open(this.place);
  }

  /** Says what went wrong, and offers to try again. */
  failed(error, again) {
    const away = error instanceof Away;
    notice(away ? "The server does not answer." : `${error.message} ${error.remedy ?? ""}`, { kind: "bad", action: { name: "Try again", run: again } });
  }

  /** After a refusal: whether the dataset is still the one that this page has seen. */
  async checkEdition() {
    const before = this.session.generation;
    try {
      this.session = await openSession();
    } catch {
      return;
    }
    if (this.session.generation === before) return;
    this.sample.forget();
    notice("The dataset was built or checked anew. Positions have changed; this is the list as it is now.", { kind: "warn" });
    this.go({ view: "grid", page: 0 });
  }

  #drawTop() {
    const tab = (view, text) => h("a", { href: address({ ...this.place, view }), "data-view": view, onclick: (event) => { if (event.ctrlKey || event.metaKey) return; event.preventDefault(); this.go({ view }); } }, text);
    this.tabs = h("nav.tabs", { "aria-label": "Views" }, tab("grid", "Samples"), tab("statistics", "Statistics"));
    this.filtered = h("span.filtered", { hidden: true });
    this.saved = h("span.saved", { role: "status", "data-state": "saved" });
    this.who = h("button.who", { type: "button", title: "Who audits", onclick: () => this.named(true) }, this.me ? shown(this.me, 24) : "Who are you?");
    const look = h("button.icon", { type: "button", title: "Light or dark", "aria-label": "Light or dark", onclick: () => theme(dark() ? "light" : "dark") }, "◐");
    const keys = h("button.icon", { type: "button", title: "Keys (?)", "aria-label": "Keys", onclick: () => help() }, "?");
    document.getElementById("top").replaceChildren(
      h("a.brand", { href: "/", onclick: (event) => { event.preventDefault(); this.go({ view: "grid" }); } }, h("img", { src: "/static/icon.svg", alt: "", width: 24, height: 24 }), h("b", {}, "Audit"), h("bdi", {}, shown(this.session.dataset, 40))),
      this.tabs, this.filtered, h("span.space"), this.saved, this.who, look, keys);
  }

  #showSaved() {
    const { state, size } = this.outbox;
    this.saved.setAttribute("data-state", state);
    this.saved.textContent = { saved: "all saved", saving: "saving…", waiting: `${size} not saved, trying again` }[state];
    if (state === "waiting") say("The server does not answer. What you decide is kept here and sent again.");
  }

  #key(event) {
    const typing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select");
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && event.key === "z" && this.place.view === "sample") {
      event.preventDefault();
      this.sample.undo();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const screen = { grid: this.grid, sample: this.sample, statistics: this.figures }[this.place.view];
    const everywhere = {
      "?": () => help(),
      g: () => this.go({ view: "grid" }),
      "/": () => this.go({ view: "grid" }).then(() => this.grid.filters.elements.search.focus()),
    }[event.key];
    if (everywhere) everywhere();
    else if (!screen.key(event)) return;
    event.preventDefault();
  }
}

function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`dataengine.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`dataengine.${name}`, value);
  } catch {
    // Nothing is remembered then.
  }
}

function theme(name) {
  const chosen = THEMES[name] ?? "auto";
  document.documentElement.setAttribute("data-theme", chosen);
  if (chosen !== "auto") remember("theme", chosen);
}

function dark() {
  const chosen = document.documentElement.getAttribute("data-theme");
  return chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
}

new App().start();
