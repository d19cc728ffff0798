// What keys do. Those of Cutie (arrows, digits) and of CVAT (D F C V E R N H O Q K, Ctrl+Z) are as there.
import {act} from './edits.js';
import {goBy, goTo, goToMark, play} from './frames.js';
import {lookAtDoubt, lookAtNext} from './attention.js';
import {openExport, openHelp} from './dialogs.js';
import {addObject, cancelFollowing, chooseNext, chooseObject, chooseTool, follow, markAbsent, rename, toggleHidden} from './panels.js';
import {fit, pan, zoom} from './stage.js';
import {closePolygon, dropSketch, hidePoint, moveCross, pressCross, TOOLS} from './tools.js';
import {ANNOTATED, changed, chosen, say, state} from './state.js';

const STEP = 10, CROSS = 4, FAR = 8, PAN = 60;

/** @param {number} change */
function resize(change) {
  state.size = Math.max(1, Math.min(120, state.size + change));
  changed('tool look');
}

/** @param {number} change */
function fade(change) {
  state.opacity = Math.max(0, Math.min(1, state.opacity + change));
  changed('look');
}

/** Keys as people read them, what they do in words, and the doing. Several keys of one row do the same.
 * @type {[string[], string, () => void][]} */
export const KEYS = [
  [['→', 'F'], 'next frame', () => goBy(1)],
  [['←', 'D'], 'previous frame', () => goBy(-1)],
  [['Shift+→', 'V'], `${STEP} frames on`, () => goBy(STEP)],
  [['Shift+←', 'C'], `${STEP} frames back`, () => goBy(-STEP)],
  [['Home'], 'first frame', () => goTo(0)],
  [['End'], 'last frame', () => goTo(state.count - 1)],
  [['R'], 'next annotated frame', () => goToMark(1, ANNOTATED)],
  [['E'], 'previous annotated frame', () => goToMark(-1, ANNOTATED)],
  [['Space'], 'play or pause', () => play()],
  [['L'], 'least certain stretch; again: the one after it', lookAtDoubt],
  [['U'], 'the frame to annotate next', lookAtNext],
  [['T'], 'follow forwards', () => follow('forward')],
  [['Shift+T'], 'follow backwards', () => follow('backward')],
  [['A'], 'follow both ways', () => follow('both')],
  [['Escape'], 'drop what is being drawn; else stop following', () => { if (!dropSketch() && state.run.state === 'following') cancelFollowing(); }],
  [['K'], 'approve this frame as it is', () => act('approve')],
  [['O'], 'the chosen object, or keypoint, is not in this frame', markAbsent],
  [['Q'], 'the chosen keypoint is hidden, or seen again', () => { hidePoint(); }],
  [['Delete'], 'take back everything in this frame', () => act('reset')],
  [['Ctrl+Z'], 'undo in this frame', () => act('undo')],
  [['Ctrl+Shift+Z', 'Ctrl+Y'], 'redo', () => act('redo')],
  ...TOOLS.map(([tool, name, key]) => /** @type {[string[], string, () => void]} */ ([[key], name.toLowerCase(), () => chooseTool(tool)])),
  [['Enter'], 'close the polygon; else put the tool down at the cross, or lift it', () => { if (!closePolygon()) pressCross(); }],
  [['Ctrl+→'], 'move the cross: right', () => moveCross(CROSS, 0)],
  [['Ctrl+←'], 'left', () => moveCross(-CROSS, 0)],
  [['Ctrl+↓'], 'down', () => moveCross(0, CROSS)],
  [['Ctrl+↑'], 'up', () => moveCross(0, -CROSS)],
  [['Ctrl+Shift+→'], 'farther: right', () => moveCross(CROSS * FAR, 0)],
  [['Ctrl+Shift+←'], 'left', () => moveCross(-CROSS * FAR, 0)],
  [['Ctrl+Shift+↓'], 'down', () => moveCross(0, CROSS * FAR)],
  [['Ctrl+Shift+↑'], 'up', () => moveCross(0, -CROSS * FAR)],
  [[']'], 'larger brush', () => resize(2)],
  [['['], 'smaller brush', () => resize(-2)],
  [['}'], 'masks less transparent', () => fade(0.1)],
  [['{'], 'masks more transparent', () => fade(-0.1)],
  [['+', '='], 'zoom in', () => zoom(1.25)],
  [['-'], 'zoom out', () => zoom(0.8)],
  [['0'], 'whole frame', fit],
  [['Alt+→'], 'move the picture: right', () => pan(-PAN, 0)],
  [['Alt+←'], 'left', () => pan(PAN, 0)],
  [['Alt+↓'], 'down', () => pan(0, -PAN)],
  [['Alt+↑'], 'up', () => pan(0, PAN)],
  [['.'], 'next object', () => chooseNext(1)],
  [[','], 'previous object', () => chooseNext(-1)],
  [['N'], 'new object', addObject],
  [['I'], 'rename the object', () => { const thing = chosen(); if (thing) rename(thing); }],
  [['H'], 'hide or show the object', () => toggleHidden(state.object)],
  [['Ctrl+E'], 'export', openExport],
  [['Ctrl+S'], 'nothing to do: everything is saved at once', () => say('everything is saved already')],
  [['?'], 'these keys', openHelp],
];

const NAMES = new Map([['ArrowRight', '→'], ['ArrowLeft', '←'], ['ArrowUp', '↑'], ['ArrowDown', '↓'], [' ', 'Space'], ['Backspace', 'Delete']]);
const table = new Map(KEYS.flatMap(([keys, , call]) => keys.map(key => [key, call])));

/** @param {KeyboardEvent} event */
function named(event) {
  const name = NAMES.get(event.key) ?? (event.key.length === 1 ? event.key.toUpperCase() : event.key);
  const letter = /^[A-Z→←↑↓]$|^[A-Z][a-z]+$/.test(name); // of other characters, Shift is a part
  return [event.ctrlKey || event.metaKey ? 'Ctrl+' : '', event.altKey ? 'Alt+' : '', event.shiftKey && letter ? 'Shift+' : '', name].join('');
}

/** @param {KeyboardEvent} event */
function press(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (document.querySelector('dialog[open]')) return;
  if (target.matches('input:not([type=range]):not([type=checkbox]):not([type=color]), textarea')) return;
  const name = named(event);
  const own = target.matches('button, a') && ['Enter', 'Space'].includes(name);
  if (own || (target.matches('select, input') && /^(→|←|↑|↓|Home|End|Space|Enter)$/.test(name))) return;
  const call = table.get(name);
  if (call) call();
  else if (/^[1-9]$/.test(name)) chooseObject(Number(name));
  else return;
  event.preventDefault();
}

/** Listen to the keyboard. */
export function listenToKeys() {
  document.addEventListener('keydown', press);
}
