/** Downloads in a folder: `$FOREWORD_CACHE`, or `foreword-js` in the platform's cache folder. Node only. */
import { ForewordError } from './error.js';
import { inUse } from './locks.js';
import { nodeModule } from './platform.js';
import { room } from './room.js';
import type { Entry, Kind, Listed, Reader, Store, Writer } from './store.js';

/** A file that can be read at any offset. */
export function fileReader(path: string | URL): Reader {
  const fs = nodeModule('fs');
  const fd = opened(fs, path);
  return {
    size: fs.fstatSync(fd).size,
    read: readsOf(fs, fd),
    close: closer(fs, fd),
  };
}

function opened(fs: any, path: string | URL): number {
  try {
    return fs.openSync(path, 'r');
  } catch (cause) {
    const { code, message } = cause as { code?: string; message: string };
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new ForewordError('not_found', `There is no file at ${path instanceof URL ? nodeModule('url').fileURLToPath(path) : path}.`, { cause });
    throw new ForewordError('storage_failed', `The model cannot be read: ${message}`, { cause });
  }
}

/** A number of a closed file may be another file's by now. */
function closer(fs: any, fd: number): () => void {
  let open = true;
  return () => {
    if (open) fs.closeSync(fd);
    open = false;
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

  readonly #suffix: string;

  constructor(kind: Kind) {
    const { env } = (globalThis as unknown as { process: { env: Record<string, string | undefined> } }).process;
    const base = env['XDG_CACHE_HOME'] ?? env['LOCALAPPDATA'] ?? this.#path.join(nodeModule('os').homedir(), '.cache');
    const folder = env['FOREWORD_CACHE'] ?? this.#path.join(base, 'foreword-js');
    this.#folder = kind === 'models' ? folder : this.#path.join(folder, kind);
    this.#suffix = kind === 'models' ? '.gguf' : '';
    this.#fs.mkdirSync(this.#folder, { recursive: true });
  }

  /** Files of which nothing is known belong to others: the command line has its models here, too. */
  async list(): Promise<Listed[]> {
    const names = this.#fs.readdirSync(this.#folder) as string[];
    const keys = names.filter((name) => name.endsWith(`${this.#suffix}.json`)).map((name) => name.slice(0, -5));
    return Promise.all(
      keys.map(async (key) => {
        const data = this.#fs.statSync(this.#file(key), { throwIfNoEntry: false });
        return { key, entry: await this.stat(key), bytes: data?.size as number | undefined };
      }),
    );
  }

  async stat(key: string): Promise<Entry | undefined> {
    try {
      return JSON.parse(this.#fs.readFileSync(this.#file(`${key}.json`), 'utf8'));
    } catch {
      return undefined;
    }
  }

  async read(key: string): Promise<Reader | undefined> {
    return this.#fs.existsSync(this.#file(key)) ? fileReader(this.#file(key)) : undefined;
  }

  async write(key: string): Promise<Writer> {
    const fs = this.#fs;
    const path = this.#file(key);
    const { O_RDWR, O_CREAT } = fs.constants;
    const fd: number = fs.openSync(path, O_RDWR | O_CREAT, 0o644);
    let size: number = fs.fstatSync(fd).size;
    const close = closer(fs, fd);
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
      close: async () => close(),
    };
  }

  async remove(key: string): Promise<boolean> {
    const paths = [key, `${key}.json`].map((name) => this.#file(name)).filter((path) => this.#fs.existsSync(path));
    try {
      paths.forEach((path) => this.#fs.rmSync(path, { force: true }));
    } catch (error) {
      throw inUse(error);
    }
    return paths.length > 0;
  }

  #file(name: string): string {
    return this.#path.join(this.#folder, this.#path.basename(name));
  }
}
