/**
 * Versions of a message. A chat's `messages` are those that are shown. Where one has versions, it keeps the `others`, each with all
 * that follows it, and its own `place` among them: so an edit and an answer written again throw nothing away.
 */

/** All versions of what stands at an index, in their order: lists of messages, the shown one taken out of the chat. */
function takeOut(messages, index) {
  const shown = messages.splice(index);
  const { others = [], place = 0 } = shown[0];
  delete shown[0].others;
  delete shown[0].place;
  return others.toSpliced(place, 0, shown);
}

function putIn(messages, all, place) {
  const shown = all[place];
  if (all.length > 1) Object.assign(shown[0], { others: all.toSpliced(place, 1), place });
  messages.push(...shown);
}

/** How many versions a message has. */
export const versionsOf = ({ others = [] }) => others.length + 1;

/** Shows a further version of what stands at an index: `message`. */
export function addVersion(messages, index, message) {
  const all = takeOut(messages, index);
  putIn(messages, [...all, [message]], all.length);
}

export function showVersion(messages, index, place) {
  putIn(messages, takeOut(messages, index), place);
}

/** Takes out the version that is shown, with what follows it; the one before it is shown then, if there is any. */
export function dropVersion(messages, index) {
  const { place = 0 } = messages[index];
  const all = takeOut(messages, index).toSpliced(place, 1);
  if (all.length) putIn(messages, all, Math.max(0, place - 1));
}
