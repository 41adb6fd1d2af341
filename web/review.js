// The review page: a grid of hard cases; what a person decides is sent at once and can be undone.
import { element, refill } from "./dom.js";
import { ImageMap } from "./map.js";

const $ = (id) => document.getElementById(id);
const grid = $("cases");
let cases = [];
let labels = [];
let decisions = new Map(); // by the case's number
let shown = []; // numbers, in the order of the grid
const selected = new Set();
let order = []; // numbers, as the view has them
let groupOf = new Map(); // of near-duplicates, by number
let anchor = 0; // where a selection with Shift begins: a place in `shown`

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The review's server does not answer: was it ended? Start it again; nothing that you decided is lost.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error?.message ?? `${response.status}`);
  return answer;
}

// Runs `work`; what goes wrong is told, and the page lives on.
async function safely(work) {
  try {
    await work();
    $("error").hidden = true;
  } catch (error) {
    $("error").textContent = error.message;
    $("error").hidden = false;
  }
}

function take(state) {
  decisions = new Map(Object.entries(state).map(([number, decision]) => [Number(number), decision]));
  draw();
}

function labelNow(number) {
  const decision = decisions.get(number);
  return decision?.action === "label" ? decision.label : cases[number].label;
}

function matches(number) {
  const [why, label, state] = [$("why").value, $("label").value, $("state").value];
  const decided = decisions.has(number);
  return (!why || cases[number].why === why) && (!label || labelNow(number) === label) && (!state || decided === (state === "done"));
}

function verdict(decision) {
  if (!decision) return null;
  return { keep: "kept", weed: "weeded out", label: `→ ${decision.label}` }[decision.action];
}

function tile(number, place) {
  const { name, label, guess, score, why, place: listed } = cases[number];
  const decision = decisions.get(number);
  const starts = groupOf.has(number) && groupOf.get(number) !== groupOf.get(shown[place - 1]);
  const classes = ["case", why, starts ? "group-start" : "", decision ? "decided" : "", decision?.action === "weed" ? "weeded" : ""].filter(Boolean);
  return element(
    "li",
    {
      className: classes.join(" "),
      role: "option",
      tabIndex: place === 0 ? 0 : -1,
      title: `${name}${listed ? `, ${listed}` : ""}`,
      "aria-selected": String(selected.has(number)),
      "data-key": String(number),
      onclick: (event) => choose(place, event.shiftKey),
    },
    element("img", { src: `cases/${number}/picture`, alt: name, loading: "lazy", decoding: "async" }),
    element("span", { className: "label" }, label || "no label"),
    guess ? element("span", { className: "guess" }, `${guess === label ? "seen" : "seen as"} ${guess} ${Math.round(score * 100)} %`) : null,
    decision ? element("span", { className: "verdict" }, verdict(decision)) : null,
  );
}

function draw() {
  shown = order.filter(matches);
  for (const number of selected) if (!shown.includes(number)) selected.delete(number);
  refill(grid, shown.map(tile));
  $("progress").textContent = `${decisions.size} of ${cases.length} decided, ${shown.length} shown`;
  $("bar").max = Math.max(1, cases.length);
  $("bar").value = decisions.size;
  if (!shown.length) grid.append(element("li", { className: "quiet", role: "option", "aria-selected": "false" }, "Nothing is here: choose another view, reason, label or state."));
}

function focusPlace(place) {
  const to = Math.min(Math.max(place, 0), shown.length - 1);
  const node = grid.children[to];
  if (!node) return;
  for (const other of grid.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  node.tabIndex = 0;
  node.focus();
}

function focusedPlace() {
  return Math.max(0, shown.indexOf(Number(document.activeElement?.dataset?.key ?? -1)));
}

function mark() {
  for (const node of grid.children) node.setAttribute("aria-selected", String(selected.has(Number(node.dataset.key))));
  $("message").textContent = selected.size ? `${selected.size} selected` : "";
}

function choose(place, upTo) {
  if (upTo) {
    const [from, to] = [Math.min(anchor, place), Math.max(anchor, place)];
    for (let at = from; at <= to; at++) selected.add(shown[at]);
  } else {
    const number = shown[place];
    selected.has(number) ? selected.delete(number) : selected.add(number);
    anchor = place;
  }
  focusPlace(place);
  mark();
}

// The selection, or the case in focus.
function chosen() {
  if (selected.size) return [...selected];
  const place = focusedPlace();
  return grid.contains(document.activeElement) && shown.length ? [shown[place]] : [];
}

async function decide(decisionOf) {
  const place = focusedPlace();
  const groups = new Map();
  for (const number of chosen()) {
    const decision = decisionOf(number);
    const key = JSON.stringify(decision);
    groups.set(key, [...(groups.get(key) ?? []), number]);
  }
  if (!groups.size) {
    $("message").textContent = "Select cases first: click them, or move with the arrow keys.";
    return;
  }
  await safely(async () => {
    let state;
    for (const [key, numbers] of groups) state = await ask("decisions", { cases: numbers, decision: JSON.parse(key) });
    selected.clear();
    take(state);
    mark();
    focusPlace(place);
  });
}

const keep = () => decide(() => ({ action: "keep" }));
const weed = () => decide(() => ({ action: "weed" }));
const relabel = (label) => decide(() => ({ action: "label", label }));
const acceptGuess = () => decide((number) => (cases[number].guess ? { action: "label", label: cases[number].guess } : { action: "keep" }));
const move = (path) => safely(async () => take(await ask(path, {})));

async function writeBack() {
  await safely(async () => {
    const { changed } = await ask("export", {});
    $("message").textContent = changed.length ? `Written: ${changed.join(", ")}` : "Nothing to write: no decision changes the data.";
  });
}

// Asks what takes long, and tells how far it is.
async function patiently(path) {
  const timer = setInterval(async () => {
    const { embedded, of } = await ask("looks");
    $("message").textContent = embedded < of ? `Looking at the images: ${embedded} of ${of}` : "Nearly there …";
  }, 1000);
  try {
    return await ask(path);
  } finally {
    clearInterval(timer);
    mark();
  }
}

let map = null;

async function changeView() {
  const view = $("view").value;
  for (const [id, of] of [["similarity-field", "near-duplicates"], ["others", "near-duplicates"], ["dimension-field", "dimension"], ["map", "map"]]) $(id).hidden = view !== of;
  await safely(async () => {
    groupOf = new Map();
    if (view === "near-duplicates") {
      const { groups } = await patiently(`looks/near-duplicates?similarity=${encodeURIComponent($("similarity").value)}`);
      order = groups.flat();
      groups.forEach((group, at) => group.forEach((number) => groupOf.set(number, at)));
    } else if (view === "dimension") {
      ({ order } = await patiently(`looks/dimensions/${encodeURIComponent($("dimension").value)}`));
    } else if (view === "map") {
      map ??= new ImageMap($("map-canvas"), (number) => `cases/${number}/picture`, showMapped);
      map.show((await patiently("looks/map")).positions);
      order = [];
    } else {
      order = [...cases.keys()];
    }
    selected.clear();
    draw();
    mark();
  });
}

function showMapped(numbers) {
  order = numbers;
  selected.clear();
  draw();
  mark();
}

function selectOthers() {
  const seen = new Set();
  selected.clear();
  for (const number of shown) {
    if (seen.has(groupOf.get(number))) selected.add(number);
    seen.add(groupOf.get(number));
  }
  mark();
}

function toggleHelp() {
  $("help").hidden = !$("help").hidden;
  $("help-button").setAttribute("aria-expanded", String(!$("help").hidden));
}

function columns() {
  return getComputedStyle(grid).gridTemplateColumns.split(" ").length;
}

function onKey(event) {
  if (event.target.matches("input, select, canvas") || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = focusedPlace();
  const keys = {
    ArrowRight: () => focusPlace(place + 1),
    ArrowLeft: () => focusPlace(place - 1),
    ArrowDown: () => focusPlace(place + columns()),
    ArrowUp: () => focusPlace(place - columns()),
    Home: () => focusPlace(0),
    End: () => focusPlace(shown.length - 1),
    " ": () => grid.contains(event.target) && choose(place, event.shiftKey),
    a: () => { shown.forEach((number) => selected.add(number)); mark(); },
    Escape: () => { selected.clear(); mark(); },
    k: keep, g: acceptGuess, x: weed, u: () => move("undo"), r: () => move("redo"), "?": toggleHelp,
  };
  const digit = Number(event.key);
  const action = digit >= 1 && digit <= labels.length ? () => relabel(labels[digit - 1]) : keys[event.key];
  if (!action || (event.target.matches("button") && [" ", "Enter"].includes(event.key))) return;
  event.preventDefault();
  action();
}

function fill(select, values, all) {
  const count = new Map();
  for (const value of values) count.set(value, (count.get(value) ?? 0) + 1);
  const options = [...count].sort().map(([value, n]) => element("option", { value }, `${value || "none"} (${n})`));
  select.replaceChildren(element("option", { value: "" }, all), ...options);
}

async function start() {
  const answer = await ask("cases");
  ({ cases, labels } = answer);
  order = [...cases.keys()];
  $("name").textContent = answer.name;
  document.title = `Review: ${answer.name}`;
  fill($("why"), cases.map((one) => one.why), "all reasons");
  fill($("label"), cases.map((one) => one.label), "all labels");
  $("labels").replaceChildren(...labels.map((label) => element("option", { value: label })));
  $("quick").replaceChildren(
    ...labels.slice(0, 9).map((label, at) => element("li", {}, element("button", { type: "button", onclick: () => relabel(label) }, element("kbd", {}, String(at + 1)), ` ${label}`))),
  );
  take(await ask("decisions"));
}

for (const id of ["why", "label", "state"]) $(id).addEventListener("change", draw);
for (const id of ["view", "similarity", "dimension"]) $(id).addEventListener("change", changeView);
$("others").addEventListener("click", selectOthers);
$("in-view").addEventListener("click", () => map?.selectSeen());
$("keep").addEventListener("click", keep);
$("accept").addEventListener("click", acceptGuess);
$("weed").addEventListener("click", weed);
$("undo").addEventListener("click", () => move("undo"));
$("redo").addEventListener("click", () => move("redo"));
$("export").addEventListener("click", writeBack);
$("help-button").addEventListener("click", toggleHelp);
$("other").addEventListener("change", () => {
  const label = $("other").value.trim();
  $("other").value = "";
  if (label) relabel(label);
});
document.addEventListener("keydown", onKey);
safely(start);
