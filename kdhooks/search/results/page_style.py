"""What the page of a search adds to the style sheet of all pages: its markers, its lines, its table.

Lines of parallel coordinates differ in lightness. Shapes of markers differ beside their colours.
"""

from kdhooks.plots import style

STYLE = (
    style.STYLE
    + """
.complete { fill: var(--main); fill-opacity: .75; } .front { fill: var(--front); }
.infeasible { fill: none; stroke: var(--limit); stroke-width: 1.8; pointer-events: all; }
.failed { fill: none; stroke: var(--bad); stroke-width: 2; } .pruned { fill: var(--prune); }
.bestline, .front-line { fill: none; stroke: var(--front); stroke-width: 1.8; }
.bestline { stroke: var(--best); }
.run { fill: none; stroke-width: 1.3; } .run:hover { stroke-width: 4; }
.bestpath { stroke: var(--best); stroke-width: 3; }
.shade0 { stroke: var(--s0); } .shade1 { stroke: var(--s1); }
.shade2 { stroke: var(--s2); } .shade3 { stroke: var(--s3); }
.shade4 { stroke: var(--s4); } .shade5 { stroke: var(--s5); }
.shade6 { stroke: var(--s6); } .shade7 { stroke: var(--s7); }
tr.top td { font-weight: 700; } tr.top td:first-child { color: var(--best); } td:first-child { color: var(--front); }
"""
)
