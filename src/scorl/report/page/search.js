// Which trajectories are wanted: a text, and what the filters say.

const SEARCHED = ['problem', 'question', 'gold'];
const SEARCHED_RESPONSES = ['text', 'reason', 'answer'];

/** The pattern of what was typed: words as they stand, or /a regular expression/; null where nothing was typed. */
function patternOf(typed) {
  if (!typed.trim()) return null;
  const written = /^\/(.+)\/$/.exec(typed);
  const plain = typed.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
  try {
    return new RegExp(written ? written[1] : plain, 'gi');
  } catch {
    return new RegExp(plain, 'gi');
  }
}

/** For each distinct text whether it has a match. */
function findTexts(strings, pattern) {
  const hits = new Uint8Array(strings.length);
  for (let k = 0; k < strings.length; k++) hits[k] = strings[k].search(pattern) >= 0 ? 1 : 0;
  return hits;
}

/**
 * The rows that fit, and how many fit of each flip class whatever class is asked for.
 * Asked: {search, flip, kind, run, stage, verdict, problem, from, to}; an empty one asks for nothing.
 */
function filterTrajectories(table, asked) {
  const tests = listTests(table, asked);
  const flips = table.trajectories.flip,
    wanted = asked.flip ? table.strings.indexOf(asked.flip) : null;
  const rows = [],
    counts = new Map();
  for (let i = 0; i < table.size; i++) {
    if (!tests.every((test) => test(i))) continue;
    counts.set(flips[i], (counts.get(flips[i]) ?? 0) + 1);
    if (wanted === null || isFlip(table, i, asked.flip)) rows.push(i);
  }
  return { rows, counts: countFlips(table, counts) };
}

function isFlip(table, i, flip) {
  return textOf(table, table.trajectories, 'flip', i) === flip;
}

/** {flip class: count}, and all of them together. */
function countFlips(table, counts) {
  const named = { '': 0 };
  for (const [at, count] of counts) {
    const flip = at < 0 ? 'single' : table.strings[at];
    named[flip] = (named[flip] ?? 0) + count;
    named[''] += count;
  }
  return named;
}

function listTests(table, asked) {
  const { trajectories: t } = table,
    tests = [];
  const same = (name, text) => tests.push((i) => textOf(table, t, name, i) === text);
  if (asked.kind) tests.push((i) => t.held_out[i] === (asked.kind === 'held-out' ? 1 : 0));
  if (asked.run !== '') tests.push((i) => table.run[i] === Number(asked.run));
  if (asked.stage) same('stage', asked.stage);
  if (asked.problem) same('problem', asked.problem);
  if (asked.from !== '') tests.push((i) => t.step[i] >= Number(asked.from));
  if (asked.to !== '') tests.push((i) => t.step[i] <= Number(asked.to));
  if (asked.verdict)
    tests.push((i) =>
      someResponse(table, i, (k) => textOf(table, table.responses, 'verdict', k) === asked.verdict),
    );
  if (asked.reward) tests.push((i) => isRight(lastReward(table, i)) === (asked.reward === 'right'));
  const pattern = patternOf(asked.search);
  if (pattern) tests.push(makeTextTest(table, findTexts(table.strings, pattern)));
  return tests;
}

function makeTextTest(table, hits) {
  const { trajectories: t, responses: r } = table;
  const has = (columns, names, row) =>
    names.some((name) => columns[name][row] >= 0 && hits[columns[name][row]]);
  return (i) => has(t, SEARCHED, i) || someResponse(table, i, (k) => has(r, SEARCHED_RESPONSES, k));
}

function someResponse(table, i, test) {
  for (let k = table.first[i]; k < table.first[i + 1]; k++) if (test(k)) return true;
  return false;
}

/** The reward of the last attempt. */
function lastReward(table, i) {
  for (let k = table.first[i + 1] - 1; k >= table.first[i]; k--) {
    if (textOf(table, table.responses, 'role', k) === 'attempt') return table.responses.reward[k];
  }
  return null;
}
