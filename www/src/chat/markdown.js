/** A model's Markdown as safe HTML, block by block. */
import DOMPurify from 'dompurify';
import { Marked } from 'marked';
import { language, t } from '../strings.js';
import { partHere, version } from './parts.js';

const MATHS = ['math', 'menclose', 'mfrac', 'mi', 'mmultiscripts', 'mn', 'mo', 'mover', 'mpadded', 'mphantom', 'mprescripts', 'mroot', 'mrow', 'ms', 'mspace', 'msqrt', 'mstyle', 'msub', 'msubsup', 'msup', 'mtable', 'mtd', 'mtext', 'mtr', 'munder', 'munderover', 'none'];
const MATHS_ATTRIBUTES = ['accent', 'accentunder', 'columnalign', 'columnlines', 'columnspacing', 'depth', 'display', 'displaystyle', 'fence', 'form', 'height', 'largeop', 'linethickness', 'lspace', 'mathvariant', 'maxsize', 'minsize', 'movablelimits', 'notation', 'rowalign', 'rowlines', 'rowspacing', 'rspace', 'scriptlevel', 'separator', 'stretchy', 'symmetric', 'voffset', 'width'];
// A model may write anything: no pictures (they would be fetched), no styles, no forms.
const RULES = {
  ALLOWED_TAGS: ['p', 'br', 'strong', 'em', 'del', 'code', 'pre', 'span', 'ul', 'ol', 'li', 'blockquote', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'hr', 'a', ...MATHS],
  ALLOWED_ATTR: ['href', 'align', 'start', 'class', 'data-lang', ...MATHS_ATTRIBUTES],
  ALLOW_DATA_ATTR: false,
};

DOMPurify.addHook('uponSanitizeAttribute', (_, data) => {
  // Colours of code are the only classes.
  if (data.attrName === 'class' && !/^(hljs-[\w-]+[ _]*)+$/.test(data.attrValue)) data.keepAttr = false;
});
DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer');
  }
});

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

/** Formulas, in the ways that models write them: `$$…$$`, `\[…\]`, `\(…\)`, and `$…$` where that cannot be a price. */
const FORMULAS = [/^\$\$([^$]+)\$\$/, /^\\\[([\s\S]+?)\\\]/, /^\\\(([\s\S]+?)\\\)/, /^\$(?! )([^$\n]*[^\s$\\])\$(?![\w$])/];
const formula = (level, start, patterns) => ({
  name: `${level}Formula`,
  level,
  start: (src) => start.exec(src)?.index,
  tokenizer(src) {
    const found = patterns.map((pattern) => pattern.exec(src)).find(Boolean);
    return found && { type: `${level}Formula`, raw: found[0], text: found[1].trim(), display: !/^(\$(?!\$)|\\\()/.test(found[0]) };
  },
  renderer({ raw, text, display }) {
    const html = partHere('maths')?.toMathML(text, display) ?? escaped(raw);
    return level === 'block' ? `<p>${html}</p>\n` : html;
  },
});

const renderer = {
  code({ text, lang }) {
    const name = /^[\w+#.-]{1,20}/.exec(lang ?? '')?.[0].toLowerCase() ?? '';
    // Where guessed words are coloured, code is not.
    const html = /[\ue000\ue001]/.test(text) ? undefined : partHere('highlight')?.toHtml(text, name);
    return `<pre data-lang="${name}"><code>${html ?? escaped(text)}\n</code></pre>\n`;
  },
  checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  image({ href, text }) {
    return `<a href="${escaped(href)}">${escaped(text || t.picture)}</a>`;
  },
};

const marked = new Marked({ gfm: true, breaks: true, renderer, extensions: [formula('block', /^(\$\$|\\\[)/m, FORMULAS.slice(0, 2).map((p) => new RegExp(`${p.source}(?=\\s*(?:\\n|$))`))), formula('inline', /\$|\\\[|\\\(/, FORMULAS)] });

/** Code gets a line of its own above it, with its language and a button, for which `copyCode` listens. What may be too wide can be focused, and so scrolled by keys. */
function safe(html) {
  return DOMPurify.sanitize(html, RULES)
    .replace(/<pre(?: data-lang="([\w+#.-]{1,20})")?[^>]*>/g, (_, lang = '') => `<div class="code"><div class="code-head"><span>${lang}</span><button type="button" class="copy-code">${t.copy}</button></div><pre tabindex="0">`)
    .replaceAll('</pre>', '</pre></div>')
    .replaceAll('<table>', '<table tabindex="0">');
}

/** Stand for the tags of a coloured stretch until the HTML is safe: characters of private use, which no text needs. */
const [BEGIN, END] = ['\ue000', '\ue001'];

/** What a message was last drawn as: its blocks' HTML by their source. Only a block that has changed is made anew. */
const drawn = new WeakMap();

/** The HTML of a message's blocks; `colour` says whether its guessed stretches have one. */
export function blocks(message, colour) {
  const before = drawn.get(message);
  const isSame = before?.colour === colour && before.language === language && before.version === version();
  if (isSame && before.text === message.content) return before.blocks;
  const made = new Map();
  const block = (token) => {
    const html = (isSame && before.made.get(token.raw)) || safe(marked.parser([token]));
    made.set(token.raw, html);
    return html;
  };
  const isColoured = colour && message.guessed?.length > 0;
  const list = isColoured ? [toHtml(message.content, message.guessed)] : marked.lexer(message.content).filter((token) => token.type !== 'space').map(block);
  drawn.set(message, { text: message.content, colour, language, version: version(), made, blocks: list });
  return list;
}

/** `coloured`: stretches `[from, to]` of the text. */
export function toHtml(text, coloured = []) {
  const source = text.replace(/[\ue000\ue001]/g, '\ufffd');
  const tokens = marked.lexer(source);
  mark(tokens, source, coloured);
  return safe(marked.parser(tokens)).replaceAll(BEGIN, '<mark>').replaceAll(END, '</mark>');
}

/** Tokens of the lexer that hold text themselves, unless there are tokens in them. */
const LEAVES = ['text', 'code', 'codespan', 'escape'];

/**
 * Puts BEGIN and END around the coloured stretches. Each line of a leaf is somewhere in the source, behind the one before. A
 * search may end too early, in markup between the two, but never too late, so that it finds its way back.
 */
function mark(tokens, source, coloured) {
  let at = 0;
  const line = (words) => {
    const from = source.indexOf(words, at);
    if (from < 0) return words;
    const to = (at = from + words.length);
    const inside = coloured.filter(([begin, end]) => begin < to && end > from);
    // From the last one on: what stands before an insertion stays where it is.
    return inside.reduceRight((text, stretch) => {
      const [begin, end] = stretch.map((i) => Math.min(Math.max(i, from), to) - from);
      return text.slice(0, begin) + BEGIN + text.slice(begin, end) + END + text.slice(end);
    }, words);
  };
  marked.walkTokens(tokens, (token) => {
    if (!token.tokens && LEAVES.includes(token.type)) token.text = token.text.split('\n').map(line).join('\n');
  });
}
