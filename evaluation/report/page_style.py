"""The frame and the style of the report page: system fonts, light and dark, wide and narrow."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><p class=over>scorefield report</p><h1>{name}</h1>{facts}</header>
{pair}{figures}{notes}{rest}{config}
</main>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --card: #fff; --ink: #22262b; --soft: #6a717a;
  --line: #e4e1da; --good: #1f7a4d; --bad: #b3432f; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1b1f23; --ink: #e6e4df;
  --soft: #98a0a8; --line: #2d3237; --good: #6cc495; --bad: #ea8a74; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 880px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
.over { margin: 0; color: var(--soft); font-size: .8rem; letter-spacing: .08em;
  text-transform: uppercase; }
h1 { margin: .1rem 0 1.1rem; font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15;
  letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.1rem; letter-spacing: -.01em; }
section { margin-top: 2.6rem; }
dl { display: flex; flex-wrap: wrap; gap: .9rem 2.2rem; margin: 0; padding-top: 1rem;
  border-top: 1px solid var(--line); }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 0; padding: 1rem; overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; }
figcaption { margin-bottom: .7rem; color: var(--soft); font-size: .9rem; }
img { display: block; width: 100%; height: auto; border-radius: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1.1rem; }
.trajectory img { min-width: 34rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; overflow: hidden; }
th, td { padding: .7rem 1rem; text-align: left; vertical-align: top; font-weight: 400;
  border-top: 1px solid var(--line); }
thead th { border: 0; color: var(--soft); font-size: .8rem; }
tbody th { font-weight: 550; }
th small, td[data-label="Reference"] small { display: block; color: var(--soft);
  font-size: .8rem; font-weight: 400; }
.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.number small { color: var(--soft); font-size: .85em; }
.badge { display: block; width: fit-content; color: var(--soft); font-size: .8rem; }
.badge::before { content: ""; display: inline-block; width: .5em; height: .5em;
  margin-right: .45em; border-radius: 50%; background: currentColor; vertical-align: .1em; }
.ahead { color: var(--good); }
.behind { color: var(--bad); }
.note { max-width: 44rem; margin: .8rem 0 0; color: var(--soft); font-size: .9rem; }
details { margin-top: 2.6rem; }
summary { cursor: pointer; font-weight: 600; }
.config { margin-top: .9rem; font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
.config th, .config td { padding: .3rem 1rem; overflow-wrap: anywhere; font-weight: 400; }
.config tr:first-child > * { border: 0; }
.config th { color: var(--soft); }
@media (max-width: 560px) {
  main { padding-top: 1.6rem; }
  thead { display: none; }
  table:not(.config) tr { display: grid; grid-template-columns: 1fr 1fr; padding: .8rem 0;
    border-top: 1px solid var(--line); }
  table:not(.config) tr:first-child, table:not(.config) :is(th, td) { border: 0; }
  table:not(.config) :is(th, td) { padding: .15rem 1rem; }
  table:not(.config) th { grid-column: 1 / -1; }
  td[data-label]::before { content: attr(data-label); display: block; margin-top: .3rem;
    color: var(--soft); font-size: .75rem; }
}
"""
