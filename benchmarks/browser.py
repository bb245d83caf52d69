"""How fast does a page write, and what PyTorch writes?

    python benchmarks/browser.py [--pieces 5] [--bars 8]

The model that comes along, exported, written with by `writer.mjs` and ONNX Runtime for browsers under Node, on one thread: the same engine and the same compiled code as in Chromium, and seconds of the processor can be
counted there, which other work on the machine lengthens less. The first piece is apart: WebAssembly is compiled quickly first, and well while it runs. Its tokens must be those of PyTorch. Then 500 tokens are read step by
step by both: the largest difference of a logit. At last the page itself writes in Chromium, where there is one: tokens a second, by the clock, of its worker."""
import asyncio, json, os, shutil, subprocess, sys, tempfile, threading
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
sys.path += [str(Path(__file__).parent.parent/o) for o in ('tools','tests')]
from runtime import FILES, VERSION, runtime
from test_browser import Page, Quiet
from test_sound import browser
from meloformer import GenerationRequest, MeloFormer
from meloformer.apps.browser import write_page
from meloformer.apps.onnx import stepped_logits
from meloformer.writing.generate import compose

SCRIPT = '''
import fs from 'fs'
const [dir, asked, pieces, piece] = JSON.parse(fs.readFileSync(0, 'utf8')), bytes = o => fs.readFileSync(dir+'/'+o), json = o => JSON.parse(bytes(o))
const w = await import(dir+'/writer.mjs'), ort = await import(dir+'/ort.wasm.bundle.min.mjs'), cpu = () => { const u = process.cpuUsage(); return (u.user+u.system)/1e6 }
Object.assign(ort.env.wasm, {numThreads: 1, wasmBinary: bytes('ort-wasm-simd-threaded.wasm')})
let start = cpu(), step = 0
const model = new w.Model(ort, await ort.InferenceSession.create(bytes('model.onnx')), {...json('step.json'), ...json('page.json')}), load = cpu()-start, written = []
const read = model.read.bind(model)
model.read = async (...a) => { const t = cpu(), res = await read(...a); step += cpu()-t; return res }
for (let seed = 0; seed < pieces; seed++) {
  const tokens = [], before = step, t = cpu()
  for await (const o of w.write(model, w.ask(model.card, {...asked, seed}))) tokens.push(o.token)
  written.push({tokens, seconds: cpu()-t, step: step-before})
}
const reader = new w.Reader(model), logits = []
for (const t of piece) logits.push(Array.from(await reader.add(t)))
console.log(JSON.stringify({load, written, logits}))
'''

async def in_chromium(folder, tmp, asked, pieces):
    "Tokens a second of each piece that the page writes"
    (folder/'index.html').write_text('<!doctype html><meta charset="utf-8"><div id="writer"></div><script type="module" src="page.mjs"></script>')
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=folder)) as s:
        threading.Thread(target=s.serve_forever, daemon=True).start()
        page = Page(tmp)
        try:
            await page.browser.open(f'http://127.0.0.1:{s.server_port}/')
            done = [await page.write(**asked, seed=seed) for seed in range(pieces)]
        finally: page.browser.p.kill(); page.browser.p.wait(); s.shutdown()
    return [round(o['tokens']/o['seconds'], 1) for o in done]

@call_parse
def main(
    pieces: int = 5, # With seeds from 0
    bars: int = 8,
    read: int = 500  # Tokens of the piece that is read
):
    torch.set_num_threads(1)
    model,asked = MeloFormer.from_pretrained(),dict(chords='Am F C G', instruments='piano, bass, drums', meter='4/4', bars=bars)
    request = lambda **kw: GenerationRequest(**asked | kw).parse(model.hid)
    piece = list(islice(compose(model, model.hid, request(bars=32), 0), read))
    with tempfile.TemporaryDirectory() as tmp:
        write_page(model, tmp)
        for o in FILES: shutil.copy(runtime()/o, tmp)
        said = subprocess.run(['node','--input-type=module','-e',SCRIPT], input=json.dumps([tmp, asked, pieces, piece]), capture_output=True, text=True, check=True).stdout
        megabytes,chromium = {o.name: round(o.stat().st_size/1e6, 2) for o in sorted(Path(tmp).iterdir())},None
        if browser:
            with tempfile.TemporaryDirectory() as profile: chromium = asyncio.run(in_chromium(Path(tmp), Path(profile), asked, pieces))
    got = json.loads(said)
    first,*warm = got['written']
    same = [o['tokens']==list(compose(model, model.hid, request(), seed)) for seed,o in enumerate(got['written'])]
    pace = lambda k, os: round(median(len(o['tokens'])/o[k] for o in os), 1)
    difference = (torch.tensor(got['logits'])-stepped_logits(model, model.hid, piece)).abs().max()
    report('browser', (), command='python benchmarks/browser.py', onnxruntime_web=VERSION, node=subprocess.run(['node','--version'], capture_output=True, text=True).stdout.strip(), megabytes=megabytes,
        load_seconds=round(got['load'], 2), pieces=pieces, bars=bars, tokens=[len(o['tokens']) for o in got['written']], pieces_that_are_those_of_pytorch=sum(same),
        first_piece_tokens_a_second=pace('seconds', [first]), tokens_a_second=pace('seconds', warm), of_which_steps_a_second=pace('step', warm), read=len(piece), largest_difference=float(difference),
        chromium_tokens_a_second=chromium, load_average=round(os.getloadavg()[0], 1))
