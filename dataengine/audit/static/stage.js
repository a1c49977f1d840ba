// The clip: a large picture of one exact frame with what stands in it drawn over, the three stills, a scrubber, the video.

import { media, whyBroken } from "./api.js";
import { h, s, shown, styled } from "./dom.js";

const ORDER = { body: 0, object: 1, attribute: 2, face: 3 };
const LABEL = 13;

export class Stage {
  #sample;
  #frame = 0;
  #loading = null;
  #wanted = null;
  #focus = null;
  #hidden = new Set();
  #layers;
  #video = null;
  #number = 0;

  /** `layers` ({masks, boxes, labels}) is shared by all samples; `select` is called with the entity that was clicked. */
  constructor(layers, select) {
    this.#layers = layers;
    this.select = select;
    this.picture = s("svg.picture", { role: "img" });
    this.holder = h("div.holder", {}, this.picture);
    this.strip = h("div.strip", { role: "group", "aria-label": "Stills that references come from" });
    this.slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "Frame", oninput: () => this.show(Number(this.slider.value)) });
    this.marks = h("div.marks", { "aria-hidden": "true" });
    this.clock = h("output.clock", {});
    this.play = h("button.icon", { type: "button", title: "Play the clip (Space)", "aria-label": "Play the clip", onclick: () => this.toggleVideo() }, icon("play"));
    this.toggles = h("div.layers", { role: "group", "aria-label": "Drawn over the frames" }, ...["masks", "boxes", "labels"].map((name) => this.#toggle(name)));
    const back = h("button.icon", { type: "button", title: "Frame back (,)", "aria-label": "Frame back", onclick: () => this.step(-1) }, icon("back"));
    const on = h("button.icon", { type: "button", title: "Frame on (.)", "aria-label": "Frame on", onclick: () => this.step(1) }, icon("on"));
    this.element = h("section.stage", { "aria-label": "Clip" }, this.holder,
      h("div.controls", {}, this.play, back, h("div.track", {}, this.marks, this.slider), on, this.clock, this.toggles), this.strip);
    new ResizeObserver(() => this.#draw()).observe(this.holder);
  }

  #toggle(name) {
    const key = name[0].toUpperCase();
    const button = h("button.toggle", { type: "button", "aria-pressed": this.#layers[name], title: `${name} (${key})`, onclick: () => this.toggleLayer(name) }, name);
    return button;
  }

  toggleLayer(name) {
    this.#layers[name] = !this.#layers[name];
    const at = Object.keys(this.#layers).indexOf(name);
    this.toggles.children[at].setAttribute("aria-pressed", this.#layers[name]);
    this.#draw();
    this.#drawStrip();
  }

  /** Shows a sample; the frame stays where it is when only its annotations changed. */
  set(sample) {
    const same = this.#sample && this.#sample.position === sample.position && this.#sample.generation === sample.generation;
    this.#sample = sample;
    this.#number += 1;
    if (!same) {
      this.#closeVideo();
      this.#hidden = new Set();
      this.#frame = sample.stills[mainStill(sample)] ?? 0;
      this.#loading = this.#wanted = null;
      this.picture.replaceChildren();
    }
    this.slider.max = Math.max(0, sample.frames - 1);
    this.slider.disabled = !sample.frames;
    this.play.disabled = !sample.frames;
    this.marks.replaceChildren(...sample.stills.map((frame, still) => styled(h("i", { title: `still ${still + 1}` }), { left: `${(100 * frame) / Math.max(1, sample.frames - 1)}%` })));
    this.#drawStrip();
    this.show(this.#frame, true);
  }

  get frame() {
    return this.#frame;
  }

  /** Shows frame `number`. While one is on its way only the last one asked for is remembered. */
  show(number, force = false) {
    const sample = this.#sample;
    if (!sample.frames) {
      this.holder.classList.add("empty");
      this.clock.textContent = "";
      return;
    }
    this.holder.classList.remove("empty");
    const frame = Math.min(Math.max(0, number), sample.frames - 1);
    if (frame === this.#frame && !force && !this.#video) return;
    this.#closeVideo();
    this.#frame = frame;
    this.slider.value = frame;
    const time = `${(frame / sample.fps).toFixed(2)} s`;
    this.slider.setAttribute("aria-valuetext", `frame ${frame}, ${time}`);
    this.clock.replaceChildren(h("b", {}, time), ` ${frame} / ${sample.frames - 1}`);
    this.#draw();
    this.#markStrip();
  }

  step(frames) {
    this.show(this.#frame + frames);
  }

  /** Goes to the next still in one direction. */
  stepStill(direction) {
    const stills = [...this.#sample.stills].sort((a, b) => a - b);
    const next = direction > 0 ? stills.find((frame) => frame > this.#frame) : stills.reverse().find((frame) => frame < this.#frame);
    if (next !== undefined) this.show(next);
  }

  /** Brings an entity forward, and its still with it. */
  focus(entity, { follow = true } = {}) {
    this.#focus = entity;
    const found = this.#sample?.entities.find((e) => e.id === entity);
    if (found && follow && found.kind !== "background" && found.located && found.frame !== this.#frame) this.show(found.frame);
    else this.#draw();
    this.#drawStrip();
  }

  isHidden(entity) {
    return this.#hidden.has(entity);
  }

  toggleEntity(entity) {
    if (!this.#hidden.delete(entity)) this.#hidden.add(entity);
    this.#draw();
    this.#drawStrip();
  }

  toggleVideo() {
    if (this.#video) {
      if (this.#video.paused) this.#video.play();
      else this.show(Math.round(this.#video.currentTime * this.#sample.fps), true);
      return;
    }
    if (!this.#sample.frames) return;
    const video = h("video", { src: media(this.#sample, "clip"), controls: true, playsinline: true, loop: true, "aria-label": "The clip" });
    video.muted = true;
    video.addEventListener("error", () => {
      this.#closeVideo();
      this.show(this.#frame, true);
      this.clock.textContent = "this browser cannot play the clip; the slider shows every frame";
    });
    video.addEventListener("loadedmetadata", () => { video.currentTime = this.#frame / this.#sample.fps; }, { once: true });
    this.#video = video;
    this.holder.append(video);
    this.play.replaceChildren(icon("pause"));
    video.play().catch(() => {});
  }

  #closeVideo() {
    if (!this.#video) return;
    this.#video.pause();
    this.#video.removeAttribute("src");
    this.#video.remove();
    this.#video = null;
    this.play.replaceChildren(icon("play"));
  }

  #draw() {
    const sample = this.#sample;
    if (!sample?.frames) return;
    const { width, height } = sample;
    this.picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.picture.setAttribute("aria-label", `Frame ${this.#frame} of the clip`);
    const box = this.holder.getBoundingClientRect();
    const scale = Math.max(width / Math.max(1, box.width), height / Math.max(1, box.height));
    let image = this.picture.querySelector(".frame");
    if (!image) {
      image = s("image.frame", { x: 0, y: 0, width, height });
      this.picture.replaceChildren(image);
    }
    this.#load(image);
    const drawn = drawing(sample, this.#frame, this.#layers, this.#hidden, this.#focus, `stage${this.#number}`, this.select);
    const labels = this.#layers.labels ? chips(sample, this.#frame, this.#hidden, this.#focus, scale) : [];
    this.picture.replaceChildren(image, ...drawn, ...labels);
    const other = sample.stills.includes(this.#frame) ? "" : "between stills: nothing was measured here";
    this.holder.setAttribute("data-note", other);
  }

  #load(image) {
    const address = media(this.#sample, `frames/${this.#frame}`);
    if (image.getAttribute("href") === address) return;
    if (this.#loading) {
      this.#wanted = address;
      return;
    }
    const loader = new Image();
    this.#loading = loader;
    const sample = this.#sample;
    loader.onload = () => {
      if (this.#loading !== loader) return;
      this.#loading = null;
      image.setAttribute("href", address);
      this.holder.classList.remove("broken");
      this.holder.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
      if (this.#wanted && this.#wanted !== address && this.#sample === sample) this.#draw();
      this.#wanted = null;
    };
    loader.onerror = async () => {
      if (this.#loading !== loader) return;
      this.#loading = this.#wanted = null;
      this.holder.classList.add("broken");
      this.holder.setAttribute("data-why", shown(await whyBroken(address), 300));
    };
    loader.src = address;
  }

  #drawStrip() {
    const sample = this.#sample;
    if (!sample) return;
    this.strip.replaceChildren(...sample.stills.map((frame, still) => {
      const tied = sample.entities.filter((e) => e.frame === frame && e.kind !== "background" && e.kind !== "body" && e.located);
      const picture = s("svg", { viewBox: `0 0 ${sample.width} ${sample.height}`, "aria-hidden": "true" },
        s("image", { href: media(sample, `frames/${frame}`), width: sample.width, height: sample.height }),
        ...drawing(sample, frame, this.#layers, this.#hidden, this.#focus, `strip${this.#number}-${still}`, null));
      return h("button.still", { type: "button", "data-frame": frame, onclick: () => this.show(frame), "aria-label": `Still ${still + 1} at ${(frame / sample.fps).toFixed(2)} seconds, ${tied.length} references` },
        picture, h("span.time", {}, `${(frame / sample.fps).toFixed(2)} s`), tied.length ? h("span.tied", {}, `${tied.length} ${tied.length === 1 ? "reference" : "references"}`) : null);
    }));
    this.#markStrip();
  }

  #markStrip() {
    for (const still of this.strip.children) still.setAttribute("aria-current", Number(still.getAttribute("data-frame")) === this.#frame);
  }
}

/** The still that most references come from; the middle one if it is among them. */
export function mainStill(sample) {
  const counts = sample.stills.map((_, still) => sample.entities.filter((e) => e.still === still && e.kind !== "background").length);
  return [1, 0, 2].reduce((best, still) => ((counts[still] ?? 0) > (counts[best] ?? 0) ? still : best), 1);
}

function standing(sample, frame, hidden) {
  return sample.entities
    .filter((e) => e.kind !== "background" && e.located && e.frame === frame && !hidden.has(e.id))
    .sort((a, b) => ORDER[a.kind] - ORDER[b.kind] || b.area_share - a.area_share);
}

function drawing(sample, frame, layers, hidden, focus, prefix, select) {
  return standing(sample, frame, hidden).map((entity) => {
    const group = s("g.entity", { class: `c-${entity.colour} ${entity.kind}`, "data-entity": entity.id });
    if (focus) group.classList.add(together(entity.id, focus) ? "focused" : "dimmed");
    if (select) group.addEventListener("click", () => select(entity.id));
    const { width, height } = sample;
    if (layers.masks && entity.outline) {
      if (entity.kind !== "body") {
        if (entity.has_mask) {
          // The exact pixels: the picture says where, the colour comes from here.
          const id = `${prefix}-${entity.id.replace(".", "-")}`;
          const mask = s("mask", { id }, s("image", { href: media(sample, `masks/${entity.reference}`), width, height, "image-rendering": "pixelated" }));
          mask.style.setProperty("mask-type", "alpha");
          group.append(mask, s("rect.tint", { width, height, mask: `url(#${id})` }));
        } else group.append(s("path.tint", { d: entity.outline }));
      }
      group.append(s("path.edge", { d: entity.outline }));
    }
    const [x0, y0, x1, y1] = entity.box;
    if (layers.boxes && (entity.kind === "face" || !entity.outline || focus === entity.id)) {
      const box = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, rx: 3 };
      group.append(s("rect.box.halo", box), s("rect.box", box));
    }
    return group;
  });
}

/** An entity and what is shown with it: a subject's face brings its attributes forward. */
export function together(entity, focus) {
  return entity === focus || (/\.face$/.test(focus) && entity.startsWith(`${focus.split(".")[0]}.`));
}

const measure = document.createElement("canvas").getContext("2d");

/** Words beside what they name, where they hide least. */
function chips(sample, frame, hidden, focus, scale) {
  const size = LABEL * scale;
  measure.font = `600 ${LABEL}px Inter, system-ui, sans-serif`;
  const faces = standing(sample, frame, hidden).filter((e) => e.kind === "face").map((e) => e.box);
  const placed = [];
  return standing(sample, frame, hidden).filter((e) => e.kind !== "body").sort((a, b) => (b.kind === "face") - (a.kind === "face")).map((entity) => {
    const words = shown(entity.text, 28);
    const width = (measure.measureText(words).width + 12) * scale;
    const height = 20 * scale;
    const [x0, y0, x1, y1] = entity.box;
    const middle = (x0 + x1 - width) / 2;
    const gap = 4 * scale;
    const spots = entity.kind === "face"
      ? [[x0, y0 - height - gap], [x0, y1 + gap], [x1 + gap, y0], [x0 - width - gap, y0]]
      : [[middle, (y0 + y1 - height) / 2], [middle, y0 + gap], [middle, y1 - height - gap], [x1 + gap, (y0 + y1) / 2], [x0 - width - gap, (y0 + y1) / 2], [middle, y0 - height - gap], [middle, y1 + gap]];
    const inside = spots.map(([x, y]) => [Math.min(Math.max(gap, x), sample.width - width - gap), Math.min(Math.max(gap, y), sample.height - height - gap)]);
    const cost = ([x, y]) => placed.reduce((sum, p) => sum + 10 * meet([x, y, x + width, y + height], p), 0) + faces.reduce((sum, f) => sum + 4 * meet([x, y, x + width, y + height], f), 0);
    const [x, y] = inside.reduce((best, spot) => (cost(spot) < cost(best) - 1e-9 ? spot : best));
    placed.push([x, y, x + width, y + height]);
    const chip = s("g.chip", { class: `c-${entity.colour}`, "aria-hidden": "true" },
      s("rect", { x, y, width, height, rx: 5 * scale }), s("text", { x: x + 6 * scale, y: y + 14.4 * scale, "font-size": size }, words));
    if (focus) chip.classList.add(together(entity.id, focus) ? "focused" : "dimmed");
    return chip;
  });
}

function meet(a, b) {
  return Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
}

const SHAPES = {
  play: "M8 5.5v13l10.5-6.5z", pause: "M7 5h3.5v14H7zM13.5 5H17v14h-3.5z", back: "M15 5.5 7.5 12l7.5 6.5z", on: "M9 5.5 16.5 12 9 18.5z",
  eye: "M12 5.5C7 5.5 3.4 9.4 2 12c1.4 2.6 5 6.5 10 6.5s8.600-3.900 10-6.500c-1.400-2.600-5-6.500-10-6.500zm0 10.700a4.200 4.200 0 1 1 0-8.400 4.200 4.200 0 0 1 0 8.400zm0-2.200a2 2 0 1 0 0-4 2 2 0 0 0 0 4z",
};

export function icon(name) {
  return s("svg.glyph", { viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: SHAPES[name] }));
}
