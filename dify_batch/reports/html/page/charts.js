"use strict";
// Draws the charts of the page with uPlot, in the colours of the scheme that is in force.
const drawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function shortNumber(value) {
  return value === null || value === undefined ? "" : value.toLocaleString("en", { maximumFractionDigits: 3 });
}

function drawChart(place, chart) {
  const colours = chart.bars ? ["--good", "--bad"] : ["--good", "--second"];
  const lines = chart.series.map((line, at) => ({ ...line, colour: colour(colours[at % 2]) }));
  const stacked = chart.bars && lines.length > 1;
  // Bars that stand upon each other: the sum is drawn first, and the others in front of it.
  const data = [chart.x, ...lines.map((line, at) =>
    stacked ? line.values.map((_, x) => lines.slice(0, at + 1).reduce((sum, each) => sum + (each.values[x] || 0), 0)) : line.values)];
  const order = lines.map((_, at) => at);
  if (stacked) order.reverse();
  const size = () => ({ width: Math.max(240, place.clientWidth), height: 240 });
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  // Times as 24 hours: [width of a division, how it is written, and what is added where year, month, day, … begin].
  const day = "\n{YYYY}-{MM}-{DD}", minute = `${day} {HH}:{mm}`;
  const times = [
    [86400 * 365, "{YYYY}", null, null, null, null, null, null, 1],
    [86400 * 28, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", day, null, day, null, null, null, 1],
    [1, ":{ss}", minute, null, minute, null, minute, null, 1],
  ];
  const step = chart.x.length > 1 ? chart.x[1] - chart.x[0] : 1;
  const plot = new uPlot({
    ...size(),
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    cursor: { drag: { x: chart.time, y: false } },
    scales: {
      x: { time: chart.time, range: (u, low, high) => chart.bars ? [low - step * 0.6, high + step * 0.6] : [low, high] },
      y: { range: (u, low, high) => [0, high > 0 ? high * 1.08 : 1] },
    },
    axes: [chart.time ? { ...axis, values: times } : axis, { ...axis, size: 62, values: (u, ticks) => ticks.map(shortNumber) }],
    series: [
      { label: chart.time ? "time (UTC)" : chart.unit, value: (u, x, series, at) => at === null || at === undefined ? "" : chart.labels[at] },
      ...order.map((at) => ({
        label: lines[at].label,
        stroke: lines[at].colour,
        width: chart.bars ? 0 : 2,
        fill: chart.bars ? lines[at].colour : undefined,
        spanGaps: !chart.bars,
        points: { show: !chart.bars && chart.x.length < 60 },
        paths: chart.bars ? uPlot.paths.bars({ size: [0.86, 60], align: 0 }) : undefined,
        value: (u, value, series, x) => x === null || x === undefined ? "" : shortNumber(lines[at].values[x]),
      })),
    ],
  }, [data[0], ...order.map((at) => data[at + 1])], place);
  return { plot, size };
}

function drawCharts() {
  for (const { plot } of drawn.values()) plot.destroy();
  drawn.clear();
  for (const place of document.querySelectorAll("#figures .chart")) {
    drawn.set(place, drawChart(place, JSON.parse(place.nextElementSibling.textContent)));
  }
}

const resized = new ResizeObserver(() => {
  for (const { plot, size } of drawn.values()) {
    const { width, height } = size();
    if (Math.abs(plot.width - width) > 2) plot.setSize({ width, height });
  }
});

function startCharts() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const scheme = (isDark) => {
    document.documentElement.classList.toggle("dark", isDark); // the table's style sheet goes by this class
    drawCharts();
  };
  dark.addEventListener("change", () => scheme(dark.matches));
  addEventListener("beforeprint", () => scheme(false));
  addEventListener("afterprint", () => scheme(dark.matches));
  scheme(dark.matches);
  resized.observe(document.getElementById("figures"));
}
