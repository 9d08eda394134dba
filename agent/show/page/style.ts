/** How the page looks (page.ts). */
export const STYLE = `
:root {
  color-scheme: light dark;
  --paper: #f6f7f8; --card: #fff; --line: #dfe3e8; --ink: #1b2127; --soft: #5b6672;
  --good: #12703f; --warn: #8a5a00; --bad: #b3261e; --idle: #5b6672; --focus: #1f5fbf;
  --good-fill: #3fa36b; --warn-fill: #d69a2d; --bad-fill: #d4483b; --idle-fill: #97a1ac;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161a; --card: #1a2026; --line: #2d353d; --ink: #e4e8ec; --soft: #9aa6b2;
    --good: #67cf95; --warn: #e5b45a; --bad: #ff8f84; --idle: #9aa6b2; --focus: #79aef5;
    --good-fill: #3c9465; --warn-fill: #b98530; --bad-fill: #d9594c; --idle-fill: #66717c;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; overflow-y: scroll; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 0.875rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
html[data-state="away"] main { opacity: 0.5; }
h1, h2, h3, p, ul, ol { margin: 0; padding: 0; }
ul, ol { list-style: none; }
h1 { font-size: 1.375rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1rem; font-weight: 650; }
h3 { font-size: 0.75rem; font-weight: 500; color: var(--soft); }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 3px; }
.faint, small { color: var(--soft); }
.address { font-family: var(--mono); font-size: 0.8125rem; overflow-wrap: anywhere; }
.address .faint { font-size: 0.75rem; }

header { display: grid; grid-template-columns: 1fr auto; gap: 0.25rem 1rem; align-items: start; }
header .title { display: flex; flex-wrap: wrap; gap: 0.35rem 0.75rem; align-items: baseline; }
#about { color: var(--soft); overflow-wrap: anywhere; }
#live { color: var(--soft); padding-top: 0.3rem; white-space: nowrap; }

.badge { font-weight: 600; white-space: nowrap; color: var(--idle); }
.badge::before { content: "○"; display: inline-block; width: 1.2em; }
.badge.good { color: var(--good); }
.badge.good::before { content: "●"; }
.badge.warn { color: var(--warn); }
.badge.warn::before { content: "◐"; }
.badge.bad { color: var(--bad); }
.badge.bad::before { content: "▲"; }
#state { font-size: 1rem; }

#why {
  margin-top: 1rem; padding: 0.75rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-left: 3px solid var(--bad-fill); border-radius: 6px;
}
#why li { overflow-wrap: anywhere; white-space: pre-wrap; }
#tiles {
  display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 1px; margin-top: 1rem;
  background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
}
#tiles li { background: var(--card); padding: 0.75rem 1rem; min-height: 7rem; }
#tiles p { color: var(--soft); font-size: 0.8125rem; overflow-wrap: anywhere; }
#tiles .badge { font-size: 1rem; }
#notes { margin-top: 0.75rem; color: var(--soft); }
#notes li::before { content: "Note: "; font-weight: 600; }

section { margin-top: 2rem; }
.head { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; align-items: baseline; margin-bottom: 0.5rem; }
.head label, .head .tail { margin-left: auto; color: var(--soft); }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
}
.plain { padding: 0.75rem 1rem; color: var(--soft); }
table { width: 100%; border-collapse: collapse; }
th { font-size: 0.75rem; font-weight: 500; color: var(--soft); text-align: left; white-space: nowrap; }
th, td { padding: 0.4rem 0.6rem; vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 1rem; }
th:last-child, td:last-child { padding-right: 1rem; }
thead tr:last-child th { border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
td.fit, td.timers { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
td.number { min-width: 5.2rem; }
td.who small { display: block; }
td.wide { width: 42%; }
.strip { display: block; width: 100%; height: 1.1rem; border-bottom: 1px solid var(--line); }
.strip .gap { fill: var(--card); }
.strip .good { fill: var(--good-fill); }
.strip .warn { fill: var(--warn-fill); }
.strip .bad { fill: var(--bad-fill); }
.strip .idle { fill: var(--idle-fill); }
#changes { border-top: 1px solid var(--line); padding: 0.5rem 1rem 0.6rem; }
#changes li {
  display: grid; grid-template-columns: 5rem minmax(9rem, 18rem) 11rem 1fr; gap: 0 0.75rem; padding: 0.1rem 0; align-items: baseline;
}

select, input, button {
  font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.3rem 0.6rem; min-width: 0;
}
button { cursor: pointer; font-weight: 600; }
button[type="reset"] { font-weight: 400; }
form { display: grid; grid-template-columns: 1.3fr 1fr 1fr auto auto; gap: 0.5rem 0.75rem; align-items: end; margin-bottom: 0.5rem; }
form label { display: block; color: var(--soft); font-size: 0.75rem; }
form input { display: block; width: 100%; height: 2.1rem; margin-top: 0.15rem; font-size: 0.875rem; }
form input[type="text"] { font-family: var(--mono); }
#found { color: var(--soft); margin-bottom: 0.5rem; min-height: 1.45em; overflow-wrap: anywhere; }

.card:has(#flows:empty) { display: none; }

@media (max-width: 60rem) {
  body { padding: 1rem 0.75rem 3rem; }
  header { grid-template-columns: 1fr; }
  #live { padding: 0; }
  #tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  #tiles li { min-height: 0; padding: 0.6rem 0.75rem; }
  #tiles li:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack, .stack tbody, .stack td { display: block; }
  .stack tr {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: 0.35rem 0.75rem;
    grid-auto-flow: dense; padding: 0.6rem 0.75rem;
  }
  .stack td.timers { grid-column: span 2; }
  .stack tbody tr + tr { border-top: 1px solid var(--line); }
  .stack tbody tr + tr td { border-top: 0; }
  .stack td, .stack td:first-child, .stack td:last-child {
    padding: 0; min-width: 0; width: auto; text-align: left; white-space: normal; overflow-wrap: anywhere;
  }
  .stack td::before {
    content: attr(data-label); display: block; font: 400 0.75rem/1.3 system-ui, sans-serif; color: var(--soft);
  }
  .stack td.address, .stack td.who, .stack td.wide { grid-column: 1 / -1; }
  .stack td.who::before, .stack td.wide::before { display: none; }
  td.number { min-width: 3.3rem; }
  th:first-child, td:first-child { padding-left: 0.75rem; }
  th:last-child, td:last-child { padding-right: 0.75rem; }
  #changes { padding: 0.5rem 0.75rem; }
  #changes li { grid-template-columns: 5rem 1fr; padding: 0.25rem 0; }
  #changes li :nth-child(n + 3) { grid-column: 2; }
  #changes li :empty { display: none; }
  form { grid-template-columns: 1fr 1fr; }
  form label:first-child, form label:nth-child(2), form label:nth-child(3) { grid-column: 1 / -1; }
  .head label, .head .tail { margin-left: 0; }
}
`;
