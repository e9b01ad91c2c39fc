/** A model's Markdown as safe HTML. */
import DOMPurify from 'dompurify';
import { marked } from 'marked';

marked.use({ gfm: true, breaks: true });
// A model may write anything: no pictures (they would be fetched), no styles, no forms.
const RULES = { ALLOWED_TAGS: ['p', 'br', 'strong', 'em', 'del', 'code', 'pre', 'ul', 'ol', 'li', 'blockquote', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'hr', 'a'], ALLOWED_ATTR: ['href', 'align', 'start'] };

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.tagName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer');
  }
});

/** Stand for the tags of a coloured stretch until the HTML is safe: characters of private use, which no text needs. */
const [BEGIN, END] = ['\ue000', '\ue001'];

/** `coloured`: stretches `[from, to]` of the text. */
export function toHtml(text, coloured = []) {
  const source = text.replace(/[\ue000\ue001]/g, '\ufffd');
  const tokens = marked.lexer(source);
  mark(tokens, source, coloured);
  return DOMPurify.sanitize(marked.parser(tokens), RULES).replaceAll(BEGIN, '<mark>').replaceAll(END, '</mark>');
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
