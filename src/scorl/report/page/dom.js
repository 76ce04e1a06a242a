// Elements. Text reaches the page as text nodes alone, so that nothing a model wrote can be markup.

const REPLACED = '\uFFFD';
// Controls but tab and line feed, lone surrogates, and what changes the direction of text around it.
const UNSEEN =
  /[\x00-\x08\x0B-\x1F\x7F-\x9F\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]|[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g;

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
