// What the photo shows, the filters in force and the examples: chips that change the search when clicked.

import { element, refill } from "./dom.js";

// Shows what the photo is surely seen to have; guesses lie folded below.
export function showDescription(section, response, catalogueAttributes, onFilter) {
  const described = response.attributes ?? [];
  const [sure, unsure] = [described.filter((one) => one.sure), described.filter((one) => !one.sure)];
  const folded = section.querySelector("details");
  section.querySelector("h2").textContent = response.product_display_name ?? "What the photo shows";
  section.querySelector("h2").hidden = !sure.length;
  refill(section.querySelector("#attributes"), attributeChips(sure, catalogueAttributes, onFilter));
  refill(folded.querySelector("ul"), attributeChips(unsure, catalogueAttributes, onFilter));
  folded.querySelector("summary").textContent = `${unsure.length} unsure ${unsure.length === 1 ? "guess" : "guesses"} about the photo`;
  folded.hidden = !unsure.length;
  section.hidden = !described.length;
}

// An attribute that the catalogue does not have is told, and cannot filter.
function attributeChips(described, catalogueAttributes, onFilter) {
  return described.map(({ name, label, score, sure }) => {
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
