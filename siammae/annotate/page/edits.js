// What the person does goes to the server in the order in which it was done.
import {post, postPixels} from './api.js';
import {reload} from './frames.js';
import {changed, say, state, takeSpans} from './state.js';

let last = Promise.resolve();

/** Resolves once everything that was done is saved. */
export function idle() {
  return last;
}

/**
 * @param {() => Promise<any>} send
 * @param {boolean} fetches whether the frame's pixels are to be fetched afterwards
 */
function queue(send, fetches) {
  const frame = state.frame;
  state.pending++;
  changed('pending');
  const done = last.then(send).then(
    result => {
      if (result.spans) takeSpans(result.spans);
      if (result.frame === state.frame && result.points) {
        state.info = result;
        changed('info');
      }
      say('saved');
      return fetches;
    },
    error => {
      say(error.message, true);
      return true;
    },
  ).then(needed => {
    state.pending--;
    changed('pending attention');
    if (needed && frame === state.frame && !state.pending) return void reload();
  });
  last = done.then(() => {});
  return done;
}

/** Send changed pixels of the shown frame. @param {{left: number, top: number, width: number, height: number, pixels: Uint8Array}} patch */
export function paint({left, top, width, height, pixels}) {
  const path = `/api/frames/${state.frame}/paint?left=${left}&top=${top}&width=${width}&height=${height}`;
  return queue(() => postPixels(path, pixels), false);
}

/** Let the server cut something out of the shown frame. @param {object} values */
export function cut(values) {
  const path = `/api/frames/${state.frame}/cut`;
  say('cutting out…');
  return queue(() => post(path, values), true);
}

/** approve, reset, undo, redo, absent. @param {string} action @param {object} values */
export function act(action, values = {}) {
  const path = `/api/frames/${state.frame}/${action}`;
  return queue(() => post(path, values), true);
}

/** Set a keypoint of the shown frame. @param {object} values */
export function setPoint(values) {
  const path = `/api/frames/${state.frame}/point`;
  return queue(() => post(path, values), false);
}

/** Objects and names of keypoints. @param {string} path @param {object} values */
export function describe(path, values) {
  return queue(async () => {
    const result = await post(path, values);
    takeThings(result);
    if (result.new) {
      state.object = result.new;
      changed('objects');
    }
    return result;
  }, true);
}

/** @param {{objects: import('./state.js').Thing[], joints: string[]}} things */
export function takeThings({objects, joints}) {
  Object.assign(state, {objects, joints});
  if (!objects.some(thing => thing.id === state.object)) state.object = objects[0]?.id ?? 0;
  if (!joints.includes(state.joint)) state.joint = joints[0] ?? '';
  changed('objects');
}
