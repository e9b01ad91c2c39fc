/** How fast a download is, and how long it takes yet. */

/** A download's speed is that of its last seconds. */
const SPEED_MS = 4000;

/** Bytes a second, from how many are here; nothing in the first second. */
export function speedometer(now = () => performance.now()) {
  let seen = [];
  return (bytes) => {
    seen = [...seen.filter(({ at }) => now() - at < SPEED_MS), { at: now(), bytes }];
    const [first] = seen;
    const ms = now() - first.at;
    return ms < 1000 ? 0 : Math.max(0, ((bytes - first.bytes) * 1000) / ms);
  };
}

/** Seconds in words. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
