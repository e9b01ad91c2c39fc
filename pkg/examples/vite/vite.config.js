import { defineConfig } from 'vite';

export default defineConfig({
  // Vite 7 bundles packages for its dev server and loses the files beside their scripts; Vite 8 does not need this line.
  optimizeDeps: { exclude: ['foreword'] },
  build: { target: 'es2022' },
  // Threads. Where the page is hosted, its server has to send these, too.
  server: { headers: { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' } },
});
