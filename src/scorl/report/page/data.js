// The data of the page: base64, gzip and JSON in elements; and the attempts of all runs as one table.

const TEXT_COLUMNS = ['stage', 'problem', 'question', 'gold', 'flip'];
const RESPONSE_TEXTS = ['role', 'verdict', 'reason', 'answer', 'text', 'finish'];
const FLIPS = {
  fixed: { mark: '✗ ✓', words: 'wrong, then right' },
  broken: { mark: '✓ ✗', words: 'right, then wrong' },
  right: { mark: '✓ ✓', words: 'right both times' },
  wrong: { mark: '✗ ✗', words: 'wrong both times' },
};

/** The variable of the style that is a curve's colour: what is about a flip class has the class's everywhere. */
function nameColour(name, place) {
  if (name === FLIPS.fixed.words || name === 'wrong ones fixed') return 'fixed';
  if (name === FLIPS.broken.words || name === 'right ones broken') return 'broken';
  return `s${(place % 8) + 1}`;
}

/** What an element holds. */
async function unpack(element) {
  const packed = element.textContent;
  element.remove();
  const bytes =
    Uint8Array.fromBase64?.(packed) ?? Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).json();
}

/**
 * The attempts of all runs: columns over trajectories and over responses.
 * Columns of texts hold places in `strings`, -1 for none; the responses of trajectory i are first[i] to first[i + 1].
 */
function joinAttempts(packs) {
  const table = {
    strings: [],
    runs: packs.length,
    size: 0,
    run: [],
    first: [0],
    trajectories: {},
    responses: {},
  };
  packs.forEach((pack, run) => {
    const offset = table.strings.length;
    table.strings = offset ? table.strings.concat(pack.strings) : pack.strings;
    appendColumns(table.trajectories, pack.trajectories, TEXT_COLUMNS, offset);
    appendColumns(table.responses, pack.responses, RESPONSE_TEXTS, offset);
    for (const count of pack.trajectories.responses) {
      table.first.push(table.first[table.first.length - 1] + count);
      table.run.push(run);
    }
  });
  table.size = table.run.length;
  return table;
}

function appendColumns(to, from, texts, offset) {
  for (const [name, column] of Object.entries(from)) {
    const moved = offset && texts.includes(name) ? column.map((at) => (at < 0 ? at : at + offset)) : column;
    to[name] = to[name] ? to[name].concat(moved) : moved;
  }
}

/** The text that a column of trajectories, or of responses, has in a row; null where there is none. */
function textOf(table, columns, name, row) {
  const at = columns[name][row];
  return at < 0 ? null : table.strings[at];
}

/** A trajectory as an object, with its responses. */
function readTrajectory(table, i) {
  const { trajectories, responses, first } = table;
  const found = { run: table.run[i], responses: [] };
  for (const name of Object.keys(trajectories)) {
    if (name !== 'responses')
      found[name] = TEXT_COLUMNS.includes(name)
        ? textOf(table, trajectories, name, i)
        : trajectories[name][i];
  }
  for (let k = first[i]; k < first[i + 1]; k++) {
    const response = {};
    for (const name of Object.keys(responses)) {
      response[name] = RESPONSE_TEXTS.includes(name) ? textOf(table, responses, name, k) : responses[name][k];
    }
    found.responses.push(response);
  }
  return found;
}

/** Whether a reward says right, or wrong; null: nobody judged. */
function isRight(reward) {
  return reward === null ? null : reward >= 0.5;
}
