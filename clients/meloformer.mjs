// Ask a MeloFormer server (`meloformer serve`) for music, from a browser or Node 18. Needs nothing else: copy this file
const encode = bytes => btoa(Array.from(bytes, b => String.fromCharCode(b)).join(''))
const filesEncoded = fields => Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, v instanceof Uint8Array ? encode(v) : v]))
const decode = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))

export class Refused extends Error { constructor(status, words) { super(words); this.status = status } }

// Each method takes the fields of `meloformer generate`, files as Uint8Arrays, and gives MIDI files as Uint8Arrays
export class Server {
  constructor(url = 'http://127.0.0.1:8642', token = null) {
    this.url = url.replace(/\/$/, '')
    this.headers = token ? { Authorization: `Bearer ${token}` } : {}
  }

  async ask(path, fields, method = fields ? 'POST' : 'GET', signal) {
    const headers = fields ? { ...this.headers, 'Content-Type': 'application/json' } : this.headers
    const r = await fetch(this.url + path, { method, headers, signal, body: fields && JSON.stringify(filesEncoded(fields)) })
    if (r.ok) return r
    const { detail } = await r.json()
    throw new Refused(r.status, typeof detail === 'string' ? detail : detail.map(o => o.msg).join('; '))
  }

  async write(verb, fields, midi, signal) {
    const r = await this.ask('/v1/' + verb, midi ? { ...fields, midi } : fields, 'POST', signal)
    return (await r.json()).takes.map(o => decode(o.midi))
  }
  generate(fields = {}, signal) { return this.write('generate', fields, undefined, signal) }
  goOn(midi, bars, fields = {}, signal) { return this.write('continue', { ...fields, bars }, midi, signal) }
  infill(midi, fill, fields = {}, signal) { return this.write('infill', { ...fields, fill }, midi, signal) }
  text(text, fields = {}, signal) { return this.write('text', { ...fields, text }, undefined, signal) }
  async transcribe(sound, fields = {}, signal) { // the bytes of a wav, flac, mp3 or ogg file
    return decode((await (await this.ask('/v1/transcribe', { ...fields, sound }, 'POST', signal)).json()).midi)
  }

  // for await (const [kind, what] of server.stream({bars: 8})) …; to leave the loop cancels
  async *stream(fields, verb = 'generate', midi) {
    const asked = { ...fields, ...(midi && { midi }), stream: true }
    const stop = new AbortController()
    const r = await this.ask('/v1/' + verb, asked, 'POST', stop.signal)
    let rest = ''
    try {
      for await (const text of r.body.pipeThrough(new TextDecoderStream())) {
        const each = (rest + text).split('\n\n')
        rest = each.pop()
        for (const m of each.map(o => /^event: (.*)\ndata: (.*)/.exec(o))) if (m) yield [m[1], JSON.parse(m[2])]
      }
    } finally { stop.abort() }
  }
  async cancel(id) { await this.ask('/v1/jobs/' + id, undefined, 'DELETE') }
  async health() { return (await this.ask('/health')).json() }
}
