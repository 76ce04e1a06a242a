// A chart of curves over one axis, drawn by uPlot: intervals, marks of stages and alarms, a tooltip, zoom by dragging.

const COLOURS = 8;
const together = uPlot.sync('steps');

/** The colour that a variable of the style stands for now. */
function colour(name) {
  const probe = document.body.appendChild(el('i', { hidden: true }));
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/**
 * A chart in an element; series of {name, x, y, low?, high?, colour, dash?, raw?} where `raw` is thin and has no name.
 * Options: {unit, log, steps, stages, alarms, axis, height, percent}.
 */
function drawChart(element, series, options) {
  const data = uPlot.join(series.map((one) => [one.x, one.y]));
  const tip = el('div', { className: 'tip', hidden: true });
  const ink = colour('soft'),
    rule = colour('rule');
  const axis = {
    stroke: ink,
    grid: { stroke: rule, width: 1 },
    ticks: { show: false },
    font: '11px system-ui',
    size: 28,
  };
  const plot = new uPlot(
    {
      width: Math.max(element.clientWidth, 200),
      height: options.height ?? 200,
      padding: [22, 8, 0, 0],
      legend: { show: false },
      cursor: { ...(options.axis ? {} : { sync: { key: together.key } }), points: { size: 6 }, y: false },
      scales: { x: { time: false, ...(options.axis?.scale ?? {}) }, y: chooseScale(series, options) },
      axes: [
        { ...axis, grid: { show: false }, ...(options.axis?.axes ?? {}) },
        {
          ...axis,
          size: (_, values) => Math.max(44, 14 + 6.5 * Math.max(...(values ?? []).map((one) => one.length))),
          values: (_, ticks) => ticks.map((tick) => (tick === null ? '' : short(tick, 3))),
        },
      ],
      series: [{}, ...series.map((one) => makeSeries(one, options))],
      plugins: [
        {
          hooks: {
            drawAxes: (u) => drawMarks(u, options),
            draw: (u) => drawIntervals(u, series),
            setCursor: (u) => showTip(u, tip, series, options),
          },
        },
      ],
    },
    data,
    element,
  );
  plot.over.append(tip);
  return plot;
}

/** An axis with room for intervals, from 0 where values are rates; a logarithmic one bends to take values below 0. */
function chooseScale(series, { log, percent }) {
  const ends = series.flatMap((one) => [...(one.low ?? []), ...(one.high ?? [])]).filter((y) => y !== null);
  const least = series
    .flatMap((one) => one.y)
    .reduce((low, y) => (y === null ? low : Math.min(low, y)), Infinity);
  if (log) return { distr: least > 0 ? 3 : 4, log: 10 };
  return {
    range: (_, low, high) => widen(Math.min(low, ...ends, ...(percent ? [0] : [])), Math.max(high, ...ends)),
  };
}

/** A range with round ends; around a single value with some room. */
function widen(low, high) {
  const room = high > low ? 0 : Math.abs(low) / 10 || 1;
  return uPlot.rangeNum(low - room, high + room, 0.04, true);
}

function makeSeries(one, { steps }) {
  const stroke = one.colour;
  return {
    label: one.name,
    stroke,
    width: one.raw ? 1 : 2,
    alpha: one.raw ? 0.28 : 1,
    dash: one.dash,
    points: { show: one.x.length < 12 && !steps, size: 6, fill: stroke },
    ...(steps
      ? { paths: uPlot.paths.stepped({ align: 1 }), fill: one.dash ? undefined : withAlpha(stroke, 0.18) }
      : {}),
  };
}

function withAlpha(rgb, alpha) {
  return rgb.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}

/** 95% intervals as lines, around their places a little beside each other, so that none hides another. */
function drawIntervals(u, series) {
  const shown = series.filter((one, k) => one.low && u.series[k + 1].show),
    apart = Math.min(2, 12 / shown.length);
  shown.forEach((one, k) => drawInterval(u, one, apart * (k - (shown.length - 1) / 2)));
}

function drawInterval(u, one, shift) {
  const { ctx } = u,
    wide = devicePixelRatio;
  ctx.save();
  Object.assign(ctx, { strokeStyle: one.colour, lineWidth: 1.5 * wide });
  ctx.beginPath();
  one.x.forEach((x, k) => {
    if (one.low[k] === null || x < u.scales.x.min || x > u.scales.x.max) return;
    const at = u.valToPos(x, 'x', true) + shift * wide;
    ctx.moveTo(at, u.valToPos(one.low[k], 'y', true));
    ctx.lineTo(at, u.valToPos(one.high[k], 'y', true));
  });
  ctx.stroke();
  ctx.restore();
}

/** Where stages begin, with their names, and where alarms were raised. */
function drawMarks(u, { stages = [], alarms = [] }) {
  const { ctx, bbox } = u,
    wide = devicePixelRatio,
    inside = ([x]) => x >= u.scales.x.min && x <= u.scales.x.max;
  let free = bbox.left;
  ctx.save();
  const ink = colour('soft');
  Object.assign(ctx, {
    font: `${10 * wide}px system-ui`,
    fillStyle: ink,
    strokeStyle: ink,
    lineWidth: wide,
    textAlign: 'left',
    textBaseline: 'alphabetic',
  });
  ctx.setLineDash([2 * wide, 3 * wide]);
  for (const [step, name] of stages.filter(inside)) {
    const x = u.valToPos(step, 'x', true),
      words = visible(name);
    drawLine(ctx, x, bbox.top - 8 * wide, x, bbox.top + bbox.height);
    if (x >= free) ctx.fillText(words, x + 3 * wide, bbox.top - 3 * wide);
    free = Math.max(free, x + 8 * wide + ctx.measureText(words).width);
  }
  for (const [step, , stroke] of alarms.filter(inside)) {
    ctx.fillStyle = stroke;
    const x = u.valToPos(step, 'x', true),
      y = bbox.top + bbox.height;
    ctx.beginPath();
    ctx.moveTo(x - 3 * wide, y);
    ctx.lineTo(x + 3 * wide, y);
    ctx.lineTo(x, y - 6 * wide);
    ctx.fill();
  }
  ctx.restore();
}

function drawLine(ctx, ...ends) {
  ctx.beginPath();
  ctx.moveTo(ends[0], ends[1]);
  ctx.lineTo(ends[2], ends[3]);
  ctx.stroke();
}

/** The values at the cursor, in the chart that it is over. */
function showTip(u, tip, series, { unit, axis, alarms = [] }) {
  const { idx, left } = u.cursor;
  tip.hidden = idx === null || idx === undefined || !u.over.matches(':hover');
  if (tip.hidden) return;
  const x = u.data[0][idx];
  const lines = series.flatMap((one, k) => {
    const value = u.data[k + 1][idx];
    return one.raw || value === null || value === undefined || !u.series[k + 1].show
      ? []
      : [drawTipLine(one, x, value, unit)];
  });
  const raised = alarms
    .filter(([step]) => step === x)
    .map(([, words]) => el('p', { className: 'alarm' }, visible(words)));
  tip.replaceChildren(el('b', {}, axis?.name ? axis.name(x) : `step ${x}`), ...lines, ...raised);
  const most = u.over.clientWidth - tip.offsetWidth,
    at = left < u.over.clientWidth / 2 ? left + 12 : left - 12 - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(at, most))}px`;
}

function drawTipLine(one, x, value, unit) {
  const k = one.low ? one.x.indexOf(x) : -1;
  const interval = k >= 0 && one.low[k] !== null ? ` [${short(one.low[k])}, ${short(one.high[k])}]` : '';
  return el(
    'p',
    {},
    makeSwatch(one),
    visible(one.name),
    el('span', {}, `${short(value)}${unit === '%' ? ' %' : ''}${interval}`),
  );
}

/** The key of a series. */
function makeSwatch(one) {
  const swatch = el('i', { className: one.dash ? 'swatch dashed' : 'swatch' });
  swatch.style.color = one.colour;
  return swatch;
}
