// The form that writes music, in the element #writer of a page; as a worker, what writes behind it. Files lie beside this one
const here = name => new URL(name, import.meta.url)

// ---- behind the page ----

const MISSING = {
  runtime: 'ONNX Runtime is missing from this copy of the site, so nothing can be written here; meloformer generate writes the same on your machine',
  model: 'the model is missing from this copy of the site, so nothing can be written here; meloformer generate writes the same on your machine'}

async function take(name, what, words) {  // a file beside this one
  const r = await fetch(here(name)).catch(() => null)
  if (!r?.ok) throw new Error(words)
  return r[what]()
}

async function load() {
  if (typeof WebAssembly !== 'object') throw new Error('this browser has no WebAssembly, which the model needs')
  const writer = await import('./writer.mjs'), cards = await Promise.all(['step.json', 'page.json'].map(o => take(o, 'json', MISSING.model))), card = Object.assign(...cards)
  return {writer, card, start: async () => {  // what is asked is read before the large files are fetched
    const ort = await import('./ort.wasm.bundle.min.mjs').catch(() => { throw new Error(MISSING.runtime) })
    Object.assign(ort.env.wasm, {numThreads: 1, wasmPaths: {wasm: here('ort-wasm-simd-threaded.wasm').href}})
    const bytes = await take('model.onnx', 'arrayBuffer', MISSING.model)
    return new writer.Model(ort, await ort.InferenceSession.create(new Uint8Array(bytes), {executionProviders: ['wasm']}), card)
  }}
}

function work() {
  let loaded, model, stopped
  const tell = (kind, what) => postMessage({kind, ...what}), breath = () => new Promise(done => setTimeout(done))  // messages come in between
  onmessage = async ({data}) => {
    if (data === 'stop') { stopped = true; return }
    stopped = false
    try {
      loaded ??= await load()
      const {writer, card} = loaded, asked = writer.ask(card, data), tokens = []
      if (!model) tell('loading')
      model ??= await loaded.start()
      const start = performance.now(), seconds = () => (performance.now()-start)/1000
      let bars = 0
      const piece = () => { const p = writer.decode(card, tokens, asked.flat); return p.notes.length ? {page: writer.playable(card, p), notes: p.notes.length} : {} }
      for await (const {token, bar} of writer.write(model, asked)) {
        if (bar > bars && bars) tell('bar', {bar: bars, bars: asked.bars, tokens: tokens.length, seconds: seconds(), ...piece()})
        bars = bar
        tokens.push(token)
        if (tokens.length%16 === 0) await breath()
        if (stopped) break
      }
      tell('done', {tokens: tokens.length, seconds: seconds(), stopped, drawn: tokens, ...piece()})
    } catch (e) { loaded = model && loaded; tell('failed', {words: e.message}) }
  }
}

// ---- the page ----

const FORM = `<form>
  <label class="wide">Chords <input name="chords" value="Am F C G" placeholder="Am F | C G:2; empty: the model finds them" autocomplete="off" spellcheck="false"></label>
  <label class="wide">Instruments <input name="instruments" value="piano, bass, drums" placeholder="violin, cello; empty: the model chooses" autocomplete="off" spellcheck="false"></label>
  <label>Meter <select name="meter"></select></label>
  <label>Tempo <input name="tempo" type="number" value="110" min="20" max="480" placeholder="any"></label>
  <label>Bars <input name="bars" type="number" value="8" min="1" max="64"></label>
  <label>Seed <input name="seed" type="number" value="1" min="0"></label>
  <label>Boldness <input name="temperature" type="number" value="1" min="0.1" max="4" step="0.1"></label>
  <div class="wide"><button class="md-button md-button--primary">Write</button> <button type="button" class="md-button another">Another</button></div>
</form>
<div class="how"><progress max="1" value="0" hidden></progress> <span role="status"></span></div><p role="alert" hidden></p><div class="roll"></div>`

function page(root) {
  root.innerHTML = FORM
  const find = css => root.querySelector(css), form = find('form'), button = find('button')
  const bar = find('progress'), said = find('[role=status]'), wrong = find('[role=alert]'), roll = find('.roll')
  let worker, writing = false, latest, template
  const playing = () => roll.querySelector('iframe')?.contentDocument?.querySelector('#go')?.textContent === 'Stop'
  const set = (on, words) => { writing = on; button.textContent = on ? 'Stop' : 'Write'; bar.hidden = !on; said.textContent = words }
  const fail = words => { set(false, ''); wrong.hidden = false; wrong.textContent = words }

  async function show() {  // the newest piece, as soon as nobody listens to an older one
    if (!latest || playing()) return
    const piece = latest, frame = document.createElement('iframe')
    latest = null
    template ??= await take('player.html', 'text', MISSING.model)
    Object.assign(frame, {className: 'player', title: 'What was written', srcdoc: template.replace('PIECE', () => JSON.stringify(piece).replaceAll('</', '<\\/'))})
    frame.style.cssText = 'position: absolute; visibility: hidden'  // until it is drawn; to move a frame would load it again
    frame.onload = () => {
      if (playing()) { latest ??= piece; frame.remove(); return }
      frame.style.cssText = ''
      while (roll.firstChild !== frame) roll.firstChild.remove()  // those before it; a newer one may be on its way
    }
    roll.append(frame)
  }
  setInterval(show, 300)

  function told({data}) {
    const pace = data.tokens && `${Math.round(data.tokens/data.seconds)} tokens a second`
    if (data.page) latest = data.page
    if (data.kind === 'loading') set(true, 'loading the model, 20 MB, once')
    else if (data.kind === 'bar') { bar.value = data.bar/data.bars; set(true, `bar ${data.bar} of ${data.bars}, ${pace}`) }
    else if (data.kind === 'done') set(false, `${data.notes ?? 0} notes in ${data.seconds.toFixed(1)} s, ${pace}${data.stopped ? '; stopped' : ''}`)
    else fail(data.words)
    root.dispatchEvent(new CustomEvent('told', {detail: data}))
  }

  form.onsubmit = e => {
    e.preventDefault()
    if (writing) { worker.postMessage('stop'); return }
    wrong.hidden = true
    bar.removeAttribute('value')
    set(true, 'reading what is asked')
    if (!worker) {
      worker = new Worker(import.meta.url, {type: 'module'})
      worker.onmessage = told
      worker.onerror = () => { worker = null; fail('the browser could not start a worker of this page; open it from a server, such as python -m http.server') }
    }
    const asked = Object.fromEntries(new FormData(form))
    worker.postMessage({...asked, tempo: +asked.tempo, temperature: +asked.temperature})
  }
  find('.another').onclick = () => { if (!writing) { form.seed.value++; form.requestSubmit() } }
  take('page.json', 'json', MISSING.model).then(card => {
    for (const m of Object.keys(card.meters)) find('[name=meter]').add(new Option(m))
  }, e => fail(e.message))
}

if (typeof document === 'undefined') work()
else page(document.querySelector('#writer'))
