/** A helper thread: works for the pool in the shared memory until the worker that started it ends. */
import init, { worker_main } from '../build/relaxed.js';
import { ownPort } from './platform.js';

const port = ownPort();
port.receive(async (message: { module: WebAssembly.Module; memory: WebAssembly.Memory } | { address: number }) => {
  if ('address' in message) return worker_main(message.address);
  const started = init({ module_or_path: message.module, memory: message.memory });
  await started.then(
    () => port.post({ ready: true }),
    (error) => port.post({ failure: `${error}` }),
  );
});
