// The windows as cards: those around the one that is looked at, drawn as the page is scrolled, so
// that thousands of windows cost no more than dozens. And the answers to each question over time.

const STEP_ROWS = 60;       // of a table of answers
const AHEAD = 1500;         // pixels below the screen that are drawn
const BACK = 20;            // windows that the button above the cards brings
const MOST_CARDS = 120;     // drawn at a time
let from = 0;               // cards are drawn of shown[from] ... shown[to - 1]
let to = 0;

function cardList() {
  page.list = el('div', 'cards');
  page.earlier = el('button', 'chip earlier', '');
  page.earlier.type = 'button';
  page.earlier.addEventListener('click', () => {
    const first = Math.max(0, from - BACK);
    keepInPlace(page.list.firstChild, () => {
      page.list.prepend(...shown.slice(first, from).map(makeCard));
      from = first;
      sayEarlier();
    });
  });
  return [page.earlier, page.list];
}

// Change the list so that a card stays where it is on the screen.
function keepInPlace(card, change) {
  const before = card.getBoundingClientRect().top;
  change();
  scrollBy(0, card.getBoundingClientRect().top - before);
}

function sayEarlier() {
  page.earlier.hidden = from === 0;
  page.earlier.textContent = `${Math.min(BACK, from)} of ${from} earlier windows`;
}

function cardOf(i) {
  return [...page.list.children].find(card => card.place === i);
}

// Draw from here on, and what the screen has room for.
function drawFrom(place) {
  from = to = Math.max(0, Math.min(place, shown.length - 1));
  page.list.replaceChildren();
  sayEarlier();
  growCards();
}

function growCards() {
  while (to < shown.length && page.list.getBoundingClientRect().bottom < innerHeight + AHEAD) {
    page.list.append(...shown.slice(to, to + 4).map(makeCard));
    to = Math.min(shown.length, to + 4);
  }
  const many = page.list.children.length - MOST_CARDS;
  if (many < 40) return;
  keepInPlace(page.list.lastChild, () => {
    [...page.list.children].slice(0, many).forEach(card => card.remove());
    from += many;
    sayEarlier();
  });
}

// The card of a window, drawn if need be.
function showCard(i) {
  const place = shown.indexOf(i);
  if (place < from || place >= to) drawFrom(place < from && place > from - 6 ? place - 5 : place);
  return cardOf(i);
}

// After another choice of windows: from the current one on if it is among them.
function resetCards() {
  const place = shown.indexOf(current);
  drawFrom(Math.max(0, place));
  if (page.list.getBoundingClientRect().top < 0) {
    going = performance.now() + 300;
    page.list.scrollIntoView({block: 'start'});
  }
}

// Text in which what is searched for is marked.
function marked(text) {
  const out = document.createDocumentFragment();
  const lower = text.toLowerCase();
  if (!terms.length || lower.length !== text.length) {
    out.append(text);
    return out;
  }
  let at = 0;
  for (;;) {
    let next = -1, size = 0;
    for (const term of terms) {
      const place = lower.indexOf(term, at);
      if (place >= 0 && (next < 0 || place < next)) [next, size] = [place, term.length];
    }
    if (next < 0) break;
    out.append(text.slice(at, next), el('mark', '', text.slice(next, next + size)));
    at = next + size;
  }
  out.append(text.slice(at));
  return out;
}

function makeCard(i) {
  const one = all[i];
  const record = read(one.scripts[0]);
  const link = el('a', '', `window ${one.name}`);
  link.href = `#${one.id}`;
  const card = el('article', i === current ? 'w current' : 'w', el('div', 'top', el('h2', '', link),
    record.bag ? el('span', 'when', record.bag) : null,
    el('span', 'time', `${clock(record.start)} – ${clock(record.end)}`),
    el('span', 'when', record.when || ''), ...badges(one, record)));
  card.place = i;
  card.append(record.error ? el('p', 'error', marked(record.error))
    : el('p', record.text ? 'text' : 'text none', marked(record.text || '(no words)')));
  const pictures = makePictures(one, record);
  if (pictures) card.append(pictures);
  const answers = makeAnswers(record.answers || []);
  card.append(el('div', 'columns', answers, makeMembers(record)));
  card.append(el('p', 'foot', ...facts(record)));
  return card;
}

function badges(one, record) {
  const out = [];
  const add = (text, cls) => out.push(el('span', `badge ${cls}`, text));
  if (one.change) add('text changed', '');
  if (record.closed_by && record.closed_by !== 'watermark') {
    add(`closed by ${record.closed_by}`
      + (record.silent && record.silent.length ? `: ${record.silent.join(', ')} silent` : ''),
    'warn');
  }
  if (record.finish_reason && !['stop', 'choice'].includes(record.finish_reason)) {
    add(`text ended by ${record.finish_reason}`, 'warn');
  }
  if (one.error) add('error', 'bad');
  return out;
}

function makePictures(one, record) {
  if (record.pictures_left_out) {
    return el('p', 'quiet', 'Pictures left out: the report would grow beyond its limit.');
  }
  const data = (one.scripts.length > 1 && read(one.scripts[1])) || {};
  const members = new Map((record.modalities || []).map(m => [m.modality, m]));
  const names = Object.keys(data).sort(byOrder);
  if (!names.length) return null;
  return el('div', 'pictures', ...names.map(name => {
    const image = el('img', '');
    image.alt = name;
    image.decoding = 'async';
    image.src = `data:${data[name][0]};base64,${data[name][1]}`;
    const member = members.get(name);
    return el('figure', name === 'video' ? 'wide' : '', image,
      el('figcaption', '', dot(name), name, el('span', 'quiet', member && member.count
        ? ` ${member.count} · ${duration(member.age_s)} old` : '')));
  }));
}

function dot(name) {
  const made = el('i', 'dot');
  made.style.background = colourOf(name);
  return made;
}

function makeTable(cls, heads, rows) {
  const table = el('table', cls, el('thead', '', el('tr', '', ...heads.map(h => el('th', '', h)))),
    el('tbody', '', ...rows.map(row => el('tr', '', ...row.map(cell => el('td', '', cell))))));
  return el('div', 'scroll', table);
}

function meter(share) {
  if (typeof share !== 'number') return el('span', 'quiet', '–');
  const full = el('i', '');
  full.style.width = `${Math.round(100 * Math.min(Math.max(share, 0), 1))}%`;
  return el('span', 'meter', el('span', 'track', full), share.toFixed(2));
}

function makeMembers(record) {
  const members = (record.modalities || []).sort((a, b) => byOrder(a.modality, b.modality));
  const odd = members.some(m => m.late || m.dropped);
  const experts = members.some(m => m.expert_weights);
  const rows = members.map(m => [
    el('span', '', dot(m.modality), m.modality), String(m.count || 0),
    m.count ? duration(m.age_s) : '–', m.count ? duration(m.skew_s) : '–',
    ...(odd ? [`${m.late || 0} / ${m.dropped || 0}`] : []),
    ...(experts ? [bars(m.expert_weights || [])] : []),
    el('span', 'quiet', (m.topics || []).join(', '))]);
  const out = el('div', 'members');
  if (rows.length) {
    out.append(makeTable('', ['modality', 'count', 'age', 'skew',
      ...(odd ? ['late / dropped'] : []), ...(experts ? ['experts'] : []), 'topics'], rows));
  }
  for (const [name, why] of Object.entries(record.left_out || {})) {
    out.append(el('p', 'leftout', dot(name), `${name} left out: `, marked(String(why))));
  }
  return out;
}

function bars(weights) {
  const made = el('span', 'bars', ...weights.map(weight => {
    const bar = el('i', '');
    bar.style.height = `${Math.max(1, Math.round(16 * (weight || 0)))}px`;
    return bar;
  }));
  made.title = weights.map((w, i) => `expert ${i + 1}: ${(w || 0).toFixed(3)}`).join(', ');
  return made;
}

function choicesOf(question) {
  const asked = ((report.header || {}).questions || []).find(
    one => one && typeof one === 'object' && one.question === question);
  return (asked && asked.choices) || [];
}

function makeAnswers(answers) {
  if (!answers.length) return null;
  return el('div', 'answers', makeTable('', ['question', 'answer', 'confidence'],
    answers.map(one => {
      const said = el('span', failed(one) ? 'error' : '', marked(saidOf(one)));
      const odds = one.choice_probabilities || [];
      if (odds.length) {
        const names = choicesOf(one.question);
        said.append(el('span', 'odds', odds.map((p, i) =>
          `${names[i] || `choice ${i + 1}`} ${typeof p === 'number' ? p.toFixed(2) : '–'}`)
          .join(' · ')));
      }
      return [one.question, said, failed(one) ? el('span', 'quiet', one.error)
        : meter(one.confidence)];
    })));
}

function facts(record) {
  const out = [];
  const add = (name, value) => {
    if (value !== undefined && value !== null) out.push(el('span', '', `${name} `, el('b', '', value)));
  };
  const time = key => typeof record[key] === 'number' ? duration(record[key]) : undefined;
  add('encoding', time('encode_s'));
  add('first token', time('first_token_s'));
  add('total', time('total_s'));
  if (record.tokens !== undefined) add('tokens', String(record.tokens));
  if (typeof record.confidence === 'number') add('confidence', record.confidence.toFixed(2));
  add('prompt', record.prompt);
  return out;
}

// ---- answers over time --------------------------------------------------------------------------

function answersSection() {
  page.answers = el('details', 'over-time', el('summary', '', 'Answers over time'));
  page.answers.hidden = !page.questions.length;
  page.answers.open = innerWidth > 700;
  page.tables = el('div', '');
  page.answers.append(page.tables);
  page.answers.addEventListener('toggle', fillAnswers);
  return page.answers;
}

// Windows in a row that have the same answer are one row of the table, with the mean confidence.
function runsOf(question) {
  const runs = [];
  for (const i of shown) {
    const one = all[i].answers.find(answer => answer.question === question);
    if (!one) continue;
    const last = runs[runs.length - 1];
    const sure = typeof one.confidence === 'number' && !one.failed;
    if (last && last.said === one.said && last.failed === one.failed) {
      last.windows += 1;
      if (sure) { last.sum += one.confidence; last.sure += 1; }
    } else {
      runs.push({said: one.said, failed: one.failed, from: i, windows: 1,
        sum: sure ? one.confidence : 0, sure: sure ? 1 : 0});
    }
  }
  return runs;
}

function fillAnswers() {
  if (!page.answers || page.answers.hidden || !page.answers.open) return;
  page.tables.replaceChildren(...page.questions.map(question => {
    const runs = runsOf(question);
    const body = el('tbody', '');
    const more = el('button', 'chip', '');
    more.type = 'button';
    const grow = () => {
      const from = body.rows.length;
      body.append(...runs.slice(from, from + STEP_ROWS).map(answerRow));
      more.hidden = body.rows.length >= runs.length;
      more.textContent = `${runs.length - body.rows.length} more rows`;
    };
    more.addEventListener('click', grow);
    grow();
    return el('section', '', el('h3', '', question), el('div', 'scroll tall', el('table', '',
      el('thead', '', el('tr', '', ...['from', 'windows', 'answer', 'confidence']
        .map(head => el('th', '', head)))), body), more));
  }));
}

function answerRow(run) {
  const link = el('a', '', clock(all[run.from].start));
  link.href = `#${all[run.from].id}`;
  return el('tr', '', ...[link, String(run.windows),
    el('span', run.failed ? 'error' : '', marked(run.said)),
    meter(run.sure ? run.sum / run.sure : null)].map(cell => el('td', '', cell)));
}
