// The statistics: how wrong the dataset is and how sure that is, the acceptance plan, how good the auditors are.

import { get } from "./api.js";
import { count, h, percent, s, shown, styled } from "./dom.js";
import { DEFAULTS } from "./place.js";

export class FiguresScreen {
  constructor(app) {
    this.app = app;
    this.element = h("div.figures", {});
  }

  async open() {
    let numbers;
    try {
      numbers = await get("/api/numbers");
    } catch (error) {
      return this.app.failed(error, () => this.open());
    }
    document.title = `Statistics · ${this.app.session.dataset}`;
    this.element.replaceChildren(
      h("header", {}, h("h1", {}, "How wrong is it, and how sure are we?"), h("p.quiet", {},
        "Only the random stratum speaks of the dataset: what was found through the risk queue would make any dataset look worse than it is. Honeypots, planted among the samples, measure the auditors.")),
      h("div.two", {}, this.#rate(numbers), this.#plan(numbers)), this.#auditors(numbers), this.#agreement(numbers));
    return undefined;
  }

  #queue() {
    return h("button.primary", { type: "button", onclick: () => this.app.go({ view: "grid", page: 0, query: { ...DEFAULTS, queue: "random", sort: "random" } }) }, "Audit the random stratum");
  }

  #rate({ estimate, unsure, plan: [asked] }) {
    const panel = (...children) => h("section.panel.rate", { "aria-label": "Error rate" }, h("h2", {}, "Error rate"), ...children);
    if (!estimate) return panel(h("p.large.none", {}, "—"), h("p.quiet", {}, `Nothing of the random stratum is judged yet. The plan asks for ${count(asked, "sample")}.`), this.#queue());
    const { rate, low, high, judged, wrong, sources, effective, confidence } = estimate;
    const told = `${percent(rate, 1)}, between ${percent(low, 1)} and ${percent(high, 1)}`;
    return panel(
      h("p.large", {}, percent(rate, 1), h("span", {}, `${percent(low, 1)} to ${percent(high, 1)} at ${percent(confidence)}`)),
      interval(rate, low, high, told),
      h("dl.facts-list", {}, ...facts([
        ["wrong", `${wrong} of ${judged}`], ["sources", sources.toLocaleString("en")],
        ["tell as much as", `${effective.toFixed(effective < 100 ? 1 : 0)} independent samples`], unsure ? ["of them in doubt", `${unsure}, counted as wrong`] : null])));
  }

  #plan({ plan: [asked, most], plan_settings: risks, decision, estimate }) {
    const [done, wrong] = [Math.min(estimate?.judged ?? 0, asked), estimate?.wrong ?? 0];
    const words = { accept: "Accept the dataset", reject: "Reject the dataset", continue: "Go on" }[decision];
    return h("section.panel.plan", { "aria-label": "Acceptance plan", class: decision }, h("h2", {}, "Acceptance plan"),
      h("p.large", {}, words, decision === "continue" ? h("span", {}, `${done} of ${asked} judged`) : null),
      styled(h("div.bar-of", { role: "img", "aria-label": `${done} of ${asked} samples judged` }, h("i")), { "--share": done / asked }),
      h("dl.facts-list", {}, ...facts([
        ["look at", `${count(asked, "random sample")}`], ["accept with", `at most ${most} wrong`], ["wrong so far", String(wrong)],
        ["a good one", `${percent(risks.good_rate, 1)} wrong: accepted in ${percent(risks.accept_good)} of cases or more`],
        ["a bad one", `${percent(risks.bad_rate, 1)} wrong: accepted in ${percent(risks.accept_bad)} or less`]])),
      decision === "continue" && estimate ? this.#queue() : null);
  }

  #auditors({ auditors, recalls }) {
    if (!auditors.length) return null;
    const found = new Map(recalls.map((recall) => [recall.auditor, recall]));
    return h("section.panel", { "aria-label": "Auditors" }, h("h2", {}, "Auditors"), h("div.scroll", {}, h("table.list", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), ...["accepted", "rejected", "unsure", "repaired"].map((name) => h("th.number", { scope: "col" }, name)), h("th", { scope: "col", title: "planted faults that were found" }, "Honeypots found"))),
      h("tbody", {}, ...auditors.map((one) => {
        const recall = found.get(one.auditor);
        return h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, shown(one.auditor, 40))), ...[one.accepted, one.rejected, one.unsure, one.repaired].map((value) => h("td.number", {}, value.toLocaleString("en"))),
          h("td", {}, recall ? h("span.recall", {}, styled(h("span.bar-of", {}, h("i")), { "--share": recall.found / recall.seen }), h("b", {}, percent(recall.found / recall.seen)), h("span.quiet", {}, `${recall.found} of ${recall.seen}`)) : h("span.quiet", {}, "met none yet")));
      })))));
  }

  #agreement({ agreements, fleiss }) {
    if (!agreements.length) return null;
    return h("section.panel", { "aria-label": "Agreement" }, h("h2", {}, "Agreement", fleiss === null ? null : h("span.legend", {}, `all together: Fleiss' κ ${fleiss.toFixed(2)}`)), h("div.scroll", {}, h("table.list", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Auditors"), h("th.number", { scope: "col" }, "samples both judged"), h("th", { scope: "col" }, "Cohen's κ"))),
      h("tbody", {}, ...agreements.map((pair) => h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, shown(pair.one, 30)), h("span.quiet", {}, " and "), h("bdi", {}, shown(pair.other, 30))), h("td.number", {}, String(pair.samples)),
        h("td", {}, pair.kappa === null ? h("span.quiet", {}, "chance alone would agree") : h("span.recall", {}, styled(h("span.bar-of", {}, h("i")), { "--share": Math.max(0, pair.kappa) }), h("b", {}, pair.kappa.toFixed(2)), h("span.quiet", {}, strength(pair.kappa))))))))));
  }

  key() {
    return false;
  }
}

/** Landis and Koch (1977). */
function strength(kappa) {
  return [[0.8, "almost perfect"], [0.6, "substantial"], [0.4, "moderate"], [0.2, "fair"], [0, "slight"]].find(([least]) => kappa > least)?.[1] ?? "none";
}

function facts(rows) {
  return rows.filter(Boolean).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

/** The rate and its interval on a scale that begins at 0 and ends at a round share. */
function interval(rate, low, high, told) {
  const end = [0.02, 0.05, 0.1, 0.2, 0.5, 1].find((share) => high <= share * 0.98) ?? 1;
  const at = (share) => 8 + (584 * share) / end;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => part * end);
  return s("svg.interval", { viewBox: "0 0 600 62", role: "img", "aria-label": told },
    s("line.axis", { x1: 8, x2: 592, y1: 36, y2: 36 }),
    ...ticks.flatMap((share, number) => [s("line.axis", { x1: at(share), x2: at(share), y1: 32, y2: 40 }), s("text", { x: at(share), y: 57, "text-anchor": ["start", "middle", "middle", "middle", "end"][number] }, percent(share, end < 1 && number % 2 ? 1 : 0))]),
    s("rect.span", { x: at(low), y: 15, width: Math.max(2, at(high) - at(low)), height: 12, rx: 6 }),
    s("circle.point", { cx: at(rate), cy: 21, r: 8 }));
}
