/** Live plots of speed and memory. */
import uPlot from 'uplot';

const SECONDS = 60;

class Plots {
  #speed;
  #memory;
  #tokens = [];
  #speedData = [[], []];
  #memoryData = [[], []];
  #bytes = 0;
  #timer;

  /** Draws into two elements. */
  mount(speed, memory) {
    if (this.#speed?.root.parentElement === speed) return;
    this.#speed = this.#make(speed, 'speed', this.#speedData, '#c2512e');
    this.#memory = this.#make(memory, 'memory', this.#memoryData, '#3b7ea1');
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#tick(), 250);
    this.#tick();
  }

  /** A token arrived. */
  token() {
    this.#tokens.push(performance.now());
  }

  /** The model's memory now, or nothing. */
  memory(memory) {
    this.#bytes = memory?.wasm ?? 0;
  }

  reset() {
    this.#tokens = [];
    for (const data of [this.#speedData, this.#memoryData]) data.forEach((column) => (column.length = 0));
  }

  #tick() {
    const now = performance.now();
    this.#tokens = this.#tokens.filter((t) => now - t < 1000);
    this.#push(this.#speedData, this.#tokens.length);
    this.#push(this.#memoryData, this.#bytes / 1048576);
    this.#speed.setData(this.#speedData);
    this.#memory.setData(this.#memoryData);
  }

  #push(data, value) {
    const now = performance.now() / 1000;
    data[0].push(now);
    data[1].push(value);
    while (data[0].length && now - data[0][0] > SECONDS) data.forEach((column) => column.shift());
  }

  #make(element, label, data, stroke) {
    const axis = { stroke: '#8b8a86', grid: { stroke: 'rgb(128 128 128 / 15%)', width: 1 }, ticks: { show: false }, font: '11px system-ui', size: 42 };
    return new uPlot(
      {
        width: element.clientWidth || 280,
        height: 120,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false, range: () => [performance.now() / 1000 - SECONDS, performance.now() / 1000] }, y: { range: (_, __, max) => [0, Math.max(max * 1.15, 1)] } },
        axes: [{ ...axis, show: false }, axis],
        series: [{}, { label, stroke, width: 2, fill: `${stroke}22`, points: { show: false } }],
      },
      data,
      element,
    );
  }
}

export const plots = new Plots();
