// What the page knows, in one place, and a bell that rings when something of it has changed.

/** @typedef {{id: number, name: string, colour: string}} Thing */
/** @typedef {{object: number, joint: string, visibility: string, by: string, x?: number, y?: number, confidence?: number}} Joint */
/** @typedef {{frame: number, drawn: boolean, followed: boolean, spoken: number[], points: Joint[], undo: boolean, redo: boolean}} FrameInfo */

export const ANNOTATED = 1, FOLLOWED = 2, STALE = 4;

export const state = {
  client: Math.random().toString(36).slice(2),
  name: '', key: '', count: 0, width: 0, height: 0, rate: 0,
  frame: -1,
  /** @type {ImageBitmap | null} */ image: null,
  labels: new Uint8Array(0),
  /** @type {FrameInfo} */ info: {frame: -1, drawn: false, followed: false, spoken: [], points: [], undo: false, redo: false},
  /** @type {Thing[]} */ objects: [],
  /** @type {string[]} */ joints: [],
  object: 0, joint: '',
  tool: 'box', size: 12, opacity: 0.5,
  /** @type {Set<number>} */ hidden: new Set(),
  marks: new Uint8Array(0), // of each frame: annotated, followed, stale
  /** @type {Record<string, (number | null)[]>} */ confidence: {},
  /** @type {number[][]} */ doubtful: [],
  /** @type {number | null} */ next: null,
  run: {state: 'idle', done: 0, total: 0, message: ''},
  pending: 0, // changes on their way to the server
  playing: false,
};

/** @type {Map<string, (() => void)[]>} */
const listeners = new Map();

/** Call a function whenever one of these has changed. @param {string} topics @param {() => void} call */
export function on(topics, call) {
  for (const topic of topics.split(' ')) listeners.set(topic, [...(listeners.get(topic) ?? []), call]);
}

/** Say that something has changed. @param {string} topics */
export function changed(topics) {
  for (const topic of topics.split(' ')) for (const call of listeners.get(topic) ?? []) call();
}

/** @param {{annotated: number[][], followed: number[][], stale: number[][]}} spans */
export function takeSpans(spans) {
  state.marks.fill(0);
  for (const [name, bit] of /** @type {const} */ ([['annotated', ANNOTATED], ['followed', FOLLOWED], ['stale', STALE]])) {
    for (const [first, last] of spans[name]) for (let f = first; f <= last; f++) state.marks[f] |= bit;
  }
  changed('marks');
}

/** @returns {Thing | undefined} */
export function chosen() {
  return state.objects.find(thing => thing.id === state.object);
}

/** Say something to the person. @param {string} text @param {boolean} error */
export function say(text, error = false) {
  const place = /** @type {HTMLElement} */ (document.getElementById('message'));
  place.textContent = text;
  place.title = text;
  place.classList.toggle('error', error);
}
