// Firefox for tests, by its own protocol, Marionette. Over WebDriver BiDi, which puppeteer speaks, loads hang now and then: BiDi listens
// for new workers, and where somebody does, `new Worker` in a worker waits for the main thread's word that the listeners were told. That
// wakes one thread only, of two that may be waiting (`mCondVar.Notify` in Firefox's WorkerPrivate.h): on a busy machine it can be the new
// worker's own, and then the one that started it waits for ever. Without a listener nobody waits.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

/** So long may a start, or one call of `evaluate`, take on a slow machine. */
const START_MS = 60_000;
const PATIENCE_MS = 180_000;
const pause = (ms) => new Promise((go) => setTimeout(go, ms));

/** Starts Firefox, with settings that `about:config` would list. */
export async function launchFirefox(settings = {}) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'foreword-firefox-'));
  const prefs = { 'marionette.port': 0, 'browser.shell.checkDefaultBrowser': false, 'datareporting.policy.dataSubmissionEnabled': false, ...settings };
  fs.writeFileSync(path.join(profile, 'user.js'), Object.entries(prefs).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`).join(''));
  const firefox = spawn(process.env.FIREFOX ?? '/usr/bin/firefox-esr', ['--headless', '--no-remote', '--marionette', '--profile', profile, 'about:blank'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => firefox.once('close', resolve).once('error', resolve));
  const end = async () => {
    firefox.kill('SIGKILL');
    await ended;
    // Processes of its pages may still be writing.
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
  };
  try {
    const command = await connect(await portOf(profile, ended));
    await command('WebDriver:NewSession', {});
    const home = (await command('WebDriver:GetWindowHandle', {})).value;
    return { newTab: (url) => newTab(command, home, url), close: end };
  } catch (error) {
    await end();
    throw error;
  }
}

/** The port that Firefox chose; it writes it into its profile. */
async function portOf(profile, ended) {
  let over = false;
  ended.then(() => (over = true));
  for (const deadline = Date.now() + START_MS; Date.now() < deadline && !over; await pause(50)) {
    const file = path.join(profile, 'MarionetteActivePort');
    const port = fs.existsSync(file) && Number(fs.readFileSync(file, 'utf8'));
    if (port) return port;
  }
  throw new Error(over ? 'Firefox ended while it was started' : `Firefox was not there after ${START_MS / 1000} s`);
}

/** A function that sends a command and returns its value. Messages are JSON behind its length: `[0, id, name, parameters]`, `[1, id, error, value]`. */
async function connect(port) {
  const socket = net.connect(port, '127.0.0.1');
  const waiting = new Map();
  let bytes = Buffer.alloc(0);
  const fail = (error) => {
    waiting.forEach(({ reject }) => reject(error));
    waiting.clear();
  };
  socket.on('error', fail).on('close', () => fail(new Error('Firefox ended')));
  const greeting = new Promise((resolve, reject) => waiting.set('greeting', { resolve, reject }));
  const take = (message) => {
    const [, id, error, value] = Array.isArray(message) ? message : [1, 'greeting'];
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(`Firefox: ${error.error}: ${error.message}`));
    else resolve(value);
  };
  socket.on('data', (more) => {
    bytes = Buffer.concat([bytes, more]);
    for (let colon = bytes.indexOf(':'); colon > 0; colon = bytes.indexOf(':')) {
      const end = colon + 1 + Number(bytes.toString('latin1', 0, colon));
      if (bytes.length < end) return;
      const message = JSON.parse(bytes.toString('utf8', colon + 1, end));
      bytes = bytes.subarray(end);
      take(message);
    }
  });
  await greeting;
  let ids = 0;
  return (name, parameters) =>
    new Promise((resolve, reject) => {
      const id = ++ids;
      waiting.set(id, { resolve, reject });
      const text = JSON.stringify([0, id, name, parameters]);
      socket.write(`${Buffer.byteLength(text)}:${text}`);
    });
}

/** What is under way: commands go to the tab that was chosen last, so that choosing one and the command are one. */
let last = Promise.resolve();
const alone = (job) => (last = last.then(job, job));

async function newTab(command, home, url) {
  const { handle } = await alone(async () => {
    // The tab that was chosen may have been closed.
    await command('WebDriver:SwitchToWindow', { handle: home });
    return command('WebDriver:NewWindow', { type: 'tab', focus: true });
  });
  const inTab = (name, parameters) =>
    alone(async () => {
      await command('WebDriver:SwitchToWindow', { handle, focus: true });
      return command(name, parameters);
    });
  /** Runs an expression in the page, and returns what it gives at once: a promise would be waited for, but not for long. */
  const now = async (source) => (await inTab('WebDriver:ExecuteScript', { script: 'return window.eval(arguments[0])', args: [source] })).value;
  const tab = {
    goto: (address) => inTab('WebDriver:Navigate', { url: address }),
    close: () => inTab('WebDriver:CloseWindow', {}),
    /**
     * Runs an expression or a function in the page, and waits for what it returns. `step(text)` in the page says where it stands: a call
     * that takes too long fails with these words.
     */
    async evaluate(job, patience = PATIENCE_MS) {
      await now(`globalThis.steps = []; globalThis.step = (text) => steps.push(\`\${Math.round(performance.now())} ms: \${text}\`); globalThis.outcome = {};
        void (async (mine) => { try { mine.value = await (${typeof job === 'function' ? `(${job})()` : job}); } catch (error) { mine.error = String(error?.stack ?? error); } mine.done = true; })(outcome)`);
      for (const deadline = Date.now() + patience; Date.now() < deadline; await pause(20)) {
        const text = await now('globalThis.outcome && (outcome.done ? JSON.stringify(outcome) : "")');
        if (text === null) throw new Error('the page was left meanwhile');
        if (!text) continue;
        const { value, error } = JSON.parse(text);
        if (error) throw new Error(error);
        return value;
      }
      throw new Error(`not done after ${patience / 1000} s; the page's steps: ${(await now('steps')).join('; ') || 'none'}`);
    },
    async waitFor(condition, patience = PATIENCE_MS) {
      for (const deadline = Date.now() + patience; Date.now() < deadline; await pause(20)) if (await now(condition)) return;
      throw new Error(`not so after ${patience / 1000} s: ${condition}`);
    },
  };
  await tab.goto(url);
  return tab;
}
