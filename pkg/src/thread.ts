/** A helper thread: works for the pool in the shared memory until the worker that started it ends. */
import init, { worker_failed, worker_main } from '../build/relaxed.js';
import { ownPort } from './platform.js';

const port = ownPort();
port.receive(async (message: { module: WebAssembly.Module; memory: WebAssembly.Memory } | { address: number }) => {
  if ('address' in message) return work(message.address);
  const started = init({ module_or_path: message.module, memory: message.memory });
  await started.then(
    () => port.post({ ready: true }),
    (error) => port.post({ failure: `${error}` }),
  );
});

/** Works for a pool until it is freed. A trap ends this thread alone: the thread that waits for its work has to be told. */
function work(address: number): void {
  try {
    worker_main(address);
  } catch (error) {
    worker_failed(address);
    throw error;
  }
}
