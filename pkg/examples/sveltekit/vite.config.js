import { sveltekit } from '@sveltejs/kit/vite';

export default { plugins: [sveltekit()], optimizeDeps: { exclude: ['foreword'] }, build: { target: 'es2022' }, worker: { format: 'es' } };
