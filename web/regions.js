// The regions on a photo: shown, chosen, drawn, moved and resized by pointer and by keyboard.

const STEP = 0.02; // of the photo's edge, for one press of an arrow key
const LEAST = 0.03; // of the photo's edge: smaller regions show nothing to search for
const SETTLE_MS = 250; // a search follows when a region has come to rest

const CORNERS = { nw: [0, 1], ne: [2, 1], sw: [0, 3], se: [2, 3] };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Regions {
  // `onChoose(region)` is called when a region is chosen or has come to rest; boxes are xyxy in pixels of the photo.
  constructor(container, help, onChoose) {
    this.container = container;
    this.help = help;
    this.onChoose = onChoose;
    this.regions = [];
    this.chosen = null;
    container.addEventListener("pointerdown", (event) => this.#startDrawing(event));
  }

  show(size, detections) {
    this.size = size;
    this.regions = detections.map(({ box, score, label }, i) => ({ box, name: `Region ${i + 1}: ${label}, ${Math.round(score * 100)} %`, source: "detector" }));
    this.chosen = null;
    this.#render();
  }

  choose(region) {
    this.chosen = region;
    this.#render();
    this.onChoose(region);
  }

  // The whole photo is searched: no region is chosen.
  clear() {
    this.chosen = null;
    this.#render();
  }

  #render() {
    const focused = this.regions.findIndex((region) => region.element === document.activeElement);
    this.container.replaceChildren(...this.regions.map((region) => this.#button(region)));
    this.help.hidden = this.regions.length === 0 && this.chosen === null;
    if (this.chosen) this.container.append(...this.#handles(this.chosen));
    if (focused >= 0) this.regions[focused]?.element.focus({ preventScroll: true });
  }

  #button(region) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "region";
    button.setAttribute("aria-label", region.name);
    button.setAttribute("aria-pressed", String(region === this.chosen));
    button.setAttribute("aria-describedby", this.help.id);
    region.element = button;
    this.#place(region);
    button.addEventListener("click", () => region !== this.chosen && this.choose(region));
    button.addEventListener("keydown", (event) => this.#key(event, region));
    button.addEventListener("pointerdown", (event) => region === this.chosen && this.#drag(event, region, (dx, dy, box) => this.#moved(box, dx, dy)));
    return button;
  }

  #handles(region) {
    region.handles = Object.entries(CORNERS).map(([name, sides]) => {
      const handle = document.createElement("span");
      handle.className = "region-handle";
      handle.style.cursor = `${name}-resize`;
      handle.addEventListener("pointerdown", (event) => this.#drag(event, region, (dx, dy, box) => this.#resized(box, sides, dx, dy)));
      return handle;
    });
    this.#place(region);
    return region.handles;
  }

  #place({ box: [x1, y1, x2, y2], element, handles = [] }) {
    const { width, height } = this.size;
    const percent = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(element.style, { left: percent(x1, width), top: percent(y1, height), width: percent(x2 - x1, width), height: percent(y2 - y1, height) });
    const corners = [[x1, y1], [x2, y1], [x1, y2], [x2, y2]];
    handles.forEach((handle, i) => Object.assign(handle.style, { left: percent(corners[i][0], width), top: percent(corners[i][1], height) }));
  }

  #key(event, region) {
    const arrow = ARROWS[event.key];
    if (!arrow || region !== this.chosen) return;
    event.preventDefault();
    const [dx, dy] = [arrow[0] * STEP * this.size.width, arrow[1] * STEP * this.size.height];
    region.box = event.shiftKey ? this.#resized(region.box, [2, 3], dx, dy) : this.#moved(region.box, dx, dy);
    this.#changed(region);
  }

  #changed(region) {
    region.source = "client";
    this.#place(region);
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.onChoose(region), SETTLE_MS);
  }

  #drag(event, region, change) {
    event.preventDefault();
    event.stopPropagation();
    region.element.focus({ preventScroll: true });
    const [startX, startY, box] = [event.clientX, event.clientY, region.box];
    this.#follow(event, (move) => {
      const scale = this.#scale();
      region.box = change((move.clientX - startX) * scale, (move.clientY - startY) * scale, box);
      this.#changed(region);
    });
  }

  #startDrawing(event) {
    if (event.target !== this.container || event.button) return;
    event.preventDefault();
    const frame = this.container.getBoundingClientRect();
    const scale = this.#scale();
    const from = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let region = null;
    this.#follow(event, (move) => {
      const to = [(move.clientX - frame.left) * scale, (move.clientY - frame.top) * scale];
      const box = this.#inside([Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])]);
      if (!region && this.#isLarge(box)) {
        region = { box, name: "Your region", source: "client" };
        this.regions = [...this.regions.filter(({ name }) => name !== region.name), region];
        this.chosen = region;
        this.#render();
      }
      if (region && this.#isLarge(box)) {
        region.box = box;
        this.#changed(region);
      }
    });
  }

  // Calls `move` for each movement of the pointer that went down with `event`, until it is let go.
  #follow(event, move) {
    const pointer = event.pointerId;
    const onMove = (moved) => moved.pointerId === pointer && move(moved);
    const onEnd = (ended) => {
      if (ended.pointerId !== pointer) return;
      window.removeEventListener("pointermove", onMove);
      window.removeEventListener("pointerup", onEnd);
      window.removeEventListener("pointercancel", onEnd);
    };
    window.addEventListener("pointermove", onMove);
    window.addEventListener("pointerup", onEnd);
    window.addEventListener("pointercancel", onEnd);
  }

  #scale() {
    return this.size.width / this.container.getBoundingClientRect().width;
  }

  #isLarge([x1, y1, x2, y2]) {
    return x2 - x1 >= LEAST * this.size.width && y2 - y1 >= LEAST * this.size.height;
  }

  #inside([x1, y1, x2, y2]) {
    const { width, height } = this.size;
    return [Math.max(x1, 0), Math.max(y1, 0), Math.min(x2, width), Math.min(y2, height)];
  }

  #moved([x1, y1, x2, y2], dx, dy) {
    const { width, height } = this.size;
    const right = Math.min(Math.max(dx, -x1), width - x2);
    const down = Math.min(Math.max(dy, -y1), height - y2);
    return [x1 + right, y1 + down, x2 + right, y2 + down];
  }

  #resized(box, [xSide, ySide], dx, dy) {
    const { width, height } = this.size;
    const resized = [...box];
    const limit = (value, side, least, edge) =>
      side < 2 ? Math.min(Math.max(value, 0), box[side + 2] - least) : Math.max(Math.min(value, edge), box[side - 2] + least);
    resized[xSide] = limit(box[xSide] + dx, xSide, LEAST * width, width);
    resized[ySide] = limit(box[ySide] + dy, ySide, LEAST * height, height);
    return resized;
  }
}
