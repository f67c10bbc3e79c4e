"use strict";
// All names and output are put into the page as text: nothing here parses HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const run = data.run;
const find = (id) => document.getElementById(id);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Letters that would be invisible, or turn the text around them, show as their numbers.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const seen = (text) => String(text).replace(
  UNSEEN, (letter) => `<U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);

function duration(seconds) {
  const value = Math.max(seconds, 0);
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 100) return `${value.toFixed(2)} s`;
  return value < 6000 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`
    : `${(value / 3600).toFixed(1)} h`;
}
const since = (time) => `+${(time - run.began_at).toFixed(3)} s`;
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

// ------------------------------------------------------------------------ entries
// An entry is a test, a container, a state or an image: what has a bar.

function testEntry(test) {
  const bad = test.outcome === "failed" || test.outcome === "error";
  const phases = test.phases;
  const segments = phases.map(([when, start, stop, outcome]) => ({
    kind: outcome === "failed" ? "failed" : when === "call" ? "test" : "fixture", start, stop,
  }));
  return {
    kind: "test", name: test.id, note: test.worker, outcome: test.outcome, bad, segments,
    start: phases[0][1], stop: phases[phases.length - 1][2], children: [],
    words: [test.id, test.outcome, test.worker, test.message],
    facts: [["Outcome", test.outcome], ["Worker", test.worker],
      ...phases.map(([when, start, stop, outcome]) => [
        { setup: "Setup", call: "Test", teardown: "Teardown", collect: "Collection" }[when] || "Crash",
        `${duration(stop - start)}, from ${since(start)}, ${outcome}`])],
    message: test.message,
  };
}

function containerEntry(life) {
  const end = life.gone_at || life.removed_at || run.ended_at;
  const steps = [
    ["image", life.asked_at, life.image_at], ["start", life.image_at || life.asked_at, life.started_at],
    ["wait", life.started_at, life.ready_at || (life.error ? life.removed_at : null)],
    ["ready", life.ready_at || (life.error ? null : life.started_at), life.removed_at || end],
    ["end", life.removed_at, life.gone_at],
  ];
  const stop = life.started_at === null && life.error ? life.asked_at : end;
  const segments = steps.filter(([, start, to]) => start && to)
    .map(([kind, start, to]) => ({ kind, start, stop: to }));
  if (!segments.length) segments.push({ kind: "failed", start: life.asked_at, stop: life.asked_at });
  const ended = life.exit_code !== null ? `exit code ${life.exit_code}`
    : life.error ? "failed" : life.kept ? "kept" : life.removed_at ? "running until removed"
      : "running at the end";
  const took = (from, to) => (from && to ? duration(to - from) : null);
  return {
    kind: "container", name: life.name, note: `${life.image}, ${life.scope}`, outcome: ended,
    bad: Boolean(life.error), segments, start: life.asked_at, stop,
    children: [], output: life.output,
    words: [life.name, life.image, life.scope, life.error, ended, "container"],
    facts: [["Image", life.image], ["Scope", life.scope], ["Asked for by", life.test || "a session service"],
      ["Worker", life.worker], ["Asked for", since(life.asked_at)],
      ["Started early", life.ahead ? "while the test before ran" : null],
      ["Image there after", took(life.asked_at, life.image_at)],
      ["Started after", took(life.image_at || life.asked_at, life.started_at)],
      ["Ready after", took(life.started_at, life.ready_at)],
      ["Lived", took(life.started_at, life.removed_at || end)],
      ["Removed in", took(life.removed_at, life.gone_at)], ["End", ended], ["Error", life.error]],
  };
}

function stateEntry(state) {
  const result = state.reused ? "reused" : "made";
  const start = state.reused ? state.used_at : state.used_at - state.seconds;
  return {
    kind: "state", name: `${state.label}: ${state.title}`, note: `state, ${result}`,
    outcome: result, bad: false, children: [], start, stop: state.used_at,
    segments: [{ kind: result, start, stop: state.used_at }],
    words: [state.label, state.title, result, state.reason, "state"],
    facts: [["Result", result], [state.reused ? "Made" : "Why", stateReason(state)],
      ["Took", duration(state.seconds)], ["Used by", state.test], ["Worker", state.worker]],
  };
}

const stateReason = (state) => (state.reused
  ? `${duration(state.used_at - state.made_at)} before, in ${duration(state.seconds)}` : state.reason);

function imageEntry(image) {
  return {
    kind: "image", name: image.name, note: image.verb, outcome: image.error ? "failed" : "done",
    bad: Boolean(image.error), children: [], start: image.began_at, stop: image.ended_at,
    segments: [{ kind: image.error ? "failed" : "image", start: image.began_at, stop: image.ended_at }],
    words: [image.name, image.verb, image.error, "image"],
    facts: [["Operation", image.verb], ["Size", image.size_bytes ? size(image.size_bytes) : null],
      ["Took", duration(image.ended_at - image.began_at)], ["Asked for by", image.test],
      ["Error", image.error], ["Worker", image.worker]],
  };
}

function entries() {
  const tests = data.tests.map(testEntry);
  const byName = new Map();
  data.tests.forEach((test, index) => {
    const key = `${test.worker}\n${test.id}`;
    if (!byName.has(key)) byName.set(key, []);
    byName.get(key).push(tests[index]);
  });
  const wide = [];
  const place = (entry, source, own) => {
    // A test that was repeated has several rows.
    const rows = byName.get(`${source.worker}\n${source.test}`) || [];
    const row = rows.filter((test) => test.start <= entry.stop + 0.001).pop() || rows[0];
    (own && row ? row.children : wide).push(entry);
  };
  data.images.forEach((image) => place(imageEntry(image), image, true));
  data.states.forEach((state) => place(stateEntry(state), state, true));
  data.containers.forEach((life) => place(containerEntry(life), life, life.scope === "function"));
  const byStart = (one, other) => one.start - other.start;
  tests.forEach((test) => test.children.sort(byStart));
  wide.sort(byStart);
  return { tests: tests.sort(byStart), wide };
}

// --------------------------------------------------------------------------- rows

let number = 0;

function makeRow(entry) {
  entry.id = `panel-${(number += 1)}`;
  entry.haystack = entry.words.filter(Boolean).map(seen).join("\n").toLowerCase();
  const length = entry.stop - entry.start;
  entry.track = element("span", { class: "track", "aria-hidden": "true" });
  entry.bar = element("button", {
    class: "bar", type: "button", "aria-expanded": "false", "aria-controls": entry.id,
    "aria-label": seen(`${entry.kind} ${entry.name}, ${entry.outcome}, ${entry.note ? `${entry.note}, ` : ""}`
      + `${duration(length)}, from ${since(entry.start)}`),
  });
  bars.set(entry.bar, entry); // before its children: the order on the page
  const outcome = element("b", { class: entry.bad ? "bad" : entry.kind === "test" ? "good" : "faint" },
    entry.outcome);
  entry.hits = element("small", {});
  entry.bar.append(
    element("span", { class: "name" }, seen(entry.name), " ", outcome, " ",
      element("small", {}, seen(entry.note)), " ", entry.hits),
    element("span", { class: "took" }, duration(length)), entry.track);
  entry.panel = element("div", { class: "panel", id: entry.id, hidden: "" });
  entry.row = element("li", { class: "row" }, entry.bar, entry.panel);
  if (entry.children.length) {
    entry.row.append(element("ul", { "aria-label": `Containers, states and images of ${seen(entry.name)}` },
      ...entry.children.map(makeRow)));
  }
  entry.bar.addEventListener("click", () => open(entry, entry.panel.hidden));
  return entry.row;
}

function draw(entry, start, stop) {
  const whole = Math.max(stop - start, 1e-6);
  entry.track.replaceChildren(...entry.segments.map((segment) => {
    const part = element("i", { class: segment.kind });
    const left = Math.min(Math.max((segment.start - start) / whole, 0), 1);
    part.style.left = `${left * 100}%`;
    part.style.width = `${Math.max(Math.min((segment.stop - start) / whole, 1) - left, 0) * 100}%`;
    return part;
  }));
}

function drawAll() {
  const own = find("scale").value === "own";
  for (const test of all.tests) {
    const family = [test, ...test.children];
    const start = own ? Math.min(...family.map((entry) => entry.start)) : run.began_at;
    const stop = own ? Math.max(...family.map((entry) => entry.stop)) : run.ended_at;
    family.forEach((entry) => draw(entry, start, stop));
  }
  all.wide.forEach((entry) => draw(entry, run.began_at, run.ended_at));
  const axis = find("axis");
  axis.hidden = own;
  const track = all.list.length ? all.list[0].track.getBoundingClientRect() : null;
  if (own || !track || !track.width) return;
  const left = track.left - axis.getBoundingClientRect().left;
  axis.replaceChildren(...[0, 0.25, 0.5, 0.75].map((part) => {
    const mark = element("span", {}, duration(part * (run.ended_at - run.began_at)));
    mark.style.left = `${left + part * track.width}px`;
    return mark;
  }));
}

function open(entry, wanted) {
  entry.bar.setAttribute("aria-expanded", String(wanted));
  entry.panel.hidden = !wanted;
  if (wanted) fill(entry);
}

function fill(entry) {
  const facts = entry.facts.filter(([, value]) => value);
  const parts = [element("dl", {}, ...facts.flatMap(([name, value]) => [
    element("dt", {}, name), element("dd", {}, ...marked(seen(value)))]))];
  if (entry.message) {
    parts.push(element("pre", { tabindex: "0", "aria-label": "Message" }, ...marked(seen(entry.message))));
  }
  if (entry.kind === "container") parts.push(...output(entry));
  entry.panel.replaceChildren(...parts);
}

function output(entry) {
  const { lines, cut } = entry.output || { lines: [], cut: false };
  const shown = lines.map(([time, stream, text]) => element(
    "span", { class: stream === 2 ? "line err" : "line" },
    element("time", {}, `+${(time - entry.start).toFixed(3)} s `), ...marked(seen(text)), "\n"));
  const head = lines.length ? `Output, ${plural(lines.length, "line")}` : "Output: none";
  const note = cut ? (lines.length ? "; older output is left out" : "; it is left out, since the page would be too large") : "";
  const title = element("p", { class: "faint" }, `${cut && !lines.length ? "Output" : head}${note}`);
  if (!lines.length) return [title];
  return [title, element("pre", { class: "log", tabindex: "0", role: "region",
    "aria-label": `Output of ${seen(entry.name)}` }, ...shown)];
}

// ------------------------------------------------------------------------- search

let query = "";

function marked(text) {
  if (!query) return [text];
  const parts = [];
  const lower = text.toLowerCase();
  let from = 0;
  // Some letters change their length in lower case: then nothing is marked.
  while (lower.length === text.length) {
    const at = lower.indexOf(query, from);
    if (at < 0) break;
    parts.push(text.slice(from, at), element("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  parts.push(text.slice(from));
  return parts;
}

function lineHits(entry) {
  if (!query || !entry.output) return 0;
  return entry.output.lines.filter(([, , text]) => seen(text).toLowerCase().includes(query)).length;
}

function filter() {
  query = seen(find("query").value.trim()).toLowerCase();
  const show = find("show").value;
  let shown = 0;
  let lines = 0;
  const visit = (entry) => {
    const hits = lineHits(entry);
    lines += hits;
    entry.hits.textContent = hits ? `${plural(hits, "matching line")}` : "";
    return hits > 0 || !query || entry.haystack.includes(query);
  };
  for (const entry of all.list) {
    const fits = visit(entry);
    const inner = entry.children.map(visit);
    const kept = show === "all" || (show === "failed" ? entry.bad || entry.children.some((child) => child.bad)
      : entry.kind !== "test" || entry.children.length > 0);
    entry.row.hidden = !(kept && (fits || inner.some(Boolean)));
    // Where only some of a test's containers match, the others are not of interest.
    entry.children.forEach((child, index) => { child.row.hidden = !(inner[index] || (fits && query)); });
    if (!entry.row.hidden) shown += 1;
  }
  for (const entry of bars.values()) if (!entry.panel.hidden) fill(entry);
  find("hits").textContent = query || show !== "all"
    ? `${shown} of ${plural(all.list.length, "row")}${query ? `, ${plural(lines, "matching line")} of output` : ""}` : "";
}

// --------------------------------------------------------------------------- keys

const visibleBars = () => [...bars.keys()].filter((bar) => !bar.closest("[hidden]"));

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select");
  if (event.key === "Escape" && event.target === find("query")) {
    find("query").value = "";
    filter();
  } else if (event.key === "/" && !typing) {
    find("query").focus();
    find("query").select();
  } else if (event.target === find("query") && (event.key === "ArrowDown" || event.key === "Enter")) {
    filter();
    visibleBars()[0]?.focus();
  } else if (!typing && !event.target.matches("pre, .scroll")) {
    if (!move(event.key, event.target)) return;
  } else {
    return;
  }
  event.preventDefault();
}

function move(key, target) {
  const entry = bars.get(target);
  if (entry && (key === "ArrowRight" || key === "ArrowLeft")) {
    open(entry, key === "ArrowRight");
    return true;
  }
  const shown = visibleBars();
  const at = shown.indexOf(target);
  const next = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: shown.length - 1 }[key];
  if (next === undefined || (at < 0 && (key === "Home" || key === "End"))) return false;
  shown[Math.min(Math.max(next, 0), shown.length - 1)]?.focus();
  return true;
}

// ------------------------------------------------------------------------- tables

function table(target, heads, rows, empty) {
  if (!rows.length) {
    target.replaceWith(element("p", { class: "faint" }, empty));
    return;
  }
  target.append(element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell, index) => {
      const number = typeof cell === "object";
      const content = number ? cell.number : seen(cell);
      return index === 0 ? element("th", { scope: "row" }, content)
        : element("td", { class: number ? "number" : null }, content);
    })))));
}

const median = (values) => {
  const sorted = values.filter((value) => value !== null).sort((one, other) => one - other);
  return { number: sorted.length ? duration(sorted[Math.floor(sorted.length / 2)]) : "" };
};

function tables() {
  table(find("states-table"), ["Fixture", "Seed", "Result", "Why, or when it was made", "Took", "First used by"],
    data.states.map((state) => [state.label, state.title, state.reused ? "reused" : "made", stateReason(state),
      { number: duration(state.seconds) }, state.test || "a session service"]), "No seeds were used.");
  const names = new Set([...data.containers.map((life) => life.image), ...data.images.map((image) => image.name)]);
  table(find("images-table"), ["Image", "Containers", "Median start", "Median until ready", "Fetched or built"],
    [...names].sort().map((name) => {
      const lives = data.containers.filter((life) => life.image === name);
      const work = data.images.filter((image) => image.name === name);
      return [name, { number: String(lives.length) },
        median(lives.map((life) => (life.started_at ? life.started_at - (life.image_at || life.asked_at) : null))),
        median(lives.map((life) => (life.ready_at ? life.ready_at - life.asked_at : null))),
        work.map((image) => `${image.verb}${image.size_bytes ? ` of ${size(image.size_bytes)}` : ""} in `
          + `${duration(image.ended_at - image.began_at)}${image.error ? `, failed: ${image.error}` : ""}`).join("; ")];
    }), "No images were used.");
}

// --------------------------------------------------------------------------- page

const bars = new Map();
const all = entries();
all.list = [...all.wide, ...all.tests];

function summary() {
  const title = `Containers of ${seen(run.root)}`;
  document.title = title;
  find("title").textContent = title;
  const count = (outcome) => data.tests.filter((test) => outcome.includes(test.outcome)).length;
  const failed = count(["failed", "error"]);
  const reused = data.states.filter((state) => state.reused).length;
  find("summary").append(
    element("b", { class: run.exit === "passed" ? "good" : "bad" }, run.exit), ": ",
    plural(data.tests.length, "test"), failed ? `, ${failed} failed` : "",
    count(["skipped"]) ? `, ${count(["skipped"])} skipped` : "", ", ",
    plural(data.containers.length, "container"), data.states.length
      ? `, ${plural(data.states.length, "state")} (${reused} reused)` : "",
    `, in ${duration(run.ended_at - run.began_at)}, `,
    element("time", { datetime: new Date(run.began_at * 1000).toISOString() },
      new Date(run.began_at * 1000).toLocaleString()));
  find("versions").textContent = seen(run.versions);
}

function legend() {
  find("legend").append(...[["test", "test"], ["fixture", "its setup and teardown"], ["failed", "failed"],
    ["image", "image fetched or built, state made"], ["start", "container starts"], ["wait", "not ready yet"],
    ["ready", "ready; state reused"], ["end", "being removed"]].map(([kind, words]) => element(
    "li", {}, element("span", { class: `key ${kind}`, "aria-hidden": "true" }), words)));
}

summary();
legend();
find("shared").append(...all.wide.map(makeRow));
find("rows").append(...all.tests.map(makeRow));
find("shared-title").hidden = !all.wide.length;
find("rows-title").hidden = !all.tests.length;
tables();
filter();
drawAll();
let timer = 0;
find("query").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 100); });
find("show").addEventListener("change", filter);
find("scale").addEventListener("change", drawAll);
find("search").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", drawAll);
document.addEventListener("keydown", onKey);
