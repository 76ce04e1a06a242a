// The browser of attempts: filters and list at the left, the chosen trajectory at the right; on a phone above it.

const KEYS = [
  ['j k ↓ ↑', 'next, previous'],
  ['g G', 'first, last'],
  ['/', 'search'],
  ['f F', 'next, previous flip class'],
  ['p', 'only this problem'],
  ['Esc', 'back, then clear'],
];

/** The browser in an element; names of runs by their places. */
function makeBrowser(element, table, names) {
  const state = { rows: [], pattern: null };
  const listed = withAttributes(el('div', { className: 'list', tabIndex: 0 }), {
    role: 'listbox',
    'aria-label': 'attempts',
  });
  const detail = withAttributes(el('div', { className: 'detail', tabIndex: -1 }), {
    'aria-label': 'trajectory',
  });
  const list = makeList(
    listed,
    (i) => drawRow(table, i, names, state.pattern),
    (i, place) => show(i, place),
  );
  const filters = makeFilters(table, names, () => refresh());
  const refresh = eachFrame(() => {
    const kept = list.items[list.chosen];
    writeAddress(filters.asked);
    const found = filterTrajectories(table, filters.asked);
    state.pattern = patternOf(filters.asked.search);
    filters.showCounts(found.counts);
    const place = kept === undefined ? -1 : found.rows.indexOf(kept);
    list.show(found.rows, place);
    if (place >= 0) show(kept, place, false);
    else close();
  });
  const show = (i, place, open = true) => {
    const more = {
      group: findGroup(table, i),
      onproblem: (problem) => filters.set({ problem }),
      onsample: (other) => chooseItem(list, filters, other),
    };
    detail.replaceChildren(
      drawSteering(list, place, close),
      drawTrajectory(table, i, names, state.pattern, more),
    );
    detail.scrollTop = 0;
    if (open) element.classList.add('reading');
  };
  const close = () => {
    element.classList.remove('reading');
    if (list.chosen < 0) detail.replaceChildren(drawHelp());
  };
  element.replaceChildren(el('div', { className: 'side' }, filters.element, listed), detail);
  filters.set(readAddress(filters));
  return { list, filters, close, element };
}

/** What the address asks for, as in #attempts?flip=fixed&search=carry; what no filter can take is ignored. */
function readAddress(filters) {
  const query = location.hash.split('?').slice(1).join('?');
  return Object.fromEntries([...new URLSearchParams(query)].filter(([name, value]) => filters.takes(name, value)));
}

/** Have the address ask for the same, so that it can be kept and passed on. */
function writeAddress(asked) {
  const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value)).toString();
  if (document.body.dataset.tab === 'attempts')
    history.replaceState(null, '', query ? `#attempts?${query}` : '#attempts');
}

/** What a key does; true: it did something. */
function steer(browser, event) {
  const { list, filters, element } = browser,
    search = filters.fields.search;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName);
  if (event.key === 'Escape') return goBack(browser, typing);
  if (typing && !(document.activeElement === search && /^Arrow(Up|Down)$|^Enter$/.test(event.key)))
    return false;
  const actions = {
    j: () => list.choose(list.chosen + 1),
    ArrowDown: () => list.choose(list.chosen + 1),
    k: () => list.choose(list.chosen - 1),
    ArrowUp: () => list.choose(list.chosen - 1),
    Enter: () => list.choose(Math.max(list.chosen, 0)),
    g: () => list.choose(0),
    G: () => list.choose(list.items.length - 1),
    '/': () => search.focus(),
    f: () => filters.set({ flip: nextFlip(filters.asked.flip, 1) }),
    F: () => filters.set({ flip: nextFlip(filters.asked.flip, -1) }),
    p: () => element.querySelector('.place button')?.click(),
  };
  if (!Object.hasOwn(actions, event.key) || !element.offsetParent) return false;
  if (event.key === 'Enter' && typing) document.activeElement.blur();
  actions[event.key]();
  return true;
}

/** Out of a field; else out of the trajectory on a phone; else nothing is asked for any more. */
function goBack({ filters, close, element }, typing) {
  const covered = element.classList.contains('reading') && matchMedia('(max-width: 59.99rem)').matches;
  if (typing) document.activeElement.blur();
  else if (covered) close();
  else filters.set(NOTHING_ASKED);
  return true;
}

function drawRow(table, i, names, pattern) {
  const t = table.trajectories,
    flip = textOf(table, t, 'flip', i);
  const where = `${t.held_out[i] ? 'eval ' : ''}${t.step[i]}`;
  return el(
    'div',
    { className: 'row' },
    el('span', { className: `flip ${flip ?? ''}` }, flip ? FLIPS[flip].mark : '•'),
    el(
      'span',
      { className: 'where' },
      el('b', {}, where),
      visible(` ${names.length > 1 ? `${names[table.run[i]]} ` : ''}${textOf(table, t, 'problem', i)}`),
    ),
    el('span', { className: 'snippet', dir: 'auto' }, drawSnippet(table, i, pattern)),
  );
}

/** The beginning of the last attempt, or the text around what was searched for. */
function drawSnippet(table, i, pattern) {
  for (let k = table.first[i + 1] - 1; pattern && k >= table.first[i]; k--) {
    for (const name of SEARCHED_RESPONSES) {
      const text = textOf(table, table.responses, name, k) ?? '',
        at = text.search(pattern);
      if (at >= 0) return markMatches(oneLine(text.slice(Math.max(0, at - 24), at + 160)), pattern);
    }
  }
  const last = textOf(table, table.responses, 'text', table.first[i + 1] - 1) ?? '';
  return markMatches(oneLine(last.slice(0, 160)), pattern);
}

function oneLine(text) {
  return visible(text.replace(/\s+/g, ' '));
}

/** The rows of the same problem in the same step, which stand together. */
function findGroup(table, i) {
  const { problem, step, held_out: held } = table.trajectories,
    same = (k) =>
      k >= 0 &&
      k < table.size &&
      table.run[k] === table.run[i] &&
      problem[k] === problem[i] &&
      step[k] === step[i] &&
      held[k] === held[i];
  let from = i,
    to = i;
  while (same(from - 1)) from--;
  while (same(to + 1)) to++;
  return Array.from({ length: to - from + 1 }, (_, k) => from + k);
}

/** Choose a trajectory in the list, without the filters where they hide it. */
function chooseItem(list, filters, item) {
  const place = list.items.indexOf(item);
  if (place >= 0) list.choose(place);
  else {
    list.items = [item];
    list.chosen = 0;
    filters.set({ ...NOTHING_ASKED });
  }
}

function drawSteering(list, place, close) {
  const button = (words, label, action) =>
    withAttributes(el('button', { type: 'button', onclick: action }, words), { 'aria-label': label });
  return el(
    'p',
    { className: 'steering' },
    button('← list', 'back to the list', close),
    el('span', {}, `${(place + 1).toLocaleString('en')} of ${list.items.length.toLocaleString('en')}`),
    button('↑', 'previous', () => list.choose(place - 1)),
    button('↓', 'next', () => list.choose(place + 1)),
  );
}

function drawHelp() {
  return el(
    'dl',
    { className: 'help' },
    KEYS.map(([keys, words]) =>
      el(
        'div',
        {},
        el(
          'dt',
          {},
          keys.split(' ').map((key) => el('kbd', {}, key)),
        ),
        el('dd', {}, words),
      ),
    ),
  );
}
