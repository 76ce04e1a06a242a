// Elements. Text reaches the page as text nodes alone, so that nothing a model wrote can be markup.

const REPLACED = '\uFFFD';
// Controls but tab and line feed, line separators, format characters, lone surrogates; as in text_files.py.
const UNSEEN =
  /[\x00-\x08\x0B-\x1F\x7F-\x9F\xAD\u061C\u180E\u200B\u200E\u200F\u2028-\u202E\u2060-\u206F\uFEFF\uFFF9-\uFFFB]|[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]|\uD82F[\uDCA0-\uDCA3]|\uD834[\uDD73-\uDD7A]|\uDB40[\uDC01\uDC20-\uDC7F]/g;

/** Text as it may be shown. */
function visible(text) {
  return text.replace(UNSEEN, REPLACED);
}

/** An element with properties and children; strings become text, null nothing. */
function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** As `el`, with what is known as an attribute only. */
function withAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A select with options of [value, label] and what to call when it changes. */
function select(label, options, onchange) {
  const element = el(
    'select',
    { onchange: () => onchange(element.value) },
    options.map(([value, text]) => el('option', { value }, visible(text))),
  );
  return withAttributes(element, { 'aria-label': label });
}

/** A number as people read it; a small one with its exponent, as in 6e-6. */
function short(value, digits = 4) {
  if (value === null || value === undefined) return '';
  if (value && Math.abs(value) < 1e-3) return value.toExponential(digits - 1).replace(/\.?0+e/, 'e');
  return Number(value.toPrecision(digits)).toLocaleString('en', { maximumSignificantDigits: digits });
}

/** A function that runs at most once a frame. */
function eachFrame(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      action();
    });
  };
}
