// How sure the frames are, and where to look next.
import {get} from './api.js';
import {goTo} from './frames.js';
import {changed, on, say, state, takeSpans} from './state.js';

let timer = 0, place = 0;

async function fetchAttention() {
  try {
    const {next, doubtful, confidence, spans} = await get('/api/attention');
    Object.assign(state, {next, doubtful, confidence});
    takeSpans(spans);
    changed('attention-known');
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
}

/** Ask soon, once for many changes. */
export function refreshAttention(delay = 300) {
  clearTimeout(timer);
  timer = window.setTimeout(fetchAttention, delay);
}

/** Go to the least certain stretch; again: to the next one. */
export async function lookAtDoubt() {
  await fetchAttention();
  if (!state.doubtful.length) return say('nothing was followed yet: there is no doubt to look at');
  place = place % state.doubtful.length;
  const [first, last, sure] = state.doubtful[place++];
  await goTo(Math.round((first + last) / 2));
  say(`frames ${first} to ${last}: confidence ${sure.toFixed(2)} (${place} of ${state.doubtful.length})`);
}

/** Go to the frame that is proposed. */
export async function lookAtNext() {
  await fetchAttention();
  if (state.next === null) return say('nothing was followed yet: no frame to propose');
  await goTo(state.next);
  say(`a correction of frame ${state.next} promises most`);
}

on('attention', () => { place = 0; refreshAttention(); });
