// Bars as elements: flips by difficulty, the methods of a comparison; and the curves of inference-time scaling.

/** Rows of stacked shares: how the problems of each difficulty flip. */
function drawDifficulty(runs) {
  const tables = runs.flatMap((run) =>
    run.difficulty.map((table) => ({
      ...table,
      title: runs.length > 1 ? `${run.name}: ${table.title}` : table.title,
    })),
  );
  if (!tables.length) return [];
  const keys = Object.entries(FLIPS).map(([flip, { mark, words }]) =>
    el('span', {}, el('i', { className: `swatch ${flip}` }), `${mark} ${words}`),
  );
  return [
    el('h2', {}, 'Flips by difficulty'),
    el('p', { className: 'key' }, keys),
    el('div', { className: 'panels wider' }, tables.map(drawShares)),
  ];
}

function drawShares({ title, note, rows }) {
  return el(
    'figure',
    {},
    el('figcaption', {}, visible(title)),
    el(
      'div',
      { className: 'bars' },
      rows.flatMap((row) => {
        const total = Object.keys(FLIPS).reduce((sum, flip) => sum + row[flip], 0);
        const parts = Object.keys(FLIPS).map((flip) => drawShare(flip, row[flip], total));
        return [
          el('span', {}, visible(row.label)),
          el('div', { className: 'stack' }, parts),
          el('span', { className: 'count' }, total.toLocaleString('en')),
        ];
      }),
    ),
    note ? el('p', { className: 'note' }, visible(note)) : null,
  );
}

function drawShare(flip, count, total) {
  const share = (100 * count) / total,
    part = el('i', { className: flip, title: `${FLIPS[flip].words}: ${count} (${short(share, 3)} %)` });
  part.style.width = `${share}%`;
  if (share > 12) part.append(`${Math.round(share)} %`);
  return part;
}

/** The tab of comparisons and scaling results, one below the other. */
function makeComparison(element, { comparisons, scalings }) {
  const state = { charts: [], waiting: [] };
  const draw = () => {
    state.charts.forEach((chart) => chart.destroy());
    state.waiting = [];
    element.replaceChildren(
      ...comparisons.flatMap((one) => drawComparison(one, comparisons.length > 1)),
      ...scalings.flatMap((one) => drawScaling(one, scalings.length > 1, state)),
    );
    state.charts = state.waiting.map((make) => make());
  };
  return { draw, resize: () => state.charts.forEach(fit) };
}

function drawComparison({ name, about, charts }, several) {
  const words = Object.entries(about)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${key.replaceAll('_', ' ')} ${value}`);
  return [
    el('h2', {}, visible(`${several ? `${name}: the` : 'The'} methods beside each other`)),
    el('p', { className: 'note' }, visible(words.join(', '))),
    el('div', { className: 'panels wider' }, charts.map(drawBars)),
  ];
}

function drawBars({ title, keys, rows }) {
  const values = rows.flatMap((row) =>
    row.bars.flatMap((bar) => bar ?? []).filter((value) => value !== null),
  );
  const low = Math.min(0, ...values),
    span = Math.max(...values) - low || 1,
    place = (value) => (100 * (value - low)) / span,
    say = (value) => `${title.startsWith('Delta') && value > 0 ? '+' : ''}${value.toFixed(1)}`;
  const key =
    keys.length > 1
      ? el(
          'p',
          { className: 'key' },
          keys.map((name, k) =>
            el('span', {}, makeSwatch({ colour: `var(--${nameColour(name, k)})` }), visible(name)),
          ),
        )
      : null;
  return el(
    'figure',
    {},
    el('figcaption', {}, title, el('span', {}, '%')),
    key,
    el(
      'div',
      { className: 'bars' },
      rows.flatMap((row) => [
        el('span', {}, visible(row.label)),
        el(
          'div',
          { className: 'lanes' },
          row.bars.map((bar, k) =>
            bar ? drawBar(bar, nameColour(keys[k], k), place) : el('div', { className: 'lane' }),
          ),
        ),
        el(
          'span',
          { className: 'count' },
          row.bars.map((bar) => (bar ? say(bar[0]) : '–')).join(title === 'Accuracy' ? ' → ' : ' · '),
        ),
      ]),
    ),
  );
}

function drawBar([value, low, high], name, place) {
  const bar = el('i', { className: 'length' }),
    whisker = el('i', { className: 'whisker', hidden: low === null });
  const [from, to] = [place(0), place(value)].sort((a, b) => a - b);
  Object.assign(bar.style, { left: `${from}%`, width: `${to - from}%`, background: `var(--${name})` });
  Object.assign(whisker.style, {
    left: `${place(low ?? 0)}%`,
    width: `${place(high ?? 0) - place(low ?? 0)}%`,
  });
  const interval = low === null ? '' : ` [${short(low)}, ${short(high)}]`;
  return el('div', { className: 'lane', title: `${short(value)} %${interval}` }, bar, whisker);
}

function drawScaling({ name, model, task, panels }, several, state) {
  const axis = {
    scale: { distr: 3, log: 2 },
    axes: { values: (_, ticks) => ticks.map((tick) => String(tick)) },
    name: (x) => `${x} responses`,
  };
  return [
    el('h2', {}, visible(`${several ? `${name}: inference` : 'Inference'}-time scaling`)),
    el('p', { className: 'note' }, visible([model, task].filter(Boolean).join(' on '))),
    el(
      'div',
      { className: 'panels wider' },
      panels.map(({ title, series }) => {
        const styled = series.map((one, k) => ({
          ...one,
          key: one.name,
          colour: colour(`s${(k % COLOURS) + 1}`),
        }));
        return drawPanel(title, '%', styled, state, { unit: '%', axis, height: 280 });
      }),
    ),
  ];
}
