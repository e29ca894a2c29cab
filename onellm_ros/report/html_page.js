// The windows as the page knows them, what of them is shown, and which one is current.
// Three files make one script: this one, html_cards.js and html_timeline.js.

const COLOURS = {
  image: '#2f6db5', video: '#4fa3d9', depth: '#e07b39', normal: '#a06cc0', point: '#2e8b57',
  audio: '#c9a227', imu: '#d1495b', fmri: '#8d6e63', scan: '#00838f', error: '#d4001a'};
const colourOf = name => COLOURS[name] || '#607d8b';
const ORDER = Object.keys(COLOURS);
const byOrder = (a, b) => (ORDER.indexOf(a) + 99) % 99 - (ORDER.indexOf(b) + 99) % 99
  || a.localeCompare(b);

const all = [];             // one entry a window, in the order of the file
let shown = [];             // places in `all`
let current = -1;           // place in `all`
let terms = [];             // of the search, in lower case
let report = {};
const wanted = new Map();   // modality, 'error' or 'change' -> true: with, false: without
const page = {};            // elements that are looked up more than once

// An element with text or children; nothing a record holds is ever read as HTML.
function el(tag, cls, ...inside) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  made.append(...inside.filter(one => one !== null && one !== undefined));
  return made;
}

function clock(seconds) {
  const ms = Math.round(Math.abs(seconds) * 1000);
  const pad = (value, width) => String(value).padStart(width, '0');
  const hours = Math.floor(ms / 3600000), minutes = Math.floor(ms / 60000) % 60;
  return (seconds < 0 && ms ? '-' : '') + (hours ? `${hours}:${pad(minutes, 2)}` : minutes)
    + `:${pad(Math.floor(ms / 1000) % 60, 2)}.${pad(ms % 1000, 3)}`;
}

function duration(seconds) {
  if (typeof seconds !== 'number') return '–';
  if (Math.abs(seconds) < 0.0005) return '0';
  return Math.abs(seconds) < 1 ? `${Math.round(seconds * 1000)} ms`
    : `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

function read(script) {
  try {
    return JSON.parse(script.textContent);
  } catch (broken) {
    return null;            // the file was cut within it
  }
}

const saidOf = answer => answer.answer || answer.error_msg || answer.error || '(no words)';
const failed = answer => Boolean(answer.error && answer.error !== 'NONE');

function collect() {
  const questions = new Map();
  let before = null, bag = null;
  for (const article of document.querySelectorAll('#windows > article')) {
    const scripts = [...article.getElementsByTagName('script')];
    const record = scripts.length ? read(scripts[0]) : null;
    if (!record) continue;
    const answers = record.answers || [];
    for (const one of answers) questions.set(one.question, questions.size);
    const present = (record.modalities || []).filter(m => m.count).map(m => m.modality);
    const error = Boolean(record.error) || answers.some(failed);
    if (record.bag !== bag) before = null;
    bag = record.bag;
    all.push({
      bag,
      scripts, id: article.id, name: record.window ?? all.length, start: record.start,
      end: record.end, error,
      present: new Set(present), text: record.text || '', said: record.error || record.text || '',
      answers: answers.map(one => ({
        question: one.question, said: saidOf(one), failed: failed(one),
        confidence: one.confidence})),
      change: before !== null && !record.error && (record.text || '') !== before,
      total: record.total_s, late: sum(record, 'late'), dropped: sum(record, 'dropped'),
      words: [record.text, record.error, bag, ...Object.entries(record.left_out || {}).flat(),
        ...answers.map(saidOf)].filter(Boolean).join('\n').toLowerCase()});
    if (!record.error) before = record.text || '';
  }
  page.questions = [...questions.keys()];
  page.modalities = [...new Set(all.flatMap(one => [...one.present]))].sort(byOrder);
}

function sum(record, key) {
  return (record.modalities || []).reduce((total, one) => total + (one[key] || 0), 0);
}

function counts() {
  const place = document.getElementById('counts');
  const say = (value, what, cls) => place.append(
    el('span', `count ${cls || ''}`, el('b', '', String(value)), ` ${what}`));
  const one = (n, name) => n === 1 ? name : `${name}s`;
  const errors = all.filter(w => w.error).length;
  say(all.length, one(all.length, 'window'));
  const spans = new Map();      // of each recording: its first and last moment
  for (const w of all) {
    const [from, to] = spans.get(w.bag) || [w.start, w.end];
    spans.set(w.bag, [Math.min(from, w.start), Math.max(to, w.end)]);
  }
  const seconds = [...spans.values()].reduce((sum, [from, to]) => sum + to - from, 0);
  if (all.length) say(clock(seconds), 'of recording');
  const changes = all.filter(w => w.change).length;
  say(changes, one(changes, 'change') + ' of text');
  say(errors, `${one(errors, 'window')} with errors`, errors ? 'bad' : '');
  const late = all.reduce((n, w) => n + w.late, 0);
  const dropped = all.reduce((n, w) => n + w.dropped, 0);
  if (late || dropped) say(late, `late, ${dropped} dropped samples`, 'warn');
  const times = all.map(w => w.total).filter(t => typeof t === 'number').sort((a, b) => a - b);
  if (times.length) {
    say(duration(times[Math.floor(times.length / 2)]),
      `median latency (95 %: ${duration(times[Math.floor(times.length * 0.95)])})`);
  }
  if (!document.getElementById('summary')) {
    say('unfinished', 'the replay runs still or was stopped', 'warn');
  }
}

// ---- which windows are shown --------------------------------------------------------------------

function fits(one) {
  for (const [name, yes] of wanted) {
    const has = name === 'error' ? one.error : name === 'change' ? one.change
      : one.present.has(name);
    if (has !== yes) return false;
  }
  return terms.every(term => one.words.includes(term));
}

function select() {
  shown = [];
  all.forEach((one, i) => {
    const good = fits(one);
    if (good) shown.push(i);
    one.shown = good;
  });
  const some = terms.length || wanted.size;
  page.found.textContent = some ? `${shown.length} of ${all.length} windows` : '';
  page.none.hidden = shown.length > 0 || !all.length;
  resetCards();
  drawTimeline();
  fillAnswers();
}

function chip(name, label) {
  const button = el('button', 'chip', el('i', ''), label);
  button.type = 'button';
  button.firstChild.style.background = name === 'change' ? '#555f6b' : colourOf(name);
  const mark = () => {
    const state = wanted.get(name);
    button.dataset.state = state === undefined ? '' : state ? 'with' : 'without';
    button.title = state === undefined ? `all windows; click: only those with ${label}`
      : state ? `only windows with ${label}; click: only those without`
        : `only windows without ${label}; click: all windows`;
    button.setAttribute('aria-pressed', state === undefined ? 'false' : state ? 'true' : 'mixed');
  };
  button.addEventListener('click', () => {
    const state = wanted.get(name);
    if (state === undefined) wanted.set(name, true);
    else if (state) wanted.set(name, false);
    else wanted.delete(name);
    mark();
    select();
  });
  button.reset = () => { wanted.delete(name); mark(); };
  mark();
  return button;
}

function clearSelection() {
  page.search.value = '';
  terms = [];
  page.chips.forEach(button => button.reset());
  select();
}

function toolbar() {
  page.search = el('input', 'search');
  page.search.type = 'search';
  page.search.placeholder = 'Search text and answers  ( / )';
  page.search.setAttribute('aria-label', 'Search text and answers');
  let waiting = 0;
  page.search.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      terms = page.search.value.toLowerCase().split(/\s+/).filter(Boolean);
      select();
    }, 120);
  });
  page.chips = page.modalities.map(name => chip(name, name));
  if (all.some(one => one.change)) page.chips.push(chip('change', 'change of text'));
  if (all.some(one => one.error)) page.chips.push(chip('error', 'error'));
  page.found = el('span', 'found');
  page.found.setAttribute('role', 'status');
  page.none = el('p', 'note', 'No window fits the search and the filters (Esc clears them).');
  page.none.hidden = true;
  return el('div', 'tools', page.search, ...page.chips, page.found,
    el('span', 'keys', 'j/k next, previous · e error · c change · Esc all'));
}

// ---- going to a window --------------------------------------------------------------------------

function setCurrent(i) {
  if (i === current) return;
  const mark = (place, on) => {
    const card = cardOf(place);
    if (card) card.classList.toggle('current', on);
  };
  mark(current, false);
  current = i;
  mark(current, true);
  drawCurrent();
}

let going = 0;              // until then scrolling is ours, not the reader's

function go(i) {
  if (i === undefined || i < 0 || i >= all.length) return;
  if (!all[i].shown) clearSelection();
  setCurrent(i);
  going = performance.now() + 300;
  showCard(i).scrollIntoView({block: 'start'});
  growCards();
}

function step(direction, fit) {
  const way = direction > 0 ? shown : [...shown].reverse();
  go(way.find(i => (i - current) * direction > 0 && (!fit || fit(all[i]))));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === 'Escape') {
    clearSelection();
    if (writing) event.target.blur();
    return;
  }
  if (writing) return;
  const act = {
    j: () => step(1), k: () => step(-1), e: () => step(1, one => one.error),
    c: () => step(1, one => one.change), '/': () => page.search.focus()}[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function followScroll() {
  growCards();
  if (performance.now() < going) return;
  const line = (page.bar.classList.contains('stays') ? page.bar.offsetHeight : 0) + 40;
  const first = [...page.list.children].find(
    card => card.getBoundingClientRect().bottom > line);
  if (first) setCurrent(first.place);
}

function followAddress() {
  const found = /^#w(\d+)$/.exec(location.hash);
  if (found) go(all.findIndex(one => one.id === found[0].slice(1)));
}

function fitBar() {
  const stays = innerWidth > 700 && page.bar.offsetHeight < 0.32 * innerHeight;
  page.bar.classList.toggle('stays', stays);
  document.documentElement.style.setProperty('--bar', `${stays ? page.bar.offsetHeight : 0}px`);
}

function start() {
  report = read(document.getElementById('report')) || {};
  collect();
  counts();
  const app = document.getElementById('app');
  const summary = document.getElementById('summary');
  if (summary) document.getElementById('about').append(summary);
  if (!all.length) {
    app.append(el('p', 'note', 'No window was written yet.'));
    return;
  }
  page.bar = el('div', 'bar', toolbar(), timeline());
  app.before(page.bar);     // its parent is as long as the page: it can stay in sight
  app.append(answersSection(), page.none, ...cardList());
  new ResizeObserver(() => { fitBar(); drawTimeline(); }).observe(page.bar);
  select();
  fitBar();
  let asked = false;
  addEventListener('scroll', () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; followScroll(); });
  }, {passive: true});
  addEventListener('resize', () => { fitBar(); growCards(); });
  addEventListener('keydown', keys);
  addEventListener('hashchange', followAddress);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawTimeline);
  followAddress();
}

// From here on the words that stand in the file are hidden; they come back if anything fails.
document.documentElement.classList.add('scripted');
document.addEventListener('DOMContentLoaded', () => {
  try {
    start();
  } catch (failure) {
    document.documentElement.classList.remove('scripted');
    throw failure;
  }
});
