// The curves of all runs, laid over each other: panels, smoothing, logarithmic axes, and histograms of edits.

const DASHES = [undefined, [6, 4], [2, 3], [10, 3, 2, 3]];
const KEPT = new Set(['wrong ones fixed', 'right ones broken']); // shares of other wholes, in the flips' colours

/** The tab of curves. */
function makeCurves(element, runs) {
  const state = { log: false, smooth: 0.05, hidden: new Set(), charts: [], waiting: [] };
  const groups = [
    ['Evaluations, with 95% intervals', 'held_out'],
    ['Training, step by step', 'training'],
  ];
  const body = el('div');
  const redraw = () => {
    state.charts.forEach((chart) => chart.destroy());
    state.waiting = [];
    body.replaceChildren(
      ...groups.flatMap(([title, key]) => drawGroupOfPanels(title, collectPanels(runs, key), runs, state)),
      ...drawEdits(runs, state),
      ...drawDifficulty(runs),
    );
    state.charts = state.waiting.map((draw) => draw());
  };
  element.append(makeSwitches(state, runs, redraw), body);
  return { draw: redraw, resize: () => state.charts.forEach(fit) };
}

function makeSwitches(state, runs, redraw) {
  const smooth = select(
    'smoothing',
    [
      ['0', 'no smoothing'],
      ['0.02', 'smooth a little'],
      ['0.05', 'smooth'],
      ['0.15', 'smooth a lot'],
    ],
    (value) => {
      state.smooth = Number(value);
      redraw();
    },
  );
  smooth.value = String(state.smooth);
  const log = el('input', {
    type: 'checkbox',
    onchange: () => {
      state.log = log.checked;
      redraw();
    },
  });
  return el(
    'p',
    { className: 'switches' },
    smooth,
    el('label', {}, log, ' log axis'),
    runs.length > 1 ? makeRunKeys(state, runs, redraw) : null,
    el('span', { className: 'hint' }, 'drag to zoom, double click to reset, click a name to hide it'),
  );
}

/** The colours of runs; a click hides one, and shows it again. */
function makeRunKeys(state, runs, redraw) {
  return el(
    'span',
    { className: 'key' },
    runs.map((run, r) => {
      const swatch = el('i', { className: `swatch s${(r % COLOURS) + 1}` });
      const button = el('button', { type: 'button' }, swatch, visible(run.name));
      button.onclick = () => {
        if (!state.hidden.delete(r)) state.hidden.add(r);
        button.classList.toggle('off', state.hidden.has(r));
        redraw();
      };
      return button;
    }),
  );
}

/** Panels of one title as one, each series with its run. */
function collectPanels(runs, key) {
  const panels = new Map();
  runs.forEach((run, r) =>
    run[key].forEach((panel) => {
      const found = panels.get(panel.title) ?? { ...panel, series: [] };
      panels.set(panel.title, found);
      const names = panel.series.map((one) => one.name);
      found.series.push(...panel.series.map((one) => ({ ...one, run: r, place: names.indexOf(one.name) })));
    }),
  );
  return [...panels.values()];
}

function drawGroupOfPanels(title, panels, runs, state) {
  if (!panels.length) return [];
  const marks = collectMarks(runs, state.hidden);
  return [
    el('h2', {}, title),
    el(
      'div',
      { className: 'panels' },
      panels.map((panel) => {
        const series = panel.series
          .filter((one) => !state.hidden.has(one.run))
          .map((one) => styleSeries(one, runs));
        const shown = series.flatMap((one) => smoothSeries(one, state.smooth));
        return drawPanel(panel.title, panel.unit, shown, state, {
          unit: panel.unit,
          percent: panel.unit === '%',
          log: state.log,
          ...marks,
        });
      }),
    ),
  ];
}

/** Of the runs that are shown: stages, where all have the same, and alarms as [step, words, colour]. */
function collectMarks(runs, hidden) {
  const several = runs.length > 1,
    shown = [...runs.entries()].filter(([r]) => !hidden.has(r));
  const stages = new Map(shown.map(([, run]) => [JSON.stringify(run.stages), run.stages]));
  const alarms = shown.flatMap(([r, run]) =>
    run.alarms.map(([step, kind]) => {
      const words = kind.replaceAll('_', ' ');
      return several
        ? [step, `${run.name}: ${words}`, colour(`s${(r % COLOURS) + 1}`)]
        : [step, words, colour('wrong')];
    }),
  );
  return { stages: stages.size === 1 ? [...stages.values()][0] : [], alarms };
}

/** A figure with a title, a key, and the chart, which is drawn when the figure is in the page and has a width. */
function drawPanel(title, unit, series, state, options) {
  const place = el('div', { className: 'plot' }),
    key = el('div', { className: 'key' });
  const figure = el(
    'figure',
    {},
    el('figcaption', {}, visible(title), unit ? el('span', {}, unit) : null),
    key,
    place,
  );
  state.waiting.push(() => {
    const plot = drawChart(place, series, options);
    key.append(...new Map(series.map((one) => [one.key, makeKey(one, plot, series)])).values());
    return plot;
  });
  return figure;
}

/** The key of the series with one name, of several runs too; a click hides them, and shows them again. */
function makeKey(one, plot, series) {
  const shared = series.some((other) => other.key === one.key && other.colour !== one.colour);
  const button = el(
    'button',
    { type: 'button' },
    makeSwatch(shared ? { ...one, colour: '' } : one),
    visible(one.key),
  );
  button.onclick = () => {
    const show = button.classList.contains('off');
    series.forEach((other, j) => {
      if (other.key === one.key) plot.setSeries(j + 1, { show });
    });
    button.classList.toggle('off', !show);
  };
  return button;
}

/** Of one run the series have colours; of several the runs have, and the series their dashes. */
function styleSeries(one, runs) {
  const several = runs.length > 1;
  return {
    ...one,
    key: one.name,
    name: several ? `${runs[one.run].name}: ${one.name}` : one.name,
    colour: colour(several ? `s${(one.run % COLOURS) + 1}` : nameColour(one.name, one.place)),
    dash: several ? DASHES[one.place % DASHES.length] : KEPT.has(one.name) ? DASHES[1] : undefined,
  };
}

/** The moving mean over a share of the steps, before it the values themselves, thin; what has few values stays as it is. */
function smoothSeries(one, share) {
  const half = Math.floor((one.x.length * share) / 2);
  if (!half || one.low) return [one];
  const near = (k) => one.y.slice(Math.max(0, k - half), k + half + 1).filter((y) => y !== null);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return [
    { ...one, raw: true, dash: undefined },
    { ...one, y: one.y.map((y, k) => (y === null ? null : mean(near(k)))) },
  ];
}

/** Histograms of edit-distance ratios, first against last evaluation. */
function drawEdits(runs, state) {
  const panels = runs.flatMap((run) =>
    run.edits.map(({ split, series }) => {
      const curves = series.map(({ step, problems, shares }, k) => ({
        key: `after ${step} updates (${problems} problems)`,
        name: `after ${step} updates`,
        colour: colour(k === series.length - 1 ? 's1' : 's2'),
        dash: k < series.length - 1 ? [4, 3] : undefined,
        x: [...shares.keys(), shares.length].map((bin) => bin / shares.length),
        y: [...shares, shares[shares.length - 1]],
      }));
      const title = `Edit-distance ratio of the two attempts, ${runs.length > 1 ? `${run.name}, ` : ''}${split}`;
      const name = (x) => `from ${short(x)} to ${short(x + 1 / series[0].shares.length)}`;
      return drawPanel(title, '% of problems', curves, state, { unit: '%', steps: true, axis: { name } });
    }),
  );
  return panels.length
    ? [el('h2', {}, 'How far second attempts go'), el('div', { className: 'panels' }, panels)]
    : [];
}

function fit(plot) {
  const { clientWidth } = plot.root.parentElement;
  if (clientWidth) plot.setSize({ width: clientWidth, height: plot.height });
}
