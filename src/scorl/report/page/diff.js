// What changed between two texts, by whole words, numbers and signs (Myers, 1986).

const MOST_CHANGES = 1000; // more, and all counts as changed

const WORD = /([\p{L}\p{N}_]+|[^\s\p{L}\p{N}_])/u;

/** Both texts in pieces of [text, changed]. */
function markChanges(first, second) {
  const a = first.split(WORD);
  const b = second.split(WORD); // gap, word, gap, word, ..., gap
  const isWord = (_, k) => k % 2;
  const pairs = matchWords(a.filter(isWord), b.filter(isWord));
  const stays = [new Set(), new Set()];
  const keep = (i, j) => {
    if (a[i] !== b[j]) return;
    stays[0].add(i);
    stays[1].add(j);
  };
  // a word that stays keeps the gaps around it, where they are the same; those between two changes change
  for (const [i, j] of [[-1, -1], ...pairs, [(a.length - 1) / 2, (b.length - 1) / 2]]) {
    for (const shift of [0, 1, 2]) keep(2 * i + shift, 2 * j + shift);
  }
  return [toPieces(a, stays[0]), toPieces(b, stays[1])];
}

/** The pairs (i, j) of words that stay, in order. */
function matchWords(a, b) {
  let start = 0,
    ends = [a.length, b.length];
  while (start < Math.min(...ends) && a[start] === b[start]) start++;
  while (start < Math.min(...ends) && a[ends[0] - 1] === b[ends[1] - 1]) ends = ends.map((end) => end - 1);
  const middle = findPath(a.slice(start, ends[0]), b.slice(start, ends[1]));
  const pairs = Array.from({ length: start }, (_, i) => [i, i]);
  pairs.push(...middle.map(([i, j]) => [i + start, j + start]));
  for (let i = ends[0], j = ends[1]; i < a.length; i++, j++) pairs.push([i, j]);
  return pairs;
}

/** The longest common subsequence as pairs; none where too much changed. */
function findPath(a, b) {
  const reach = new Map([[1, 0]]),
    history = [];
  for (let edits = 0; edits <= Math.min(a.length + b.length, MOST_CHANGES); edits++) {
    history.push(new Map(reach));
    for (let k = -edits; k <= edits; k += 2) {
      const down = k === -edits || (k !== edits && reach.get(k - 1) < reach.get(k + 1));
      let x = down ? reach.get(k + 1) : reach.get(k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach.set(k, x);
      if (x >= a.length && x - k >= b.length) return walkBack(history, a, b);
    }
  }
  return [];
}

function walkBack(history, a, b) {
  const pairs = [];
  let x = a.length,
    y = b.length;
  for (let edits = history.length - 1; edits >= 0; edits--) {
    const reach = history[edits],
      k = x - y;
    const down = k === -edits || (k !== edits && reach.get(k - 1) < reach.get(k + 1));
    const from = edits ? reach.get(down ? k + 1 : k - 1) : 0;
    const start = edits ? [from, from - (down ? k + 1 : k - 1)] : [0, 0];
    const least = edits ? (down ? start[0] : start[0] + 1) : 0;
    while (x > least) pairs.push([--x, --y]);
    [x, y] = start;
  }
  return pairs.reverse();
}

function toPieces(parts, stays) {
  const pieces = [];
  parts.forEach((part, k) => {
    const changed = !stays.has(k);
    const last = pieces.at(-1);
    if (last?.[1] === changed) last[0] += part;
    else if (part) pieces.push([part, changed]);
  });
  return pieces;
}
