"""The report's looks: light or dark as the reader's system is, printable, narrow screens too."""

CSS = """
:root{color-scheme:light dark;--page:#faf9f7;--card:#fff;--ink:#1c2026;--soft:#666d78;
--line:#e4e2dd;--wash:#f1efeb;--c0:#2c6e9e;--c1:#c0582f;--c2:#4d8a57;--c3:#8660a8;--c4:#a8862c;
--c5:#5f6b7a;--good:#2f7d4f;--bad:#b03a2e;--wait:#96721a}
@media (prefers-color-scheme:dark){:root{--page:#14161a;--card:#1b1e24;--ink:#e4e5e8;
--soft:#989faa;--line:#2c3038;--wash:#22262d;--c0:#6eb0de;--c1:#e58e68;--c2:#80be8c;--c3:#b898d6;
--c4:#d3b45c;--c5:#9aa5b3;--good:#74c193;--bad:#e88379;--wait:#d9b75e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:71rem;margin:0 auto;padding:3rem 1.5rem 4rem}
h1,h2,h3{font-family:Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif;
font-weight:600;line-height:1.2;margin:0;letter-spacing:-.005em}
h1{font-size:2.1rem;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin-bottom:.9rem}
h3{font-size:1.05rem;margin:1rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--c0)}
section{margin-top:2.6rem}
.over{color:var(--soft);margin:0 0 .35rem;font-size:.87rem}
.head{display:flex;flex-wrap:wrap;align-items:baseline;gap:.4rem .9rem}
.status{font-size:.82rem;font-weight:600;white-space:nowrap;color:var(--wait)}
.status::before{content:"";display:inline-block;width:.55em;height:.55em;border-radius:50%;
background:currentColor;margin-right:.45em}
.status.finished{color:var(--good)}.status.failed{color:var(--bad)}
.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.6rem,1fr));
margin:1.5rem 0 0;background:var(--card);border:1px solid var(--line);border-radius:8px;
overflow:hidden}
.tiles div{box-shadow:1px 1px var(--line);padding:.75rem .95rem .7rem}
.tiles dt{color:var(--soft);font-size:.8rem}
.tiles dd{margin:.1rem 0 0;font-size:1.28rem;font-weight:600;font-variant-numeric:tabular-nums;
letter-spacing:-.01em}
@media (min-width:34rem){.tiles dd{white-space:nowrap}}
pre{background:var(--wash);border-radius:6px;padding:.7rem .95rem;margin:1.1rem 0 0;
font:.83rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
white-space:pre-wrap;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));
gap:1rem}
figure{margin:0}
.chart{max-width:30rem}
.chart,.bars,.image{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.8rem .9rem .6rem}
figcaption{font-size:.85rem;font-weight:600}
.chart figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 .9rem;
min-height:2.6em;align-content:flex-start}
.legend{font-weight:400;color:var(--soft);display:flex;flex-wrap:wrap;gap:0 .8rem}
.legend b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.key:not(.bare)::before{content:"";display:inline-block;width:.85em;height:3px;border-radius:2px;
vertical-align:.25em;margin-right:.4em;background:var(--c)}
svg{display:block;width:100%;height:auto;overflow:hidden}
svg text{font-size:10.5px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .y,svg .left{text-anchor:end}svg .x{text-anchor:middle}
svg .name{fill:var(--ink)}
.rule.base{stroke:var(--soft);opacity:.55}
.rule{stroke:var(--line);fill:none;shape-rendering:crispEdges}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.line.raw{stroke-width:1;opacity:.28}
.dot{fill:var(--c);stroke:var(--card);stroke-width:1}.dot.other{--c:var(--soft);opacity:.65}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}
.c5{--c:var(--c5)}
.hover rect{fill:transparent}.hover .dot{visibility:hidden}.hover:hover .dot{visibility:visible}
.hover:hover rect{fill:var(--ink);opacity:.045}
.images{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.image{padding:.7rem}
.image img{display:block;max-width:100%;min-width:34rem;height:auto;
border-radius:3px;background:#fff}
@media (prefers-color-scheme:dark){.plot img{filter:invert(.885) hue-rotate(180deg)}}
.image figcaption{margin-top:.5rem;font-weight:400;color:var(--soft)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--card)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.grid{width:100%;font-size:.88rem}
.grid th{text-align:left;color:var(--soft);font-weight:500;white-space:nowrap;
border-bottom:1px solid var(--line)}
.grid th,.grid td{padding:.42rem .8rem}
.grid tbody tr+tr td{border-top:1px solid var(--line)}
.grid td:first-child{white-space:nowrap}
.grid .n{text-align:right;white-space:nowrap}
.grid .marked td{background-color:color-mix(in srgb,var(--c0) 9%,transparent)}
.grid .marked td:first-child{box-shadow:inset 3px 0 var(--c0)}
.bar{background:linear-gradient(to right,color-mix(in srgb,var(--c0) 32%,transparent) var(--share),
transparent 0) no-repeat .8rem 50%/calc(100% - 5.6rem) 58%;min-width:10rem}
.bars .row{display:grid;grid-template-columns:minmax(7rem,14rem) 1fr 4.2rem;gap:.8rem;
align-items:center;padding:.32rem 0;font-size:.9rem}
.bars .row span:last-child{text-align:right;font-weight:600;font-variant-numeric:tabular-nums}
.bars i{background:var(--wash);border-radius:3px;height:.8rem;overflow:hidden}
.bars i b{display:block;height:100%;background:var(--c0)}
.bars{max-width:46rem;margin-top:1rem}
.pairs{font-size:.86rem}
.pairs th{text-align:left;font-weight:400;color:var(--soft);padding:.16rem 1.6rem .16rem 0;
vertical-align:top;white-space:nowrap}
.pairs td{padding:.16rem 0;overflow-wrap:anywhere}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));
gap:.4rem 2.5rem;align-items:start;justify-items:start}
details{margin-top:.9rem}
summary{cursor:pointer;color:var(--c0);font-size:.9rem;width:fit-content}
details>*:nth-child(2){margin-top:.7rem}
.stage{border-top:1px solid var(--line);padding-top:1.8rem}
.stage .head h2{margin:0}.stage .tiles{margin-top:1rem}
.stage>.charts,.stage>.images{margin-top:1rem}.stage section{margin-top:1.4rem}
.stage section h2{font-size:1.05rem}
footer{margin-top:3.4rem;color:var(--soft);font-size:.82rem}
@media (max-width:40rem){.image img{min-width:0;width:100%}}
@media (max-width:34rem){main{padding:1.6rem 1rem 3rem}h1{font-size:1.6rem}
.bars .row{grid-template-columns:1fr 4rem}.bars i{grid-column:1/-1;grid-row:2}
.pairs th{white-space:normal;padding-right:.9rem}}
@media print{main{max-width:none;padding:0}.chart,.image,tr{break-inside:avoid}}
"""
