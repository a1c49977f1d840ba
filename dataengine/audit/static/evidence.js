// What speaks for and against a sample: the matrix of subjects and attributes, the checks, where the sample comes from.

import { count, h, percent, shown, spoken, styled, visible } from "./dom.js";

const WITNESSES = { votes: "votes", inside: "inside the body", match: "words fit" };

/** All attributes by all subjects, by the witnesses that speak. A tie's own cell is framed, dashed where it is in doubt. */
export function matrix(sample, select) {
  if (!sample.matrix.length) return null;
  const witnesses = Object.keys(WITNESSES).filter((name) => sample.matrix.some((row) => row.scores.some((score) => score[name] !== null)));
  const head = h("tr", {}, h("td"), ...sample.subjects.map((subject) => h("th", { scope: "col", class: `c-${subject.colour}` }, h("span.dot"), h("bdi", {}, ...visible(subject.noun)))), h("th.number", { scope: "col", title: "evidence for the owner less that for the next subject" }, "lead"));
  const rows = sample.matrix.map((row) => h("tr", { class: row.alarm ? "alarm" : "" },
    h("th", { scope: "row" }, h("button.link", { type: "button", onclick: () => select(row.attribute) }, h("bdi", {}, ...visible(row.text)))),
    ...row.scores.map((score) => cell(score, row, sample, witnesses)),
    h("td.number", {}, row.margin === null ? "—" : signed(row.margin), row.alarm ? h("span.unseen", {}, " alarm") : null)));
  return h("section.panel", { "aria-label": "Whose is it" }, h("h2", {}, "Whose is it?", h("span.legend", {}, ...witnesses.flatMap((name) => [h(`i.${name}`), WITNESSES[name]]))),
    h("div.scroll", {}, h("table.matrix", {}, h("thead", {}, head), h("tbody", {}, ...rows))));
}

function cell(score, row, sample, witnesses) {
  const own = score.subject === row.owner;
  const colour = sample.subjects.find((subject) => subject.index === score.subject)?.colour ?? "";
  const meter = (name, value) => h("span.meter", { class: name, title: `${WITNESSES[name]}: ${value === null ? "unknown" : percent(value)}` },
    styled(h("i"), { width: `${100 * (value ?? 0)}%` }), h("em", {}, value === null ? "–" : percent(value)));
  return h("td", { class: `${own ? "own" : ""} c-${colour}` }, ...witnesses.map((name) => meter(name, score[name])));
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

/** Failed checks with their reasons; the passed ones folded. */
export function checks(sample, questions, select) {
  const failed = sample.findings.filter((finding) => !finding.passed);
  const passed = sample.findings.filter((finding) => finding.passed);
  const line = (finding) => h("li", { class: finding.passed ? "passed" : "failed" },
    h("span.mark", { "aria-hidden": "true" }, finding.passed ? "✓" : "✗"),
    h("div", {}, h("b", { title: questions.get(finding.check) ?? "" }, spoken(finding.check)), " ", finding.entity ? h("button.link", { type: "button", onclick: () => select(finding.entity) }, finding.entity) : null,
      h("p", {}, ...visible(finding.reason.slice(0, 400)))));
  const title = failed.length ? `${count(failed.length, "failed check")}` : sample.findings.length ? "All checks passed" : "No checks";
  return h("section.panel", { "aria-label": "Checks", class: failed.length ? "bad" : "good" }, h("h2", {}, title),
    h("ul.checks", {}, ...failed.map(line)),
    passed.length ? h("details", {}, h("summary", {}, count(passed.length, "passed check")), h("ul.checks", {}, ...passed.map(line))) : null);
}

/** Where it comes from and what measured it. */
export function provenance(sample) {
  if (!sample.provenance.length) return null;
  const names = sample.source_names.map((name) => shown(name, 90)).join(" · ");
  return h("details.panel.provenance", {}, h("summary", {}, "Provenance"),
    h("dl", {}, ...pairs([["source", names || sample.source], ["source id", sample.source], ["from", sample.start_s === null ? "" : `${sample.start_s.toFixed(2)} s`], ["sample", sample.key],
      ["split", sample.split], ["pairing", spoken(sample.pairing)], ["licence", sample.licence ?? ""], ["decided by", sample.decided_by]])),
    h("div.scroll", {}, h("table", {}, h("thead", {}, h("tr", {}, ...["stage", "model", "version", "fingerprint"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...sample.provenance.map((stage) => h("tr", {}, h("th", { scope: "row" }, stage.stage),
        h("td", {}, shown([stage.model, stage.revision].filter(Boolean).join(" @ "), 60)), h("td", {}, String(stage.version)),
        h("td", {}, h("details.more", {}, h("summary", {}, h("code", {}, stage.fingerprint.slice(0, 12))), h("pre", {}, JSON.stringify(stage.parameters, null, 1).slice(0, 4000)))))))),
    ));
}

function pairs(rows) {
  return rows.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, ...visible(String(value)))]);
}
