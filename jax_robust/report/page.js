"use strict";
// The state of the table lies in the address, as #sort=COLUMN&order=descending&filter=TEXT, so that
// a link shows what its sender saw. Any other #NAME is the place of a run.

const table = document.getElementById("runs");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const rows = [...body.rows];
const search = document.getElementById("filter");
const count = document.getElementById("count");
const state = { sort: "", order: "ascending", filter: "" };

/** What a cell is sorted by: a number where it is one, null where there is nothing. */
function keyOf(row, place) {
  const value = row.cells[place].dataset.value;
  if (value === undefined) return null;
  return row.cells[place].dataset.number === undefined ? value : Number(value);
}

/** The order of two keys; what is missing comes last, whichever way. */
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function show() {
  const place = heads.findIndex((head) => head.dataset.column === state.sort);
  heads.forEach((head, i) =>
    i === place ? head.setAttribute("aria-sort", state.order) : head.removeAttribute("aria-sort"));
  const sign = state.order === "descending" ? -1 : 1;
  const sorted = place < 0 ? rows
    : [...rows].sort((a, b) => compare(keyOf(a, place), keyOf(b, place), sign));
  body.append(...sorted);
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = row.dataset.text;
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
    const section = document.getElementById(row.dataset.section);
    if (section) section.hidden = row.hidden;
  }
  count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  if (search.value !== state.filter) search.value = state.filter;
}

function remember() {
  const entries = Object.entries(state).filter(([key, value]) => value && (key !== "order"
    || (state.sort && value !== "ascending")));
  const address = entries.length ? `#${new URLSearchParams(entries)}` : location.pathname;
  try { history.replaceState(null, "", address); } catch { /* not from every file */ }
}

function read() {
  const text = location.hash.slice(1);
  if (!/^(sort|order|filter)=/.test(text)) {
    const place = document.getElementById(text);
    if (place && place.tagName === "DETAILS") { place.open = true; place.scrollIntoView(); }
    return;
  }
  const given = new URLSearchParams(text);
  state.sort = given.get("sort") || "";
  state.order = given.get("order") === "descending" ? "descending" : "ascending";
  state.filter = given.get("filter") || "";
  show();
}

async function copy(button) {
  const text = button.dataset.copy;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  const name = button.textContent;
  button.textContent = done ? "copied" : "copy it by hand";
  setTimeout(() => { button.textContent = name; }, 1200);
}

for (const head of heads) {
  head.querySelector("button").addEventListener("click", () => {
    const again = state.sort === head.dataset.column && state.order === "ascending";
    state.order = again ? "descending" : "ascending";
    state.sort = head.dataset.column;
    show();
    remember();
  });
}
search.addEventListener("input", () => { state.filter = search.value; show(); remember(); });
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});
addEventListener("hashchange", read);
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
document.querySelector(".tools").hidden = false;
read();
