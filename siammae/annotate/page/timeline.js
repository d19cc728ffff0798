// All frames in one strip: what is annotated, followed and stale, and how sure each track is.
import {goTo} from './frames.js';
import {ANNOTATED, FOLLOWED, on, STALE, state} from './state.js';

const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('timeline'));
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
const BAND = 16, GAP = 3, EDGE = 6;

let wanted = false;
function redraw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; draw(); });
}

/** @param {number} frame */
const left = frame => EDGE + (frame * (canvas.clientWidth - 2 * EDGE)) / Math.max(1, state.count);

function draw() {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  Object.assign(canvas, {width: Math.round(width * ratio), height: Math.round(height * ratio)});
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = '#0b0c0f';
  context.fillRect(0, 0, width, height);
  if (!state.count) return;
  drawMarks(width);
  drawConfidence(width, height);
  const x = left(state.frame), step = Math.max(2, left(state.frame + 1) - x);
  context.strokeStyle = '#fff'; context.lineWidth = 2;
  context.strokeRect(x - 1, 1, step + 2, height - 2);
  canvas.setAttribute('aria-valuemax', String(state.count - 1));
  canvas.setAttribute('aria-valuenow', String(state.frame));
  const mark = state.marks[state.frame] ?? 0;
  const said = mark & ANNOTATED ? 'annotated' : mark & STALE ? 'stale' : mark & FOLLOWED ? 'followed' : 'not annotated';
  canvas.setAttribute('aria-valuetext', `frame ${state.frame} of ${state.count}, ${said}`);
}

/** One column of the screen has several frames of a long video: what matters most is seen. @param {number} width */
function drawMarks(width) {
  const style = getComputedStyle(document.documentElement);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`);
  const [followed, stale, annotated] = ['followed', 'stale', 'annotated'].map(colour);
  const start = (/** @type {number} */ frame) => Math.floor(left(frame));
  for (let frame = 0; frame < state.count; frame++) {
    const mark = state.marks[frame];
    if (!mark) continue;
    const x = start(frame), size = Math.max(1, start(frame + 1) - x);
    if (mark & FOLLOWED) { context.fillStyle = followed; context.fillRect(x, 0, size, BAND); }
    if (mark & STALE && !(mark & ANNOTATED)) {
      context.fillStyle = stale;
      context.fillRect(x, 0, size, BAND);
      context.fillStyle = '#5c2c10';
      context.fillRect(x, BAND / 2, size, 3);
    }
  }
  context.fillStyle = annotated;
  for (let frame = 0; frame < state.count; frame++) {
    if (state.marks[frame] & ANNOTATED) context.fillRect(start(frame), 0, Math.max(3, start(frame + 1) - start(frame)), BAND);
  }
  if (state.next !== null) {
    const x = left(state.next + 0.5);
    context.fillStyle = '#9ecbff';
    context.beginPath(); context.moveTo(x - 5, 0); context.lineTo(x + 5, 0); context.lineTo(x, 8); context.fill();
  }
  context.fillStyle = '#3a4150';
  context.fillRect(0, BAND, width, 1);
}

/** A strip for each track, dark where it is unsure. @param {number} width @param {number} height */
function drawConfidence(width, height) {
  const tracks = Object.entries(state.confidence);
  if (!tracks.length) return;
  const room = (height - BAND - GAP) / tracks.length, strip = Math.max(1, room - (room > 4 ? 2 : 0));
  const size = Math.max(1, left(1) - left(0));
  tracks.forEach(([track, values], row) => {
    const thing = state.objects.find(one => one.id === parseInt(track));
    const top = BAND + GAP + row * room;
    /** @type {Map<number, number>} */ const lowest = new Map();
    values.forEach((value, frame) => {
      if (value === null) return;
      const x = Math.floor(left(frame));
      lowest.set(x, Math.min(value, lowest.get(x) ?? 1));
    });
    context.fillStyle = thing?.colour ?? '#888';
    for (const [x, value] of lowest) {
      const part = Math.max(0.06, value) * strip;
      context.globalAlpha = 0.35 + 0.65 * value;
      context.fillRect(x, top + strip - part, Math.ceil(size), part);
    }
    context.globalAlpha = 1;
  });
}

/** @param {PointerEvent} event */
function jump(event) {
  const box = canvas.getBoundingClientRect();
  goTo(Math.floor(((event.clientX - box.left - EDGE) / (box.width - 2 * EDGE)) * state.count));
}
canvas.addEventListener('pointerdown', event => { canvas.setPointerCapture(event.pointerId); jump(event); });
canvas.addEventListener('pointermove', event => { if (canvas.hasPointerCapture(event.pointerId)) jump(event); });
new ResizeObserver(redraw).observe(canvas);
on('frame marks attention-known objects', redraw);
