// The filters of the attempts: a form that says what is asked for, and shows how many there are of each flip class.

const NOTHING_ASKED = {
  search: '',
  flip: '',
  kind: '',
  run: '',
  stage: '',
  verdict: '',
  reward: '',
  problem: '',
  from: '',
  to: '',
};

/** The form; `asked` is what it says, `onchange` is called when that changes. */
function makeFilters(table, names, onchange) {
  const form = { asked: { ...NOTHING_ASKED }, fields: {}, chips: {} };
  const ask = (name) => (value) => form.set({ [name]: value });
  const field = (name, element) => {
    form.fields[name] = element;
    return element;
  };
  const number = (name, label) =>
    field(
      name,
      withAttributes(
        el('input', {
          type: 'number',
          min: 0,
          placeholder: label,
          oninput: (event) => ask(name)(event.target.value),
        }),
        { 'aria-label': label },
      ),
    );
  const choice = (name, label, options) => field(name, select(label, [['', label], ...options], ask(name)));
  const distinct = (columns, name) => listTexts(table, columns, name).map((text) => [text, text]);

  const search = field(
    'search',
    withAttributes(
      el('input', {
        type: 'search',
        placeholder: 'Search texts, or /regex/',
        oninput: () => ask('search')(search.value),
      }),
      { 'aria-label': 'search', spellcheck: 'false', autocomplete: 'off' },
    ),
  );
  const chips = el(
    'div',
    { className: 'chips' },
    ['', ...Object.keys(FLIPS)].map((flip) => {
      form.chips[flip] = el('button', {
        type: 'button',
        className: `chip ${flip}`,
        onclick: () => ask('flip')(flip),
      });
      return form.chips[flip];
    }),
  );
  const more = el(
    'div',
    { className: 'more' },
    names.length > 1
      ? choice(
          'run',
          'all runs',
          names.map((name, k) => [String(k), name]),
        )
      : null,
    choice('kind', 'training and held-out', [
      ['training', 'training'],
      ['held-out', 'held-out'],
    ]),
    choice('stage', 'all stages', distinct(table.trajectories, 'stage')),
    choice('reward', 'any reward', [
      ['right', 'last attempt right'],
      ['wrong', 'last attempt wrong'],
    ]),
    choice('verdict', 'any verdict', distinct(table.responses, 'verdict')),
    el('span', { className: 'range' }, number('from', 'from step'), number('to', 'to step')),
    field(
      'problem',
      withAttributes(
        el('input', {
          type: 'text',
          placeholder: 'problem id',
          onchange: (event) => ask('problem')(event.target.value.trim()),
        }),
        { 'aria-label': 'problem id', spellcheck: 'false' },
      ),
    ),
    el('button', { type: 'button', className: 'clear', onclick: () => form.set(NOTHING_ASKED) }, 'clear'),
  );
  form.element = el(
    'form',
    { className: 'filters', onsubmit: (event) => event.preventDefault() },
    search,
    chips,
    withAttributes(
      el('details', {}, el('summary', {}, 'filters'), more),
      matchMedia('(min-width: 60rem)').matches ? { open: '' } : {},
    ),
  );
  form.set = (changes) => {
    Object.assign(form.asked, changes);
    for (const [name, element] of Object.entries(form.fields)) {
      if (element.value !== form.asked[name]) element.value = form.asked[name];
    }
    onchange(form.asked);
  };
  form.takes = (name, value) => isChoice(form.fields[name], name, value);
  form.showCounts = (counts) => showCounts(form, counts);
  return form;
}

/** Whether a filter, or the chips of flip classes, can ask for a value. */
function isChoice(field, name, value) {
  if (name === 'flip') return Object.hasOwn(FLIPS, value);
  if (!field || !Object.hasOwn(NOTHING_ASKED, name)) return false;
  if (field.tagName === 'SELECT') return [...field.options].some((option) => option.value === value);
  return field.type !== 'number' || /^\d+$/.test(value);
}

function showCounts(form, counts) {
  for (const [flip, chip] of Object.entries(form.chips)) {
    const count = (counts[flip] ?? 0).toLocaleString('en');
    chip.replaceChildren(
      el('span', { className: flip ? `flip ${flip}` : '' }, flip ? FLIPS[flip].mark : 'all'),
      count,
    );
    chip.title = flip ? FLIPS[flip].words : 'every flip class';
    chip.setAttribute('aria-pressed', String(form.asked.flip === flip));
  }
}

/** The distinct texts of a column, in the order in which they first stand there. */
function listTexts(table, columns, name) {
  return [...new Set(columns[name])].filter((at) => at >= 0).map((at) => table.strings[at]);
}

/** The flip class after this one, or before. */
function nextFlip(flip, by) {
  const all = ['', ...Object.keys(FLIPS)];
  return all[(all.indexOf(flip) + by + all.length) % all.length];
}
