// How long the page takes to draw while it answers, below 30 long answers, and what stalls typing: the Long Animation Frames API.
//   node test/bench/frames.mjs [ANSWERS]
import { ask, demo, keep } from '../demo.mjs';

const answers = Number(process.argv[2] ?? 30);
const LONG = `# A heading\n\n${'Some **words** with `code`, a [link](https://example.org) and more of them. '.repeat(12)}\n\n\`\`\`js\nconst answer = () => 42; // of everything\n\`\`\`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n\n`.repeat(4);

const site = await demo();
try {
  await site.fresh();
  // Every callback of a frame is timed: the page draws in one.
  await site.context.addInitScript(() => {
    globalThis.draws = [];
    const request = requestAnimationFrame;
    globalThis.requestAnimationFrame = (job) =>
      request((now) => {
        const begun = performance.now();
        job(now);
        draws.push(performance.now() - begun);
      });
    // The model of random weights reads none of the chat, which is longer than its context.
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = function (message, ...rest) {
      if (message.method === 'complete') message.args = JSON.stringify({ ...JSON.parse(message.args), prompt: 'And now?' });
      return postMessage.call(this, message, ...rest);
    };
    globalThis.long = [];
    new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration, blockingDuration }) => ({ duration, blockingDuration })))).observe({ type: 'long-animation-frame', buffered: true });
  });
  const first = await site.tab();
  const messages = Array.from({ length: answers }, (_, i) => [{ role: 'user', content: `question ${i}` }, { role: 'assistant', content: `${i}\n\n${LONG}`, guessed: [] }]).flat();
  await keep(first, 'chat:one', { id: 'one', title: 'one', updated: Date.now() + 1e6, revision: 1, messages });
  await first.close();
  const page = await site.tab();
  await page.waitForSelector('#prompt');
  await page.waitForFunction((n) => document.querySelectorAll('.message.assistant').length === n, answers);
  // Colours of code come a little later, and everything is drawn anew for them.
  await page.waitForFunction((n) => document.querySelectorAll('.hljs-keyword').length >= n, answers);
  await page.evaluate(() => ((draws.length = 0), (long.length = 0)));
  const answering = ask(page, 'And now?');
  // Somebody types on while it answers.
  for (let i = 0; i < 40; i++) await page.locator('#prompt').press('x', { delay: 20 });
  await answering;
  const { draws, long } = await page.evaluate(() => ({ draws: draws.sort((a, b) => a - b), long }));
  const at = (part) => draws[Math.min(draws.length - 1, Math.floor(part * draws.length))]?.toFixed(1);
  console.log(`${answers} answers of ${LONG.length} characters; ${draws.length} frames: median ${at(0.5)} ms, 95 % ${at(0.95)} ms, longest ${at(1)} ms`);
  console.log(`long animation frames (over 50 ms): ${long.length}${long.length ? `, the longest ${Math.max(...long.map(({ duration }) => duration)).toFixed(0)} ms, blocking ${Math.max(...long.map(({ blockingDuration }) => blockingDuration)).toFixed(0)} ms` : ''}`);
} finally {
  await site.close();
}
