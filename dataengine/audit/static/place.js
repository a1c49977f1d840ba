// Where one is: view, sample, entity, filters, all of it in the address. Addresses can be kept and sent to others.

export const DEFAULTS = {
  search: "", phrase: "", source: "", split: "", check: "", subjects: "", risk_min: 0, risk_max: 1,
  verdict: "", auditor: "", queue: "", sort: "risk", order: "",
};
export const PAGE = 24;

/** Reads the address line. Values are checked by the server; here only their form is. */
export function read(search = location.search) {
  const given = new URLSearchParams(search);
  const query = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    if (value === null) continue;
    query[name] = typeof DEFAULTS[name] === "number" ? share(value, DEFAULTS[name]) : value;
  }
  const sample = whole(given.get("sample"));
  const view = sample !== null ? "sample" : given.get("view") === "statistics" ? "statistics" : "grid";
  const entity = /^(s\d+(\.(face|body|a\d+))?|o\d+|bg)$/.test(given.get("entity") ?? "") ? given.get("entity") : null;
  return { view, sample, entity, page: whole(given.get("page")) ?? 0, edition: whole(given.get("edition")), query };
}

/** The address of a place. */
export function address({ view, sample = null, entity = null, page = 0, edition = null, query }) {
  const out = new URLSearchParams();
  if (view === "sample" && sample !== null) out.set("sample", sample);
  if (view === "sample" && entity) out.set("entity", entity);
  if (view === "statistics") out.set("view", "statistics");
  if (view === "grid" && page) out.set("page", page);
  if (edition !== null) out.set("edition", edition);
  for (const [name, value] of Object.entries(query)) if (value !== DEFAULTS[name] && value !== "") out.set(name, value);
  return out.size ? `?${out}` : "/";
}

/** The filters as the server wants them: without what is at its default. */
export function asked(query) {
  return Object.fromEntries(Object.entries(query).filter(([name, value]) => value !== DEFAULTS[name] && value !== ""));
}

/** How many filters narrow the list. */
export function narrowed(query) {
  return Object.keys(asked(query)).filter((name) => name !== "sort" && name !== "order").length;
}

function whole(text) {
  return /^\d{1,9}$/.test(text ?? "") ? Number(text) : null;
}

function share(text, otherwise) {
  const value = Number(text);
  return Number.isFinite(value) && value >= 0 && value <= 1 ? value : otherwise;
}
