// The hits as a grid of cards: picture, title, likeness in words, what it shares with the photo, more and less like it.

import { element } from "./dom.js";

const WORDS = [["same", "Same"], ["very_similar", "Very similar"], ["similar", "Similar"]];

// Returns the word for a similarity by the embedder's calibrated thresholds, or null below all of them.
export function likenessWord(similarity, thresholds) {
  return WORDS.find(([name]) => thresholds && similarity >= thresholds[name])?.[1] ?? null;
}

// Returns the attributes `[name, value]` of a hit, first those that the photo is seen to have as well.
export function attributesOf(hit, described) {
  const seen = new Set((described ?? []).filter(({ sure }) => sure).map(({ name, label }) => `${name}=${label}`.toLowerCase()));
  const own = Object.entries(hit.attributes ?? {}).map(([name, value]) => ({ name, value, shared: seen.has(`${name}=${value}`.toLowerCase()) }));
  return own.sort((a, b) => Number(b.shared) - Number(a.shared));
}

// Only web addresses become links: a catalogue may hold anything, `javascript:` included.
export function webAddress(url) {
  try {
    const parsed = new URL(url);
    return ["http:", "https:"].includes(parsed.protocol) ? parsed.href : null;
  } catch {
    return null;
  }
}

export function hitCard(hit, { showThumbnail, thresholds, described, examples, onFilter, onExample }) {
  const title = hit.title || hit.item_id;
  const word = likenessWord(hit.similarity, thresholds);
  const picture = element("img", { className: "thumbnail", alt: title, loading: "lazy", width: 256, height: 256 });
  showThumbnail(picture, hit.item_id);
  const address = hit.url && webAddress(hit.url);
  const linked = address ? element("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, title) : title;
  return element(
    "li",
    { className: word ? "hit" : "hit far", "data-item": hit.item_id },
    picture,
    element("p", { className: "title", title }, linked),
    element("p", { className: "likeness" }, ...(word ? [element("strong", {}, word), " "] : []), hit.similarity.toFixed(2)),
    why(hit, described, onFilter),
    element("p", { className: "row" }, exampleButton(hit, title, "like", "More", examples, onExample), exampleButton(hit, title, "unlike", "Less", examples, onExample)),
  );
}

function why(hit, described, onFilter) {
  const chips = attributesOf(hit, described).map(({ name, value, shared }) =>
    element(
      "li",
      {},
      element(
        "button",
        { type: "button", title: `Only hits with ${name}: ${value}`, "data-key": `why ${hit.item_id} ${name}`, onclick: () => onFilter(name, value) },
        shared ? `✓ ${value}` : value,
        shared ? element("span", { className: "visually-hidden" }, " (as in your photo)") : null,
      ),
    ),
  );
  return chips.length ? element("ul", { className: "why", "aria-label": "Attributes" }, ...chips) : null;
}

function exampleButton(hit, title, kind, word, examples, onExample) {
  return element(
    "button",
    {
      type: "button",
      "aria-pressed": String(examples[kind].has(hit.item_id)),
      "aria-label": `${word} like ${title}`,
      "data-key": `${kind} ${hit.item_id}`,
      onclick: () => onExample(kind, hit.item_id, title),
    },
    kind === "like" ? `+ ${word}` : `− ${word}`,
  );
}
