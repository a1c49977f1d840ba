// Decisions on their way into the log. One counts as saved only when the server has committed it; until then it stands in
// this browser's storage, is shown as unsaved, and is sent again when the server is back. The server knows repetitions.

import { Away, Refused, openSession, post } from "./api.js";

const PLACE = "dataengine.unsaved";

export class Outbox extends EventTarget {
  #items = stored();
  #sending = null;
  #waiting = null;
  #pause = 0;

  get size() {
    return this.#items.length;
  }

  get state() {
    if (!this.#items.length) return "saved";
    return this.#waiting ? "waiting" : "saving";
  }

  /** Puts an action on its way; resolves with the server's answer, rejects when the server refuses it. */
  send(item) {
    const entry = { ...item, id: crypto.randomUUID?.() ?? String(Math.random()) };
    const done = new Promise((resolve, reject) => {
      this.addEventListener(`done ${entry.id}`, (event) => (event.detail instanceof Error ? reject(event.detail) : resolve(event.detail)), { once: true });
    });
    this.#items.push(entry);
    this.#store();
    this.flush();
    return { id: entry.id, done };
  }

  /** Takes an action back that is not under way yet. */
  cancel(id) {
    if (this.#sending === id) return false;
    const before = this.#items.length;
    this.#items = this.#items.filter((item) => item.id !== id);
    this.#store();
    return this.#items.length < before;
  }

  /** Sends what is left, in order, one at a time: also over several windows, where the browser can lock. */
  flush() {
    clearTimeout(this.#waiting);
    this.#waiting = null;
    if (this.#sending || !this.#items.length) return this.#tell();
    const work = () => this.#sendFirst();
    const run = navigator.locks ? navigator.locks.request(PLACE, work) : work();
    run.then((more) => more && this.flush());
    return this.#tell();
  }

  async #sendFirst() {
    const item = this.#items[0];
    if (!item || this.#sending) return false;
    this.#sending = item.id;
    this.#tell();
    try {
      const { position, generation, auditor, action } = item;
      const answer = await post(`/api/samples/${position}/events`, { generation, auditor, action });
      this.#finish(item, answer);
    } catch (error) {
      if (error instanceof Refused && error.status < 500 && !(await this.#isStale(error))) this.#finish(item, error);
      else return this.#later();
    }
    return true;
  }

  /** Whether the write token is an old one: the server was restarted, and nothing is wrong with the action. */
  async #isStale(error) {
    if (error.status !== 403) return false;
    try {
      await openSession();
    } catch (failure) {
      return failure instanceof Away;
    }
    return true;
  }

  #finish(item, outcome) {
    this.#sending = null;
    this.#pause = 0;
    this.#items = this.#items.filter((other) => other.id !== item.id);
    this.#store();
    this.dispatchEvent(new CustomEvent(`done ${item.id}`, { detail: outcome }));
    this.dispatchEvent(new CustomEvent(outcome instanceof Error ? "refused" : "saved", { detail: { item, outcome } }));
    this.#tell();
  }

  #later() {
    this.#sending = null;
    this.#pause = Math.min(10_000, this.#pause * 2 || 500);
    this.#waiting = setTimeout(() => this.flush(), this.#pause);
    this.#tell();
    return false;
  }

  #store() {
    try {
      localStorage.setItem(PLACE, JSON.stringify(this.#items));
    } catch {
      // No storage: what is unsaved lives as long as this page, and leaving it warns.
    }
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("state"));
  }
}

function stored() {
  try {
    const items = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return Array.isArray(items) ? items.filter((item) => item && item.id && item.action && Number.isInteger(item.position)) : [];
  } catch {
    return [];
  }
}
