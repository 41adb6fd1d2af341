// A map of images on a canvas: points far off, pictures near by; it zooms, moves, and selects by a box.

const NEAR_PX = 34; // from this many pixels for each image on, pictures are drawn
const MOST_ZOOM = 200;

export class ImageMap {
  // `pictureOf(number)` is the address of a picture; `onSelect(numbers)` gets what a box holds.
  constructor(canvas, pictureOf, onSelect) {
    Object.assign(this, { canvas, pictureOf, onSelect, positions: [], pictures: new Map(), box: null, pointers: new Map() });
    this.view = { x: 0, y: 0, zoom: 1 }; // the corner of what is seen, in the map's units of 0 to 1
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.onUp(event));
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  show(positions) {
    this.positions = positions;
    this.canvas.setAttribute("aria-label", `Map of ${positions.length} images`);
    this.view = { x: -0.03, y: -0.03, zoom: 0.94 };
    this.draw();
  }

  scale() {
    return { x: this.canvas.clientWidth * this.view.zoom, y: this.canvas.clientHeight * this.view.zoom };
  }

  // From the map's units to the canvas's pixels.
  place(x, y) {
    const scale = this.scale();
    return [(x - this.view.x) * scale.x, (y - this.view.y) * scale.y];
  }

  draw() {
    if (!this.canvas.clientWidth) return;
    const density = devicePixelRatio || 1;
    this.canvas.width = this.canvas.clientWidth * density;
    this.canvas.height = this.canvas.clientHeight * density;
    const pen = this.canvas.getContext("2d");
    pen.scale(density, density);
    const style = getComputedStyle(this.canvas);
    const size = (this.canvas.clientWidth * this.view.zoom) / Math.sqrt(this.positions.length || 1) / 2;
    const near = size >= NEAR_PX;
    pen.fillStyle = style.getPropertyValue("--accent");
    for (const [number, x, y] of this.positions) {
      const [left, top] = this.place(x, y);
      if (left < -size || top < -size || left > this.canvas.clientWidth + size || top > this.canvas.clientHeight + size) continue;
      const picture = near ? this.picture(number) : null;
      if (picture) {
        const edge = Math.min(size, 160);
        const share = edge / Math.max(picture.naturalWidth, picture.naturalHeight);
        pen.drawImage(picture, left - (picture.naturalWidth * share) / 2, top - (picture.naturalHeight * share) / 2, picture.naturalWidth * share, picture.naturalHeight * share);
      } else {
        pen.beginPath();
        pen.arc(left, top, 3, 0, 2 * Math.PI);
        pen.fill();
      }
    }
    if (this.box) {
      pen.strokeStyle = style.getPropertyValue("--warn");
      pen.lineWidth = 2;
      pen.strokeRect(this.box.x0, this.box.y0, this.box.x1 - this.box.x0, this.box.y1 - this.box.y0);
    }
  }

  // The picture when it is there; else it is fetched, and the map drawn again with it.
  picture(number) {
    let image = this.pictures.get(number);
    if (!image) {
      image = new Image();
      image.addEventListener("load", () => requestAnimationFrame(() => this.draw()));
      image.src = this.pictureOf(number);
      this.pictures.set(number, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  }

  zoomAt(left, top, factor) {
    const scale = this.scale();
    const [x, y] = [this.view.x + left / scale.x, this.view.y + top / scale.y];
    this.view.zoom = Math.min(MOST_ZOOM, Math.max(0.5, this.view.zoom * factor));
    const after = this.scale();
    this.view.x = x - left / after.x;
    this.view.y = y - top / after.y;
    this.draw();
  }

  moveBy(dx, dy) {
    const scale = this.scale();
    this.view.x -= dx / scale.x;
    this.view.y -= dy / scale.y;
    this.draw();
  }

  onWheel(event) {
    event.preventDefault();
    this.zoomAt(event.offsetX, event.offsetY, Math.exp(-event.deltaY / 300));
  }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    if (event.shiftKey) this.box = { x0: event.offsetX, y0: event.offsetY, x1: event.offsetX, y1: event.offsetY };
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.offsetX, y: event.offsetY };
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (this.box) {
      [this.box.x1, this.box.y1] = [now.x, now.y];
      this.draw();
    } else if (other) {
      const far = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
      this.zoomAt((now.x + other.x) / 2, (now.y + other.y) / 2, far(now) / far(before));
    } else {
      this.moveBy(now.x - before.x, now.y - before.y);
    }
  }

  onUp(event) {
    this.pointers.delete(event.pointerId);
    if (!this.box) return;
    const [left, right] = [this.box.x0, this.box.x1].sort((a, b) => a - b);
    const [top, bottom] = [this.box.y0, this.box.y1].sort((a, b) => a - b);
    this.box = null;
    this.draw();
    this.select(left, top, right, bottom);
  }

  selectSeen() {
    this.select(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
  }

  select(left, top, right, bottom) {
    const inside = this.positions.filter(([, x, y]) => {
      const [atX, atY] = this.place(x, y);
      return atX >= left && atX <= right && atY >= top && atY <= bottom;
    });
    this.onSelect(inside.map(([number]) => number));
  }

  onKey(event) {
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const keys = {
      "+": () => this.zoomAt(width / 2, height / 2, 1.4),
      "-": () => this.zoomAt(width / 2, height / 2, 1 / 1.4),
      ArrowLeft: () => this.moveBy(60, 0),
      ArrowRight: () => this.moveBy(-60, 0),
      ArrowUp: () => this.moveBy(0, 60),
      ArrowDown: () => this.moveBy(0, -60),
      Enter: () => this.selectSeen(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}
