// The list: filters at the side, samples as pictures, a page at a time.

import { get, media } from "./api.js";
import { count, h, percent, say, shown, spoken, styled, visible } from "./dom.js";
import { PAGE, DEFAULTS, address, asked, narrowed } from "./place.js";

const SORTS = [["risk", "Risk"], ["index", "Order in the dataset"], ["random", "Random order"], ["agreement", "Annotator's agreement"], ["mask", "Mask score"], ["face", "Face size"], ["seconds", "Length"], ["subjects", "Subjects"]];
const VERDICTS = [["", "All"], ["none", "Not decided"], ["any", "Decided"], ["accept", "Accepted"], ["reject", "Rejected"], ["unsure", "Unsure"]];
const STAMP = { accept: "✓", reject: "✗", unsure: "?" };

export class GridScreen {
  #asking = 0;
  #typing = null;
  #shown = null;

  constructor(app) {
    this.app = app;
    this.list = h("ol.tiles", { "aria-label": "Samples" });
    this.summary = h("p.summary", {});
    this.pager = h("nav.pager", { "aria-label": "Pages" });
    this.filters = h("form.filters", { "aria-label": "Filters", onsubmit: (event) => event.preventDefault() });
    this.element = h("div.browse", {}, this.filters, h("div.results", {}, h("div.head", {}, this.summary, this.pager), this.list));
    this.#drawFilters();
  }

  async open(focus = null) {
    const asking = ++this.#asking;
    const { query, page } = this.app.place;
    this.#fill(query);
    this.list.setAttribute("aria-busy", "true");
    let found;
    try {
      found = await get("/api/samples", { ...asked(query), me: this.app.me, limit: PAGE, offset: page * PAGE });
    } catch (error) {
      this.list.removeAttribute("aria-busy");
      return this.app.failed(error, () => this.open());
    }
    if (asking !== this.#asking) return undefined;
    this.list.removeAttribute("aria-busy");
    this.#draw(found, focus);
    return undefined;
  }

  #draw(found, focus) {
    const { query, page } = this.app.place;
    this.#shown = found;
    document.title = `${this.app.session.dataset} · audit`;
    const all = this.app.session.samples;
    const told = narrowed(query) ? `${found.total.toLocaleString("en")} of ${count(all, "sample")}` : count(found.total, "sample");
    this.summary.replaceChildren(h("b", {}, told), !narrowed(query) ? "" : h("button.link", { type: "button", onclick: () => this.app.go({ view: "grid", page: 0, query: { ...DEFAULTS } }) }, "clear filters"));
    say(told);
    this.#drawPager(found.total, page);
    this.list.replaceChildren(...found.rows.map((row) => this.#tile(row, found.generation)));
    if (!found.rows.length) this.list.append(h("li.nothing", {}, found.total ? "There is nothing on this page." : "No sample fits these filters."));
    if (focus !== null) this.list.querySelector(`[data-position="${focus}"] a`)?.focus();
  }

  #tile(row, generation) {
    const to = { ...this.app.place, view: "sample", sample: row.position, entity: null };
    const picture = h("img", { src: media({ generation, position: row.position }, "thumb"), alt: "", loading: "lazy", decoding: "async", width: row.width, height: row.height });
    const frame = h("div.picture", {}, picture);
    picture.addEventListener("error", () => frame.replaceChildren(h("span.broken", {}, "damaged")));
    const link = h("a", { href: address(to), "aria-label": `Sample ${row.position}: ${shown(row.caption, 80)}. ${row.failed.length} failed checks${row.verdict ? `, ${row.verdict}` : ""}`,
      onclick: (event) => { if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; event.preventDefault(); this.app.go(to); } },
      frame,
      h("div.line", {}, row.risk === null ? null : styled(h("span.gauge", { class: row.risk >= 0.5 ? "high" : row.risk >= 0.2 ? "some" : "low", title: `risk ${percent(row.risk)}` }, h("i"), h("b", {}, percent(row.risk))), { "--share": row.risk }),
        h("span", {}, count(row.subjects, "subject")), h("span", {}, `${row.seconds.toFixed(1)} s`), row.others ? h("span", { title: "others who have decided" }, `+${row.others}`) : null),
      h("p", { dir: "auto" }, ...visible(row.caption)),
      row.failed.length ? h("div.failed", {}, ...row.failed.slice(0, 3).map((name) => h("span", {}, spoken(name))), row.failed.length > 3 ? h("span", {}, `+${row.failed.length - 3}`) : null) : null);
    const item = h("li.tile", { class: row.verdict ?? "", "data-position": row.position }, link);
    if (row.verdict) item.append(h("span.stamp", { class: row.verdict, title: `you: ${row.verdict}` }, STAMP[row.verdict]));
    return item;
  }

  #drawPager(total, page) {
    const last = Math.max(0, Math.ceil(total / PAGE) - 1);
    const step = (to, name, title) => h("button.step", { type: "button", title, "aria-label": title, disabled: to < 0 || to > last || to === page, onclick: () => this.app.go({ view: "grid", page: to }) }, name);
    const number = h("input", { type: "number", min: 1, max: last + 1, value: page + 1, "aria-label": "Page", onchange: (event) => {
      const to = Math.min(last, Math.max(0, Math.round(Number(event.target.value)) - 1 || 0));
      this.app.go({ view: "grid", page: to });
    } });
    this.pager.replaceChildren(step(0, "«", "First page"), step(page - 1, "‹", "Previous page"), number, h("span", {}, `of ${(last + 1).toLocaleString("en")}`), step(page + 1, "›", "Next page"), step(last, "»", "Last page"));
  }

  #change(changes) {
    this.app.go({ view: "grid", page: 0, query: { ...this.app.place.query, ...changes } });
  }

  #soon(changes) {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#change(changes), 200);
  }

  #drawFilters() {
    const { facets, auditors } = this.app.session;
    const field = (name, text, control) => h("label.field", {}, h("span", {}, text), control);
    const select = (name, options) => h("select", { name, onchange: (event) => this.#change({ [name]: event.target.value }) }, ...options.map(([value, text]) => h("option", { value }, text)));
    const input = (name, attributes) => h("input", { name, autocomplete: "off", spellcheck: false, oninput: (event) => this.#soon({ [name]: event.target.value.trim() }), ...attributes });
    const range = (name, text) => h("input", { type: "range", name, min: 0, max: 1, step: 0.05, "aria-label": text, onchange: (event) => this.#change({ [name]: Number(event.target.value) }) });
    this.risk = h("output", {});
    const failed = facets.checks.map(({ value, samples }) => [value, `${spoken(value)} (${samples.toLocaleString("en")})`]);
    this.filters.replaceChildren(
      h("div.search", {}, input("search", { type: "search", placeholder: "Search captions  ( / )", "aria-label": "Search captions", maxlength: 200 })),
      field("queue", "Queue", select("queue", [["", "Everything"], ["random", "Random stratum"]])),
      field("sort", "Sort by", h("div.pair", {}, select("sort", SORTS), h("button.order", { type: "button", title: "Turn the order round", "aria-label": "Turn the order round", onclick: () => this.#turn() }, "⇅"))),
      field("verdict", "Verdict", select("verdict", VERDICTS)),
      field("auditor", "of", select("auditor", [["", "anybody"], ...this.#names(auditors)])),
      field("check", "Failed check", select("check", [["", "Any or none"], ["any", "Any"], ["none", "None"], ...failed])),
      h("div.field", {}, h("span", {}, "Risk ", this.risk), h("div.range", {}, range("risk_min", "Least risk"), range("risk_max", "Greatest risk"))),
      field("subjects", "Subjects", select("subjects", [["", "Any number"], ...facets.subjects.map(({ value, samples }) => [value, `${value} (${samples.toLocaleString("en")})`])])),
      field("phrase", "Label or phrase", input("phrase", { type: "text", placeholder: "black hat", maxlength: 100 })),
      field("split", "Split", select("split", [["", "Both"], ...facets.splits.map(({ value, samples }) => [value, `${value} (${samples.toLocaleString("en")})`])])),
      field("source", "Source", h("input", { name: "source", list: "sources", placeholder: "id of a video", maxlength: 64, autocomplete: "off", spellcheck: false, onchange: (event) => this.#change({ source: event.target.value.trim() }) })),
      h("datalist", { id: "sources" }, ...facets.sources.map(({ value, samples }) => h("option", { value }, count(samples, "sample")))),
      this.app.session.checked ? "" : h("p.quiet", {}, "No checks yet: run ", h("code", {}, "dataengine audit check"), " for risk and failed checks."));
  }

  #names(auditors) {
    const all = new Set(auditors);
    if (this.app.me) all.add(this.app.me);
    return [...all].map((name) => [name, name === this.app.me ? `me (${shown(name, 24)})` : shown(name, 30)]);
  }

  /** Who audits has changed. */
  renamed() {
    this.#drawFilters();
  }

  #turn() {
    const { query } = this.app.place;
    const falls = query.order ? query.order === "desc" : query.sort === "risk";
    this.#change({ order: falls ? "asc" : "desc" });
  }

  #fill(query) {
    for (const control of this.filters.elements) {
      if (!control.name || control === document.activeElement && control.matches("input:not([type=range])")) continue;
      const value = String(query[control.name] ?? "");
      if (control.matches("select") && value && ![...control.options].some((option) => option.value === value)) control.append(h("option", { value }, shown(value, 40)));
      if (control.value !== value) control.value = value;
    }
    this.risk.textContent = query.risk_min > 0 || query.risk_max < 1 ? `${percent(query.risk_min)} – ${percent(query.risk_max)}` : "";
  }

  /** Moves among the tiles, and goes on over the ends of pages. */
  key(event) {
    const { key } = event;
    if (event.target.closest("input, select")) return false;
    const links = [...this.list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const across = Math.max(1, getComputedStyle(this.list).gridTemplateColumns.split(" ").length);
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ArrowDown: across, ArrowUp: -across }[key];
    if (by !== undefined && links.length) {
      links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by))].focus();
      return true;
    }
    const page = { PageDown: 1, PageUp: -1, "]": 1, "[": -1 }[key];
    if (page !== undefined) {
      const to = this.app.place.page + page;
      if (to >= 0 && to * PAGE < (this.#shown?.total ?? 0)) this.app.go({ view: "grid", page: to });
      return true;
    }
    return false;
  }
}
