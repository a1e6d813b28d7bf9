"""What the page looks like, and the few lines that sort its tables."""

CSS = """
:root { --ink: #1c2330; --soft: #5d6778; --line: #d9dee7; --page: #ffffff; --card: #f5f7fa; --mark: #2f6fdd; --warn: #b3541e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ef; --soft: #98a2b3; --line: #333c4a; --page: #14181f; --card: #1d232d; --mark: #6ea1ff; --warn: #f0955c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1280px; color: var(--ink); background: var(--page); font: 14px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 26px; }
h2 { margin: 32px 0 8px; font-size: 18px; }
p.about { margin: 4px 0 16px; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 12px; }
.card { padding: 12px 14px; background: var(--card); border-radius: 8px; }
.card b { display: block; font-size: 20px; font-weight: 600; }
.card span { color: var(--soft); font-size: 12px; }
.wide { overflow: auto; max-height: 640px; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 4px 10px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--card); font-weight: 600; }
table.sortable th { cursor: pointer; }
th[data-order="up"]::after { content: " ▲"; } th[data-order="down"]::after { content: " ▼"; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.long { max-width: 340px; overflow: hidden; text-overflow: ellipsis; }
td.share { background: linear-gradient(to left, color-mix(in srgb, var(--mark) 28%, transparent) var(--part), transparent 0); }
.generic { color: var(--warn); font-weight: 600; }
svg { display: block; background: var(--page); }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .soft { fill: var(--soft); }
svg .axis { stroke: var(--line); }
svg .bound { stroke: var(--warn); stroke-dasharray: 5 4; }
svg .edge { fill: none; stroke: var(--soft); stroke-opacity: .55; }
svg .node rect { fill: var(--card); stroke: var(--line); }
svg .node.generic rect { stroke: var(--warn); }
svg .port rect { fill: var(--page); stroke: var(--mark); }
svg .time { fill: var(--mark); fill-opacity: .35; }
pre { margin: 0; padding: 12px; overflow: auto; background: var(--card); border-radius: 8px; }
"""

SVG = """
text { fill: #1c2330; font: 11px system-ui, sans-serif; }
.soft { fill: #5d6778; }
.axis { stroke: #d9dee7; }
.bound { stroke: #b3541e; stroke-dasharray: 5 4; }
.time { fill: #2f6fdd; fill-opacity: .35; }
"""
"""How a picture looks in a file of its own."""

SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.dataset.order !== "down";
    heads.forEach(h => delete h.dataset.order);
    head.dataset.order = down ? "down" : "up";
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const numbers = head.classList.contains("number");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (numbers ? key(a) - key(b) : key(a).localeCompare(key(b))) * (down === numbers ? -1 : 1));
    table.tBodies[0].append(...rows);
  }));
}
"""
