"""The style sheet that all pages begin with: neutral in light and in dark, for colour-blind readers too.

Series take Okabe and Ito's palette (2008), brighter on a dark ground; the ramp ``s0`` to ``s7`` differs in lightness.
A page appends its own rules.
"""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2430; --soft: #5a6475; --rule: #d9dde4; --panel: #f6f7f9;
  --main: #0072b2; --front: #009e73; --best: #d55e00; --bad: #b3261e; --limit: #b87a00; --prune: #a6518a;
  --s0: #e3e8ef; --s1: #d0dae6; --s2: #b7c9dc; --s3: #97b4d2; --s4: #729cc5; --s5: #4a82b6; --s6: #2565a3;
  --s7: #0b4786; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e4e7ec; --soft: #9aa4b2; --rule: #313843; --panel: #1b1f26;
    --main: #56b4e9; --front: #2bc49a; --best: #ff8c3b; --bad: #ff7b72; --limit: #f0b429; --prune: #e2a0c8;
    --s0: #262d36; --s1: #2c3947; --s2: #33475b; --s3: #3b5873; --s4: #466d90; --s5: #5487b1; --s6: #69a6d5;
    --s7: #8fcaf7; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 64px; max-width: 1080px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 36px 0 8px; }
h3 { font-size: 15px; margin: 18px 0 4px; }
p { margin: 4px 0 10px; max-width: 80ch; } .soft { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; padding: 0; list-style: none; }
.tiles li { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 8px 14px; }
.tiles b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tiles span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; margin: 8px 0 16px;
  font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.wide svg { max-width: none; }
text { fill: var(--ink); } text.tick { fill: var(--soft); } text.label { fill: var(--ink); font-weight: 600; }
text.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.best { fill: var(--best); stroke: var(--paper); stroke-width: 1; }
.whisker { stroke: var(--soft); stroke-width: 1; } .bar { fill: var(--main); }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th { background: var(--panel); text-align: right; font-weight: 600; } th small { display: block; color: var(--soft); }
td.text, th.text, th.reason { text-align: left; }
td.reason { text-align: left; min-width: 24ch; max-width: 60ch; overflow-wrap: anywhere; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; overflow-wrap: anywhere; }
@media print { body { max-width: none; } }
"""
