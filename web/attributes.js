// What the photo shows, the filters in force and the examples: chips that change the search when clicked.

import { element } from "./dom.js";

// An attribute that the catalogue does not have is told, and cannot filter.
export function attributeChips(described, catalogueAttributes, onFilter) {
  return (described ?? []).map(({ name, label, score, sure }) => {
    const usable = catalogueAttributes.has(name);
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          className: sure ? "" : "unsure",
          disabled: !usable,
          title: usable ? `Only hits with ${name}: ${label}` : `The catalogue has no attribute ${name}`,
          "data-key": `attribute ${name}`,
          onclick: () => onFilter(name, label),
        },
        `${name}: ${label} `,
        element("small", {}, sure ? `${Math.round(score * 100)} %` : `unsure, ${Math.round(score * 100)} %`),
      ),
    );
  });
}

export function removableChips(entries, onRemove) {
  return entries.map(({ key, text }) =>
    element("li", {}, element("button", { type: "button", "aria-label": `Remove ${text}`, "data-key": `remove ${key}`, onclick: () => onRemove(key) }, `${text} ✕`)),
  );
}
