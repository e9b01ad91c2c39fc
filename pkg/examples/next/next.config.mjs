/** Static files. Threads need the headers of cross-origin isolation, which whoever serves `out/` has to send. */
export default { output: 'export' };
