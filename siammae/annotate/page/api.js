// Requests to the server. Every failure is one sentence, which the person sees.
import {state} from './state.js';

/** @param {string} path @param {RequestInit} options */
async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('the server does not answer: is it still running?');
  }
  if (response.ok) return response;
  let text = `${response.status} ${response.statusText}`;
  try {
    text = (await response.json()).error ?? text;
  } catch { /* it was no JSON */ }
  throw new Error(text);
}

/** @param {string} path @returns {Promise<any>} */
export async function get(path) {
  return (await request(path, {})).json();
}

/** @param {string} path @param {object} values @returns {Promise<any>} */
export async function post(path, values = {}) {
  const headers = {'content-type': 'application/json', 'x-client': state.client};
  return (await request(path, {method: 'POST', headers, body: JSON.stringify(values)})).json();
}

/** Send pixels, packed. @param {string} path @param {Uint8Array} pixels @returns {Promise<any>} */
export async function postPixels(path, pixels) {
  const body = await new Response(new Blob([/** @type {BlobPart} */ (pixels)]).stream().pipeThrough(new CompressionStream('deflate'))).blob();
  return (await request(path, {method: 'POST', headers: {'x-client': state.client}, body})).json();
}

/** @param {number} frame @returns {Promise<{info: import('./state.js').FrameInfo, labels: Uint8Array}>} */
export async function getLabels(frame) {
  const data = new Uint8Array(await (await request(`/api/frames/${frame}/labels`, {cache: 'no-store'})).arrayBuffer());
  const end = data.indexOf(10);
  const info = JSON.parse(new TextDecoder().decode(data.subarray(0, end)));
  const stream = new Blob([data.subarray(end + 1)]).stream().pipeThrough(new DecompressionStream('deflate'));
  return {info, labels: new Uint8Array(await new Response(stream).arrayBuffer())};
}

/** @param {number} frame @returns {Promise<ImageBitmap>} */
export async function getImage(frame) {
  return createImageBitmap(await (await request(`/api/frames/${frame}/image?v=${state.key}`, {})).blob());
}

/** Null where the person is elsewhere by now. @param {number} frame @param {number} looked the frame it is near to @returns {Promise<ImageBitmap | null>} */
export async function getNeighbour(frame, looked) {
  const options = /** @type {RequestInit} */ ({headers: {'x-looked': String(looked)}, priority: 'low'});
  const response = await request(`/api/frames/${frame}/image?v=${state.key}`, options);
  return response.status === 204 ? null : createImageBitmap(await response.blob());
}

/** Listen to what the server tells by itself. @param {(event: any) => void} take @param {(lives: boolean) => void} lives */
export function listen(take, lives) {
  const source = new EventSource('/api/events');
  source.onmessage = message => take(JSON.parse(message.data));
  source.onopen = () => lives(true);
  source.onerror = () => lives(false);
}
