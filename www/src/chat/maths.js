/** Formulas in TeX as MathML, which browsers draw themselves. */
import temml from 'temml';

/** Nothing where it is no formula. */
export function toMathML(tex, displayMode) {
  try {
    // The page's policy allows no inline styles.
    return temml.renderToString(tex, { displayMode, trust: false, throwOnError: true }).replace(/ style="[^"]*"/g, '');
  } catch {
    return undefined;
  }
}
