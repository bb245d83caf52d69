// Writes music with an exported model, in a browser or under Node. What it knows of music are the tables of step.json and page.json, merged into one card;
// what it needs besides is onnxruntime-web. Grammar, constraints and sampler are those of meloformer in Python, and draw the same tokens from the same seed

// ---- what is asked, in words ----

const roundEven = x => Math.abs(x % 1) === .5 ? 2*Math.round(x/2) : Math.round(x)
const tidyWords = s => s.trim().toLowerCase().split(/\s+/).join(' ')
const own = (table, key) => Object.hasOwn(table, key) ? table[key] : undefined

function readChord(card, text) {  // index of a label, and the pitch class of the bass if one is typed
  const {roots, tails, small, none} = card.symbols
  const s = text.replaceAll('♭', 'b').replaceAll('♯', '#'), stroke = s.lastIndexOf('/')
  const label = s => {
    if (none.includes(s)) return 0
    for (const n of [3, 2, 1]) {
      const root = own(roots, s.slice(0, n)), quality = own(s[0] > 'Z' ? small : tails, s.slice(n).replace(/^:|[()[\]]/g, ''))
      if (s.length >= n && root !== undefined && quality !== undefined) return 1+root*card.qualities+quality
    }
  }
  const bass = stroke > 0 ? own(roots, s.slice(stroke+1)) : undefined
  const found = label(s) ?? (bass === undefined ? undefined : label(s.slice(0, stroke)))
  if (found === undefined) throw new Error(`not a chord: '${text}'; write it like 'Am7', 'F#m' or 'Bbmaj7'`)
  return {label: found, bass}
}

function readProgression(card, text, beats) {  // of each bar the chords: position, label, bass
  const t = text.replaceAll(',', ' ').replace(/\|+:(.*?):\|+/g, '| $1 | $1 |')
  const split = s => s.split(/\s+/).filter(o => o)
  const bars = t.includes('|') ? t.split('|').map(split).filter(b => b.length) : split(t).map(o => [o])
  if (!bars.length) throw new Error(`no chord in '${text}'; write it like 'Am F C G', 'Am F | C G:2' or 'Dm7:2 G7:2 | C'`)
  bars.forEach((b, i) => { if (i && b.length === 1 && b[0] === '%') bars[i] = bars[i-1] })
  return bars.map(bar => {
    const each = bar.map(o => { const [, s, n] = /^(.+?)(?::([1-9]\d*))?$/.exec(o); return {...readChord(card, s), beats: n && +n} })
    const n = beats.length, timed = each.some(o => o.beats), total = os => os.reduce((a, o) => a+(o.beats ?? 1), 0)
    const at = each.map((o, i) => timed ? total(each.slice(0, i)) : roundEven(i*n/each.length))
    if (at.some((a, i) => a >= n || (i && a <= at[i-1])) || total(each.filter(o => o.beats)) > n)
      throw new Error(`'${bar.join(' ')}': these chords do not fit into a bar of ${n} beats`)
    return each.map((o, i) => ({...o, position: beats[at[i]]}))
  })
}

export function readInstruments(card, text) {  // program numbers
  return text.split(',').filter(o => o.trim()).map(o => {
    const name = tidyWords(o), part = () => card.names.findIndex(n => n.toLowerCase().includes(name))
    const p = /^\d+$/.test(name) ? +name : own(card.words, name) ?? part()
    if (p < 0 || p > card.drums)
      throw new Error(`'${o.trim()}' is no General MIDI instrument; try 'piano', 'violin', 'bass', 'drums' or a number from 0 to 127`)
    return p
  })
}

const whole = (x, name, low, high) => {
  if (!(Number.isInteger(+x) && x >= low && x <= high)) throw new Error(`${name} is a whole number from ${low} to ${high}, not '${x}'`)
  return +x
}

// The fields of `meloformer generate`, read; what is no such thing is an error that says so in a sentence
export function ask(card, {chords = '', instruments = '', meter = '4/4', tempo = 0, bars = 8, seed = 0, temperature = 1}) {
  const m = own(card.meters, meter), {tempos, drums, bass, kit} = card, programs = readInstruments(card, instruments)
  if (!m) throw new Error(`'${meter}' is no meter; there are ${Object.keys(card.meters).join(', ')}`)
  if (tempo) whole(tempo, 'the tempo', tempos[0], tempos.at(-1))
  if (!(temperature > 0 && temperature <= 4)) throw new Error(`boldness lies above 0 and up to 4, not '${temperature}'`)
  const players = programs.map((p, i) => [p, programs.slice(0, i).filter(o => o === p).length])
  players.sort((a, b) => card.order[a[0]]-card.order[b[0]] || a[1]-b[1])
  if (players.some(o => o[1] >= card.max_instances)) throw new Error(`an instrument has at most ${card.max_instances} players`)
  const low = programs.filter(p => bass.programs.includes(p)), lowest = bass.lowest.filter(p => programs.includes(p)).slice(0, 1)
  const near = (best, o, i) => Math.abs(o-tempo) < Math.abs(tempos[best]-tempo) ? i : best
  return {meter: m, players: players.length ? players : null, bass: !programs.length ? bass.programs : low.length ? low : lowest,
    chords: chords.trim() ? readProgression(card, chords, m.beats) : null, tempo: tempo ? tempos.reduce(near, 0) : null,
    bars: whole(bars, 'the number of bars', 1, 64), seed: whole(seed, 'the seed', 0, 2**32-1), flat: /[A-G](b|♭)/.test(chords),
    kit: !programs.length || programs.includes(drums), backbeat: programs.some(p => kit.beside.includes(p)),
    dials: card.dials.map((row, i) => i ? row : row.map((o, j) => j < 2 ? o : +temperature))}
}

// ---- the grammar: tables, and the counters beside them ----

export class Grammar {
  constructor(card) {
    const b = card.first, {kinds, kind} = card
    this.K = Object.fromEntries(kinds.map((o, i) => [o, i]))
    const end = k => kind.lastIndexOf(this.K[k])+1
    this.at = {Numerator: [b.Numerator, b.Denominator], Denominator: [b.Denominator, end('meter')]}
    for (const o of ['Chord', 'Tempo', 'Program', 'Instance', 'Position', 'Length', 'Velocity', 'Pitch']) this.at[o] = [b[o], end(o.toLowerCase())]
    Object.assign(this, {card, state: 'start', bars: 0, numerator: 4, denominator: 4})
    this.openBar()
  }
  get done() { return this.state === 'end' }
  get positions() { return Math.ceil(4*this.card.positions_per_beat*this.numerator/this.denominator) }
  openBar() { Object.assign(this, {program: null, instance: 0, position: 0, chordPosition: 0, struck: null}) }
  onset(position) { Object.assign(this, {position, length: 0, pitch: -1, struck: new Uint8Array(128)}) }
  step(t) {
    const {K} = this, k = this.card.kind[t], v = this.card.value[t], was = this.state, run = this.card.grammar[was].find(([a, b]) => a <= t && t <= b)
    if (!run) throw new Error(`token ${t} cannot stand here (state: ${was})`)
    this.state = run[2]
    if (k === K.chord && !was.endsWith('change')) { this.openBar(); this.bars++ }
    else if (k === K.meter) this[t < this.card.first.Denominator ? 'numerator' : 'denominator'] = v
    else if (k === K.program) { this.after = [this.program, this.instance]; Object.assign(this, {program: v, instance: 0, velocity: -1}); this.onset(0) }
    else if (k === K.instance) this.instance = v
    else if (k === K.position) { if (this.program === null) this.chordPosition = v; else this.onset(v) }
    else if (k === K.length) { this.length = v; this.pitch = -1 }
    else if (k === K.velocity) this.velocity = v
    else if (k === K.pitch) { this.pitch = v; this.struck[v] = 1 }
  }
  keep(ok, name, may) { for (let [t, end] = this.at[name]; t < end; t++) if (ok[t] && !may(this.card.value[t])) ok[t] = 0 }
  allowed() {
    const {card, state, program, position, struck} = this, ok = new Uint8Array(card.kind.length)
    for (const [a, b] of card.grammar[state]) ok.fill(1, a, b+1)
    if (state.endsWith('denominator')) this.keep(ok, 'Denominator', v => 4*this.numerator <= card.max_quarters*v)
    if (program === null) { this.keep(ok, 'Position', v => v > this.chordPosition); return ok }
    const own = card.order[program]
    this.keep(ok, 'Position', v => v > position && v < this.positions)
    this.keep(ok, 'Program', v => card.order[v] > own || (v === program && this.instance < card.max_instances-1))
    if ((state === 'program' || state === 'drums') && this.after[0] === program) {  // the same once more in a bar is another player
      const [a, b] = this.at.Instance
      ok.fill(0, 0, a).fill(0, b)
      this.keep(ok, 'Instance', v => v > this.after[1])
    }
    const all = struck.every(o => o), room = struck.some((o, p) => !o && p > this.pitch)
    this.keep(ok, 'Pitch', v => !struck[v] && v > this.pitch)
    this.keep(ok, 'Length', v => v > this.length && !all)
    this.keep(ok, 'Velocity', v => v !== this.velocity && room)
    return ok
  }
}

// ---- what was asked, token by token ----

export class Constraints {
  constructor(card, asked) {
    const n = card.kind.length, mask = f => Uint8Array.from({length: n}, (_, t) => f(t) ? 1 : 0)
    Object.assign(this, {card, asked, walk: new Grammar(card), count: 0, due: [], waiting: [], played: new Map(), harmony: [[0, 0]], plan: null,
      sung: new Map(), registers: new Map(), kit: card.kit.pieces.map(() => 0), strokes: []})
    const {K} = this.walk
    this.programs = mask(t => card.kind[t] === K.program)
    this.nextBar = mask(t => card.kind[t] === K.chord || t === card.first.EOS)  // the announcement of a bar elsewhere, too, is a next bar
    this.nextBar[card.first.SEP] = 1
    this.pitches = mask(t => card.kind[t] === K.pitch)
  }
  planOf(bar) { return this.asked.chords && this.asked.chords[bar % this.asked.chords.length] }
  before(a, b) { return this.card.order[a[0]]-this.card.order[b[0]] || a[1]-b[1] }  // in the order of the grammar
  add(t) {
    const {walk: w, card} = this, {K} = w, k = card.kind[t], v = card.value[t], bars = w.bars
    this.count++
    w.step(t)
    if (k === K.chord) this.harmony = [...(w.chordPosition ? this.harmony : []), [w.chordPosition, v]]
    else if (k === K.program) this.openKit()
    else if (k === K.pitch) this.strike(v)
    if (t === this.due[0]) this.due.shift()
    if (w.bars > bars) this.openBar()
    if (w.program === null || k === K.program || k === K.instance) return
    this.played.set(`${w.program},${w.instance}`, w.bars-1)
    this.waiting = this.waiting.filter(([p, i]) => p !== w.program || i !== w.instance)
  }
  openBar() {
    const {first: b} = this.card, i = this.walk.bars-1, {meter, players} = this.asked
    this.count = 0
    this.plan = this.planOf(i)
    this.due = (this.plan ?? []).slice(1).flatMap(o => [b.Position+o.position-1, b.Chord+o.label])
    if (i === 0) this.due.push(b.Numerator+meter.numerator-1, b.Denominator+Math.log2(meter.denominator))
    this.waiting = (players ?? []).filter(([p, n]) => i === 0 || i-(this.played.get(`${p},${n}`) ?? -1) > this.card.max_rest_bars)
  }
  openKit() {  // what have drums to strike in this bar?
    const {walk: w, card: {kit, drums}, asked} = this
    this.strokes = []
    if (!asked.kit || w.program !== drums) return
    this.kit = this.kit.map(n => n+1)
    const most = Math.min(kit.bars, asked.bars), second = asked.meter.beats.slice(0, 2).at(-1)
    this.strokes = kit.pieces.flatMap((p, i) => this.kit[i] >= most ? [[i === 1 ? second : 0, p]] : []).sort((a, b) => a[0]-b[0])
  }
  strike(pitch) {
    const {walk: w, card} = this, me = this.singer(), same = me.bar === w.bars && me.position === w.position
    if (w.program === card.drums) {
      this.kit = this.kit.map((n, i) => card.kit.pieces[i].includes(pitch) ? 0 : n)
      this.strokes = this.strokes.filter(o => !o[1].includes(pitch))
    }
    const player = `${w.program},${w.instance}`, {n, home, late} = this.registers.get(player) ?? {n: 0, home: 0, late: 0}
    this.registers.set(player, {n: n+1, home: home+(pitch-home)/(n+1), late: late+(pitch-late)/Math.min(n+1, card.register.recent)})
    this.sung.set(player, {bar: w.bars, position: w.position, now: same ? [...me.now, pitch] : [pitch], before: same ? me.before : me.now})
  }
  singer() { return this.sung.get(`${this.walk.program},${this.walk.instance}`) ?? {bar: -1, position: 0, now: [], before: []} }
  pitchRules() {  // which pitches may be struck, and how they weigh
    const {walk: w, card, asked} = this, {program, position} = w, may = new Uint8Array(128).fill(1), weights = new Float64Array(128).fill(1), me = this.singer()
    const only = f => { if (may.some((o, p) => o && f(p))) may.forEach((_, p) => { if (!f(p)) may[p] = 0 }) }  // a rule that leaves nothing is left out
    const rather = (share, f) => weights.forEach((o, p) => { if (!f(p)) weights[p] = o*share })
    const same = me.bar === w.bars && me.position === position, before = same ? me.before : me.now
    if (program === card.drums) {
      const beat = 4*card.positions_per_beat/w.denominator, want = asked.backbeat && w.positions === card.kit.beats*beat ? card.kit.leans[position/beat] : undefined
      if (want && !(same && me.now.some(p => want.includes(p)))) rather(card.kit.share, p => want.includes(p))
      return {may, weights}
    }
    const since = this.harmony.filter(o => o[0] <= position), [begins, chord] = since.at(-1)
    const bass = asked.bass.includes(program) ? this.plan?.[Math.min(since.length, this.plan.length)-1].bass : undefined
    if (bass !== undefined) {
      if (me.bar < w.bars || (me.bar === w.bars && me.position < begins)) only(p => p%12 === bass)
      rather(card.bass.share, p => p%12 === bass)
    }
    only(p => p >= card.ranges[program][0] && p <= card.ranges[program][1])
    if (asked.chords && chord) rather(card.off_chord_weight, p => card.tones[chord] >> p%12 & 1)
    rather(card.repeat_weight, p => !before.includes(p))
    const {home, late} = this.registers.get(`${w.program},${w.instance}`) ?? {home: 0, late: 0}, {stray, share} = card.register
    if (late > home+stray) rather(share, p => p <= late)
    if (late < home-stray) rather(share, p => p >= late)
    return {may, weights}
  }
  rule(ok) {
    const {walk: w} = this, {may, weights} = this.pitchRules(), room = may.some((o, p) => o && !w.struck[p]), above = may.some((o, p) => o && !w.struck[p] && p > w.pitch)
    w.keep(ok, 'Pitch', v => may[v])
    w.keep(ok, 'Velocity', () => above)
    w.keep(ok, 'Length', () => room)
    if (w.program === this.card.drums && this.strokes.length) {  // what leads to the stroke that is owed next
      const [[position, pitches]] = this.strokes, next = ok.map((o, t) => o && !this.programs[t] && !this.nextBar[t] ? 1 : 0)
      w.keep(next, 'Position', v => w.position < position && v <= position)
      if (w.position === position) w.keep(next, 'Pitch', v => v <= Math.max(...pitches))
      if (next.some(o => o)) ok.set(next)
    }
    return weights
  }
  onlyAsked(ok, ends) {
    const {walk: w} = this, [first] = this.waiting, players = this.asked.players.filter(o => !first || this.before(o, first) <= 0)  // none beyond one that has to play
    if (w.state === 'program' || w.state === 'drums') {  // which of them?
      const may = i => players.some(([p, n]) => p === w.program && n === i && (w.after[0] !== p || i > w.after[1])), [a, b] = w.at.Instance
      if (!may(0)) ok.fill(0, 0, a).fill(0, b)
      w.keep(ok, 'Instance', may)
    } else w.keep(ok, 'Program', v => players.some(o => o[0] === v && (w.program === null || this.before(o, [w.program, w.instance]) > 0)))
    if (ends && first) this.nextBar.forEach((o, t) => { if (o) ok[t] = 0 })
  }
  allowed() {  // what the grammar allows, what was asked for, and the weights of the pitches
    const {walk: w, card, asked} = this, b = card.first, legal = w.allowed().fill(0, b.Attribute, b.Chord), ok = legal.slice()
    const opens = ok[b.EOS] || w.state === 'piece', more = w.bars < asked.bars, plan = this.planOf(w.bars), all = () => false
    if (this.due.length && ok[this.due[0]]) return {legal, ok: ok.map((_, t) => t === this.due[0] ? 1 : 0), weights: null}
    if (opens && more && plan) w.keep(ok, 'Chord', v => v === plan[0].label)
    if (w.bars) {
      if (this.plan && w.program === null) w.keep(ok, 'Position', all)
      if (asked.players) this.onlyAsked(ok, legal[b.EOS])
      else {
        w.keep(ok, 'Program', v => v !== w.program && (this.played.size < card.max_players || this.played.has(`${v},0`)))
        w.keep(ok, 'Instance', all)
      }
    }
    if (w.bars > 1) { w.keep(ok, 'Numerator', all); w.keep(ok, 'Denominator', all) }
    if (asked.tempo !== null) w.keep(ok, 'Tempo', v => w.bars === 1 && v === asked.tempo)
    if (more) ok[b.EOS] = 0
    else if (opens) w.keep(ok, 'Chord', all)
    const weights = w.program === null ? null : this.rule(ok)
    if (this.count >= card.max_bar_tokens && ok.some((o, t) => o && this.nextBar[t])) ok.forEach((o, t) => { ok[t] = o & this.nextBar[t] })
    return {legal, ok, weights}
  }
}

// ---- choosing ----

export class Random {  // PCG64, seeded as numpy.random.default_rng does it
  constructor(seed) {
    const mul = Math.imul, pool = []
    let h = 0x43b0d7e5
    const hash = (x, by) => { x ^= h; h = mul(h, by); x = mul(x, h); return x ^ x >>> 16 }
    for (let i = 0; i < 4; i++) pool.push(hash(i ? 0 : seed, 0x931e8875))
    const mix = (x, y) => { const r = mul(0xca01f9dd, x)-mul(0x4973f715, y) | 0; return r ^ r >>> 16 }
    for (let a = 0; a < 4; a++) for (let b = 0; b < 4; b++) if (a !== b) pool[b] = mix(pool[b], hash(pool[a], 0x931e8875))
    h = 0x8b51f9dd
    const words = Array.from({length: 8}, (_, i) => BigInt(hash(pool[i % 4], 0x58f38ded) >>> 0))
    const wide = i => words[i+1] << 96n | words[i] << 64n | words[i+3] << 32n | words[i+2]
    this.inc = BigInt.asUintN(128, wide(4) << 1n | 1n)
    this.state = this.inc+wide(0)
    this.move()
  }
  move() { this.state = BigInt.asUintN(128, this.state*0x2360ed051fc65da44385df649fccf645n+this.inc) }
  next() {  // from 0 to 1
    this.move()
    const x = BigInt.asUintN(64, this.state >> 64n ^ this.state), r = this.state >> 122n
    return Number(BigInt.asUintN(64, x >> r | x << (64n-r)) >> 11n)/2**53
  }
}

const sum = (p, group) => { let s = 0; for (let t = 0; t < p.length; t++) if (!group || group[t]) s += p[t]; return s }
const falling = (tokens, p) => tokens.sort((a, b) => p[b]-p[a] || a-b)

function share(p, group, ok, weight = () => 1) {  // the probability of a group goes to its members that are allowed; are there any?
  const inside = [...p.keys()].filter(t => group[t] && ok[t]), part = inside.map(t => p[t]*weight(t)), total = sum(p, group), s = part.reduce((a, b) => a+b, 0)
  if (!inside.length) return false
  group.forEach((o, t) => { if (o) p[t] = 0 })
  inside.forEach((t, i) => { p[t] = total*(s > 0 ? part[i]/s : 1/inside.length) })
  return true
}

function redistribute(p, {legal, ok, weights}, {programs, nextBar, pitches, walk}) {  // what is ruled out goes to what stands for the same wish
  for (const [group, other] of [[programs, nextBar], [nextBar, programs]]) {
    if (share(p, group, ok)) continue
    const heir = ok.findIndex((o, t) => o && other[t]), total = sum(p, group)
    if (heir >= 0) { group.forEach((o, t) => { if (o) p[t] = 0 }); p[heir] += total }
  }
  share(p, pitches, ok, weights ? t => weights[walk.card.value[t]] : undefined)
  p.forEach((o, t) => { if (!ok[t]) p[t] = 0 })
  const s = sum(p), n = sum(ok)
  return p.map((o, t) => s > 0 ? o/s : ok[t]/n)
}

export function sample(logits, may, constraints, u) {
  const {card, asked: {dials: [heat, cut, most]}} = constraints, total = (tokens, x) => tokens.reduce((a, t) => a+x[t], 0)
  const n = logits.length, members = card.kinds.map(() => []), p = new Float64Array(n), x = Float64Array.from(logits, o => o/heat[0])
  for (let t = 0; t < n; t++) if (may.legal[t]) members[card.kind[t]].push(t)
  const peaks = members.map(m => m.reduce((a, t) => Math.max(a, x[t]), -Infinity)), top = Math.max(...peaks)
  const mass = members.map(m => m.reduce((a, t) => a+Math.exp(x[t]-top), 0)), whole = sum(mass)
  const between = mass.map(o => (o/whole)**(1/heat[1])), all = sum(between)
  members.forEach((m, k) => {  // temperature among the tokens of each kind, and another among the kinds
    for (const t of m) p[t] = Math.exp((x[t]-peaks[k])/heat[2+k])
    const scale = between[k]/all/Math.max(total(m, p), 1)
    for (const t of m) p[t] *= scale
  })
  const q = redistribute(p, may, constraints)
  const keep = (tokens, topP, topK) => {  // the likeliest tokens that make up a share
    const whole = Math.max(total(tokens, q), 1e-300)
    let c = 0
    return falling(tokens, q).filter((t, i) => { const yes = c < topP && (!topK || i < topK); c += q[t]/whole; return yes })
  }
  for (const [k, m] of members.entries()) {  // what is left of a kind has the probability of the kind
    const whole = total(m, q), kept = keep(m, cut[2+k], most[2+k]), s = total(kept, q), few = new Set(kept)
    for (const t of m) q[t] = few.has(t) && s > 0 ? q[t]/s*whole : 0
  }
  const tokens = keep([...q.keys()].filter(t => q[t] > 0), cut[0], most[0]), end = u*total(tokens, q)
  let c = 0
  return tokens.find(t => (c += q[t]) > end) ?? tokens.at(-1)
}

// ---- the step, and what it remembers ----

export class Memory {  // entries lie side by side, as the model reads them; those of finished bars are kept apart
  constructor(card, block = 64) {
    const [passes, , heads, , size] = card.inputs.key_0
    Object.assign(this, {card, block, rows: passes*heads, size, kept: [], first: 0, used: 0, width: 0})
    Object.assign(this, {total: new Float32Array(card.inputs.total[1]), count: new Float32Array(1)})  // of the embeddings of the open bar
    this.lay([])
  }
  lay(bars) {  // side by side, with room for more
    const {card, rows, size} = this
    this.width = Math.ceil((bars.reduce((a, o) => a+o.n, 0)+1)/this.block)*this.block
    this.ids = new Int32Array(card.fields.length*this.width).fill(-1)
    this.kv = Array.from({length: 2*card.layers}, () => new Float32Array(rows*this.width*size))
    this.used = 0
    for (const o of bars) {
      for (let r = 0; r < card.fields.length; r++) this.ids.set(o.ids.subarray(r*o.n, (r+1)*o.n), r*this.width+this.used)
      this.kv.forEach((to, l) => { for (let r = 0; r < rows; r++) to.set(o.kv[l].subarray(r*o.n*size, (r+1)*o.n*size), (r*this.width+this.used)*size) })
      this.used += o.n
    }
  }
  cut(a, b) {  // entries from a to b
    const n = b-a, rowsOf = (x, rows, size) => {
      const res = new x.constructor(rows*n*size)
      for (let r = 0; r < rows; r++) res.set(x.subarray((r*this.width+a)*size, (r*this.width+b)*size), r*n*size)
      return res
    }
    return {n, ids: rowsOf(this.ids, this.card.fields.length, 1), kv: this.kv.map(o => rowsOf(o, this.rows, this.size))}
  }
  add(row, out) {
    const {rows, size, card: {layers}} = this, at = this.used++, each = [out.key.data, out.value.data]
    row.forEach((v, f) => { this.ids[f*this.width+at] = v })
    this.kv.forEach((to, i) => {
      const l = i % layers, from = each[+(i >= layers)]
      for (let r = 0; r < rows; r++) to.set(from.subarray((l*rows+r)*size, (l*rows+r+1)*size), (r*this.width+at)*size)
    })
    this.total = out.next_total.data
    this.count = out.next_count.data
    if (this.used === this.width) this.lay([this.cut(0, this.used)])
  }
  closeBar(bar) {  // the last entry is the summary of the bar
    const {read} = this.card, end = this.used, reads = (list, o) => list === null || list.includes(bar+1-o.bar)
    this.kept.push({bar, ...this.cut(this.first, end-1)}, {bar, summary: true, ...this.cut(end-1, end)})
    this.lay(this.kept.filter(o => reads(o.summary ? read.summaries : read.tokens, o)))
    this.first = this.used
  }
}

export class Places {  // where each token stands: its coordinates as the model reads them
  constructor(card) { Object.assign(this, {card, document: 0, t: -1, bar: 0, index: -1, program: card.no_program, position: 0, kind: null, opened: false}) }
  add(t) {  // does it begin another bar?
    const {card} = this, k = card.kinds[card.kind[t]], v = card.value[t], opens = k === 'chord' && this.kind !== 'position', another = opens && this.opened
    this.t++
    this.index = another ? 0 : this.index+1
    if (another) this.bar++
    if (opens) Object.assign(this, {opened: true, program: card.no_program, position: 0})
    else if (k === 'program') Object.assign(this, {program: v, position: 0})
    else if (k === 'position') this.position = v
    else if (t === card.first.EOS) Object.assign(this, {program: card.no_program, position: 0})
    this.kind = k
    this.row = this.numbers({kind: card.kind[t]})
    return another
  }
  numbers(own) { const all = {...this, slot: this.bar, order: 2*this.t, ...own}; return this.card.fields.map(f => all[f]) }
  get summary() { return this.numbers({...this.card.summary, order: 2*this.t+1, index: this.index+1}) }
}

export class Model {
  constructor(ort, session, card) { Object.assign(this, {ort, session, card}) }
  async read(memory, token, row) {  // logits of the next token
    const {ort: {Tensor}, card} = this, {width} = memory, [passes, , heads, , size] = card.inputs.key_0
    const whole = (data, dims) => new Tensor('int32', Int32Array.from(data), dims), real = (data, dims) => new Tensor('float32', data, dims)
    const feeds = {token: whole([token], [1]), row: whole(row, [1, row.length]), ids: whole(memory.ids, [row.length, 1, width]),
      total: real(memory.total, [1, memory.total.length]), count: real(memory.count, [1, 1])}
    const name = i => `${i < card.layers ? 'key' : 'value'}_${i % card.layers}`
    memory.kv.forEach((o, i) => { feeds[name(i)] = real(o, [passes, 1, heads, width, size]) })
    const out = await this.session.run(feeds)
    memory.add(row, out)
    return out.logits.data
  }
}

export class Reader {  // a piece that is read token by token
  constructor(model) { Object.assign(this, {model, memory: new Memory(model.card), places: new Places(model.card)}) }
  async add(t) {
    const {model, memory, places} = this, {summary, bar} = places
    if (places.add(t)) { await model.read(memory, 0, summary); memory.closeBar(bar) }
    return model.read(memory, t, places.row)
  }
}

export async function* write(model, asked) {  // tokens, one after the other
  const {card} = model, constraints = new Constraints(card, asked), reader = new Reader(model), random = new Random(asked.seed)
  for (let t = card.first.BOS; ;) {
    constraints.add(t)
    yield {token: t, bar: constraints.walk.bars}
    if (constraints.walk.done) return
    t = sample(await reader.add(t), constraints.allowed(), constraints, random.next())
  }
}

// ---- from tokens to notes, and to files ----

function settleLengths(card, own) {  // of one player, in order: what rings into the same pitch is cut, as on the grid in Python
  const named = card.value.filter((_, t) => card.kind[t] === card.kinds.indexOf('length')), T = card.ticks, last = new Map(), legato = Math.floor(card.positions_per_beat/24)
  const down = x => named.findLast(o => o <= x), near = x => { const a = down(x), b = named.find(o => o >= x) ?? a; return x-a <= b-x ? a : b }
  let here, next
  for (const o of own.toReversed()) {
    if (here?.onset !== o.onset) [next, here] = [here, o]
    const follow = (next?.bar === o.bar ? next.onset : o.end)-o.onset, gap = (last.get(o.pitch) ?? Infinity)-o.onset
    last.set(o.pitch, o.onset)
    o.duration = o.program === card.drums ? T : follow
    if (!o.length || o.program === card.drums) continue
    const rest = Math.max(1, Math.floor((follow+T/2)/T)), room = Math.max(1, Math.floor(gap/T))
    const long = o.length !== rest && o.length > room ? (follow === gap ? rest : room) : o.length, best = near(long) > room ? down(room) : near(long), off = Math.abs(best-rest)
    if (long !== rest && !(off <= legato && 4*off <= rest)) o.duration = T*best
  }
}

export function decode(card, tokens, flat = false) {  // bars, players, notes and chords of a piece, times in ticks; the piece may break off
  const w = new Grammar(card), {K} = w, T = card.ticks, bars = [], notes = [], chords = [], players = new Map()
  for (const t of tokens) {
    w.step(t)
    const k = card.kind[t], v = card.value[t]
    if (k === K.chord && !w.chordPosition) bars.push({...bars.at(-1)})
    if (k === K.chord) chords.push({bar: bars.length-1, position: w.chordPosition, label: v})
    else if (k === K.meter) Object.assign(bars.at(-1), {numerator: w.numerator, denominator: w.denominator})
    else if (k === K.tempo) bars.at(-1).bpm = card.tempos[v]
    else if (k === K.pitch) notes.push({bar: bars.length-1, program: w.program, instance: w.instance, position: w.position, length: w.length, pitch: v, velocity: 4*w.velocity+2})
  }
  let start = 0, seconds = 0
  for (const o of bars) {
    Object.assign(o, {start, seconds, ticks: Math.floor(4*T*card.positions_per_beat*o.numerator/o.denominator), pace: 60/o.bpm/T/card.positions_per_beat})
    start += o.ticks
    seconds += o.ticks*o.pace
  }
  for (const o of notes) {
    const b = bars[o.bar], who = card.order[o.program]*card.max_instances+o.instance
    Object.assign(o, {onset: b.start+T*o.position, end: b.start+b.ticks})
    players.set(who, [...players.get(who) ?? [], o])
  }
  const each = [...players.keys()].sort((a, b) => a-b).map(who => players.get(who))
  each.forEach((own, i) => { settleLengths(card, own); for (const o of own) o.player = i })
  const at = chords.map(o => [bars[o.bar].start+T*o.position, o.label, T*o.position < bars[o.bar].ticks]).filter(o => o[2]).filter((o, i, all) => !i || o[1] !== all[i-1][1])
  return {bars, notes, chords: at.map(([onset, label]) => [onset, (flat ? card.flats : card.labels)[label]]), seconds, players: each.map(([{program}]) => program), ticks: start}
}

export function secondsAt({bars}, tick) { const b = bars.findLast(o => o.start <= tick); return b.seconds+(tick-b.start)*b.pace }

function channels(card, players) { let k = 0; const free = [...Array(16).keys()].filter(c => c !== 9); return players.map(p => p === card.drums ? 9 : free[k++ % 15]) }

export function toMidi(card, piece) {  // the bytes of a MIDI file
  const wide = (x, n) => Array.from({length: n}, (_, i) => x >> 8*(n-1-i) & 255), text = s => [...s].map(o => o.charCodeAt(0))
  const delta = x => { const res = [x & 127]; while (x >>= 7) res.unshift(x & 127 | 128); return res }
  const track = events => {  // [tick, order within it, bytes]
    let now = 0
    const body = events.sort((a, b) => a[0]-b[0] || a[1]-b[1]).flatMap(([at, , bytes]) => { const d = at-now; now = at; return [...delta(d), ...bytes] })
    return [...text('MTrk'), ...wide(body.length+4, 4), ...body, 0, 255, 47, 0]
  }
  const {bars, notes, players} = piece, channel = channels(card, players), changes = (o, i, keys) => !i || keys.some(k => o[k] !== bars[i-1][k])
  const head = bars.flatMap((o, i) => [...changes(o, i, ['numerator', 'denominator']) ? [[o.start, 0, [255, 88, 4, o.numerator, Math.log2(o.denominator), 24, 8]]] : [],
    ...changes(o, i, ['bpm']) ? [[o.start, 1, [255, 81, 3, ...wide(Math.round(6e7/o.bpm), 3)]]] : []])
  const parts = players.map((p, i) => [...p === card.drums ? [] : [[0, 0, [0xc0 | channel[i], p]]],
    ...notes.filter(o => o.player === i).flatMap(o => [[o.onset, 2, [0x90 | channel[i], o.pitch, o.velocity]], [o.onset+o.duration, 1, [0x80 | channel[i], o.pitch, 0]]])])
  const opening = [...text('MThd'), ...wide(6, 4), ...wide(1, 2), ...wide(1+parts.length, 2), ...wide(card.ticks*card.positions_per_beat, 2)]
  return Uint8Array.from([...opening, ...track(head), ...parts.flatMap(track)])
}

const base64 = bytes => btoa(Array.from(bytes, o => String.fromCharCode(o)).join(''))

export function playable(card, piece) {  // as the player of the library reads it
  const {players, notes} = piece, channel = channels(card, players), ms = tick => Math.round(1000*secondsAt(piece, tick))
  const names = players.map(p => p === card.drums ? card.drums_name : card.names[p]), colors = card.colors[+(players.length > 10)]
  const named = i => { const n = names.slice(0, i).filter(o => o === names[i]).length; return names[i]+(n ? ` ${n+1}` : '') }
  const data = new DataView(new ArrayBuffer(12*notes.length))
  notes.toSorted((a, b) => a.onset-b.onset).forEach((o, i) => {
    data.setUint32(12*i, ms(o.onset), true)
    data.setUint32(12*i+4, Math.max(ms(o.onset)+1, ms(o.onset+o.duration)), true)
    data.setUint8(12*i+8, o.pitch)
    data.setUint8(12*i+9, o.velocity)
    data.setUint16(12*i+10, o.player, true)
  })
  return {players: players.map((p, i) => ({name: named(i), channel: channel[i], program: p % card.drums, color: colors[i % colors.length]})),
    seconds: piece.seconds+1, bars: piece.bars.map(o => o.seconds), chords: piece.chords.map(([t, name]) => [secondsAt(piece, t), name]),
    notes: base64(new Uint8Array(data.buffer)), midi: base64(toMidi(card, piece))}
}
