// All text of others (user ids, items, errors) reaches the page as text nodes only, never as markup, and printable.
"use strict";

const PAUSE_MS = 2000;
const at = (id) => document.getElementById(id);

// Controls, marks that turn the direction of writing and the like as escapes: what is shown is what there is.
const printable = (text) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.map((child) => (child instanceof Node ? child : printable(child))));
  return element;
}

// Formats: null is unknown, and says so.
const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
const utc = (ms) => (ms === null || Math.abs(ms) > 8.64e15 ? "–" : new Date(ms).toISOString().replace("T", " ").slice(0, 19));
function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${s.toFixed(0)} s`;
  return s < 7200 ? `${(s / 60).toFixed(0)} min` : `${(s / 3600).toFixed(1)} h`;
}

// A column is [title, value of a row, "number" or "", whether a row is wrong there].
function fill(table, columns, rows, empty) {
  const head = make("tr", "", ...columns.map(([title, , kind]) => {
    const cell = make("th", kind, title);
    cell.scope = "col";
    return cell;
  }));
  const body = rows.map((row) => make("tr", "", ...columns.map(([, value, kind, wrong]) =>
    make("td", `${kind}${wrong && wrong(row) ? " wrong" : ""}`, value(row)))));
  if (!rows.length) {
    const cell = make("td", "quiet", empty);
    cell.colSpan = columns.length;
    body.push(make("tr", "", cell));
  }
  table.replaceChildren(make("thead", "", head), make("tbody", "", ...body));
}

const ledger = (name) => (row) => count(row.ledger && row.ledger[name]);
const PARTITIONS = [
  ["partition", (row) => row.partition, "number"],
  ["owner", (row) => row.owners.join(" and ") || "nobody", "", (row) => row.owners.length !== 1],
  ["lag, events", (row) => count(row.lag_events), "number", (row) => row.lag_s > 60],
  ["lag, age", (row) => seconds(row.lag_s), "number", (row) => row.lag_s > 60],
  ["last commit", (row) => (row.last_commit_age_s === null ? "–" : `${seconds(row.last_commit_age_s)} ago`), "number"],
  ["received", ledger("received"), "number"],
  ["= applied", ledger("applied"), "number"],
  ["+ skipped", ledger("skipped"), "number"],
  ["+ rejected", ledger("rejected"), "number"],
  ["ledger", (row) => ({ true: "balances", false: "BROKEN", null: "–" })[row.balanced], "", (row) => row.balanced === false],
];
const WORKERS = [
  ["worker", (row) => row.url, ""],
  ["state", (row) => (row.error ? "no answer" : row.ready ? "ready" : "not ready"), "", (row) => row.error || !row.ready],
  ["partitions", (row) => count(row.error ? null : row.n_partitions), "number"],
  ["freshness p50", (row) => seconds(row.freshness_p50_s), "number"],
  ["p99", (row) => seconds(row.freshness_p99_s), "number", (row) => row.freshness_p99_s > 5],
  ["dirty users", (row) => count(row.dirty_users), "number"],
  ["oldest dirty", (row) => seconds(row.dirty_oldest_s), "number", (row) => row.dirty_oldest_s > 60],
  ["model", (row) => row.model_id || "–", ""],
];

async function ask(path) {
  let answer;
  try {
    answer = await fetch(location.origin + path); // the page's own address may hold a password, which fetch refuses
  } catch {
    throw new Error("The console does not answer. Is `lurm console` still running?");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

const hashOf = (id) => `#user=${encodeURIComponent(id)}`;

function userLink(id) {
  const link = make("a", "id", id);
  link.href = hashOf(id);
  return link;
}

function showProblems(problems, fine) {
  const status = at("status");
  const text = JSON.stringify([problems, fine]);
  if (status.dataset.shown === text) return; // a screen reader hears changes only
  status.dataset.shown = text;
  status.className = `status ${problems.length ? "bad" : "good"}`;
  status.replaceChildren(problems.length
    ? make("ul", "", ...problems.map((problem) => make("li", "", problem)))
    : make("p", "", fine));
}

function showOverview(found) {
  const { broker, held, partitions, workers } = found;
  document.title = found.problems.length ? `(${found.problems.length}) lurm console` : "lurm console";
  at("app").textContent = printable(found.app);
  at("seen").textContent = `${new Date().toISOString().slice(11, 19)} UTC · broker ${found.brokers}, ` +
    (broker.age_s === null ? "not read yet" : `read ${seconds(broker.age_s)} ago`);
  showProblems(found.problems, broker.age_s === null ? "Asking workers and broker…"
    : "All is well: every partition has an owner, nobody waits long, every ledger balances.");
  fill(at("partitions"), PARTITIONS, partitions, "no partitions known yet");
  fill(at("workers"), WORKERS, workers, "no workers");
  at("recent").replaceChildren("Changed last: ", ...held.recent_users.flatMap((id) => [userLink(id), " "]));
  at("held").textContent = [
    `${count(held.users)} users held in ${(held.bytes / 2 ** 20).toFixed(0)} MiB`,
    held.share < 1 ? `, ${(100 * held.share).toPrecision(2)} % of all; the others are read when asked for (--memory-mb)` : "",
    broker.behind_records ? `; ${count(broker.behind_records)} records of the topics not read yet` : "",
    held.unreadable_embeddings ? `; ${count(held.unreadable_embeddings)} embeddings of another format left out` : "",
  ].join("");
}

async function watch() {
  if (!document.hidden) {
    try {
      showOverview(await ask("/api/overview"));
    } catch (error) {
      showProblems([error.message], "");
    }
  }
  setTimeout(watch, PAUSE_MS);
}

const level = (n, most) => (n ? 1 + Math.round((4 * Math.log(n)) / Math.log(Math.max(most, 2))) : 0);
const nameOf = ({ interest, items }) => (items.length ? `${interest}: ${items.join(", ")}` : `interest ${interest}`);

function heatTable(scale, cellOf, className) {
  const corner = make("th", "", "interest");
  const head = make("tr", "", corner, ...scale.periods.map((period) => make("th", "", make("span", "", period))));
  const rows = scale.interests.map((interest, i) => {
    const title = make("th", "", nameOf(interest));
    title.scope = "row";
    return make("tr", "", title, ...scale.counts[i].map((n, j) => cellOf(n, `${nameOf(interest)}, ${scale.periods[j]}: ${n}`)));
  });
  return make("table", className, make("thead", "", head), make("tbody", "", ...rows));
}

function scroll(label, table) {
  const box = make("div", "scroll", table);
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  return box;
}

function heatMap(name, scale) {
  const most = Math.max(...scale.counts.flat());
  const map = heatTable(scale, (n, title) => {
    const cell = make("td", `l${level(n, most)}`);
    cell.title = printable(title);
    return cell;
  }, "heat");
  map.setAttribute("aria-hidden", "true"); // the table below says the same in words
  const legend = make("p", "legend quiet", "0 ", ...[0, 1, 2, 3, 4, 5].map((n) => make("span", `l${n}`)), ` ${count(most)} events, logarithmic; ` +
    `top ${scale.interests.length} of ${scale.n_interests} interests, last ${scale.periods.length} of ${scale.n_periods} periods with events`);
  const table = heatTable(scale, (n) => make("td", "number", n || ""), "");
  return make("section", "", make("h3", "", `Interests by ${name}`), scroll(`Interests by ${name}, as a map`, map), legend,
    make("details", "", make("summary", "", "As a table of counts"), scroll(`Interests by ${name}, counts`, table)));
}

function showUser(found) {
  const embeddings = make("table");
  fill(embeddings, [
    ["encoded (UTC)", (row) => utc(row.encoded_at_ms), ""],
    ["newest event (UTC)", (row) => utc(row.event_time_ms), ""],
    ["seq", (row) => row.seq, "number"],
    ["norm", (row) => row.norm.toFixed(3), "number"],
    ["model", (row) => row.model_id, ""],
  ], found.embeddings, "none yet");
  const nearest = make("table");
  fill(nearest, [["user", (row) => userLink(row.user_id), ""], ["cosine", (row) => row.cosine.toFixed(4), "number"]], found.nearest, "nobody to compare with");
  at("user").replaceChildren(
    make("p", "", make("strong", "id", found.user_id), ` · partition ${found.partitions.join(", ") || "–"}${found.partitions.length > 1 ? " (a part of this life in each: run lurm inspect)" : ""} · newest event ${utc(found.event_time_ms)} UTC · seq ${found.seq ?? "–"} · `,
      found.pending ? "newer events wait to be encoded" : "embedding up to date", found.from === "topics" ? " · read from the topics" : ""),
    ...Object.entries(found.scales).map(([name, scale]) => heatMap(name, scale)),
    make("div", "columns",
      make("section", "", make("h3", "", "Last embeddings"), scroll("Last embeddings", embeddings)),
      make("section", "", make("h3", "", "Nearest users"), scroll("Nearest users", nearest),
        make("p", "quiet", `cosine of the newest embeddings, among ${count(found.n_compared)} users of the same vector space`))));
}

async function inspect() {
  let id;
  try {
    id = decodeURIComponent(/^#user=(.+)$/.exec(location.hash)[1]);
  } catch {
    return; // no link of ours
  }
  at("id").value = id;
  const [user, problem] = [at("user"), at("user-error")];
  user.setAttribute("aria-busy", "true");
  try {
    const found = await ask(`/api/user?id=${encodeURIComponent(id)}`); // a path would lose ".."
    if (at("id").value !== id) return; // somebody else was asked for meanwhile
    showUser(found);
    [user.hidden, problem.hidden] = [false, true];
  } catch (error) {
    problem.textContent = printable(error.message);
    [user.hidden, problem.hidden] = [true, false];
  } finally {
    user.removeAttribute("aria-busy");
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = hashOf(at("id").value);
  if (location.hash === hash) inspect();
  else location.hash = hash;
});
addEventListener("hashchange", inspect);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  at("id").focus();
});
watch();
inspect();
