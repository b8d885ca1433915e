"use strict";
// The page of kamstrup-mqtt. Numbers are shown as the text that the API gives, so that no digit is
// lost; only what is drawn becomes a float.

const $ = (id) => document.getElementById(id);
const page = {
  texts: {}, words: {}, language: "en", meters: [], meter: null, currency: null,
  view: "month", at: new Date(), parameter: "temp1", span: "24h", charts: {},
};

// Each view: what its bars are, and how to find its begin and the next one's.
const VIEWS = {
  day: { by: "hour", begin: (d) => new Date(d.getFullYear(), d.getMonth(), d.getDate()),
    move: (d, n) => new Date(d.getFullYear(), d.getMonth(), d.getDate() + n),
    label: { hour: "2-digit", minute: "2-digit" }, title: { weekday: "short", day: "numeric", month: "short", year: "numeric" } },
  week: { by: "day", begin: (d) => new Date(d.getFullYear(), d.getMonth(), d.getDate() - (d.getDay() + 6) % 7),
    move: (d, n) => new Date(d.getFullYear(), d.getMonth(), d.getDate() + 7 * n),
    label: { weekday: "short", day: "numeric" }, title: { day: "numeric", month: "short", year: "numeric" } },
  month: { by: "day", begin: (d) => new Date(d.getFullYear(), d.getMonth(), 1),
    move: (d, n) => new Date(d.getFullYear(), d.getMonth() + n, 1),
    label: { day: "numeric" }, title: { month: "long", year: "numeric" } },
  year: { by: "month", begin: (d) => new Date(d.getFullYear(), 0, 1),
    move: (d, n) => new Date(d.getFullYear() + n, 0, 1),
    label: { month: "short" }, title: { year: "numeric" } },
};
const SPANS = { "24h": [1, "reading"], "7d": [7, "reading"], "30d": [30, "hour"], "1y": [365, "day"] };

const text = (key) => page.words[key] ?? page.texts.en[key] ?? key;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const shown = (date, format) => new Intl.DateTimeFormat(page.language, format).format(date);
const iso = (date) => date.toISOString();
// The digits of the meter with the decimal mark of the language.
const local = (value) => String(value).replace(".", (1.5).toLocaleString(page.language)[1]);

async function get(path, query = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`, { headers: { Accept: "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

const path = (meter) => `api/meters/${encodeURIComponent(meter.name)}`;
// Days and months are those of whoever looks.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const series = (query, meter = page.meter) => get(`${path(meter)}/series`, { zone, ...query });

function node(tag, content = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = content;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function translate() {
  page.words = page.texts[page.language] ?? page.texts.en;
  document.documentElement.lang = page.language;
  document.title = text("title");
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = text(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", text(one.dataset.label));
  choices("views", Object.keys(VIEWS), page.view, (view) => { page.view = view; showUsed(); });
  choices("spans", Object.keys(SPANS), page.span, (span) => { page.span = span; showCourse(); });
}

function choices(id, names, chosen, choose) {
  $(id).replaceChildren(...names.map((name) => {
    const button = node("button", text(name), { type: "button", "aria-pressed": name === chosen });
    button.addEventListener("click", () => {
      for (const other of $(id).children) other.setAttribute("aria-pressed", other === button);
      choose(name);
    });
    return button;
  }));
}

function trouble(error) {
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? `${text("trouble")}: ${error.message ?? error}` : "";
}

// Now

function showNow(now) {
  if (page.meter && now.name !== page.meter.name) return;
  const values = now.values ?? page.values ?? {};
  page.values = values;
  const show = (id, name) => {
    const one = values[name];
    $(id).textContent = one?.value == null ? "–" : `${local(one.value)} ${one.unit}`;
  };
  for (const id of ["flow", "temp1", "temp2", "power"]) show(id, id);
  show("state-counter", "energy");
  const state = now.state;
  $("state-meter").textContent = state ? text(`state_${state.state}`) + (state.reason ? `: ${state.reason}` : "") : "–";
  $("state-signal").textContent = state?.signal_quality == null ? "–" : `${state.signal_quality} %`;
  $("state-broker").textContent = text(now.broker ? "connected" : "not_connected");
  const info = state?.info;
  $("state-info").textContent = !info ? "–" : info.code === 0 ? text("no_fault") : `${info.code}: ${info.faults.join("; ")}`;
  if (now.timestamp) $("state-read").textContent = shown(new Date(now.timestamp), { dateStyle: "short", timeStyle: "medium" });
  const known = Object.entries(values).filter(([, one]) => one.value !== null && !Number.isNaN(Number(one.value)));
  if ($("parameter").length !== known.length) {
    $("parameter").replaceChildren(...known.map(([name, one]) => node("option", text(`p_${name}`) === `p_${name}` ? one.title : text(`p_${name}`), { value: name })));
    if (!(page.parameter in values)) page.parameter = known[0]?.[0] ?? "energy";
    $("parameter").value = page.parameter;
  }
}

// Used

const amount = (point, unit) => point?.value == null ? "–" : `${local(point.value)} ${unit}${point.cost ? ` · ${local(point.cost)} ${page.currency}` : ""}`;
const stacked = (point, unit) => amount(point, unit).replace(" · ", "\n");
const card = (id, point, unit) => { $(id).textContent = stacked(point, unit); };

async function showCards() {
  const now = new Date();
  const day = VIEWS.day, month = VIEWS.month;
  const tomorrow = day.move(day.begin(now), 1), next = month.move(month.begin(now), 1);
  const [days, months] = await Promise.all([
    series({ parameter: "energy", by: "day", from: iso(day.move(tomorrow, -2)), to: iso(tomorrow) }),
    series({ parameter: "energy", by: "month", from: iso(month.move(next, -2)), to: iso(next) }),
  ]);
  card("yesterday", days.points.at(-2), days.unit);
  card("today", days.points.at(-1), days.unit);
  card("last-month", months.points.at(-2), months.unit);
  card("this-month", months.points.at(-1), months.unit);
  const cooling = await get(`${path(page.meter)}/efficiency`, { zone, by: "month", from: iso(month.begin(now)), to: iso(now) });
  const last = cooling.points.at(-1);
  $("efficiency").textContent = last?.cooling
    ? `${local(last.supply)} °C → ${local(last.return)} °C: ${local(last.cooling)} K` : text("efficiency_unknown");
  const cold = await get(`${path(page.meter)}/efficiency`, { zone, by: "day", from: iso(day.move(tomorrow, -8)), to: iso(day.begin(now)) });
  const days7 = cold.points.filter((point) => point.heat_per_degree_day);
  $("degree-days").hidden = days7.length === 0;
  $("degree-days").textContent = days7.map((point) =>
    `${shown(new Date(point.time), { weekday: "short", day: "numeric" })}: ${local(point.heat_per_degree_day)} ${cold.heat_unit}/${text("degree_day")}`).join(" · ");
}

// Several meters side by side.
async function showAllMeters() {
  $("all").hidden = page.meters.length < 2;
  if ($("all").hidden) return;
  const now = new Date();
  const used = async (meter, view) => {
    const found = await series({ parameter: "energy", by: view, from: iso(VIEWS[view].begin(now)), to: iso(now) }, meter);
    return stacked(found.points.at(-1), found.unit);
  };
  $("all-rows").replaceChildren(...await Promise.all(page.meters.map(async (meter) => {
    const [latest, today, month] = await Promise.all([get(`${path(meter)}/latest`), used(meter, "day"), used(meter, "month")]);
    const value = (name) => amount(latest.values[name], latest.values[name]?.unit);
    const row = node("tr");
    row.append(node("th", meter.name, { scope: "row" }), node("td", latest.state ? text(`state_${latest.state.state}`) : "–"),
      ...["power", "temp1", "temp2"].map((name) => node("td", value(name), { class: "wide" })), node("td", today), node("td", month));
    return row;
  })));
}

async function showUsed() {
  const view = VIEWS[page.view], begin = view.begin(page.at), end = view.move(begin, 1);
  const compare = $("compare").value;
  // A year before: the same days of it, or for a week the same days of the week.
  const before = compare !== "year" ? view.move(begin, -1) : page.view === "week" ? view.move(begin, -52)
    : new Date(begin.getFullYear() - 1, begin.getMonth(), begin.getDate());
  $("span").textContent = shown(begin, view.title);
  const ask = (from, to, by) => series({ parameter: "energy", by, from: iso(from), to: iso(to) });
  const [now, then, sum, sumThen] = await Promise.all([
    ask(begin, end, view.by), compare ? ask(before, view.move(before, 1), view.by) : null,
    ask(begin, end, page.view), compare ? ask(before, view.move(before, 1), page.view) : null,
  ]);
  const total = sum.points[0], totalThen = sumThen?.points[0];
  let words = `${text("sum")}: ${amount(total, sum.unit)}`;
  if (totalThen?.value != null) words += ` · ${text("before")}: ${amount(totalThen, sumThen.unit)}`;
  $("sum").textContent = words;
  $("gaps").textContent = now.gaps.map((gap) =>
    `${local(gap.value)} ${now.unit} ${text("in_gap")} ${shown(new Date(gap.begin), { dateStyle: "short", timeStyle: "short" })} – ${shown(new Date(gap.end), { dateStyle: "short", timeStyle: "short" })}`).join("; ");
  const labels = now.points.map((point) => shown(new Date(point.time), view.label));
  bars("used-chart", labels, now.points, then?.points, now.unit);
  $("used-chart").setAttribute("aria-label", `${text("used")}, ${$("span").textContent}. ${words}`);
  const table = node("table");
  const head = table.createTHead().insertRow();
  for (const name of [text("period"), now.unit, ...(then ? [text("before")] : [])]) head.append(node("th", name, { scope: "col" }));
  const body = table.createTBody();
  now.points.forEach((point, index) => {
    const row = body.insertRow();
    row.append(node("th", labels[index], { scope: "row" }), node("td", local(point.value ?? "–") + (point.complete ? "" : " *")));
    if (then) row.append(node("td", local(then.points[index]?.value ?? "–")));
  });
  $("used-table").replaceChildren(table);
}

const number = (point) => point?.value == null ? null : Number(point.value);

function draw(id, options, data) {
  page.charts[id]?.destroy();
  const place = $(id);
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } };
  options.axes = options.axes.map((one) => ({ ...axis, ...one }));
  page.charts[id] = new uPlot({ width: place.clientWidth, height: 280, ...options }, data, place);
}

function bars(id, labels, points, before, unit) {
  const places = points.map((_, index) => index);
  const size = (share) => uPlot.paths.bars({ size: [share, 60] });
  const data = [places, ...(before ? [places.map((index) => number(before[index]))] : []), points.map(number)];
  draw(id, {
    scales: { x: { time: false, range: (_, low, high) => [low - 0.6, high + 0.6] }, y: { range: (_, __, high) => [0, (high || 1) * 1.05] } },
    axes: [{ values: (_, ticks) => ticks.map((tick) => labels[tick] ?? ""), splits: () => places.filter((place) => place % Math.ceil(places.length / Math.max(2, $(id).clientWidth / 60)) === 0) },
      { label: unit, size: 60 }],
    series: [{ label: text("period"), value: (_, place) => labels[place] ?? "" },
      ...(before ? [{ label: text("before"), paths: size(0.9), fill: colour("before"), stroke: colour("before"), points: { show: false } }] : []),
      { label: text("used"), paths: size(0.55), fill: colour("used"), stroke: colour("used"), points: { show: false } }],
  }, data);
}

// Course

async function showCourse() {
  const [days, by] = SPANS[page.span];
  const end = new Date(), begin = new Date(end - days * 86400e3);
  const wanted = [page.parameter];
  // Temperatures are shown with the flow that carries them, and the other temperature.
  if (["temp1", "temp2"].includes(page.parameter)) wanted.push(page.parameter === "temp1" ? "temp2" : "temp1", "flow");
  const known = wanted.filter((name) => name === page.parameter || page.values?.[name]);
  const found = await Promise.all(known.map((name) => series({ parameter: name, by, from: iso(begin), to: iso(end) })));
  const colours = { temp1: "warm", temp2: "cool", flow: "flow" };
  const tables = found.map((one) => [one.points.map((point) => Date.parse(point.time) / 1000), one.points.map(number)]);
  const format = days === 1 ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  const units = [...new Set(found.map((one) => one.unit))];
  const name = (key) => text(`p_${key}`) === `p_${key}` ? key : text(`p_${key}`);
  draw("course-chart", {
    scales: { x: { time: true }, ...Object.fromEntries(units.map((unit) => [unit || "y", { auto: true }])) },
    axes: [{ values: (_, ticks) => ticks.map((tick) => shown(new Date(tick * 1000), format)), space: 70 }, ...units.map((unit, index) => ({ scale: unit || "y", label: unit, side: index ? 1 : 3, size: 60, grid: { show: index === 0, stroke: colour("line") } }))],
    series: [{ label: text("time"), value: (_, at) => at == null ? "" : shown(new Date(at * 1000), { dateStyle: "short", timeStyle: "short" }) }, ...found.map((one, index) => ({ label: `${name(one.parameter)} ${one.unit}`, scale: one.unit || "y", stroke: colour(colours[one.parameter] ?? "used"), width: 2, spanGaps: false, points: { show: false } }))],
    cursor: { drag: { x: true, y: false } },
  }, tables.length > 1 ? uPlot.join(tables) : tables[0]);
  $("course-chart").setAttribute("aria-label", `${name(page.parameter)}, ${text(page.span)}`);
}

// All of it

const safely = (work) => (...args) => Promise.resolve(work(...args)).then(() => trouble(null), trouble);

async function showAll() {
  showNow(await get(`${path(page.meter)}/latest`));
  await Promise.all([showAllMeters(), showCards(), showUsed(), showCourse()]);
}

function listen() {
  const events = new EventSource("events");
  events.addEventListener("meter", (event) => { showNow(JSON.parse(event.data)); trouble(null); });
  events.addEventListener("error", () => trouble(text("no_gateway")));
}

async function start() {
  page.texts = await (await fetch("static/texts.json")).json();
  const asked = navigator.languages.map((one) => one.slice(0, 2)).find((one) => one in page.texts);
  page.language = asked ?? "en";
  $("language").replaceChildren(...Object.entries(page.texts).map(([code, words]) => node("option", words.name, { value: code, lang: code })));
  $("language").value = page.language;
  translate();
  const answer = await get("api/meters");
  page.meters = answer.meters.filter((one) => one.current);
  page.currency = answer.currency;
  $("meter").replaceChildren(...page.meters.map((one, index) => node("option", `${one.name}${one.serial ? ` · ${one.serial}` : ""}`, { value: index })));
  $("meter").parentElement.hidden = page.meters.length < 2;
  page.meter = page.meters[0];
  listen();
  if (!page.meter) throw new Error(text("no_meter"));
  await showAll();
}

$("language").addEventListener("change", safely(() => { page.language = $("language").value; translate(); return showAll(); }));
$("meter").addEventListener("change", safely(() => { page.meter = page.meters[$("meter").value]; page.values = {}; return showAll(); }));
$("parameter").addEventListener("change", safely(() => { page.parameter = $("parameter").value; return showCourse(); }));
$("compare").addEventListener("change", safely(showUsed));
$("back").addEventListener("click", safely(() => { page.at = VIEWS[page.view].move(VIEWS[page.view].begin(page.at), -1); return showUsed(); }));
$("forth").addEventListener("click", safely(() => { page.at = VIEWS[page.view].move(VIEWS[page.view].begin(page.at), 1); return showUsed(); }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", safely(() => Promise.all([showUsed(), showCourse()])));
let resizing = 0;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    for (const [id, chart] of Object.entries(page.charts)) chart.setSize({ width: $(id).clientWidth, height: 280 });
  }, 150);
});
setInterval(safely(() => page.meter && Promise.all([showAllMeters(), showCards()])), 300e3);
safely(start)();
