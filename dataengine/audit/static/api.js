// Talking to the server. Every failure is a `Refused` (the server says why) or an `Away` (nobody answered).

export class Refused extends Error {
  constructor(status, problem, remedy) {
    super(problem);
    this.status = status;
    this.remedy = remedy;
  }
}

export class Away extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

let session = null;

/** What the server told at the start: names, filters, the write token. */
export async function openSession() {
  session = await get("/api/session");
  return session;
}

export async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return answer(await request(query.size ? `${path}?${query}` : path, { headers: { accept: "application/json" } }));
}

export async function post(path, body) {
  const headers = { "content-type": "application/json", accept: "application/json", "x-csrf-token": session?.csrf ?? "" };
  return answer(await request(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

async function request(path, options) {
  const signal = AbortSignal.timeout(15_000);
  try {
    return await fetch(path, { ...options, signal, credentials: "same-origin" });
  } catch {
    throw new Away();
  }
}

async function answer(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw response.ok ? new Away() : new Refused(response.status, `The server answered ${response.status}.`, "");
  }
  if (!response.ok) throw new Refused(response.status, body.problem ?? `The server answered ${response.status}.`, body.remedy ?? "");
  return body;
}

/** Addresses of a sample's pictures. They hold for one edition of the dataset, so they may be kept. */
export function media(sample, what) {
  return `/media/${sample.generation}/${sample.position}/${what}`;
}

/** Why a picture does not show. */
export async function whyBroken(address) {
  try {
    await answer(await request(address, {}));
  } catch (error) {
    return error.message;
  }
  return "The picture cannot be shown.";
}
