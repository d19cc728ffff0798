// Which frame is shown: its picture and its labels come together, and its neighbours are fetched before they are wanted.
import {getImage, getLabels, getNeighbour} from './api.js';
import {changed, say, state} from './state.js';
import {idle} from './edits.js';

const KEPT_PIXELS = 60e6; // of decoded neighbours
const AHEAD = 4, BEHIND = 2;

/** @type {Map<number, Promise<ImageBitmap | null>>} */
const pictures = new Map();
let wanted = -1;
let loading = Promise.resolve();

/** @param {number} frame @param {(frame: number) => Promise<ImageBitmap | null>} fetched where it is not there */
function picture(frame, fetched) {
  let found = pictures.get(frame);
  if (found) pictures.delete(frame);
  found ??= fetched(frame);
  pictures.set(frame, found);
  const drop = () => { if (pictures.get(frame) === found) pictures.delete(frame); };
  found.then(bitmap => bitmap ?? drop(), drop);
  const most = Math.max(8, Math.floor(KEPT_PIXELS / (state.width * state.height)));
  for (const [old, image] of pictures) {
    if (pictures.size <= most) break;
    if (old === state.frame || old === wanted) continue;
    pictures.delete(old);
    image.then(bitmap => bitmap !== state.image && bitmap?.close(), () => {});
  }
  return found;
}

/** @param {number} frame */
async function shown(frame) {
  const bitmap = await picture(frame, getImage);
  return bitmap ?? picture(frame, getImage); // the server had other things to do than a neighbour
}

/** @param {number} frame */
function prefetch(frame) {
  if (frame >= 0 && frame < state.count) picture(frame, near => getNeighbour(near, state.frame));
}

/** Show a frame; resolves once it, or one that was asked for later, is there. @param {number} frame */
export function goTo(frame) {
  wanted = Math.max(0, Math.min(state.count - 1, Math.round(frame)));
  loading = loading.then(load);
  return loading;
}

/** Show a frame so many further; keys that are pressed faster than frames come add up. @param {number} step */
export function goBy(step) {
  return goTo(wanted + step);
}

async function load() {
  const frame = wanted;
  if (frame === state.frame) return;
  try {
    const image = shown(frame);
    image.catch(() => {}); // heard of below
    await idle();
    const [bitmap, {info, labels}] = await Promise.all([image, getLabels(frame)]);
    if (frame !== wanted) return; // the person is elsewhere already
    Object.assign(state, {frame, image: bitmap, info, labels});
    changed('frame labels');
    for (let i = 1; i <= AHEAD; i++) prefetch(frame + i);
    for (let i = 1; i <= BEHIND; i++) prefetch(frame - i);
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
}

/** Fetch the labels of the shown frame again. */
export async function reload() {
  await idle();
  const frame = state.frame;
  if (frame < 0) return;
  try {
    const {info, labels} = await getLabels(frame);
    if (frame !== state.frame || state.pending) return;
    Object.assign(state, {info, labels});
    changed('labels');
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
}

/** Show one frame after the other, as fast as the video's rate and the server allow. */
export async function play() {
  state.playing = !state.playing;
  changed('playing');
  while (state.playing) {
    const began = performance.now();
    if (state.frame >= state.count - 1) break;
    await goTo(state.frame + 1);
    const rest = 1000 / (state.rate || 25) - (performance.now() - began);
    await new Promise(resolve => setTimeout(resolve, Math.max(0, rest)));
  }
  state.playing = false;
  changed('playing');
}

/** @param {number} step @param {number} bit go to the next frame to one side that has a mark */
export function goToMark(step, bit) {
  for (let frame = state.frame + step; frame >= 0 && frame < state.count; frame += step) {
    if (state.marks[frame] & bit) return goTo(frame);
  }
  say('there is no annotated frame that way');
}
