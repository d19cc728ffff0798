// What pointer and keyboard do on the stage, tool by tool.
import {cut, paint, setPoint} from './edits.js';
import {Stroke} from './raster.js';
import {pan, paintLabels, redraw, sketch, toFrame, viewScale, zoom} from './stage.js';
import {changed, chosen, on, say, state} from './state.js';

export const TOOLS = /** @type {const} */ ([
  ['box', 'Box', 'W', 'Draw a box: what is in it is cut out'],
  ['scribble', 'Scribble', 'S', 'Scribble on a thing: it is cut out; right button: on what is not it'],
  ['brush', 'Brush', 'B', 'Paint'],
  ['eraser', 'Eraser', 'X', 'Erase'],
  ['polygon', 'Polygon', 'P', 'Click corners; the first one again or Enter closes it'],
  ['fill', 'Fill', 'G', 'Fill an area of one colour'],
  ['point', 'Keypoint', 'J', 'Set or drag the chosen keypoint'],
  ['hand', 'Move', 'M', 'Move the picture'],
]);

const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('stage'));
/** @type {{tool: string, erase: boolean, stroke?: Stroke, start: number[], last: number[], joint?: import('./state.js').Joint} | null} */
let work = null;
/** @type {number[][]} */
let outside = []; // the scribble on what is not the thing, until one on the thing comes
/** @type {Map<number, {x: number, y: number}>} */
const fingers = new Map();

/** Whether a stroke is being drawn. */
export const busy = () => work !== null;

/** @param {number[]} at in the frame @param {boolean} erase */
function begin(at, erase) {
  if (state.frame < 0 || work) return;
  if (state.playing) state.playing = false;
  const tool = erase && ['box', 'polygon', 'fill'].includes(state.tool) ? 'eraser' : state.tool;
  if (tool !== 'hand' && !chosen()) return say('add an object first, at the right', true);
  const colour = chosen()?.colour ?? '#fff';
  work = {tool, erase, start: at, last: at};
  Object.assign(sketch, {colour, radius: 0});
  if (tool === 'brush' || tool === 'eraser') {
    work.stroke = new Stroke(state.labels, state.width, state.height);
    extend(at);
  } else if (tool === 'scribble') {
    Object.assign(sketch, {line: [at], closed: false, radius: state.size / 4, colour: erase ? '#fff' : colour});
  } else if (tool === 'polygon') {
    addCorner(at);
    work = null;
  } else if (tool === 'fill') {
    const stroke = new Stroke(state.labels, state.width, state.height);
    stroke.fill(at[0], at[1], state.object);
    work = null;
    finish(stroke);
  } else if (tool === 'point') {
    beginPoint(at, erase);
  }
  redraw();
}

/** Go on with a stroke. @param {number[]} at */
function extend(at) {
  if (!work?.stroke) return;
  const id = work.tool === 'eraser' || work.erase ? 0 : state.object;
  const {stroke, last} = work, radius = state.size / 2;
  stroke.line(last, at, radius, id);
  const clip = (/** @type {number} */ value, /** @type {number} */ most) => Math.max(0, Math.min(most, value));
  paintLabels({
    left: clip(Math.floor(Math.min(last[0], at[0]) - radius) - 1, state.width),
    top: clip(Math.floor(Math.min(last[1], at[1]) - radius) - 1, state.height),
    right: clip(Math.ceil(Math.max(last[0], at[0]) + radius) + 2, state.width),
    bottom: clip(Math.ceil(Math.max(last[1], at[1]) + radius) + 2, state.height),
  });
  work.last = at;
}

/** @param {number[]} at */
function move(at) {
  sketch.pointer = at;
  if (work?.tool === 'box') sketch.box = corners(work.start, at);
  else if (work?.stroke) extend(at);
  else if (work?.tool === 'scribble') sketch.line.push(at);
  else if (work?.joint) Object.assign(work.joint, {x: inside(at)[0], y: inside(at)[1], by: 'person', visibility: work.joint.visibility === 'hidden' ? 'hidden' : 'visible'});
  redraw();
}

function end() {
  const done = work;
  work = null;
  if (!done) return;
  if (done.stroke) finish(done.stroke);
  if (done.tool === 'box') {
    const box = sketch.box;
    sketch.box = null;
    if (box && box[2] - box[0] > 1 && box[3] - box[1] > 1) cut({object: state.object, box});
  }
  if (done.tool === 'scribble') endScribble(done.erase);
  if (done.joint) {
    const {object, joint, x, y, visibility} = done.joint;
    setPoint({object, joint, x, y, visibility});
    nextJoint();
  }
  redraw();
}

/** @param {boolean} erase */
function endScribble(erase) {
  const line = thin(sketch.line);
  if (erase) {
    outside = line;
    sketch.line = line;
    say('now scribble on the thing itself');
    return;
  }
  sketch.line = [];
  cut({object: state.object, inside: line, outside, radius: Math.max(1, state.size / 4)});
  outside = [];
}

/** @param {Stroke} stroke */
function finish(stroke) {
  const patch = stroke.patch();
  paintLabels();
  if (patch) paint(patch);
}

/** @param {number[]} at */
function addCorner(at) {
  const line = sketch.line;
  const near = line.length > 2 && Math.hypot(line[0][0] - at[0], line[0][1] - at[1]) * viewScale() < 12;
  if (near) return closePolygon();
  Object.assign(sketch, {line: [...line, at], closed: false, radius: 0});
}

/** Fill the polygon that is being drawn; false where there is none. */
export function closePolygon() {
  if (state.tool !== 'polygon' || sketch.line.length < 3) return false;
  const stroke = new Stroke(state.labels, state.width, state.height);
  stroke.polygon(sketch.line, state.object);
  sketch.line = [];
  finish(stroke);
  return true;
}

/** Drop what is being drawn; false where nothing was. */
export function dropSketch() {
  const had = sketch.line.length > 0 || sketch.box !== null || outside.length > 0;
  Object.assign(sketch, {line: [], box: null, cross: null});
  outside = [];
  if (work && !work.stroke) work = null;
  redraw();
  return had;
}

/** @param {number[]} at @param {boolean} hide */
function beginPoint(at, hide) {
  const near = state.info.points.find(p => p.x !== undefined && p.y !== undefined && !state.hidden.has(p.object)
    && Math.hypot(p.x - at[0], p.y - at[1]) * viewScale() < 11);
  if (near) Object.assign(state, {object: near.object, joint: near.joint});
  changed('objects');
  if (hide) {
    work = null;
    return near && hidePoint();
  }
  if (!state.joint) {
    work = null;
    return say('name a keypoint first, at the right', true);
  }
  const known = state.info.points.find(p => p.object === state.object && p.joint === state.joint);
  const [x, y] = inside(at);
  const point = known ?? {object: state.object, joint: state.joint, visibility: 'visible', by: 'person'};
  if (!known) state.info.points.push(point);
  if (!near) Object.assign(point, {x, y});
  Object.assign(point, {by: 'person', visibility: point.visibility === 'hidden' ? 'hidden' : 'visible'});
  if (work) work.joint = point;
}

/** Mark the chosen keypoint as hidden behind something, or as seen again. */
export function hidePoint() {
  const point = state.info.points.find(p => p.object === state.object && p.joint === state.joint);
  if (!point || point.x === undefined) return say('set this keypoint first', true);
  const visibility = point.visibility === 'hidden' ? 'visible' : 'hidden';
  Object.assign(point, {visibility, by: 'person'});
  return setPoint({object: point.object, joint: point.joint, x: point.x, y: point.y, visibility});
}

/** Say that the chosen keypoint is not in this frame. */
export function absentPoint() {
  return setPoint({object: state.object, joint: state.joint, visibility: 'absent'});
}

/** Choose the next keypoint that this object lacks. */
function nextJoint() {
  const has = new Set(state.info.points.filter(p => p.object === state.object).map(p => p.joint));
  const free = state.joints.find(name => !has.has(name));
  if (free) { state.joint = free; changed('objects'); }
}

/** @param {number[]} at */
const inside = at => [Math.max(0, Math.min(state.width - 1, at[0])), Math.max(0, Math.min(state.height - 1, at[1]))];
/** @param {number[]} a @param {number[]} b */
const corners = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])].map(Math.round);
/** @param {number[][]} line */
const thin = line => line.filter((_, i) => i % Math.ceil(line.length / 400) === 0).map(corner => corner.map(value => Math.round(value * 10) / 10));

/** Move the keyboard's cross; a stroke that is on goes with it. @param {number} dx pixels of the frame @param {number} dy */
export function moveCross(dx, dy) {
  const at = sketch.cross ?? [state.width / 2, state.height / 2];
  sketch.cross = inside([at[0] + dx, at[1] + dy]);
  move(sketch.cross);
}

/** Put the tool down at the cross, or lift it. */
export function pressCross() {
  if (!sketch.cross) moveCross(0, 0);
  const at = /** @type {number[]} */ (sketch.cross);
  if (work) end();
  else begin(at, false);
}

canvas.addEventListener('pointerdown', event => {
  canvas.focus({preventScroll: true});
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
  if (fingers.size > 1) return dropWork();
  sketch.cross = null;
  if (event.button === 1 || (event.button === 0 && (state.tool === 'hand' || event.altKey))) {
    work = {tool: 'hand', erase: false, start: [0, 0], last: [0, 0]};
  } else {
    begin(toFrame(event.clientX, event.clientY), event.button === 2);
  }
  event.preventDefault();
});

canvas.addEventListener('pointermove', event => {
  const finger = fingers.get(event.pointerId);
  if (finger && fingers.size > 1) pinch(event, finger);
  else if (finger && work?.tool === 'hand') pan(event.clientX - finger.x, event.clientY - finger.y);
  else for (const part of event.getCoalescedEvents?.() ?? [event]) move(toFrame(part.clientX, part.clientY));
  if (finger) Object.assign(finger, {x: event.clientX, y: event.clientY});
});

for (const name of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(name, event => {
    const last = fingers.delete(/** @type {PointerEvent} */ (event).pointerId);
    if (last && fingers.size === 0) end();
  });
}
canvas.addEventListener('pointerleave', () => { sketch.pointer = null; redraw(); });
canvas.addEventListener('contextmenu', event => event.preventDefault());
canvas.addEventListener('wheel', event => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, {passive: false});

/** Two fingers move and zoom: what one of them has begun is dropped. */
function dropWork() {
  const stroke = work?.stroke;
  work = null;
  Object.assign(sketch, {line: [], box: null});
  if (stroke) finish(stroke);
}

/** @param {PointerEvent} event @param {{x: number, y: number}} finger */
function pinch(event, finger) {
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (!other) return;
  const before = Math.hypot(finger.x - other.x, finger.y - other.y);
  const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
  pan((event.clientX - finger.x) / 2, (event.clientY - finger.y) / 2);
  if (before > 5) zoom(after / before, (event.clientX + other.x) / 2, (event.clientY + other.y) / 2);
}

on('frame tool', () => { if (!work?.stroke) { work = null; Object.assign(sketch, {line: [], box: null}); outside = []; } });
