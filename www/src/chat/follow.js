/**
 * Keeps the end of the conversation in view, unless the reader has scrolled up. Nothing here asks for a size while the page is drawn:
 * browsers would have to lay everything out at once, and once more for the frame.
 */

/** So near its end, in pixels, the reader follows. */
const NEAR = 120;

let watched;
let following = true;
let end;

// Sizes are told once a frame when everything is laid out, before it is told what is in view.
const grown = new ResizeObserver(() => {
  if (following) watched.scrollTop = watched.scrollHeight;
});

/** To be called when the page was drawn: the conversation may be another element by then, or gone. */
export function follow(conversation) {
  if (conversation === watched) return;
  grown.disconnect();
  end?.disconnect();
  watched = conversation;
  following = true;
  if (!watched) return;
  for (const part of [watched, watched.querySelector('.column')]) grown.observe(part);
  end = new IntersectionObserver((entries) => (following = entries.at(-1).isIntersecting), { root: watched, rootMargin: `0px 0px ${NEAR}px` });
  end.observe(watched.querySelector('.end'));
}
