"""How reports look: one measure, few colours, figures in columns, light and dark."""

# Text and lines keep a contrast of 4.5 : 1 (3 : 1 for marks) with their background in both modes,
# and no colour says anything that words or shapes do not say as well. Blue and orange stay apart
# for readers who do not tell red from green.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c1d20; --quiet: #5c6068; --rule: #dadad3; --faint: #ecece6;
  --one: #1f5c99; --two: #b4540a; --one-soft: #c9dbec; --two-soft: #f1d7bf;
  --right: #1b7048; --wrong: #b3261e; --hover: #1c1d2012;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
    sans-serif;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", "Palatino Linotype",
    Georgia, "DejaVu Serif", serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e4e3de; --quiet: #a2a7b0; --rule: #34383e; --faint: #23262b;
    --one: #82b4e6; --two: #eda35f; --one-soft: #2b4663; --two-soft: #5b3c20;
    --right: #6cc498; --wrong: #f28b82; --hover: #ffffff14;
  }
}
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); font: 16px/1.5 var(--sans);
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem) 4rem;
  max-width: 62rem; overflow-wrap: break-word; }
h1 { font-size: clamp(1.6rem, 1.2rem + 1.8vw, 2.2rem); line-height: 1.15; letter-spacing: -0.015em;
  font-weight: 650; margin: 0.15rem 0 0.6rem; text-wrap: balance; }
h2 { font-size: 1.15rem; line-height: 1.3; font-weight: 650; margin: 0 0 0.3rem; }
h3 { font-size: 0.95rem; font-weight: 650; margin: 1.6rem 0 0.3rem; }
p { margin: 0 0 0.8rem; max-width: 44rem; }
section { margin-top: 2.75rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
.kind { font-size: 0.82rem; color: var(--quiet); margin: 0; }
.lead { font-size: 1.05rem; }
.note { color: var(--quiet); }
p.note { font-size: 0.88rem; }
a { color: var(--one); text-decoration-thickness: 1px; text-underline-offset: 0.18em; }
:focus-visible { outline: 2px solid var(--one); outline-offset: 3px; border-radius: 2px; }
code { font: 0.88em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }

.key { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 1.25rem 1.75rem; margin: 1.75rem 0 0; }
.key dt { font-size: 0.82rem; color: var(--quiet); }
.key dd { margin: 0; font-variant-numeric: lining-nums tabular-nums; }
.key .value { font-size: 1.75rem; line-height: 1.25; letter-spacing: -0.015em; font-weight: 600; }
.key .note { font-size: 0.82rem; }
.pairs { columns: 19rem auto; column-gap: 2.5rem; margin: 0.75rem 0 0; font-size: 0.88rem; }
.pairs div { display: flex; justify-content: space-between; gap: 1.25rem; break-inside: avoid;
  padding: 0.22rem 0; border-bottom: 1px solid var(--faint); }
.pairs dt { color: var(--quiet); flex: none; max-width: 60%; }
.pairs dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0;
  font-variant-numeric: lining-nums tabular-nums; }

.scroll { overflow-x: auto; margin: 0.75rem 0 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; line-height: 1.4;
  font-variant-numeric: lining-nums tabular-nums; }
th, td { padding: 0.36rem 0.9rem 0.36rem 0; text-align: left; vertical-align: baseline;
  font-weight: 400; border-bottom: 1px solid var(--faint); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--quiet); font-size: 0.82rem; vertical-align: bottom; line-height: 1.25;
  border-bottom-color: var(--rule); }
tbody tr:last-child > * { border-bottom-color: var(--rule); }
tbody th { white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
table.narrow { width: auto; min-width: min(100%, 30rem); }
tr.sum > * { font-weight: 650; }
td.strip, th.strip { width: 32%; min-width: 9rem; padding: 0 1.4rem 0 0.8rem;
  vertical-align: middle; }
td.strip:last-child, th.strip:last-child { padding-right: 0.5rem; }
thead th.strip { vertical-align: bottom; padding-bottom: 0.36rem; }
table.grouped th:first-child { width: 24%; }
.strip svg { display: block; width: 100%; height: 2rem; overflow: visible; }
.strip.axis svg { height: 0.8rem; }
td.cell { text-align: right; padding: 0.5rem 0.7rem; border: 1px solid var(--paper);
  background: color-mix(in srgb, var(--one-soft) calc(var(--share) * 100%), var(--faint)); }
td.cell.diagonal { font-weight: 650; }
table.matrix { width: auto; min-width: min(100%, 28rem); }
table.matrix tbody th, table.matrix thead th { border-color: transparent; }
table.matrix td { border-color: var(--paper); }
.matrix small { display: block; font-size: 0.78rem; font-weight: 400; }
.good { color: var(--right); } .bad { color: var(--wrong); }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.75rem 2.25rem; margin: 1.1rem 0 1.5rem; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.9rem; font-weight: 600; line-height: 1.4; margin-bottom: 0.5rem; }
figcaption small { display: block; font-size: 0.82rem; font-weight: 400; color: var(--quiet); }
figcaption span { white-space: nowrap; margin-left: 0.9em; }
figcaption span::before { content: ""; display: inline-block; width: 1.1em; height: 0.2em;
  margin: 0 0.4em 0.25em 0; border-radius: 1px; background: var(--one); }
figcaption .key-two::before { background: var(--two); }
svg { font: 11.5px/1 var(--sans); font-variant-numeric: lining-nums tabular-nums; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--quiet); }
svg .title { fill: var(--ink); }
svg .grid { stroke: var(--faint); stroke-width: 1; }
svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .mark { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 3 3; }
svg .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
svg .one { stroke: var(--one); } svg .two { stroke: var(--two); }
svg .fill-one { fill: var(--one); } svg .fill-two { fill: var(--two); }
svg .band-one { fill: var(--one-soft); opacity: 0.7; }
svg .band-two { fill: var(--two-soft); opacity: 0.7; }
svg .soft-one { fill: var(--one-soft); } svg .soft-two { fill: var(--two-soft); }
svg .hit { fill: transparent; } svg .hit:hover { fill: var(--hover); }
svg .whisker { stroke: var(--one); stroke-width: 2.5; stroke-linecap: round; opacity: 0.45; }
svg .diamond, svg .hollow { fill: var(--paper); stroke: var(--two); stroke-width: 1.75; }

details { margin-top: 0.75rem; }
summary { cursor: pointer; font-size: 0.9rem; color: var(--one); width: fit-content; }
details[open] > summary { margin-bottom: 0.5rem; }
article { margin-top: 1.5rem; padding-bottom: 1.5rem; border-bottom: 1px solid var(--faint); }
article:last-child { border-bottom: 0; padding-bottom: 0; }
article > .where { font-size: 0.82rem; color: var(--quiet); margin: 0 0 0.15rem; }
.ask { font-family: var(--serif); font-size: 1.06rem; margin: 0 0 0.5rem; max-width: 44rem; }
.passage { font-family: var(--serif); line-height: 1.6; max-width: 40rem; white-space: pre-line;
  padding-left: 1rem; border-left: 2px solid var(--rule); margin: 0.25rem 0 0; }
.ask, .passage, .said { unicode-bidi: isolate; }
.options { list-style: none; margin: 0; padding: 0; max-width: 44rem; }
.options li { display: grid; grid-template-columns: 1.2rem 1fr minmax(3.4rem, 9rem);
  column-gap: 0.6rem; align-items: baseline; padding: 0.28rem 0; }
.options.plain li { grid-template-columns: 1.2rem 1fr; }
.options .letter { color: var(--quiet); font-size: 0.88rem; }
.options .said { font-family: var(--serif); min-width: 0; overflow-wrap: anywhere; }
.options .verdict { font: 0.78rem/1 var(--sans); margin-left: 0.5rem; white-space: nowrap; }
.options .share { position: relative; text-align: right; font-size: 0.82rem;
  font-variant-numeric: lining-nums tabular-nums; padding-bottom: 0.28rem; white-space: nowrap; }
.options .share::after { content: ""; position: absolute; left: 0; bottom: 0; height: 3px;
  width: calc(var(--share) * 100%); min-width: 1px; background: var(--one); border-radius: 1px; }
.options .share::before { content: ""; position: absolute; left: 0; right: 0; bottom: 0;
  height: 3px; background: var(--faint); border-radius: 1px; }
.spans { display: flex; height: 1.5rem; margin: 0.75rem 0 0.4rem; gap: 2px; }
.spans span { min-width: 2px; flex: var(--share) 1 0; }
.swatch { display: inline-block; width: 0.75em; height: 0.75em; margin-right: 0.5em; }
.fill-0 { background: var(--quiet); } .fill-1 { background: var(--one); }
.fill-2 { background: var(--two); } .fill-3 { background: var(--rule); }
@media (max-width: 34rem) {
  body { padding-left: 1rem; padding-right: 1rem; }
  table { font-size: 0.84rem; }
  th, td { padding-right: 0.5rem; }
  .key { grid-template-columns: repeat(2, 1fr); gap: 1rem; }
  .key .value { font-size: 1.45rem; }
  td.cell { padding: 0.45rem 0.4rem; }
  .wide-only, table.grouped td:nth-child(4), table.grouped thead th:nth-child(4) { display: none; }
  table.scores .strip { display: none; }
  table.scores { font-size: 0.8rem; } table.scores thead th { font-size: 0.76rem; }
  td.strip, th.strip { width: 38%; min-width: 5.5rem; padding: 0 0.4rem; }
  table.matrix { width: 100%; min-width: 0; }
  figure svg { font-size: 13px; }
}
@media print {
  html { font-size: 11px; background: none; }
  body { max-width: none; padding: 0; }
  section, article, figure, tr { break-inside: avoid; }
  section { break-inside: auto; }
}
""".strip()
