// Opens the page: asks what there is, connects everything, and listens to the server.
import {get, listen} from './api.js';
import {refreshAttention} from './attention.js';
import {connectDialogs} from './dialogs.js';
import {describe, takeThings} from './edits.js';
import {goTo, reload} from './frames.js';
import {listenToKeys} from './keys.js';
import {$, connect} from './panels.js';
import {fit} from './stage.js';
import {changed, FOLLOWED, on, say, STALE, state, takeSpans} from './state.js';
import {busy} from './tools.js';
import './timeline.js';

let stale = false; // the shown frame was changed elsewhere while the person was drawing

/** @param {number} frame */
function changedElsewhere(frame) {
  if (frame !== state.frame) return;
  if (busy() || state.pending) stale = true;
  else void reload();
}

/** @param {any} event of a frame that was followed */
function takeFollowed(event) {
  state.marks[event.frame] |= FOLLOWED;
  if (event.final) state.marks[event.frame] &= ~STALE;
  else state.marks[event.frame] |= STALE;
  for (const [track, value] of Object.entries(event.confidence)) {
    const values = (state.confidence[track] ??= new Array(state.count).fill(null));
    values[event.frame] = Number(value);
  }
  state.run = event;
  changed('marks attention-known run');
  changedElsewhere(event.frame);
}

/** @param {any} event */
async function take(event) {
  if (event.type === 'followed') return takeFollowed(event);
  if (event.type === 'run') {
    state.run = event;
    changed('run');
    if (event.state === 'idle') refreshAttention(0);
    return;
  }
  if (event.client === state.client) return;
  if (event.type === 'edited') changedElsewhere(event.frame);
  else await refresh();
  refreshAttention();
}

/** Look at everything anew, as after the server was away. */
async function refresh() {
  const overview = await get('/api/project');
  takeThings(overview);
  takeSpans(overview.spans);
  state.run = overview.run;
  changed('run');
  if (state.frame >= 0) await reload();
}

async function open() {
  const overview = await get('/api/project');
  const {video} = overview;
  Object.assign(state, {name: video.name, key: video.sha256.slice(0, 12), count: video.frames, width: video.width, height: video.height,
    rate: overview.rate, run: overview.run, marks: new Uint8Array(video.frames)});
  document.title = `${video.name} — siammae`;
  $('title').textContent = video.name;
  $('title').title = `${video.name}, project ${overview.project}`;
  $('count').textContent = `of ${video.frames}`;
  connect();
  connectDialogs(overview.formats);
  listenToKeys();
  takeThings(overview);
  takeSpans(overview.spans);
  if (!state.objects.length) await describe('/api/objects', {name: ''});
  fit();
  changed('tool look run objects');
  await goTo(0);
  refreshAttention(0);
  let away = false;
  listen(take, lives => {
    if (!lives) say('the server does not answer; what is saved is safe', true);
    else if (away) refresh().then(() => say('connected again'), () => {});
    away = !lives;
  });
  if (overview.broken) say(`${overview.broken} The frames before can be annotated.`, true);
  document.body.dataset.ready = 'true';
}

on('pending', () => {
  if (stale && !state.pending && !busy()) { stale = false; void reload(); }
});
document.body.dataset.pending = '0';
open().catch(error => say(error.message, true));
