"""The report's style sheet."""

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fafaf8; --card: #ffffff; --ink: #1c1e21; --soft: #62676e; --rule: #e2e3e0;
  --s1: #c2571a; --s2: #1f6fb2; --s3: #5b8c2a; --s4: #8a5bb5;
  --good: #d6f0d2; --bad: #fbdad5; --right: #2f7d32; --wrong: #b3372b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1d2024; --ink: #e7e8e6; --soft: #9aa0a8; --rule: #33373d;
    --s1: #f0924f; --s2: #62b0ee; --s3: #9cc966; --s4: #c39ae6;
    --good: #1f4a25; --bad: #5a2620; --right: #7cc77f; --wrong: #ef8a7f;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem;
  background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .8rem; font-size: 1.15rem; }
h3 { margin: 0 0 .4rem; font-size: .95rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; color: var(--soft); font-size: .9rem; }
.tiles, .panels, .attempts { display: grid; gap: .8rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); margin-bottom: 1rem; }
.tiles div, figure, article { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: .8rem 1rem; margin: 0; min-width: 0; }
.tiles b { display: block; font-size: 1.8rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--rule);
  text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
figcaption { font-size: .85rem; }
figcaption b { display: block; }
.key { color: var(--soft); margin-right: .9rem; white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: .8rem; height: .2rem; margin-right: .35rem;
  vertical-align: middle; background: var(--line); }
.s1 { --line: var(--s1); } .s2 { --line: var(--s2); } .s3 { --line: var(--s3); } .s4 { --line: var(--s4); }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11.5px system-ui, sans-serif; fill: var(--soft); }
svg .grid { stroke: var(--rule); } svg .zero { stroke: var(--soft); }
svg line.stage { stroke: var(--soft); stroke-dasharray: 3 3; } svg text.stage { fill: var(--ink); }
svg polyline { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; }
svg line.span { stroke: var(--line); stroke-width: 1.5; }
svg .raw { stroke-width: 1; opacity: .3; } svg circle { fill: var(--line); }
article { margin-bottom: .8rem; border-left: 4px solid var(--rule); }
article.fixed, article.right { border-left-color: var(--right); }
article.broken, article.wrong { border-left-color: var(--wrong); }
.attempts { grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
.attempts div { min-width: 0; }
.attempts .right p { color: var(--right); } .attempts .wrong p { color: var(--wrong); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, monospace; }
pre.question { color: var(--soft); margin-bottom: .5rem; max-height: 9rem; overflow: auto; }
del { background: var(--bad); text-decoration: line-through; text-decoration-thickness: 1px; }
ins { background: var(--good); text-decoration: none; }
"""
