"""What the page of a run adds to the style sheet of all pages: sections, figures in columns, heat maps, samples."""

from kdhooks.plots import style

STYLE = (
    style.STYLE
    + """
:root { --level: #8a5a00; --agreed: #e4e4e4;
  --h0: #f3f6fa; --h1: #dfe8f2; --h2: #c3d5e8; --h3: #9fbfdd; --h4: #78a5cf; --h5: #3f79b0; --h6: #205f9c;
  --h7: #0b4078; --dark: #10151d; --light: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --level: #f0b429; --agreed: #3a3f47;
  --h0: #1c222a; --h1: #22303e; --h2: #294053; --h3: #32526d; --h4: #3f6a8f; --h5: #5c97c8; --h6: #7db6e6;
  --h7: #b3daff; --dark: #e4e7ec; --light: #0d1014; } }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { padding-top: 32px; overflow-wrap: anywhere; }
header h1 { font-size: 32px; line-height: 1.2; max-width: 30em; margin: 2px 0 10px;
  letter-spacing: -.01em; text-wrap: balance; }
.eyebrow { font-size: 13px; font-weight: 600; color: var(--soft); margin: 0 0 2px; overflow-wrap: anywhere; }
section { margin-top: 44px; scroll-margin-top: 12px; }
section h2 { font-size: 21px; line-height: 1.3; margin: 0 0 10px; overflow-wrap: anywhere; text-wrap: balance; }
figure table { width: 100%; }
.status { display: inline-block; border: 1px solid currentColor; border-radius: 99px; padding: 0 9px; margin-left: 6px;
  font-size: 12px; }
.status.finished { color: var(--ok); } .status.failed { color: var(--bad); }
.status.running, .status.stopped, .status.unknown { color: var(--level); }
:root { --ok: #00704f; } @media (prefers-color-scheme: dark) { :root { --ok: #2bc49a; } }
.warning { border-left: 4px solid var(--level); background: var(--panel); padding: 8px 12px; border-radius: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 10px 0; margin-top: 14px; font-size: 13px;
  border-top: 1px solid var(--rule); border-bottom: 1px solid var(--rule); }
a { color: var(--main); text-decoration: none; } a:hover { text-decoration: underline; }
@media (prefers-color-scheme: light) { nav a { color: #005a8f; } }
.cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 14px;
  align-items: start; }
.cells > *, .two > * { min-width: 0; }
figure { margin: 0; border: 1px solid var(--rule); border-radius: 10px; padding: 12px; min-width: 0; }
figure svg { width: 100%; margin: 6px auto 0; max-width: 1004px; } .cells svg, .narrow svg { max-width: 440px; }
.two svg { max-width: 470px; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
figcaption span { font-weight: 400; color: var(--soft); font-variant-numeric: tabular-nums; }
figcaption span::before { content: "· "; }
figure p { margin: 6px 0 0; font-size: 13px; }
.narrow { display: none; }
.main { fill: none; stroke: var(--main); stroke-width: 2; stroke-linejoin: round; }
.steps { fill: none; stroke: var(--main); stroke-width: 1; stroke-opacity: .4; stroke-linejoin: round; }
.rate { fill: none; stroke: var(--prune); stroke-width: 2; }
.dot.main { fill: var(--main); stroke: var(--paper); stroke-width: 1; }
.hit { fill: transparent; stroke: none; pointer-events: all; } .hit:hover { fill: var(--main); }
.level { stroke: var(--best); stroke-width: 1.6; stroke-dasharray: 6 4; }
.gap { fill: none; stroke: var(--bad); stroke-width: 2; }
.bestmark { fill: var(--best); stroke: var(--paper); stroke-width: 1.2; }
rect.student { fill: var(--main); } rect.teacher { fill: var(--best); } rect.ours { fill: var(--front); }
rect.other { fill: var(--soft); } text.inside { fill: var(--paper); }
rect.empty { fill: none; stroke: var(--rule); } rect.agreed { fill: var(--agreed); }
rect.marked { stroke: var(--best); stroke-width: 2; } text.ina { fill: var(--ink); }
rect:hover { stroke: var(--ink); }
.heat0 { fill: var(--h0); } .heat1 { fill: var(--h1); } .heat2 { fill: var(--h2); } .heat3 { fill: var(--h3); }
.heat4 { fill: var(--h4); } .heat5 { fill: var(--h5); } .heat6 { fill: var(--h6); } .heat7 { fill: var(--h7); }
.on0, .on1, .on2, .on3, .on4 { fill: var(--dark); } .on5, .on6, .on7 { fill: var(--light); }
.scale { display: flex; align-items: center; gap: 0; margin: 10px 0 0; font-size: 12px; color: var(--soft); }
.scale span { padding: 0 6px; } .scale i { width: 28px; height: 12px; }
.h0 { background: var(--h0); } .h1 { background: var(--h1); } .h2 { background: var(--h2); }
.h3 { background: var(--h3); } .h4 { background: var(--h4); } .h5 { background: var(--h5); }
.h6 { background: var(--h6); } .h7 { background: var(--h7); }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px;
  list-style: none; margin: 0; padding: 0; }
.samples li { display: flex; gap: 12px; border: 1px solid var(--rule); border-radius: 10px; padding: 12px; min-width: 0;
  align-items: flex-start; font-size: 14px; }
.samples li:has(blockquote) { flex-direction: column; }
.samples img { width: 72px; height: 72px; object-fit: contain; image-rendering: pixelated; border-radius: 4px;
  background: var(--panel); flex: none; }
.samples blockquote { margin: 0; max-height: 9em; overflow: auto; overflow-wrap: anywhere; width: 100%; }
.samples div { min-width: 0; overflow-wrap: anywhere; } .samples .soft { display: block; font-size: 12px; }
.said { display: block; } .said small { color: var(--soft); }
.students b { color: var(--student); } .teachers b { color: var(--teacher); }
:root { --student: #005a8f; --teacher: #a84400; }
@media (prefers-color-scheme: dark) { :root { --student: #56b4e9; --teacher: #ff8c3b; } }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 14px; overflow: auto;
  max-height: 70vh; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
td.text { overflow-wrap: anywhere; min-width: 9ch; } th { white-space: nowrap; }
:focus-visible { outline: 2px solid var(--main); outline-offset: 2px; }
@media (max-width: 720px) {
  body { padding: 18px 16px 48px; } header h1 { font-size: 25px; } section { margin-top: 36px; }
  section h2 { font-size: 19px; } .narrow { display: block; } .broad { display: none; }
  .tiles { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; } .tiles li { min-width: 0; }
}
@media print { nav { display: none; } figure, .samples li { break-inside: avoid; } pre { max-height: none; }
  details::details-content { content-visibility: visible; } .wide { overflow: visible; } }
"""
)
