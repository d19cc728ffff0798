// Help and export.
import {post} from './api.js';
import {idle} from './edits.js';
import {KEYS} from './keys.js';
import {say} from './state.js';

/** @param {string} id @returns {any} */
const $ = id => document.getElementById(id);

export function openHelp() {
  $('help').showModal();
}

export function openExport() {
  $('export-result').textContent = '';
  $('export-link').hidden = true;
  $('export').showModal();
}

async function run() {
  const values = {format: $('export-format').value, which: $('export-which').value, overwrite: $('export-overwrite').checked};
  $('export-run').disabled = true;
  $('export-result').textContent = 'writing…';
  try {
    await idle();
    const {path, file, frames, lost} = await post('/api/export', values);
    $('export-result').textContent = `${frames} frames in ${path}` + (lost.length ? `. It has no place for: ${lost.join('; ')}.` : '');
    Object.assign($('export-link'), {href: `/api/exports/${file}`, hidden: false});
    say(`exported as ${values.format}`);
  } catch (error) {
    let text = /** @type {Error} */ (error).message;
    if (text.includes('already')) text = 'it was exported before: tick “replace an earlier export”.';
    $('export-result').textContent = text;
  }
  $('export-run').disabled = false;
}

/** @param {{name: string, title: string}[]} formats */
export function connectDialogs(formats) {
  const options = [...formats.map(({name, title}) => [name, `${name} — ${title}`]), ['overlay', 'overlay — video to look at']];
  $('export-format').replaceChildren(...options.map(([value, text]) => Object.assign(document.createElement('option'), {value, textContent: text})));
  $('export-format').value = 'davis'; // plain PNGs, which most tools read
  $('export-run').onclick = run;
  $('export-close').onclick = () => $('export').close();
  $('export-open').onclick = openExport;
  $('help-open').onclick = openHelp;
  for (const [keys, text] of KEYS) {
    const row = $('keys').insertRow();
    keys.forEach((key, i) => {
      if (i === 0) row.insertCell();
      else row.cells[0].append(' ');
      row.cells[0].append(Object.assign(document.createElement('kbd'), {textContent: key}));
    });
    row.insertCell().textContent = text;
  }
  const row = $('keys').insertRow();
  row.insertCell().append(Object.assign(document.createElement('kbd'), {textContent: '1 … 9'}));
  row.insertCell().textContent = 'choose an object';
}
