// The JavaScript client: the calls of the Python client, for browsers and Node 20, without dependencies.

const TRIP_EDGE_PX = 640;
const TRIP_QUALITY = 0.85;
const RETRIED = new Set([429, 503]);
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** An error that the service told, or that kept it from being reached; `code` is one of docs/api.md. */
export class LookalikeError extends Error {
  constructor(message, { code = "internal_error", status = 0, allowed, requestId, retryAfterMs } = {}) {
    super(message);
    this.name = "LookalikeError";
    Object.assign(this, { code, status, allowed, requestId, retryAfterMs });
  }
}

/**
 * A client of the gateway. An image is a Blob or File, an ArrayBuffer or a typed array.
 * Every call takes `{ signal }` among its options, and rejects with a LookalikeError.
 */
export class Lookalike {
  /**
   * @param {object} [settings]
   * @param {string} [settings.baseUrl] the gateway; in a page that it serves: nothing
   * @param {string} [settings.apiKey]
   * @param {number} [settings.timeoutMs] the deadline of a call, all its attempts, pauses and trips together
   * @param {number} [settings.retries] attempts after the first, when the service is busy or cannot be reached
   */
  constructor({ baseUrl = "", apiKey, timeoutMs = 30_000, retries = 2 } = {}) {
    this.baseUrl = baseUrl.replace(/\/+$/, "");
    Object.assign(this, { apiKey, timeoutMs, retries });
  }

  /** Find the catalogue items that look most like the subject of an image. */
  search(image, options = {}) {
    return this.#model("search", image, options, new Deadline(this.timeoutMs));
  }

  /** Find the subjects in an image; boxes in pixels of what was sent. */
  detect(image, options = {}) {
    return this.#model("detector", image, options, new Deadline(this.timeoutMs));
  }

  /** Embed crops: `{ embeddings, dim, fingerprint }`. */
  embed(images, options = {}) {
    return this.#many("embedder", images, options);
  }

  /** Describe crops: a list of descriptions. */
  async describe(images, options = {}) {
    return (await this.#many("metadata_creator", images, options)).descriptions;
  }

  /**
   * Search on a slow line: a small copy finds the subject, then only its crop is sent. Needs a browser's canvas.
   * Resolves to `{ response, box, sentBytes }`; `box` is in pixels of the upright original, null where nothing was
   * found. An image that the browser cannot decode (HEIC, say) is sent as it is.
   */
  async twoTrip(image, options = {}) {
    const deadline = new Deadline(this.timeoutMs);
    const blob = image instanceof Blob ? image : new Blob([image]);
    let original;
    try {
      original = await createImageBitmap(blob);
    } catch {
      const response = await this.#model("search", blob, options, deadline);
      return { response, box: null, sentBytes: blob.size };
    }
    try {
      const whole = [0, 0, original.width, original.height];
      const first = await jpegOf(original, whole, TRIP_EDGE_PX);
      const signal = options.signal;
      const found = await this.#model("detector", first, { max_detections: 1, signal }, deadline);
      const scale = found.image.width / original.width;
      const box = found.detections.length ? scaledBox(found.detections[0].box, scale, original) : null;
      const second = await jpegOf(original, box ?? whole, TRIP_EDGE_PX);
      const response = await this.#model("search", second, { ...options, crop: "none" }, deadline);
      return { response, box, sentBytes: first.size + second.size };
    } finally {
      original.close();
    }
  }

  /** Fetch an item's picture as a Blob: an <img> cannot send a key. */
  async thumbnail(itemId, { edge = 256, signal } = {}) {
    const request = { method: "GET", headers: { accept: "image/webp, image/jpeg" }, signal };
    return (await this.#send(this.thumbnailPath(itemId, edge), request, new Deadline(this.timeoutMs))).blob();
  }

  /** Offer a few items to search by: `[{ item_id, title, thumbnail, picture }]`, the last two as paths. */
  async samples({ signal } = {}) {
    const reply = await this.#send("/samples", { method: "GET", headers: {}, signal }, new Deadline(this.timeoutMs));
    return (await reply.json()).samples;
  }

  /** Return the path of an item's picture: an item_id is one segment, whatever it holds. */
  thumbnailPath(itemId, edge = 256) {
    return `/items/${encodeURIComponent(itemId)}/thumbnail?edge=${edge}`;
  }

  /** Say which index version is in use. */
  async index({ signal } = {}) {
    return (await this.#send("/index", { method: "GET", headers: {}, signal }, new Deadline(this.timeoutMs))).json();
  }

  /** Return a model's card, such as the embedder's: its fingerprint, and what its similarities mean in words. */
  async info(model, { signal } = {}) {
    const path = `/predictions/${encodeURIComponent(model)}/1.0/info`;
    return (await this.#send(path, { method: "GET", headers: {}, signal }, new Deadline(this.timeoutMs))).json();
  }

  async #model(model, image, { signal, ...options }, deadline) {
    const headers = { "content-type": "application/octet-stream", ...optionHeaders(options) };
    const request = { method: "POST", headers, body: image, signal };
    return (await this.#send(`/predictions/${model}`, request, deadline)).json();
  }

  async #many(model, images, { signal, ...options }) {
    const body = new FormData();
    [images].flat().forEach((image, i) => {
      body.append(`image${i + 1}`, image instanceof Blob ? image : new Blob([image]), `image${i + 1}`);
    });
    const request = { method: "POST", headers: optionHeaders(options), body, signal };
    return (await this.#send(`/predictions/${model}`, request, new Deadline(this.timeoutMs))).json();
  }

  async #send(path, request, deadline) {
    for (let attempt = 0; ; attempt += 1) {
      const { reply, error } = await this.#attempt(path, request, deadline);
      if (reply) return reply;
      const pauseMs = this.#pauseMs(attempt, error);
      if (pauseMs === null || pauseMs >= deadline.leftMs()) throw error;
      await pause(pauseMs, request.signal);
    }
  }

  async #attempt(path, request, deadline) {
    const headers = { ...request.headers, ...(this.apiKey ? { "x-api-key": this.apiKey } : {}) };
    const limit = AbortSignal.timeout(Math.ceil(Math.max(1, deadline.leftMs())));
    const signal = request.signal ? AbortSignal.any([request.signal, limit]) : limit;
    try {
      const reply = await fetch(this.baseUrl + path, { ...request, headers, signal, redirect: "error" });
      return reply.ok ? { reply } : { error: await errorOf(reply) };
    } catch (cause) {
      if (request.signal?.aborted) throw cause;
      if (limit.aborted) {
        throw new LookalikeError(`no answer within ${this.timeoutMs} ms`, { code: "deadline_exceeded", status: 504 });
      }
      return { error: new LookalikeError(`the service cannot be reached: ${cause.message}`, { code: "model_unavailable" }) };
    }
  }

  #pauseMs(attempt, error) {
    const unreached = error.status === 0;
    if (attempt >= this.retries || !(unreached || RETRIED.has(error.status))) return null;
    if (error.retryAfterMs !== undefined) return error.retryAfterMs;
    // The pause doubles, and chance keeps many clients apart.
    const ceilingMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** attempt);
    return ceilingMs * (0.5 + Math.random() / 2);
  }
}

/** Return options as the headers that the models read; those without a value are left out. */
export function optionHeaders(options) {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(
    entries.map(([name, value]) => [`x-lookalike-${name.replaceAll("_", "-")}`, headerText(value)]),
  );
}

/** Return a box in pixels of a copy `scale` times as large as whole pixels of the image itself, clipped to it. */
export function scaledBox([x1, y1, x2, y2], scale, { width, height }) {
  const left = Math.max(0, Math.floor(x1 / scale));
  const top = Math.max(0, Math.floor(y1 / scale));
  return [left, top, Math.min(width, Math.ceil(x2 / scale)), Math.min(height, Math.ceil(y2 / scale))];
}

class Deadline {
  constructor(timeoutMs) {
    this.endMs = performance.now() + timeoutMs;
  }

  leftMs() {
    return this.endMs - performance.now();
  }
}

function headerText(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  // A header carries ASCII: JSON can escape the rest.
  return text.replace(/[^\x20-\x7e]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Return what lies inside a box of a bitmap (whole pixels) as a JPEG, its longer side at most `maxEdgePx`. */
export async function jpegOf(bitmap, [x1, y1, x2, y2], maxEdgePx, quality = TRIP_QUALITY) {
  const [width, height] = [x2 - x1, y2 - y1];
  const scale = Math.min(1, maxEdgePx / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // as the service shows transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, x1, y1, width, height, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality });
}

async function errorOf(reply) {
  const seconds = reply.headers.get("retry-after");
  const retryAfterMs = /^\d+$/.test(seconds ?? "") ? Number(seconds) * 1000 : undefined;
  const text = await reply.text();
  try {
    const { error, request_id: requestId } = JSON.parse(text);
    const { code, message, allowed } = error;
    return new LookalikeError(message, { code, status: reply.status, allowed, requestId, retryAfterMs });
  } catch {
    // A proxy in between answers in a form of its own.
    return new LookalikeError(`the service answered ${reply.status}`, { status: reply.status, retryAfterMs });
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
