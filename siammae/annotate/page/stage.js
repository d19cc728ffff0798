// The picture with everything over it; where it lies on the screen, zoomed and moved.
import {on, state} from './state.js';

const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('stage'));
const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
const overlay = document.createElement('canvas');
const overlayContext = /** @type {CanvasRenderingContext2D} */ (overlay.getContext('2d', {willReadFrequently: true}));
const view = {scale: 0, x: 0, y: 0, fits: true};
const JOINT_RADIUS = 6;

/** What a tool shows while it works: corners of a line, a box, the cross of the keyboard. */
export const sketch = {
  /** @type {number[][]} */ line: [], closed: false, radius: 0, colour: '#fff',
  /** @type {number[] | null} */ box: null,
  /** @type {number[] | null} */ cross: null,
  /** @type {number[] | null} */ pointer: null,
};

let wanted = false;
/** Draw everything anew before the next picture of the screen. */
export function redraw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => { wanted = false; draw(); });
}

/** Screen to pixels of the frame; the centre of pixel 0, 0 is at 0, 0. @param {number} x @param {number} y */
export function toFrame(x, y) {
  const box = canvas.getBoundingClientRect();
  return [(x - box.left - view.x) / view.scale - 0.5, (y - box.top - view.y) / view.scale - 0.5];
}

/** Pixels of the frame to the screen. @param {number} x @param {number} y */
export function toScreen(x, y) {
  const box = canvas.getBoundingClientRect();
  return [(x + 0.5) * view.scale + view.x + box.left, (y + 0.5) * view.scale + view.y + box.top];
}

export function viewScale() {
  return view.scale;
}

/** Make the frame fill the stage. */
export function fit() {
  const {clientWidth: w, clientHeight: h} = canvas;
  if (!state.width || !w) return;
  view.scale = Math.min(w / state.width, h / state.height);
  view.x = (w - state.width * view.scale) / 2;
  view.y = (h - state.height * view.scale) / 2;
  view.fits = true;
  redraw();
}

/** @param {number} factor @param {number} [x] screen, which stays where it is @param {number} [y] */
export function zoom(factor, x, y) {
  const box = canvas.getBoundingClientRect();
  const cx = x === undefined ? canvas.clientWidth / 2 : x - box.left;
  const cy = y === undefined ? canvas.clientHeight / 2 : y - box.top;
  const smallest = Math.min(canvas.clientWidth / state.width, canvas.clientHeight / state.height) / 2;
  const scale = Math.max(smallest, Math.min(40, view.scale * factor));
  view.x = cx - ((cx - view.x) * scale) / view.scale;
  view.y = cy - ((cy - view.y) * scale) / view.scale;
  view.scale = scale;
  view.fits = false;
  redraw();
}

/** @param {number} dx screen pixels @param {number} dy */
export function pan(dx, dy) {
  view.x += dx; view.y += dy;
  view.fits = false;
  redraw();
}

/** @param {string} colour #rrggbb */
function rgb(colour) {
  const number = parseInt(colour.slice(1), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

/** The colour of each id as one number, as the pixels of a canvas have it. */
function palette() {
  const colours = new Uint32Array(256);
  const alpha = Math.round(state.opacity * 255);
  for (const thing of state.objects) {
    if (state.hidden.has(thing.id)) continue;
    const [r, g, b] = rgb(thing.colour);
    colours[thing.id] = ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }
  return colours;
}

/** Bring labels onto the overlay: all, or those in a rectangle. @param {{left: number, top: number, right: number, bottom: number}} [part] */
export function paintLabels(part) {
  const {width, height, labels} = state;
  if (!width || labels.length !== width * height) return;
  if (overlay.width !== width || overlay.height !== height) Object.assign(overlay, {width, height});
  const {left, top, right, bottom} = part ?? {left: 0, top: 0, right: width, bottom: height};
  if (right <= left || bottom <= top) return;
  const image = overlayContext.createImageData(right - left, bottom - top);
  const pixels = new Uint32Array(image.data.buffer), colours = palette();
  for (let y = top, i = 0; y < bottom; y++) {
    for (let x = left, j = y * width + left; x < right; x++) pixels[i++] = colours[labels[j++]];
  }
  overlayContext.putImageData(image, left, top);
  redraw();
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.round(canvas.clientWidth * ratio), h = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h});
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, w, h);
  if (!state.image) return;
  context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  context.imageSmoothingEnabled = view.scale * ratio < 2;
  context.drawImage(state.image, 0, 0, state.width, state.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(overlay, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, ratio * view.x, ratio * view.y);
  drawJoints();
  drawSketch();
}

/** @param {number} x @param {number} y in the coordinates of the context */
const place = (x, y) => /** @type {[number, number]} */ ([(x + 0.5) * view.scale, (y + 0.5) * view.scale]);

function drawJoints() {
  context.font = '12px system-ui, sans-serif';
  for (const point of state.info.points) {
    const thing = state.objects.find(one => one.id === point.object);
    if (!thing || state.hidden.has(point.object) || point.x === undefined || point.y === undefined) continue;
    const [x, y] = place(point.x, point.y);
    const chosen = point.object === state.object && point.joint === state.joint;
    context.globalAlpha = point.by === 'followed' ? 0.35 + 0.65 * (point.confidence ?? 1) : 1;
    context.beginPath();
    context.arc(x, y, JOINT_RADIUS, 0, 2 * Math.PI);
    context.lineWidth = 5; context.strokeStyle = '#000'; context.stroke();
    context.lineWidth = chosen ? 3 : 2; context.strokeStyle = chosen ? '#fff' : thing.colour; context.stroke();
    if (point.visibility !== 'hidden') { context.fillStyle = thing.colour; context.fill(); }
    context.lineWidth = 3; context.strokeStyle = '#000'; context.strokeText(point.joint, x + 9, y + 4);
    context.fillStyle = '#fff'; context.fillText(point.joint, x + 9, y + 4);
    context.globalAlpha = 1;
  }
}

function drawSketch() {
  const {line, closed, radius, colour, box, cross, pointer} = sketch;
  const path = () => {
    context.beginPath();
    line.forEach(([x, y], i) => (i ? context.lineTo(...place(x, y)) : context.moveTo(...place(x, y))));
    if (closed) context.closePath();
  };
  context.lineCap = context.lineJoin = 'round';
  if (line.length && radius) {
    path();
    context.lineWidth = Math.max(2, 2 * radius * view.scale); context.strokeStyle = colour; context.globalAlpha = 0.6;
    context.stroke(); context.globalAlpha = 1;
  } else if (line.length) {
    path();
    context.lineWidth = 4; context.strokeStyle = '#000'; context.stroke();
    context.lineWidth = 2; context.strokeStyle = colour; context.stroke();
    for (const corner of line) { context.beginPath(); context.arc(...place(corner[0], corner[1]), 3.5, 0, 7); context.fillStyle = colour; context.fill(); }
  }
  if (box) {
    const [x0, y0] = place(box[0] - 0.5, box[1] - 0.5), [x1, y1] = place(box[2] - 0.5, box[3] - 0.5);
    context.lineWidth = 4; context.strokeStyle = '#000'; context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = 2; context.strokeStyle = colour; context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  const ring = cross ?? pointer;
  if (ring && ['brush', 'eraser', 'scribble'].includes(state.tool)) {
    context.beginPath(); context.arc(...place(ring[0], ring[1]), Math.max(2, (state.size / 2) * view.scale), 0, 7);
    context.lineWidth = 3; context.strokeStyle = '#000'; context.stroke();
    context.lineWidth = 1; context.strokeStyle = '#fff'; context.stroke();
  }
  if (cross) {
    const [x, y] = place(cross[0], cross[1]);
    for (const [width, ink] of /** @type {const} */ ([[4, '#000'], [2, '#fff']])) {
      context.beginPath(); context.moveTo(x - 12, y); context.lineTo(x + 12, y); context.moveTo(x, y - 12); context.lineTo(x, y + 12);
      context.lineWidth = width; context.strokeStyle = ink; context.stroke();
    }
  }
}

new ResizeObserver(() => (view.fits ? fit() : redraw())).observe(canvas);
on('labels objects look', () => paintLabels());
on('frame info', () => redraw());
