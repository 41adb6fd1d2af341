// The search page: a photo comes in, its regions are found, the chosen one is cut from the original and searched.

import { removableChips, showDescription } from "./attributes.js";
import { watchCamera } from "./camera.js";
import { element, formatBytes, refill } from "./dom.js";
import { watchDrop } from "./drop.js";
import { hitCard } from "./hits.js";
import { Lookalike, LookalikeError } from "./lookalike.js";
import { cut, openPhoto, shrink, UndrawablePhoto } from "./photo.js";
import { Regions } from "./regions.js";
import { showSamples } from "./samples.js";
import { watchSnippets } from "./snippets.js";
import { showTiming } from "./timing.js";

const TOP_K = 24;
const MAX_REGIONS = 6;
const LEAST_SHARE = 0.5; // of the best region's score: weaker ones lie over each other and hide the photo
const KEY = "lookalike-api-key";

const at = (id) => document.getElementById(id);
const base = new URL(".", document.baseURI).href;
const regions = new Regions(at("regions"), at("region-help"), (region) => search(region.box));

let service = connect();
let catalogue = { attributes: new Set() };
let thresholds = null;
let photo = null; // { file, bitmap, name }; bitmap is null when the browser cannot draw the file
let searched = null; // { blob, box } of the search on the page
let filters = new Map(); // attribute -> Set of values
let examples = { like: new Map(), unlike: new Map() }; // item_id -> title
let under_way = new AbortController();
let detectorMs = 0;

function connect() {
  return new Lookalike({ apiKey: sessionStorage.getItem(KEY) ?? undefined });
}

// --- a photo comes in ----------------------------------------------------------------------------------------------

async function take(file) {
  photo = { file, bitmap: null };
  filters = new Map();
  examples = { like: new Map(), unlike: new Map() };
  searched = null;
  await attempt(async (signal) => {
    try {
      photo.bitmap = await openPhoto(file);
    } catch (error) {
      if (!(error instanceof UndrawablePhoto)) throw error;
      return searchUndrawable(signal);
    }
    show(photo.bitmap);
    await findRegions(signal);
  });
}

function show(bitmap) {
  const canvas = at("photo");
  const scale = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height)); // enough for any screen, and light for a phone
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  regions.show(bitmap, []);
  for (const id of ["stage", "toolbar", "whole"]) at(id).hidden = false;
  at("drop").hidden = true;
}

async function findRegions(signal) {
  say("Looking for regions …");
  const small = await shrink(photo.bitmap);
  photo.sentBytes = small.size;
  const start = performance.now();
  const { detections, image } = await service.detect(small, { max_detections: MAX_REGIONS, signal });
  detectorMs = performance.now() - start;
  const scale = photo.bitmap.width / image.width;
  const clear = detections.filter(({ score }) => score >= LEAST_SHARE * detections[0].score);
  regions.show(photo.bitmap, clear.map((found) => ({ ...found, box: found.box.map((edge) => edge * scale) })));
  if (regions.regions.length) regions.choose(regions.regions[0]);
  else searchWhole();
}

function searchWhole() {
  regions.clear();
  search([0, 0, photo.bitmap.width, photo.bitmap.height]);
}

async function searchUndrawable(signal) {
  for (const id of ["stage", "crop", "region-help"]) at(id).hidden = true;
  at("drop").hidden = true;
  at("toolbar").hidden = false;
  at("whole").hidden = true;
  at("upload").textContent = `This browser cannot show the file, so it is sent as it is (${formatBytes(photo.file.size)}) and the service finds the subject.`;
  detectorMs = 0;
  searched = { blob: photo.file, options: {} };
  await ask(signal);
}

// --- a region is searched ------------------------------------------------------------------------------------------

function search(box) {
  return attempt(async (signal) => {
    at("whole").setAttribute("aria-pressed", String(regions.chosen === null));
    const blob = await cut(photo.bitmap, box);
    signal.throwIfAborted();
    searched = { blob, options: { crop: "none" } };
    showCrop(blob);
    await ask(signal);
  });
}

// The picture shown is the very file that is sent.
function showCrop(blob) {
  const image = at("crop").querySelector("img");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  at("crop").hidden = false;
  const sent = photo.sentBytes + blob.size;
  const saved = photo.file.size - sent;
  at("upload").textContent =
    saved > 0
      ? `${formatBytes(sent)} sent instead of ${formatBytes(photo.file.size)}: ${Math.round((100 * saved) / photo.file.size)} % saved.`
      : `${formatBytes(sent)} sent.`;
}

function again() {
  return searched && attempt(ask);
}

async function ask(signal) {
  say("Searching …");
  at("hits").setAttribute("aria-busy", "true");
  const start = performance.now();
  const response = await service.search(searched.blob, { top_k: TOP_K, ...currentOptions(), signal });
  showResponse(response, performance.now() - start);
}

// The options of the search beside `top_k`; what is at its default is left out.
function currentOptions() {
  const options = { ...searched.options };
  if (filters.size) options.filters = Object.fromEntries([...filters].map(([name, values]) => [name, [...values]]));
  for (const kind of ["like", "unlike"]) if (examples[kind].size) options[kind] = [...examples[kind].keys()];
  return options;
}

// --- an answer is shown --------------------------------------------------------------------------------------------

function showResponse(response, outsideMs) {
  const described = response.attributes;
  showDescription(at("described"), response, catalogue.attributes, addFilter);
  showChips();
  const cards = response.hits.map((hit) => hitCard(hit, { showThumbnail, thresholds, described, examples, onFilter: addFilter, onExample: toggleExample }));
  refill(at("hits"), cards);
  at("hits").setAttribute("aria-busy", "false");
  const degraded = response.degraded?.length ? ` Not available now: ${response.degraded.join(", ")}.` : "";
  say(`${response.hits.length} hits among ${response.index.count.toLocaleString("en")} items.${degraded}`);
  showNothing(response.hits.length === 0);
  showTiming(at("timing"), response.timings_ms, outsideMs, detectorMs);
  at("snippets").hidden = false;
  at("snippets").querySelector("pre").hidden = true;
}

function showNothing(empty) {
  at("nothing").hidden = !empty;
  const hints = [
    filters.size ? "Remove a filter: only items that meet all of them are shown." : null,
    regions.chosen ? "Choose another region, or the whole photo." : "Choose or draw a region around one thing.",
    "The catalogue may have nothing like it.",
  ];
  refill(at("nothing").querySelector("ul"), hints.filter(Boolean).map((hint) => element("li", {}, hint)));
}

function showChips() {
  const chosen = [...filters].flatMap(([name, values]) => [...values].map((value) => ({ key: JSON.stringify([name, value]), text: `${name}: ${value}` })));
  refill(at("filters"), removableChips(chosen, removeFilter));
  at("filters").hidden = chosen.length === 0;
  const named = ["like", "unlike"].flatMap((kind) => [...examples[kind]].map(([id, title]) => ({ key: JSON.stringify([kind, id]), text: `${kind === "like" ? "more" : "less"} like ${title}` })));
  refill(at("examples"), removableChips(named, removeExample));
  at("examples").hidden = named.length === 0;
}

function addFilter(name, value) {
  filters.set(name, (filters.get(name) ?? new Set()).add(value));
  again();
}

function removeFilter(key) {
  const [name, value] = JSON.parse(key);
  filters.get(name).delete(value);
  if (!filters.get(name).size) filters.delete(name);
  again();
}

function toggleExample(kind, id, title) {
  const other = kind === "like" ? "unlike" : "like";
  examples[other].delete(id);
  if (!examples[kind].delete(id)) examples[kind].set(id, title);
  again();
}

function removeExample(key) {
  const [kind, id] = JSON.parse(key);
  examples[kind].delete(id);
  again();
}

// An <img> sends no key: where one is needed, the picture is fetched with it.
async function showThumbnail(image, itemId) {
  if (!service.apiKey) image.src = service.thumbnailPath(itemId);
  else {
    const blob = await service.thumbnail(itemId).catch(() => null);
    if (blob === null) return;
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    image.src = URL.createObjectURL(blob);
  }
}

// --- what goes wrong is told, and the page goes on -----------------------------------------------------------------

// Runs the newest action alone: what an older one brings later is dropped.
async function attempt(action) {
  under_way.abort();
  const mine = (under_way = new AbortController());
  at("error").hidden = true;
  at("busy").hidden = false;
  try {
    await action(mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    at("hits").setAttribute("aria-busy", "false");
    showError(error);
  } finally {
    if (mine === under_way) at("busy").hidden = true;
  }
}

function showError(error) {
  const told = error instanceof LookalikeError ? error.message : `This page failed: ${error.message}`;
  const lines = [told.charAt(0).toUpperCase() + told.slice(1) + (told.endsWith(".") ? "" : ".")];
  if (error.allowed) lines.push(`Allowed: ${[error.allowed].flat().join(", ")}`);
  if (error.status === 0 || error.status === 429 || error.status >= 500) lines.push("Try again in a moment.");
  refill(at("error"), lines.map((line) => element("p", {}, line)));
  at("error").hidden = false;
  at("key-form").hidden = error.status !== 401;
  say("");
  for (const id of ["nothing", "described", "timing", "snippets"]) at(id).hidden = true;
  refill(at("hits"), []);
}

const say = (text) => (at("status").textContent = text);

// --- the page itself -----------------------------------------------------------------------------------------------

async function showCatalogue() {
  const [index, embedder] = await Promise.all([service.index(), service.info("embedder")]);
  catalogue = { attributes: new Set(index.attributes) };
  thresholds = embedder.likeness ?? null;
  at("catalogue").textContent = `${index.count.toLocaleString("en")} items in the catalogue`;
}

function another() {
  under_way.abort();
  for (const id of ["stage", "toolbar", "crop", "region-help", "described", "filters", "examples", "timing", "snippets", "nothing", "error", "busy"]) at(id).hidden = true;
  at("drop").hidden = false;
  at("upload").textContent = "";
  refill(at("hits"), []);
  say("Hits appear here.");
  at("choose").focus();
}

function start() {
  const file = at("file");
  at("choose").addEventListener("click", () => file.click());
  at("another").addEventListener("click", another);
  at("whole").addEventListener("click", searchWhole);
  file.addEventListener("change", () => {
    if (file.files[0]) take(file.files[0]);
    file.value = ""; // the same file may be chosen again
  });
  watchCamera(at("camera"), at("camera-dialog"), take);
  watchDrop(take);
  watchSnippets(at("snippets"), base, () => ({ top_k: TOP_K, ...currentOptions() }), say);
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, at("key").value);
    service = connect();
    at("key-form").hidden = true;
    greet();
    again();
  });
  greet();
}

function greet() {
  const onPhoto = (file) => !at("drop").hidden && take(file); // unless another photo came first
  const shown = showSamples(at("samples"), service, { showThumbnail, onPhoto, onError: showError });
  Promise.all([showCatalogue(), shown]).catch(showError);
}

start();
