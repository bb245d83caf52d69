"A page writes what Python writes: the same tokens may come, the same are drawn, the same notes are heard"
import asyncio, base64, json, shutil, subprocess, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest, torch
import docs, runtime
from meloformer.apps.browser import page_card, write_page
from meloformer.apps.onnx import step_card, stepped_logits
from meloformer.music.chords import parse_chord, parse_progression
from meloformer.music.score import Score
from meloformer.music.sound import asset
from meloformer.net.model import MeloFormer
from meloformer.net.pretrained import *
from meloformer.tokens.grammar import GrammarState, random_piece
from meloformer.tokens.vocabulary import BOS, PITCH
from meloformer.writing.constraints import Constraints, sample
from meloformer.writing.generate import compose
from meloformer.writing.request import GenerationRequest
from test_onnx import long_piece
from test_sound import in_browser
from test_studio import Browser

node = shutil.which('node')
in_node = pytest.mark.skipif(not node, reason='needs Node')

@pytest.fixture(scope='module')
def model(checkpoint): return MeloFormer.from_pretrained(checkpoint)

@pytest.fixture(scope='module')
def ask(model):
    "Have a function of JavaScript answered, whose arguments are writer.mjs, the card, and what is given"
    card = step_card(model) | page_card(model.hid)
    def f(code, **given):
        script = f"import fs from 'fs'; import * as w from '{asset('writer.mjs').as_uri()}'; const {{card, given}} = JSON.parse(fs.readFileSync(0, 'utf8')); " \
                 f"const f = async (w, card, given) => {{ {code} }}; console.log(JSON.stringify(await f(w, card, given)))"
        p = subprocess.run([node, '--input-type=module', '-e', script], input=json.dumps(dict(card=card, given=given)), capture_output=True, text=True, timeout=600)
        assert p.returncode==0, p.stderr[-2000:]
        return json.loads(p.stdout)
    return f

REQUESTS = [dict(chords='Am F C G', instruments='piano, bass, drums', tempo=110), dict(chords='C/E Am7:3 | Bb F/A | Dm7b5 G7 C', instruments='violin, violin, cello', meter='5/4'),
    dict(instruments='flute, harp', meter='6/8'), dict(chords='Cm Es H7', meter='3/4', tempo=73), dict(), dict(chords='N C', instruments='drums'), dict(chords='G/B C/E | F', instruments='fretless bass, guitar, drums', meter='7/8')]

def wander(hid, fields, n=500, rise=0):
    "A piece that is drawn from noise that likes to change: what may come at each place, its weights, and what is drawn; `rise` times its pitches go up"
    r = dict(bars=60, meter='4/4') | fields
    asked = GenerationRequest(**r, seed=4).parse(hid)
    asked.max_bar_tokens = 60
    noise,rng,g = np.random.default_rng(1),np.random.default_rng(4),Constraints(hid, asked)
    groups,kinds,put = torch.from_numpy(np.stack([g.programs, g.next_bar, g.pitches])),torch.from_numpy(hid.kind.astype(int)),lambda o: torch.from_numpy(np.asarray(o))[None]
    logits,tokens,masks,weighs = [],[BOS],[],[]
    while len(tokens)<n and not g.walk.done:
        g.add(tokens[-1])
        if g.walk.done: break
        legal,ok,weights = g.allowed()
        w,x = np.ones(len(hid)),(noise.normal(0, 2, len(hid))-3*g.next_bar).round(9) # with 3 digits some of two kinds are as likely
        x[g.pitches] += rise*(len(tokens)/n-.5)*(hid.value[g.pitches]-60)
        if weights is not None: w[g.pitches] = weights
        logits.append(x.tolist())
        masks.append([np.packbits(o).tobytes().hex() for o in (legal, ok)])
        weighs.append(None if weights is None else weights.tolist())
        tokens.append(int(sample(put(x), put(legal), put(ok), put(w), torch.tensor([rng.random()], dtype=torch.float64), put(asked.dials), groups, kinds)[0]))
    return dict(fields=r, logits=logits, tokens=tokens, masks=masks, weights=weighs)

def compared(hid, ask, one):
    "At each token the same may come, with the same weights, and the same is drawn"
    assert len(one['tokens'])==500
    got = ask('''card.max_bar_tokens = 60
        const asked = w.ask(card, {...given.fields, seed: 4}), g = new w.Constraints(card, asked), random = new w.Random(4), hex = o => { let s = ''
            for (let i = 0; i < o.length; i += 8) s += o.slice(i, i+8).reduce((a, b) => 2*a+b, 0).toString(16).padStart(2, '0'); return s }
        const res = {masks: [], weights: [], tokens: [given.tokens[0]]}
        for (const x of given.logits) {
            g.add(res.tokens.at(-1))
            const may = g.allowed()
            res.masks.push([hex(may.legal), hex(may.ok)])
            res.weights.push(may.weights && Array.from(may.weights))
            res.tokens.push(w.sample(x, may, g, random.next()))
        }
        return res''', **one)
    for i,(a,b) in enumerate(zip(one['masks'], got['masks'])): assert a==b, (i, hid[one['tokens'][i]])
    for i,(a,b) in enumerate(zip(one['weights'], got['weights'])): assert (a is None)==(b is None) and (a is None or np.allclose(a, b, atol=1e-12)), i
    assert got['tokens']==one['tokens']

@in_node
@pytest.mark.parametrize('fields', REQUESTS, ids=lambda o: '; '.join(f'{k} {v}' for k,v in o.items()) or 'nothing')
def test_the_same_choices(model, ask, fields): compared(model.hid, ask, wander(model.hid, fields))

@in_node
@pytest.mark.parametrize('rise', [1, -1])
def test_the_same_way_back(model, ask, rise):
    "Players that climb, or sink, are led back by both"
    one = wander(model.hid, dict(instruments='piano'), rise=rise)
    assert sum(w is not None and np.isclose(w, .3).any() for w in one['weights'])>20
    compared(model.hid, ask, one)

@in_node
def test_the_same_grammar(model, ask):
    "Every token of noise is judged alike"
    rng,pieces = np.random.default_rng(0),[]
    for _ in range(6):
        piece,g = random_piece(model.hid, rng, bars=4, most=300).tolist(),GrammarState(model.hid)
        may = []
        for t in piece:
            may.append(np.flatnonzero(g.allowed()).tolist())
            g.step(t)
        pieces.append((piece, may))
    got = ask('''return given.pieces.map(piece => { const g = new w.Grammar(card)
        return piece.map(t => { const may = [...g.allowed().entries()].filter(o => o[1]).map(o => o[0]); g.step(t); return may }) })''', pieces=[o for o,_ in pieces])
    assert got==[o for _,o in pieces]

@in_node
def test_the_same_notes(model, ask):
    "Noise, whose notes cut each other short, and what is written: notes, chords, and the MIDI file"
    rng,hid = np.random.default_rng(1),model.hid
    pieces = [o.tolist() for o in (random_piece(hid, rng, bars=3, most=400) for _ in range(20)) if (hid.kind[o]==PITCH).any()]
    got = ask('''return given.pieces.map(o => { const p = w.decode(card, o); return {...p, midi: Array.from(w.toMidi(card, p)), page: w.playable(card, p)} })''', pieces=pieces)
    for tokens,o in zip(pieces, got):
        s = hid.decode(np.array(tokens))
        rows = lambda n: sorted(zip(*(n[k].tolist() for k in ('track','onset','pitch','duration','velocity'))))
        assert rows(s.notes)==sorted((n['player'], n['onset'], n['pitch'], n['duration'], n['velocity']) for n in o['notes'])
        assert [len(o['bars']), o['ticks']]==[len(hid.decode_grid(tokens)[0].bars), s.length or o['ticks']]
        back = Score.from_bytes(bytes(o['midi']))
        assert back.tpq==s.tpq and len(back.notes)==len(s.notes) and sorted(back.notes['onset'])==sorted(s.notes['onset'])
        assert back.meters.tolist()[0][1:]==s.meters.tolist()[0][1:] and o['page']['players'][0]['name']

@in_node
def test_the_same_chords(ask):
    "Symbols, progressions and numbers at random"
    symbols = [r+t for r in ('C','F#','Bb','Es','H','d','fis','As') for t in ('','m7','maj7','7','m7b5','dim7','sus4','6/9','add9','(b9)','m♭5','°')]
    good = []
    for s in symbols:
        try: good.append((s, parse_chord(s)))
        except ValueError: good.append((s, None))
    got = ask('''return given.symbols.map(s => { try { return w.ask(card, {chords: s}).chords[0][0].label } catch (e) { return null } })''', symbols=symbols)
    assert [(s, o) for (s,_),o in zip(good, got)]==good
    lines = ['Am F | C G:2', '|: C G :| Am', 'C, Dm7 | %', 'C:1 G:3 | F']
    got = ask('return given.lines.map(s => w.ask(card, {chords: s}).chords.map(b => b.map(o => o.label)))', lines=lines)
    assert got==[[[c for c,_ in b] for b in parse_progression(s)] for s in lines]
    seeds = [0, 1, 7, 12345, 2**32-1]
    assert ask('return given.seeds.map(s => { const r = new w.Random(s); return [r.next(), r.next(), r.next()] })', seeds=seeds)==[np.random.default_rng(s).random(3).tolist() for s in seeds]

@in_node
@pytest.mark.parametrize('fields,says', [(dict(chords='Am Q'), "not a chord: 'Q'"), (dict(chords='Cconstructor'), 'not a chord'), (dict(chords='| |'), 'no chord in'), (dict(chords='C G Am F Dm |'), 'do not fit'), (dict(instruments='viollin'), "'viollin' is no General MIDI instrument"),
    (dict(bars=0), 'the number of bars is a whole number from 1'), (dict(tempo=1000), 'the tempo'), (dict(seed=-1), 'the seed'), (dict(meter='4/5'), 'is no meter'), (dict(temperature=0), 'boldness')])
def test_says_what_is_wrong(ask, fields, says):
    assert says in ask('try { w.ask(card, given) } catch (e) { return e.message }', **fields)

BAR_TOKENS = 30

@pytest.fixture(scope='module')
def site(model, tmp_path_factory):
    "A folder with a page that writes, with short bars"
    folder = tmp_path_factory.mktemp('site')
    write_page(model, folder)
    card = json.loads((folder/'page.json').read_text())
    (folder/'page.json').write_text(json.dumps(card | dict(max_bar_tokens=BAR_TOKENS)))
    (folder/'index.html').write_text('<!doctype html><meta charset="utf-8"><div id="writer"></div><script type="module" src="page.mjs"></script>')
    return folder

@pytest.fixture(scope='module')
def complete(site):
    "With the runtime"
    try: files = [runtime.runtime()/o for o in runtime.FILES]
    except runtime.Missing as e: pytest.skip(str(e))
    for o in files: shutil.copy(o, site)
    return site

@in_node
def test_logits_over_500_tokens(model, ask, complete):
    "ONNX Runtime for browsers reads a piece of many bars as PyTorch does"
    piece = long_piece(model.hid, 500)
    got = ask("""const ort = await import(given.folder+'/ort.wasm.bundle.min.mjs'), bytes = o => fs.readFileSync(given.folder+'/'+o)
        Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: bytes('ort-wasm-simd-threaded.wasm')})
        const reader = new w.Reader(new w.Model(ort, await ort.InferenceSession.create(bytes('model.onnx')), card)), res = []
        for (const t of given.piece) res.push(Array.from(await reader.add(t)))
        return res""", folder=str(complete), piece=piece.tolist())
    own = stepped_logits(model, model.hid, piece)
    assert model.hid.structure(piece).bar.max()>12 and own.std(0).max()>.01 and (torch.tensor(got)-own).abs().max()<1e-4

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass

@pytest.fixture
def served(site):
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=site)) as s:
        threading.Thread(target=s.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{s.server_port}/'
        s.shutdown()

class Page:
    "The page in Chromium"
    def __init__(self, tmp): self.browser = Browser(tmp/'profile')
    async def write(self, **fields):
        "What the page says at last"
        b = self.browser
        await b.until("document.querySelector('#writer option') != null")
        await b.js("window.last = null; document.querySelector('#writer').addEventListener('told', e => { if (['done', 'failed'].includes(e.detail.kind)) window.last = e.detail })")
        for k,v in fields.items(): await b.js(f"document.querySelector('#writer [name={k}]').value = {json.dumps(str(v))}")
        await b.click('#writer button')
        return await b.until('window.last')

async def visit(url, tmp):
    "What was written, the MIDI file that is offered, what is said of a slip, and what the page asked of the network"
    page = Page(tmp)
    try:
        await page.browser.open(url)
        done = await page.write(chords='C/E Am | F', instruments='piano, bass, drums', bars=16, tempo=97, seed=5)
        href = "document.querySelector('#writer iframe')?.contentDocument?.querySelector('#save')?.href"
        midi = await page.browser.until(f"(o => o === 'data:audio/midi;base64,{done['page']['midi']}' && o)({href})")
        slip = await page.write(chords='Am Q')
        said = await page.browser.js("document.querySelector('#writer [role=alert]').innerText")
        assert said==slip['words']
        return done,base64.b64decode(midi.split(',')[1]),said,page.browser.asked
    finally: page.browser.p.kill(); page.browser.p.wait()

@in_browser
def test_page(model, complete, served, tmp_path):
    "What Chromium writes is what PyTorch writes, and nothing is asked of another server"
    done,midi,said,asked = asyncio.run(visit(served, tmp_path))
    request = GenerationRequest(chords='C/E Am | F', instruments='piano, bass, drums', bars=16, tempo=97, meter='4/4').parse(model.hid)
    request.max_bar_tokens = BAR_TOKENS
    tokens = list(compose(model, model.hid, request, 5))
    assert done['kind']=='done' and done['drawn']==tokens and len(tokens)>100
    assert sorted(Score.from_bytes(midi).notes['pitch'])==sorted(model.hid.decode(np.array(tokens)).notes['pitch'])
    assert said.startswith("not a chord: 'Q'") and all(o.startswith((served, 'data:', 'blob:', 'about:')) for o in asked)

@in_browser
def test_page_without_runtime(site, tmp_path):
    "Where npm could not be reached, the page says so"
    bare = tmp_path/'bare'
    shutil.copytree(site, bare, ignore=shutil.ignore_patterns('ort*'))
    async def go(url):
        page = Page(tmp_path)
        try:
            await page.browser.open(url)
            return await page.write()
        finally: page.browser.p.kill(); page.browser.p.wait()
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=bare)) as s:
        threading.Thread(target=s.serve_forever, daemon=True).start()
        told = asyncio.run(go(f'http://127.0.0.1:{s.server_port}/'))
        s.shutdown()
    assert told['kind']=='failed' and told['words'].startswith('ONNX Runtime is missing from this copy of the site')

def test_runtime_is_checked(tmp_path, monkeypatch, capsys):
    "Another file than the one that is meant, and no npm: the docs are built all the same, and say what they lack"
    with pytest.raises(runtime.Missing, match='sha512'): runtime.unpack(b'something else', tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.setattr('meloformer.apps.browser.write_page', lambda model, folder: None)
    docs.writer_files(tmp_path)
    assert 'lacks its runtime: npm is not installed' in capsys.readouterr().out and not list(tmp_path.glob('*.wasm'))
