import { h } from "./dom.js";

export class FiguresScreen {
  constructor(app) {
    this.app = app;
    this.element = h("div.figures", {});
  }

  async open() {}

  key() {
    return false;
  }
}
