/** Downloads in a folder: `$FOREWORD_CACHE`, or `foreword-js` in the platform's cache folder. Node only. */
import { nodeModule } from './platform.js';
import { room } from './room.js';
import type { Entry, Reader, Store, Writer } from './store.js';

/** A file that can be read at any offset. */
export function fileReader(path: string | URL): Reader {
  const fs = nodeModule('fs');
  const fd: number = fs.openSync(path, 'r');
  return {
    size: fs.fstatSync(fd).size,
    read: readsOf(fs, fd),
    close: () => fs.closeSync(fd),
  };
}

function readsOf(fs: any, fd: number): Reader['read'] {
  const take = room();
  return (offset, length) => {
    const bytes = take(length);
    return bytes.subarray(0, fs.readSync(fd, bytes, 0, length, offset));
  };
}

export class FolderStore implements Store {
  readonly #fs = nodeModule('fs');
  readonly #path = nodeModule('path');
  readonly #folder: string;

  constructor() {
    const { env } = (globalThis as unknown as { process: { env: Record<string, string | undefined> } }).process;
    const base = env['XDG_CACHE_HOME'] ?? env['LOCALAPPDATA'] ?? this.#path.join(nodeModule('os').homedir(), '.cache');
    this.#folder = env['FOREWORD_CACHE'] ?? this.#path.join(base, 'foreword-js');
    this.#fs.mkdirSync(this.#folder, { recursive: true });
  }

  async list(): Promise<(Entry & { bytes: number })[]> {
    const entries = [];
    for (const name of this.#fs.readdirSync(this.#folder) as string[]) {
      const entry = name.endsWith('.gguf.json') ? await this.stat(name.slice(0, -5)) : undefined;
      const data = entry && this.#fs.statSync(this.#file(entry.key), { throwIfNoEntry: false });
      if (entry && data) entries.push({ ...entry, bytes: data.size });
    }
    return entries;
  }

  async stat(key: string): Promise<Entry | undefined> {
    try {
      return JSON.parse(this.#fs.readFileSync(this.#file(`${key}.json`), 'utf8'));
    } catch {
      return undefined;
    }
  }

  async read(key: string): Promise<Reader> {
    return fileReader(this.#file(key));
  }

  async write(key: string): Promise<Writer> {
    const fs = this.#fs;
    const path = this.#file(key);
    const { O_RDWR, O_CREAT } = fs.constants;
    const fd: number = fs.openSync(path, O_RDWR | O_CREAT, 0o644);
    let size: number = fs.fstatSync(fd).size;
    return {
      get size() {
        return size;
      },
      append: (bytes) => {
        for (let at = 0; at < bytes.length; ) {
          const n = fs.writeSync(fd, bytes, at, bytes.length - at, size);
          at += n;
          size += n;
        }
      },
      read: readsOf(fs, fd),
      clear: () => {
        fs.ftruncateSync(fd, 0);
        size = 0;
      },
      save: async (entry) => {
        fs.fsyncSync(fd);
        fs.writeFileSync(`${path}.json.new`, JSON.stringify(entry));
        fs.renameSync(`${path}.json.new`, `${path}.json`);
      },
      close: async () => fs.closeSync(fd),
    };
  }

  async remove(key: string): Promise<boolean> {
    const found = (await this.stat(key)) !== undefined;
    for (const name of [`${key}.json`, key]) this.#fs.rmSync(this.#file(name), { force: true });
    return found;
  }

  #file(name: string): string {
    return this.#path.join(this.#folder, this.#path.basename(name));
  }
}
