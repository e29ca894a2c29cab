// The timeline: a column a window (of more windows than pixels, several a column), a row for each
// modality, for errors, for the text and for each question. Equal words have equal colours.

const LABELS = 92, ROW = 8, GAP = 2, AXIS = 16;
const HUES = ['#4e79a7', '#f28e2b', '#76b7b2', '#b07aa1', '#59a14f', '#edc948', '#9c755f',
  '#ff9da7', '#1f9e89', '#86bcb6', '#d37295', '#79706e'];
let rows = [];
let drawn = null;           // the timeline without the mark of the current window
let gaps = [];              // places before which time jumps

function timeline() {
  rows = page.modalities.map(name => ({
    name, colour: i => all[i].present.has(name) ? colourOf(name) : ''}));
  if (all.some(one => one.error)) {
    rows.push({name: 'error', any: true, colour: i => all[i].error ? colourOf('error') : ''});
  }
  rows.push(wordsRow('text', one => one.text));
  page.questions.forEach((question, n) => rows.push(wordsRow(
    page.questions.length > 1 ? `answer ${n + 1}` : 'answer', one => {
      const found = one.answers.find(answer => answer.question === question);
      return found && !found.failed ? found.said : '';
    }, question)));
  gaps = findGaps();
  page.canvas = el('canvas', 'timeline');
  page.canvas.setAttribute('role', 'img');
  page.canvas.setAttribute('aria-label',
    `Timeline of ${all.length} windows: ${rows.map(row => row.name).join(', ')}`);
  page.tip = el('div', 'tip');
  page.tip.hidden = true;
  page.canvas.addEventListener('pointermove', showTip);
  page.canvas.addEventListener('pointerleave', () => { page.tip.hidden = true; });
  page.canvas.addEventListener('click', event => go(placeAt(event)));
  return el('div', 'line', page.canvas, page.tip);
}

function wordsRow(name, words, title) {
  const known = new Map();
  const colours = all.map(one => {
    const said = words(one);
    if (!said) return '';
    if (!known.has(said)) known.set(said, HUES[known.size % HUES.length]);
    return known.get(said);
  });
  return {name, title, colour: i => colours[i], words};
}

// Places where the distance to the window before is far from the usual one.
function findGaps() {
  const steps = all.slice(1).map((one, i) => one.start - all[i].start);
  const usual = [...steps].sort((a, b) => a - b)[Math.floor(steps.length / 2)] || 0;
  return steps.flatMap((step, i) => step > 2.5 * usual + 1e-6 || step < 0
    || all[i].bag !== all[i + 1].bag ? [i + 1] : []);
}

const plotWidth = () => page.canvas.clientWidth - labelWidth();
const labelWidth = () => page.canvas.clientWidth < 560 ? 58 : LABELS;

// Draw all of it; `drawCurrent` marks the current window on a copy.
function drawTimeline() {
  if (!page.canvas || !page.canvas.clientWidth) return;
  const density = window.devicePixelRatio || 1;
  const width = page.canvas.clientWidth, height = rows.length * (ROW + GAP) + AXIS;
  page.canvas.style.height = `${height}px`;
  drawn = el('canvas', '');
  drawn.width = Math.round(width * density);
  drawn.height = Math.round(height * density);
  const ink = drawn.getContext('2d');
  ink.scale(density, density);
  const [front, pale, faint] = inks();
  const left = labelWidth(), plot = plotWidth(), n = all.length;
  const cells = Math.max(1, Math.min(n, Math.floor(plot)));
  const wide = plot / cells, seam = wide > 5 ? 1 : 0;
  ink.font = '10px system-ui, sans-serif';
  ink.textBaseline = 'middle';
  rows.forEach((row, r) => {
    const y = r * (ROW + GAP);
    ink.globalAlpha = 1;
    ink.fillStyle = pale;
    ink.fillText(row.name, 0, y + ROW / 2 + 1, left - 6);
    ink.fillStyle = faint;
    ink.fillRect(left, y, plot, ROW);
    for (let cell = 0; cell < cells; cell += 1) {
      const from = Math.floor(cell * n / cells), to = Math.floor((cell + 1) * n / cells);
      let found = '', count = 0, lit = false;
      for (let i = from; i < to; i += 1) {
        const colour = row.colour(i);
        if (!colour) continue;
        found = found || colour;
        count += 1;
        lit = lit || all[i].shown;
      }
      if (!found) continue;
      const share = row.any || row.words ? 1 : 0.3 + 0.7 * count / (to - from);
      ink.globalAlpha = lit ? share : 0.15;
      ink.fillStyle = found;
      ink.fillRect(left + cell * wide, y, Math.max(wide - seam, row.any ? 2 : 0.6), ROW);
    }
  });
  ink.globalAlpha = 1;
  drawAxis(ink, left, plot, height, front, pale);
  drawCurrent();
}

function inks() {
  const style = getComputedStyle(document.body);
  return ['--ink', '--pale', '--faint'].map(name => style.getPropertyValue(name));
}

function drawCurrent() {
  if (!drawn) return;
  page.canvas.width = drawn.width;          // clears it
  page.canvas.height = drawn.height;
  const ink = page.canvas.getContext('2d');
  ink.drawImage(drawn, 0, 0);
  if (current < 0) return;
  const density = window.devicePixelRatio || 1;
  ink.scale(density, density);
  const x = labelWidth() + (current + 0.5) / all.length * plotWidth();
  const half = Math.max(plotWidth() / all.length / 2, 1.5);
  ink.strokeStyle = inks()[0];
  ink.lineWidth = 1.5;
  ink.strokeRect(x - half, 0.75, 2 * half, rows.length * (ROW + GAP) - 2);
}

function drawAxis(ink, left, plot, height, front, pale) {
  const n = all.length, foot = height - AXIS;
  ink.strokeStyle = front;
  ink.setLineDash([2, 2]);
  for (const i of gaps.slice(0, 400)) {
    const x = Math.round(left + i / n * plot) - 0.5;
    ink.beginPath();
    ink.moveTo(x, 0);
    ink.lineTo(x, foot);
    ink.stroke();
  }
  ink.setLineDash([]);
  ink.fillStyle = pale;
  const marks = Math.max(1, Math.min(n - 1, Math.floor(plot / 110)));
  for (let mark = 0; mark <= marks; mark += 1) {
    const last = mark === marks;
    const i = last ? n - 1 : Math.floor(mark * n / marks);
    ink.textAlign = mark === 0 ? 'left' : last ? 'right' : 'center';
    ink.fillText(clock(last ? all[i].end : all[i].start).replace(/\.000$/, ''),
      left + mark / marks * plot, height - AXIS / 2 + 2);
    if (n === 1) break;
  }
}

function placeAt(event) {
  const x = event.clientX - page.canvas.getBoundingClientRect().left - labelWidth();
  if (x < 0) return -1;
  return Math.min(all.length - 1, Math.floor(x / plotWidth() * all.length));
}

function showTip(event) {
  const box = page.canvas.getBoundingClientRect();
  const row = rows[Math.floor((event.clientY - box.top) / (ROW + GAP))];
  const i = placeAt(event);
  const lines = [];
  if (i >= 0) {
    const one = all[i];
    lines.push(el('b', '', `window ${one.name} · ${one.bag ? `${one.bag} · ` : ''}`
      + clock(one.start)),
      el('div', one.error ? 'error' : '', one.said.slice(0, 240)));
    if (row && row.title) lines.push(el('div', 'quiet', row.title), row.words(one));
  } else if (row && row.title) {
    lines.push(row.title);
  }
  page.tip.hidden = !lines.length;
  page.tip.replaceChildren(...lines);
  const x = Math.min(Math.max(event.clientX - box.left - 140, 0), Math.max(0, box.width - 290));
  page.tip.style.left = `${x}px`;
  page.tip.style.top = `${box.height + 2}px`;
}
