/** Parts of the page that not every answer needs, fetched at the first one that does. */
const PARTS = { highlight: () => import('./highlight.js'), maths: () => import('./maths.js') };

const asked = new Map();
let loaded = 0;
let onLoad = () => {};

/** Sets what is called when a part has come. */
export function whenLoaded(listener) {
  onLoad = listener;
}

/** Another number whenever a part has come: what was drawn without it is out of date. */
export const version = () => loaded;

/** A part's module, if it is here; otherwise it is fetched. Without a network it may be had at the next answer. */
export function partHere(name) {
  if (asked.has(name)) return asked.get(name);
  asked.set(name, undefined);
  PARTS[name]().then(
    (module) => {
      asked.set(name, module);
      loaded += 1;
      onLoad();
    },
    () => setTimeout(() => asked.delete(name), 5000),
  );
  return undefined;
}
