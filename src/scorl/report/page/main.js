// The page: tabs, the theme, and what is drawn when it is first looked at.

const THEMES = ['light dark', 'light', 'dark'];

async function start() {
  const charts = await unpack(document.getElementById('data-charts'));
  const names = charts.runs.map((run) => run.name);
  const tabs = {
    curves: charts.runs.length ? makeCurves(document.getElementById('curves'), charts.runs) : null,
    compare:
      charts.comparisons.length + charts.scalings.length
        ? makeComparison(document.getElementById('compare'), charts)
        : null,
  };
  const drawn = new Set(),
    browser = { made: null };
  const redraw = () => {
    drawn.clear();
    open();
  };
  const open = async () => {
    const name = showTab();
    if (tabs[name] && !drawn.has(name)) {
      drawn.add(name);
      tabs[name].draw();
    }
    if (name === 'attempts') await openAttempts(browser, names);
  };
  makeTabs((id) => (id in tabs ? tabs[id] !== null : names.length > 0));
  makeTheme(redraw);
  addEventListener('hashchange', open);
  addEventListener(
    'resize',
    eachFrame(() => Object.values(tabs).forEach((tab) => tab?.resize())),
  );
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  addEventListener('keydown', (event) => {
    if (
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      !browser.made ||
      document.body.dataset.tab !== 'attempts'
    )
      return;
    if (steer(browser.made, event)) event.preventDefault();
  });
  await open();
  document.body.dataset.ready = 'true';
}

/** The attempts are unpacked when they are first asked for; later the address may ask for others. */
async function openAttempts(browser, names) {
  if (browser.made && location.hash.includes('?'))
    return browser.made.filters.set({ ...NOTHING_ASKED, ...readAddress(browser.made.filters) });
  if (browser.made) return writeAddress(browser.made.filters.asked);
  const element = document.getElementById('attempts');
  browser.made = false;
  element.replaceChildren(el('p', { className: 'note' }, 'unpacking the attempts ...'));
  const packs = await Promise.all([...document.querySelectorAll('.data-attempts')].map(unpack));
  const table = joinAttempts(packs);
  if (table.size) browser.made = makeBrowser(element, table, names);
  else element.replaceChildren(el('p', { className: 'note' }, 'No attempts are recorded.'));
  document.body.dataset.attempts = String(table.size);
}

function makeTabs(isThere) {
  const nav = document.getElementById('tabs');
  document.body.classList.add('tabbed');
  for (const section of document.querySelectorAll('.tab')) {
    if (!isThere(section.id) || (section.id === 'recipe' && !section.children.length)) section.remove();
    else nav.append(el('a', { href: `#${section.id}` }, section.dataset.title));
  }
  nav.hidden = false;
}

/** Show the tab that the address names; its name. */
function showTab() {
  const sections = [...document.querySelectorAll('.tab')],
    name = location.hash.slice(1).split('?')[0];
  const shown = sections.find((section) => section.id === name) ?? sections[0];
  for (const section of sections) section.hidden = section !== shown;
  for (const link of document.querySelectorAll('#tabs a')) {
    if (link.hash === `#${shown.id}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (document.body.dataset.tab !== shown.id) scrollTo(0, 0);
  document.body.dataset.tab = shown.id;
  return shown.id;
}

function makeTheme(redraw) {
  const button = document.getElementById('theme');
  let theme = 0;
  const apply = () => {
    document.documentElement.style.colorScheme = THEMES[theme];
    button.textContent = ['◐', '☀', '☾'][theme];
    button.title = `colours: ${['as the system', 'light', 'dark'][theme]}`;
  };
  button.onclick = () => {
    theme = (theme + 1) % THEMES.length;
    apply();
    redraw();
  };
  button.hidden = false;
  apply();
}

start().catch((error) => {
  const trouble = document.getElementById('trouble');
  trouble.textContent = `This browser cannot show curves and attempts: ${error.message}`;
  trouble.hidden = false;
  throw error;
});
