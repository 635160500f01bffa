"use strict";

const $ = id => document.getElementById(id);
const options = ["k", "label", "path", "expand", "rerank", "verify"];
const empty = {files: [], key: null, size: null, box: null};
let query = empty;
const past = [];  // the history of a browser does not keep files
let token = sessionStorage.getItem("token");
let metric = "cosine";
let running = null;

/* Asking the server */

async function ask(path, settings = {}) {
  const headers = token ? {Authorization: `Bearer ${token}`} : {};
  const answer = await fetch(path, {...settings, headers});
  if (answer.status !== 401) return answer;
  await askToken();
  return ask(path, settings);
}

function askToken() {
  if ($("ask").open) return new Promise(done => $("ask").addEventListener("close", done, {once: true}));
  return new Promise(done => {
    $("ask").addEventListener("close", () => {
      token = $("token").value.trim();
      sessionStorage.setItem("token", token);
      done();
    }, {once: true});
    $("ask").showModal();
  });
}

async function show(image, key) {
  const answer = await ask(`/thumbnail?${new URLSearchParams({key})}`);
  if (!answer.ok) return false;
  const url = URL.createObjectURL(await answer.blob());
  image.addEventListener("load", () => URL.revokeObjectURL(url), {once: true});
  image.src = url;
  return true;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function search() {
  if (!query.files.length && query.key === null) return;
  running?.abort();
  const mine = running = new AbortController();
  const asked = new URLSearchParams();
  for (const name of options) if ($(name).value) asked.set(name, $(name).value);
  if (query.key !== null) asked.set("key", query.key);
  if (query.box) asked.set("box", query.box.join(","));
  const body = query.key === null ? new FormData() : undefined;
  for (const file of query.files) body.append("pictures", file);
  const start = performance.now();
  say("Searching…");
  $("results").classList.add("old");
  try {
    const answer = await ask(`/search?${asked}`, {method: "POST", body, signal: mine.signal});
    const found = await answer.json();
    if (mine !== running) return;
    if (!answer.ok) return say(found.error, true);
    list(found.hits);
    say(`${found.hits.length} result${found.hits.length === 1 ? "" : "s"} in ${((performance.now() - start) / 1000).toFixed(2)} s`);
  } catch (error) {
    if (error.name !== "AbortError") say("The server does not answer.", true);
  } finally {
    if (mine === running) $("results").classList.remove("old");
  }
}

/* Results */

function list(hits) {
  const worst = Math.min(...hits.map(hit => hit.score));
  $("results").replaceChildren(...hits.map((hit, place) => card(hit, place, metric === "l2" ? hit.score / worst : null)));
}

function card(hit, place, distance) {
  const share = distance === null ? Math.max(0, Math.min(1, hit.score)) : 1 - distance;
  const button = element("button", "hit", {type: "button", title: hit.key});
  const shown = element("span", "shown");
  const image = element("img", "", {alt: ""});
  show(image, hit.key).then(there => shown.replaceChildren(there ? image : "no picture"), () => {});
  const bar = element("span", "bar", {role: "img", ariaLabel: `similarity ${hit.score.toFixed(3)}`});
  const fill = document.createElement("i");
  fill.style.width = `${(100 * share).toFixed(1)}%`;
  bar.append(fill);
  const score = element("span", "score");
  score.append(element("b", "", {textContent: hit.score.toFixed(3)}), element("span", "", {textContent: `#${place + 1}`}));
  const text = element("span", "text");
  text.append(bar, score);
  if (hit.inliers !== null) text.append(element("span", "tag", {textContent: `${hit.inliers} agree`}));
  if (hit.label !== null) text.append(element("span", "tag", {textContent: hit.label}));
  text.append(element("span", "key", {textContent: hit.key}));
  button.append(shown, text);
  button.addEventListener("click", () => take({...empty, key: hit.key, size: hit.width && hit.height ? [hit.width, hit.height] : null}));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function element(name, kind, properties = {}) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return Object.assign(made, properties);
}

/* The query */

function take(next) {
  query = next;
  history.pushState({place: past.push(next) - 1}, "");
  draw();
  search();
}

async function draw() {
  const one = query.files.length === 1 || query.key !== null;
  $("stage").hidden = !one;
  $("several").hidden = query.files.length < 2;
  $("hint").hidden = one || query.files.length > 0;
  $("other").hidden = !one && !query.files.length;
  $("name").textContent = query.key ?? (one ? query.files[0].name : query.files.length ? `${query.files.length} pictures, as one query` : "");
  $("drop").setAttribute("aria-label", one ? "The query; drag a box on it" : "Choose, drop or paste a picture");
  drawBox();
  if (query.key !== null) {
    $("picture").removeAttribute("src");
    await show($("picture"), query.key);
  } else if (one) {
    $("picture").src = URL.createObjectURL(query.files[0]);
  } else {
    $("several").replaceChildren(...query.files.map(file => element("img", "", {alt: file.name, src: URL.createObjectURL(file)})));
  }
}

function drawBox() {
  $("box").hidden = !query.box;
  $("whole").hidden = !query.box;
  const size = pixels();
  if (!query.box || !size) return;
  const [x0, y0, x1, y1] = query.box.map((x, i) => 100 * x / size[i % 2]);
  Object.assign($("box").style, {left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%`});
}

/** Width and height of the picture itself, which may be shown smaller. */
function pixels() {
  return query.key !== null ? query.size : $("picture").naturalWidth ? [$("picture").naturalWidth, $("picture").naturalHeight] : null;
}

function setBox(box) {
  query = {...query, box};
  if (history.state) past[history.state.place] = query;
  drawBox();
}

function takeFiles(files) {
  const pictures = [...files].filter(file => !file.type || file.type.startsWith("image/"));
  if (pictures.length) take({...empty, files: pictures});
  else if (files.length) say("That is no picture.", true);
}

/* Dragging a box */

let from = null;

function at(event) {
  const frame = $("picture").getBoundingClientRect();
  const size = pixels();
  return [event.clientX - frame.left, event.clientY - frame.top].map((x, i) => {
    const side = i ? frame.height : frame.width;
    return Math.round(size[i] * Math.max(0, Math.min(1, x / side)));
  });
}

$("stage").addEventListener("pointerdown", event => {
  if (!pixels() || event.button) return;
  from = at(event);
  $("stage").setPointerCapture(event.pointerId);
  event.preventDefault();
});
$("stage").addEventListener("pointermove", event => {
  if (!from) return;
  const to = at(event);
  const box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  setBox(box[2] - box[0] > 2 && box[3] - box[1] > 2 ? box : null);
});
$("stage").addEventListener("pointerup", () => {
  if (!from) return;
  from = null;
  search();
});
$("stage").addEventListener("pointercancel", () => { from = null; });
$("picture").addEventListener("load", drawBox);
$("stage").addEventListener("click", event => event.stopPropagation());

/* Files, drops, paste, controls, keys */

const choose = () => $("file").click();
$("drop").addEventListener("click", choose);
$("drop").addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
$("file").addEventListener("change", () => { takeFiles($("file").files); $("file").value = ""; });
$("other").addEventListener("click", choose);
$("whole").addEventListener("click", () => { setBox(null); search(); });
document.addEventListener("paste", event => { if (event.clipboardData.files.length) takeFiles(event.clipboardData.files); });
document.addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", event => { event.preventDefault(); $("drop").classList.remove("over"); takeFiles(event.dataTransfer.files); });
$("query").addEventListener("submit", event => { event.preventDefault(); search(); });
for (const name of options) $(name).addEventListener("change", search);
window.addEventListener("popstate", event => { query = past[event.state?.place] ?? empty; draw(); if (query === empty) { list([]); say("No search yet."); } else search(); });

document.addEventListener("keydown", event => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || $("ask").open) return;
  if (event.key === "Escape" && query.box) { setBox(null); search(); }
  else if (typing) return;
  else if (event.key === "/") { event.preventDefault(); $("label").focus(); }
  else if (event.key === "o") choose();
  else if (event.key === "Backspace" && query !== empty) history.back();
  else if (event.key.startsWith("Arrow")) move(event);
});

function move(event) {
  const cards = [...document.querySelectorAll(".hit")];
  if (!cards.length) return;
  const place = cards.indexOf(document.activeElement);
  const across = cards.filter(other => other.offsetTop === cards[0].offsetTop).length;
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across}[event.key];
  const next = place < 0 ? 0 : place + step;
  if (!cards[next]) return;
  event.preventDefault();
  cards[next].focus();
}

(async () => {
  try {
    const about = await (await ask("/health")).json();
    metric = about.metric;
    const recall = about.recall === null ? "" : `, recall ${(100 * about.recall).toFixed(1)} %`;
    $("about").textContent = `${about.rows.toLocaleString("en")} pictures, ${about.dim} dimensions, ${about.index}${recall}`;
  } catch { say("The server does not answer.", true); }
})();
