"The studio in a browser: chords are typed, a piece is written, heard and taken away; bars of an uploaded one are written anew"
import asyncio, base64, json, signal, socket, subprocess, sys, time
from urllib.request import urlopen
from tornado.websocket import websocket_connect
from commands import Command
from meloformer.apps import cli
from meloformer.tokens.edit import concat
from meloformer.music.score import Score
from test_sound import browser, in_browser, tune

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Browser:
    "Chromium without a window, and what pages ask of the network"
    def __init__(self, folder): self.folder,self.n,self.asked = folder,0,[]
    async def open(self, url):
        self.p = subprocess.Popen([browser, '--headless', '--no-sandbox', '--disable-gpu', '--autoplay-policy=no-user-gesture-required', f'--user-data-dir={self.folder}', '--remote-debugging-port=0', 'about:blank'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port,end = self.folder/'DevToolsActivePort',time.time()+600
        while not (port.exists() and port.read_text()):
            assert time.time()<end and self.p.poll() is None, 'the browser does not start'
            await asyncio.sleep(.1)
        pages = json.load(urlopen(f'http://127.0.0.1:{port.read_text().split()[0]}/json'))
        self.socket = await websocket_connect(next(o for o in pages if o['type']=='page')['webSocketDebuggerUrl'], max_message_size=1<<28)
        for o in ('Network.enable','Page.enable','DOM.enable'): await self.call(o)
        await self.call('Page.navigate', url=url)
    async def call(self, method, **params):
        self.n += 1
        await self.socket.write_message(json.dumps(dict(id=self.n, method=method, params=params)))
        while (m := json.loads(await self.socket.read_message())).get('id')!=self.n:
            if m.get('method')=='Network.requestWillBeSent': self.asked.append(m['params']['request']['url'])
        return m['result']
    async def js(self, code):
        r = await self.call('Runtime.evaluate', expression=code, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in r, r
        return r['result'].get('value')
    async def until(self, code):
        end = time.time()+600
        while not (r := await self.js(code)):
            assert time.time()<end, f'{code} never came: {await self.js("document.body.innerText")}'
            await asyncio.sleep(.1)
        return r
    async def fill(self, name, value):
        "Type into a field"
        await self.until(f"document.querySelector('#{name} :is(textarea, input[type=text], input[type=number])') != null")
        await self.js(f"""(() => {{ const e = document.querySelector('#{name} :is(textarea, input[type=text], input[type=number])')
            Object.getOwnPropertyDescriptor(Object.getPrototypeOf(e), 'value').set.call(e, {json.dumps(value)})
            for (const o of ['input', 'change', 'blur']) e.dispatchEvent(new Event(o, {{bubbles: true}})) }})()""")
    async def upload(self, name, path):
        root = (await self.call('DOM.getDocument'))['root']['nodeId']
        node = (await self.call('DOM.querySelector', nodeId=root, selector=f'#{name} input[type=file]'))['nodeId']
        await self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path)])
    def click(self, css): return self.js(f"document.querySelector({json.dumps(css)}).click()")
    async def write(self, tmp):
        "Press the button, wait, take the MIDI file that the player offers"
        href = "document.querySelector('#player iframe')?.contentDocument?.querySelector('#save')?.href"
        old = await self.js(href)
        await self.click('#go')
        link = await self.until(f"(o => o != {json.dumps(old)} && o)({href})")
        (tmp/'taken.mid').write_bytes(base64.b64decode(link.split(',')[1]))
        return Score.read(tmp/'taken.mid')

async def visit(port, folder, tmp):
    b = Browser(folder)
    try:
        await b.open(f'http://127.0.0.1:{port}/')
        await b.until("document.querySelector('#go') != null")
        await b.fill('chords', 'Dm G7')
        await b.fill('bars', '4')
        await b.fill('meter', '3/4')
        s = await b.write(tmp)
        assert len(s.bars())==4 and s.meters.tolist()==[(0, 3, 4)] and len(s.tracks)==4
        await b.until("document.querySelector('#picture img')?.naturalWidth > 100")
        roll = "document.querySelector('#player iframe').contentDocument"
        assert 'Dm' in await b.js(roll+".documentElement.outerHTML")
        await b.js(roll+".querySelector('#go').click()")
        assert await b.js(roll+".querySelector('#go').textContent")=='Stop'

        await b.click('#on') # what was written is the piece now, and bars of it may be marked
        assert await b.until("[...document.querySelectorAll('#task input')].find(o => o.checked).value == 'Write bars anew' && document.querySelector('#piece a') != null")
        await b.fill('chords', '')
        await b.js("document.querySelector('#piece button[aria-label*=\"lear\" i], #piece button[aria-label*=\"emove\" i]').click()")
        await b.until("document.querySelector('#piece input[type=file]') != null")
        concat(tune(), tune()).write(tmp/'mine.mid')
        await b.upload('piece', tmp/'mine.mid')
        await b.until("document.querySelector('#piece a')?.innerText.length > 0 && document.querySelector('#yours img') != null")
        await b.fill('last', '1')
        new,old = await b.write(tmp),Score.read(tmp/'mine.mid')
        of = lambda s,bar: sorted(o for o in zip(s.notes['onset']/s.tpq, s.notes['pitch'].tolist(), s.notes['velocity'].tolist()) if o[0]//4==bar)
        assert len(new.bars())==len(old.bars())==2 and of(new, 1)==of(old, 1)!=[] and of(new, 0)!=of(old, 0)

        await b.fill('chords', 'Q')
        await b.click('#go')
        await b.until("document.body.innerText.includes(\"'Q'\")")
        return b.asked
    finally: b.p.kill(); b.p.wait()

@in_browser
def test_studio(tmp_path):
    port,folder = free_port(),tmp_path/'profile'
    p = Command('studio', '--port', port)
    try:
        assert str(port) in p.stdout.readline()
        asked = asyncio.run(visit(port, folder, tmp_path))
        assert asked and all(o.startswith((f'http://127.0.0.1:{port}/', 'data:', 'blob:', 'about:')) for o in asked)
        assert cli.run('studio', ['--port', str(port)])==1 # the port is taken
        p.send_signal(signal.SIGINT)
        assert p.wait(1200)==130 and 'stopped' in p.stderr.read()
    finally: p.kill()

def test_told_in_words(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert cli.run('studio', [])==1 and "pip install 'meloformer[studio]'" in capsys.readouterr().err
