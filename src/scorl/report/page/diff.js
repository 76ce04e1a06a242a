// What changed between two texts, by whole words, numbers and signs (Myers, 1986).

const MOST_CHANGES = 1000; // more, and all counts as changed

/** Both texts in pieces of [text, changed]. */
function markChanges(first, second) {
  const a = first.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  const b = second.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
  const kept = joinSpaces(matchWords(a, b), a, b);
  return [
    toPieces(
      a,
      kept.map(([i]) => i),
    ),
    toPieces(
      b,
      kept.map(([, j]) => j),
    ),
  ];
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

/** Without a space that stands alone between two changes: it belongs to the change. */
function joinSpaces(pairs, a, b) {
  const follows = (one, other) => one[0] + 1 === other[0] && one[1] + 1 === other[1];
  const ends = [[-1, -1], ...pairs, [a.length, b.length]];
  return pairs.filter(([i], n) => {
    if (a[i].trim()) return true;
    const changedBefore = !follows(ends[n], ends[n + 1]) && n > 0;
    const changedAfter = !follows(ends[n + 1], ends[n + 2]) && n < pairs.length - 1;
    return !(changedBefore && changedAfter);
  });
}

function toPieces(words, kept) {
  const stays = new Set(kept),
    pieces = [];
  words.forEach((word, k) => {
    const changed = !stays.has(k),
      last = pieces[pieces.length - 1];
    if (last && last[1] === changed) last[0] += word;
    else pieces.push([word, changed]);
  });
  return pieces;
}
