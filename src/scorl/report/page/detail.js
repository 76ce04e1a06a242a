// One trajectory: question, gold answer, every response side by side, what changed marked.

/** The element of a trajectory; `onproblem` asks for more of its problem, `onsample` for a row of its group. */
function drawTrajectory(table, i, names, pattern, { group, onproblem, onsample }) {
  const t = readTrajectory(table, i);
  return el(
    'article',
    { className: `trajectory ${t.flip ?? ''}` },
    el(
      'h2',
      {},
      t.flip ? el('span', { className: `flip ${t.flip}` }, FLIPS[t.flip].mark) : null,
      t.flip ? FLIPS[t.flip].words : 'one attempt',
    ),
    drawPlace(t, names, onproblem),
    group.length > 1 ? drawGroup(table, i, group, onsample) : null,
    t.question === null ? null : drawBlock('question', t.question, pattern),
    t.gold === null ? null : drawBlock('gold answer', t.gold, pattern),
    el('div', { className: 'responses' }, drawResponses(t.responses, pattern)),
  );
}

function drawPlace(t, names, onproblem) {
  const policy = t.responses[0].policy;
  const words = [
    names.length > 1 ? names[t.run] : null,
    t.held_out ? `evaluation after ${t.step} updates` : `step ${t.step}`,
    t.stage,
    `sample ${t.sample}${t.branch ? `, branch ${t.branch}` : ''}`,
    t.held_out || policy === null || policy === t.step ? null : `policy after ${policy} updates`,
  ];
  return el(
    'p',
    { className: 'place' },
    words.filter(Boolean).map((word) => el('span', {}, visible(word))),
    el(
      'button',
      { type: 'button', title: 'only this problem', onclick: () => onproblem(t.problem) },
      visible(t.problem),
    ),
  );
}

/** The samples of the same problem in the same step, as buttons. */
function drawGroup(table, i, group, onsample) {
  return el(
    'p',
    { className: 'group' },
    el('span', {}, 'its samples'),
    group.map((other) => {
      const flip = textOf(table, table.trajectories, 'flip', other);
      const button = el(
        'button',
        { type: 'button', className: `flip ${flip ?? ''}`, onclick: () => onsample(other) },
        flip ? FLIPS[flip].mark : '•',
      );
      return other === i ? withAttributes(button, { 'aria-current': 'true' }) : button;
    }),
  );
}

function drawBlock(name, text, pattern) {
  return el(
    'div',
    { className: 'block' },
    el('h3', {}, name),
    el('pre', { dir: 'auto' }, markMatches(visible(text), pattern)),
  );
}

/** The first attempt is marked against the second, every other against the one before. */
function drawResponses(responses, pattern) {
  const attempts = responses.filter((response) => response.role === 'attempt');
  const pairs = attempts
    .slice(1)
    .map((later, n) => markChanges(visible(attempts[n].text ?? ''), visible(later.text ?? '')));
  return responses.map((response) => {
    const n = attempts.indexOf(response);
    const pieces =
      n < 0 || !pairs.length ? [[visible(response.text ?? ''), false]] : n ? pairs[n - 1][1] : pairs[0][0];
    return drawResponse(response, pieces, n > 0 ? 'ins' : 'del', pattern);
  });
}

function drawResponse(response, pieces, tag, pattern) {
  const right = isRight(response.reward);
  const role = response.role === 'attempt' ? '' : `${response.role} of `;
  const said = response.verdict ?? (response.reward === null ? null : String(response.reward));
  return el(
    'section',
    { className: right === null ? '' : right ? 'is-right' : 'is-wrong' },
    el(
      'h3',
      {},
      visible(`${role}attempt ${response.turn + 1}`),
      said === null ? null : el('b', {}, visible(said)),
    ),
    response.reason ? el('p', { className: 'reason' }, markMatches(visible(response.reason), pattern)) : null,
    el('pre', { className: 'text', dir: 'auto' }, markPieces(pieces, tag, pattern)),
    drawFigures(response),
  );
}

function drawFigures(response) {
  const figures = {
    reward: response.reward,
    advantage: response.advantage,
    beta: response.beta,
    imitation: response.imitation || null,
    tokens: response.tokens,
    prompt: response.prompt_tokens,
    answer: response.answer === response.text ? null : response.answer,
    end: response.finish === 'length' ? 'cut at the token limit' : response.finish,
    offline: response.offline ? 'not sampled here' : null,
  };
  const there = Object.entries(figures).filter(([, value]) => value !== null && value !== undefined);
  return el(
    'dl',
    { className: 'figures' },
    there.map(([name, value]) =>
      el(
        'div',
        {},
        el('dt', {}, name),
        el('dd', {}, typeof value === 'number' ? short(value) : visible(String(value))),
      ),
    ),
  );
}

/** Where a text has what was searched for: [from, to]. */
function findRanges(text, pattern) {
  if (!pattern) return [];
  return [...text.matchAll(pattern)]
    .filter(([found]) => found)
    .map((match) => [match.index, match.index + match[0].length]);
}

/** Text with what was searched for marked; of a piece, with where it begins in its text and that text's ranges. */
function markMatches(text, pattern, begin = 0, ranges = findRanges(text, pattern)) {
  const parts = [];
  let at = 0;
  for (const [from, to] of ranges.map((range) =>
    range.map((end) => Math.min(Math.max(end - begin, 0), text.length)),
  )) {
    if (from === to) continue;
    parts.push(text.slice(at, from), el('mark', {}, text.slice(from, to)));
    at = to;
  }
  return [...parts, text.slice(at)];
}

/** Pieces of a text, changed ones in an element; a match may reach over several. */
function markPieces(pieces, tag, pattern) {
  const ranges = findRanges(pieces.map(([text]) => text).join(''), pattern);
  let begin = 0;
  return pieces.map(([text, changed]) => {
    const marked = markMatches(text, pattern, begin, ranges);
    begin += text.length;
    return changed ? el(tag, {}, marked) : marked;
  });
}
