// The search that was just made, as code to copy: the crop is a file that the reader saves from the page.

const python = JSON.stringify; // numbers, texts, lists and objects of them are written alike in both languages
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// Copies the code of the button that is pressed; `options()` are those of the search on the page.
export function watchSnippets(section, url, options, say) {
  for (const button of section.querySelectorAll("button")) {
    button.addEventListener("click", () => copy(section.querySelector("pre"), snippet(button.dataset.language, url, options()), say));
  }
}

async function copy(pre, code, say) {
  pre.querySelector("code").textContent = code;
  pre.hidden = false;
  try {
    await navigator.clipboard.writeText(code);
    say("Copied. Save what is searched as photo.jpg beside it.");
  } catch {
    say("The browser did not allow copying: the code stands below.");
  }
}

// `options` are those of the search beside the image; those that are at their default are left out by the caller.
function snippet(language, url, options) {
  return { curl, python: pythonCode, javascript }[language](url, options);
}

function curl(url, options) {
  const fields = Object.entries(options).map(([name, value]) => ` \\\n  -F ${shell(`${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)}`);
  return `curl ${shell(`${url}predictions/search`)} -F image=@photo.jpg${fields.join("")}`;
}

function pythonCode(url, options) {
  const given = Object.entries(options).map(([name, value]) => `, ${name}=${python(value)}`);
  return [
    "from lookalike.client import Client",
    "",
    `with Client(${python(url)}) as lookalike:`,
    `    response = lookalike.search("photo.jpg"${given.join("")})`,
    "for hit in response.hits:",
    "    print(hit.item_id, hit.similarity)",
  ].join("\n");
}

function javascript(url, options) {
  return [
    `import { Lookalike } from ${JSON.stringify(`${url}lookalike.js`)};`,
    "",
    `const lookalike = new Lookalike({ baseUrl: ${JSON.stringify(url)} });`,
    `const { hits } = await lookalike.search(photo, ${JSON.stringify(options)});`,
    "console.log(hits);",
  ].join("\n");
}
