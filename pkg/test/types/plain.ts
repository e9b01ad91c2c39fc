// The package's own types, with no library but the oldest that they promise to need.
import { Foreword, type ModelInfo } from '../../dist/index.js';

export const load = async (): Promise<ModelInfo> => (await Foreword.load('smollm2-135m')).info;
