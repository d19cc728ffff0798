// Buttons, lists and fields around the stage.
import {post} from './api.js';
import {act, describe} from './edits.js';
import {goBy, goTo, play} from './frames.js';
import {absentPoint, TOOLS} from './tools.js';
import {ANNOTATED, changed, chosen, FOLLOWED, on, say, STALE, state} from './state.js';

/** @template {HTMLElement} T @param {string} id @returns {T} */
export const $ = id => /** @type {any} */ (document.getElementById(id));

/** @param {string} tag @param {Record<string, any>} properties @param {(Node | string)[]} children */
function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('aria-') || name === 'role') made.setAttribute(name, value);
    else /** @type {any} */ (made)[name] = value;
  }
  made.append(...children);
  return made;
}

/** @param {string} tool */
export function chooseTool(tool) {
  state.tool = tool;
  changed('tool look');
}

/** @param {number} id */
export function chooseObject(id) {
  if (!state.objects.some(thing => thing.id === id)) return say(`there is no object ${id}`, true);
  state.object = id;
  changed('objects');
}

/** @param {number} step */
export function chooseNext(step) {
  const place = state.objects.findIndex(thing => thing.id === state.object);
  const next = state.objects[(place + step + state.objects.length) % state.objects.length];
  if (next) chooseObject(next.id);
}

/** @param {number} id */
export function toggleHidden(id) {
  if (!state.hidden.delete(id)) state.hidden.add(id);
  changed('objects');
}

export function addObject() {
  const field = /** @type {HTMLInputElement} */ ($('object-name'));
  describe('/api/objects', {name: field.value.trim()});
  field.value = '';
}

function addJoint() {
  const field = /** @type {HTMLInputElement} */ ($('joint-name')), name = field.value.trim();
  if (!name) return;
  field.value = '';
  describe('/api/joints', {joints: [...state.joints, name]}).then(() => { state.joint = name; chooseTool('point'); changed('objects'); });
}

/** The chosen object is not in this frame; with the keypoint tool, the chosen keypoint. */
export function markAbsent() {
  if (state.tool === 'point' && state.joint) return absentPoint();
  if (chosen()) act('absent', {object: state.object});
}

/** @param {'forward' | 'backward' | 'both'} direction */
export async function follow(direction) {
  const limit = /** @type {HTMLSelectElement} */ ($('follow-limit')).value;
  /** @type {Record<string, unknown>} */
  const wanted = {frame: state.frame, direction};
  if (limit === 'next') wanted.limit = distance(direction);
  else if (limit !== 'end') wanted.limit = Number(limit);
  if (wanted.limit === undefined && limit === 'next') return say('there is no other annotated frame that way', true);
  if (/** @type {HTMLSelectElement} */ ($('follow-who')).value === 'one') wanted.object = state.object;
  // Not from the answer: the server's own events, which come in their order, may have overtaken it.
  const before = state.run;
  state.run = {state: 'following', done: 0, total: 0, message: ''};
  changed('run');
  try {
    await post('/api/follow', wanted);
  } catch (error) {
    state.run = before;
    changed('run');
    say(/** @type {Error} */ (error).message, true);
  }
}

/** How far it is to the next annotated frame, or the farther one of two. @param {string} direction */
function distance(direction) {
  const far = (/** @type {number} */ step) => {
    for (let f = state.frame + step; f >= 0 && f < state.count; f += step) if (state.marks[f] & ANNOTATED) return Math.abs(f - state.frame);
    return 0;
  };
  const found = Math.max(direction === 'backward' ? 0 : far(1), direction === 'forward' ? 0 : far(-1));
  return found || undefined;
}

export function cancelFollowing() {
  post('/api/cancel').catch(error => say(error.message, true));
}

function showObjects() {
  $('objects').replaceChildren(...state.objects.map(thing => {
    const hidden = state.hidden.has(thing.id);
    const row = element('li', {className: thing.id === state.object ? 'chosen' : ''},
      element('input', {type: 'color', value: thing.colour, 'aria-label': `Colour of ${thing.name}`,
        onchange: (/** @type {any} */ event) => describe(`/api/objects/${thing.id}`, {colour: event.target.value})}),
      element('button', {className: 'name', textContent: `${thing.id} ${thing.name}`, title: 'Choose; double click to rename',
        'aria-pressed': String(thing.id === state.object), onclick: () => chooseObject(thing.id), ondblclick: () => rename(thing)}),
      element('button', {textContent: hidden ? 'show' : 'hide', 'aria-label': `${hidden ? 'Show' : 'Hide'} ${thing.name}`,
        'aria-pressed': String(hidden), onclick: () => toggleHidden(thing.id)}),
      element('button', {textContent: '×', title: 'Delete', 'aria-label': `Delete ${thing.name}`, onclick: () => remove(thing)}));
    row.dataset.object = String(thing.id);
    return row;
  }));
  $('joints').replaceChildren(...state.joints.map(name => {
    const known = state.info.points.find(point => point.object === state.object && point.joint === name);
    return element('li', {className: name === state.joint ? 'chosen' : ''},
      element('button', {className: 'name', textContent: `${name}${known ? ` — ${known.visibility}` : ''}`,
        'aria-pressed': String(name === state.joint), onclick: () => { state.joint = name; chooseTool('point'); changed('objects'); }}),
      element('button', {textContent: '×', title: 'Delete', 'aria-label': `Delete keypoint ${name}`,
        onclick: () => describe('/api/joints', {joints: state.joints.filter(other => other !== name)})}));
  }));
}

/** @param {import('./state.js').Thing} thing */
export function rename(thing) {
  const name = window.prompt('Name of the object', thing.name);
  if (name?.trim()) describe(`/api/objects/${thing.id}`, {name: name.trim()});
}

/** @param {import('./state.js').Thing} thing */
function remove(thing) {
  if (window.confirm(`Delete ${thing.name} from all frames?`)) describe(`/api/objects/${thing.id}`, {deleted: true});
}

function showFrame() {
  const mark = state.marks[state.frame] ?? 0, {info} = state;
  const said = info.drawn ? 'annotated' : mark & STALE ? 'stale: follow it again' : mark & FOLLOWED ? 'followed' : 'nothing yet';
  $('frame-state').textContent = `frame ${state.frame}: ${said}`;
  /** @type {HTMLButtonElement} */ ($('undo')).disabled = !info.undo;
  /** @type {HTMLButtonElement} */ ($('redo')).disabled = !info.redo;
  if (document.activeElement !== $('number')) /** @type {HTMLInputElement} */ ($('number')).value = String(state.frame);
  document.body.dataset.frame = String(state.frame);
}

let followed = false; // something was being followed when the person looked last

function showRun() {
  const {run} = state, going = run.state === 'following';
  /** @type {HTMLButtonElement} */ ($('follow-cancel')).disabled = !going;
  for (const id of ['follow-forward', 'follow-both', 'follow-backward']) /** @type {HTMLButtonElement} */ ($(id)).disabled = going;
  Object.assign($('progress'), {max: Math.max(1, run.total), value: run.done});
  if (going) say(`following: ${run.done} of ${run.total} frames`);
  else if (followed) say(run.message || `followed: ${run.done} frames are up to date`, run.message.includes('fail'));
  followed = going;
  document.body.dataset.run = run.state;
}

/** Connect everything to what it does. */
export function connect() {
  $('tools').replaceChildren(...TOOLS.map(([tool, name, key, text]) => {
    const button = element('button', {textContent: name, title: `${text} (${key})`, onclick: () => chooseTool(tool)});
    button.dataset.tool = tool;
    return button;
  }));
  const size = /** @type {HTMLInputElement} */ ($('size')), opacity = /** @type {HTMLInputElement} */ ($('opacity'));
  size.oninput = () => { state.size = Number(size.value); changed('tool'); };
  opacity.oninput = () => { state.opacity = Number(opacity.value) / 100; changed('look'); };
  on('tool', () => {
    size.value = String(state.size);
    $('size-value').textContent = String(state.size);
    for (const button of $('tools').children) button.setAttribute('aria-pressed', String(/** @type {HTMLElement} */ (button).dataset.tool === state.tool));
  });
  on('look', () => { opacity.value = String(Math.round(state.opacity * 100)); });
  $('object-add').onclick = addObject;
  $('object-name').onkeydown = event => { if (event.key === 'Enter') addObject(); };
  $('joint-add').onclick = addJoint;
  $('joint-name').onkeydown = event => { if (event.key === 'Enter') addJoint(); };
  $('undo').onclick = () => act('undo');
  $('redo').onclick = () => act('redo');
  $('approve').onclick = () => act('approve');
  $('reset').onclick = () => act('reset');
  $('absent').onclick = () => markAbsent();
  for (const direction of /** @type {const} */ (['forward', 'both', 'backward'])) $(`follow-${direction}`).onclick = () => follow(direction);
  $('follow-cancel').onclick = cancelFollowing;
  $('first').onclick = () => goTo(0);
  $('previous').onclick = () => goBy(-1);
  $('next').onclick = () => goBy(1);
  $('last').onclick = () => goTo(state.count - 1);
  $('play').onclick = () => play();
  const number = /** @type {HTMLInputElement} */ ($('number'));
  number.onchange = () => { if (/^\d+$/.test(number.value)) goTo(Number(number.value)); number.blur(); };
  on('playing', () => { $('play').textContent = state.playing ? '❚❚ Pause' : '▶ Play'; });
  on('pending', () => { document.body.dataset.pending = String(state.pending); });
  on('objects info labels', showObjects);
  on('frame labels info marks', showFrame);
  on('run', showRun);
}
