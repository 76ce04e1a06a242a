// A list of any length of which only what can be seen is in the page; one row is chosen.

const ROW = 50; // pixels, as in the style
const SPARE = 8; // rows kept above and below

/**
 * A list in a scrolling element.
 * draw(item, place) makes a row's element; choose(item, place) is told of a choice by click or key.
 */
function makeList(element, draw, choose) {
  const spacer = el('div', { className: 'spacer' }),
    shown = el('div', { className: 'window' });
  element.append(spacer);
  spacer.append(shown);
  const list = { items: [], chosen: -1 };
  const render = () => {
    const from = Math.max(0, Math.floor(element.scrollTop / ROW) - SPARE);
    const to = Math.min(
      list.items.length,
      Math.ceil((element.scrollTop + element.clientHeight) / ROW) + SPARE,
    );
    shown.style.transform = `translateY(${from * ROW}px)`;
    shown.replaceChildren(...list.items.slice(from, to).map((item, k) => makeRow(item, from + k)));
  };
  const makeRow = (item, place) => {
    const row = withAttributes(draw(item, place), {
      role: 'option',
      id: `row-${place}`,
      'aria-selected': place === list.chosen,
      'aria-posinset': place + 1,
      'aria-setsize': list.items.length,
    });
    row.onclick = () => list.choose(place);
    return row;
  };
  list.render = eachFrame(render);
  list.show = (items, chosen = -1) => {
    Object.assign(list, { items, chosen });
    spacer.style.height = `${items.length * ROW}px`;
    if (chosen >= 0) reveal(element, chosen);
    else element.scrollTop = 0;
    render();
  };
  list.choose = (place) => {
    if (!list.items.length) return;
    list.chosen = Math.max(0, Math.min(place, list.items.length - 1));
    reveal(element, list.chosen);
    element.setAttribute('aria-activedescendant', `row-${list.chosen}`);
    render();
    choose(list.items[list.chosen], list.chosen);
  };
  element.addEventListener('scroll', list.render, { passive: true });
  new ResizeObserver(list.render).observe(element);
  return list;
}

function reveal(element, place) {
  const top = place * ROW,
    bottom = top + ROW - element.clientHeight;
  if (element.scrollTop > top) element.scrollTop = top;
  else if (element.scrollTop < bottom) element.scrollTop = bottom;
}
