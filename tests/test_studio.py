"The studio in a browser: chords are typed, a piece is written, heard and taken away; bars of an uploaded one are written anew"
import asyncio, base64, json, re, signal, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen
import httpx, numpy as np, pytest, soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from tornado.websocket import websocket_connect
from commands import Command
from meloformer.apps import cli
from meloformer.tokens.edit import concat
from meloformer.apps.studio import TASKS
from meloformer.music.score import MAX_MB, Score, instrument_name
from test_sound import CHROMIUM, in_browser, tune
from test_transcribe import played, song

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Browser:
    "Chromium without a window, and what pages ask of the network"
    def __init__(self, folder): self.folder,self.n,self.asked = folder,0,[]
    async def open(self, url):
        self.p = subprocess.Popen([*CHROMIUM, f'--user-data-dir={self.folder}', 'about:blank'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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

        await b.fill('takes', '2') # heard in turn; one is kept, and that is undone
        await b.write(tmp)
        await b.until("document.querySelectorAll('#which input').length == 2")
        said = "document.querySelector('#said').innerText"
        first = await b.until(f"{said}.includes('from real music') && {said}")
        await b.js("document.querySelectorAll('#which input')[1].click()")
        await b.until(f"{said}.includes('from real music') && {said} != {json.dumps(first)}")
        held = "document.querySelector('#piece').innerText"
        assert 'mine' in await b.js(held)
        await b.click('#on')
        await b.until(f"{held}.includes('piece-')")
        await b.click('#undo')
        await b.until(f"{held}.includes('mine')")

        soundfile.write(tmp/'song.wav', played(song(2)), 22050) # a recording gives way to what is heard in it
        await b.js("document.querySelector('#piece button[aria-label*=\"lear\" i], #piece button[aria-label*=\"emove\" i]').click()")
        await b.until("document.querySelector('#piece input[type=file]') != null")
        await b.upload('piece', tmp/'song.wav')
        await b.until(f"{held}.includes('song') && {held}.includes('.mid')")

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

@pytest.fixture
def served(tmp_path):
    "A studio whose temporary files lie in a folder of their own: its address, the process, the folder"
    port,folder = free_port(),tmp_path/'temporary'
    folder.mkdir()
    p = Command('studio', '--port', port, TMPDIR=str(folder))
    try:
        assert str(port) in p.stdout.readline()
        yield f'http://127.0.0.1:{port}',p,folder
    finally: p.kill()

class Session:
    "Somebody who uses the page from a program"
    def __init__(self, url):
        self.client = Client(url, verbose=False, download_files=False)
        rows = self.client.view_api(print_info=False, return_format='dict')['named_endpoints']['/write']['parameters']
        self.fields,self.usual = {o['label']: o['parameter_name'] for o in rows},{o['label']: o['parameter_default'] for o in rows}
    def write(self, **said):
        "What is written: bars and notes, and where the file lies"
        named = {next(v for k,v in self.fields.items() if k.startswith(label)): x for label,x in ({'Your piece': None, 'Like': None}|said).items()}
        return self.client.predict(api_name='/write', **named)
    def read(self, path, route='gradio_api/file='):
        "What the address of a file answers"
        return httpx.get(f'{self.client.src.rstrip("/")}/{route}{path}', cookies=self.client.cookies, timeout=600)
    def call(self, name, data):
        "What a function of the page answers, asked as it stands: the client would bring the files of this machine that are named"
        at,kw = f'{self.client.src.rstrip("/")}/gradio_api/call/{name}',dict(cookies=self.client.cookies, timeout=600)
        return httpx.get(f'{at}/{httpx.post(at, json=dict(data=data), **kw).json()["event_id"]}', **kw).text
    def upload(self, path):
        "Where the file lies that was brought"
        with open(path, 'rb') as f: return httpx.post(f'{self.client.src.rstrip("/")}/gradio_api/upload', files={'files': f}, cookies=self.client.cookies, timeout=600).json()[0]

def files_of(answer): return {o for o in re.findall(r"'path': '([^']+\.mid)'", str(answer))}

def test_ten_sessions(served):
    "Each gets its own piece, and none learns of another's file; with the command all files vanish"
    url,p,folder = served
    each = [Session(url) for _ in range(10)]
    def one(i): return each[i].write(**{'Bars to write': 1+i%2, 'Seed': 100+i//2}) # two ask for one seed
    with ThreadPoolExecutor(10) as pool: answers = list(pool.map(one, range(10)))
    paths = [files_of(o) for o in answers]
    assert all(paths) and len(set.union(*paths))==sum(map(len, paths))
    for i,(a,own) in enumerate(zip(answers, paths)):
        assert f'{1+i%2} bars' in str(a) and f'seed {100+i//2}' in str(a) and not any(o in str(a) for o in set.union(*paths)-own)
        assert Score.from_bytes(each[i].read(min(own)).content).notes.size
        for o in each[:i]+each[i+1:]: assert o.read(min(own)).status_code==403
    assert all(Path(o).is_relative_to(folder) for o in set.union(*paths))
    for o in (folder, *Path(min(paths[0])).parents[:2], '/etc/passwd', folder/'..', 'https://example.org/a.mid'): # neither lists nor files of the system, nor other people's pages
        assert each[0].read(o).status_code in (403, 404)
    p.send_signal(signal.SIGTERM)
    assert p.wait(600)==143 and not list(folder.iterdir())

def test_a_take_in_other_formats(served):
    "What was written comes as MIDI, and on demand as a file of another kind, to whom it belongs alone"
    url,p,folder = served
    ann,bob = Session(url),Session(url)
    ann.write(**{'Bars to write': 1})
    for kind,head in (('.musicxml', b'<?xml'), ('.mid', b'MThd')):
        path = re.search(r"'(/[^']+piece[^']+)'", str(ann.client.predict(0, kind, api_name='/download')))[1]
        assert ann.read(path).content.startswith(head) and bob.read(path).status_code==403, kind

def test_files_of_other_sessions(served):
    "Whoever knows the address of a file, written or uploaded, cannot read it, nor name it as a piece; nor without a cookie, nor with a made-up one, nor by another spelling of the address"
    url,_,folder = served
    ann,bob = Session(url),Session(url)
    tune().write(folder.parent/'ann.mid')
    written = min(files_of(ann.write(**{'Bars to write': 1})))
    brought = str(ann.upload(folder.parent/'ann.mid'))
    for o in (written, brought):
        assert Path(o).is_file() and ann.read(o).content==Path(o).read_bytes()
        spelt = (o, f'{folder}/./{Path(o).relative_to(folder)}', o.replace('piece','piec%65'), '//'+o, str(Path(o).parent/'..'/Path(o).parent.name/Path(o).name))
        for path in spelt:
            for route in ('gradio_api/file=','gradio_api/file/','file=','file/','gradio_api/fil%65='): assert bob.read(path, route).status_code in (403, 404, 307)
        for cookies in ({}, dict(meloformer=''), dict(meloformer='x'), dict(meloformer='x'*43), dict(meloformer='ann; meloformer=y')):
            assert httpx.get(f'{url}/gradio_api/file={o}', cookies=cookies, timeout=600).status_code==403
            assert httpx.head(f'{url}/gradio_api/file={o}', cookies=cookies, timeout=600).status_code==403
        piece = dict(path=o, meta=dict(_type='gradio.FileData'))
        for name,data in (('load', [piece]), ('mark', [piece, 1, 1]), ('write', [{'What': 'Write bars anew', 'Your piece': piece}.get(k.split(' is ')[0].split(',')[0], v) for k,v in ann.usual.items()])):
            assert 'event: error' in bob.call(name, data) and 'event: complete' in ann.call(name, data), name

def sound_and_text(session, folder):
    "A recording and what is none, as files of a session"
    soundfile.write(folder.parent/'song.wav', played(song(2)), 22050)
    (folder.parent/'text.mp3').write_text('<html>'*100)
    return (dict(path=str(session.upload(folder.parent/o)), meta=dict(_type='gradio.FileData')) for o in ('song.wav','text.mp3'))

def test_a_recording(served):
    "What is heard in it takes its place, belongs to its browser alone, and everything can be done with it; what is no sound is told in words"
    url,_,folder = served
    ann,bob = Session(url),Session(url)
    piece,text = sound_and_text(ann, folder)
    assert 'event: error' in bob.call('listen', [piece]) and 'text.mp3: is no sound' in (said := ann.call('listen', [text])) and str(folder) not in said
    heard = json.loads(ann.call('listen', [piece]).split('data: ')[1])[0]['path']
    s = Score.from_bytes(ann.read(heard).content)
    assert heard.endswith('/song.mid') and len(s.tracks)==1 and len(s.notes)>15 and bob.read(heard).status_code==403
    assert 'event: complete' in ann.call('load', [piece]) # while it is listened to
    now = dict(path=heard, meta=dict(_type='gradio.FileData'))
    ann.client.predict(now, api_name='/load') # now its players can be chosen
    for task in TASKS:
        who = {'Players to write anew': [instrument_name(0, False)]} if task=='Write players anew' else {}
        assert files_of(ann.write(**{'What': task, 'Your piece': now, 'Bars to write': 1, **who})), task

def test_like_a_recording(served):
    "What is heard in it takes its place; bars, meter and tempo become its own, and what is written says how like it it is; another's is refused"
    url,_,folder = served
    ann,bob = Session(url),Session(url)
    sound,text = sound_and_text(ann, folder)
    assert 'text.mp3: is no sound' in (said := ann.call('listen_1', [text])) and str(folder) not in said
    now = json.loads(ann.call('listen_1', [sound]).split('data: ')[1])[0]['path']
    s,now = Score.from_bytes(ann.read(now).content),dict(path=now, meta=dict(_type='gradio.FileData'))
    bars,meter,tempo = json.loads(ann.call('follow', [now]).split('data: ')[1])
    assert (bars, meter)==(len(s.bars()), '4/4') and abs(tempo/110-1)<.03
    asked = {'Like': now, 'Bars to write': 1}
    assert 'in common with --like: harmony' in str(ann.write(**asked)) and 'in common' not in str(ann.write(**{'Bars to write': 1}))
    assert 'event: error' in bob.call('follow', [now])
    assert 'event: error' in bob.call('write', [now if k.startswith('Like') else v for k,v in bob.usual.items()])
    with pytest.raises(AppError): ann.write(**asked, Form='AB')

def test_a_page_that_is_closed(served):
    "Its files are removed while the command goes on; those of others stay"
    url,_,folder = served
    ann,bob = Session(url),Session(url)
    tune().write(folder.parent/'ann.mid')
    files = {o: files_of(o.write(**{'Bars to write': 1, 'What': 'Go on with it', 'Your piece': handle_file(folder.parent/'ann.mid')})) for o in (ann, bob)}
    uploads = [o for o in folder.rglob('ann.mid')]
    assert len(uploads)==1 # the same bytes lie in one place
    ann.client.close()
    end = time.time()+600
    while any(Path(o).exists() for o in files[ann]): assert time.time()<end; time.sleep(.1)
    assert all(Path(o).exists() for o in files[bob]) and uploads[0].exists() and bob.read(uploads[0]).status_code==200
    bob.client.close()
    while uploads[0].exists() or any(Path(o).exists() for o in files[bob]): assert time.time()<end; time.sleep(.1)

def test_hostile_uploads(served):
    "A page, noise, half a file, a bomb of bytes, a path of the system: told in words, and the page lives on"
    url,p,folder = served
    s,bad = Session(url),folder.parent/'bad'
    bad.mkdir()
    for name,data in {'page.mid': b'<html>404</html>', 'noise.mid': np.random.default_rng(0).bytes(4096), 'empty.mid': b'', 'head.mid': tune().to_bytes()[:20], '..up.mid': b'MThd'*9, 'a.exe': tune().to_bytes()}.items():
        (bad/name).write_bytes(data)
        with pytest.raises(AppError): s.write(**{'What': 'Go on with it', 'Your piece': handle_file(bad/name), 'Bars to write': 1})
    (bad/'large.mid').write_bytes(b'MThd'+bytes(MAX_MB<<20))
    with pytest.raises(ValueError, match='maximum file size'): s.write(**{'What': 'Go on with it', 'Your piece': handle_file(bad/'large.mid')})
    with open(bad/'large.mid', 'rb') as f: assert httpx.post(f'{url}/gradio_api/upload', files={'files': f}, timeout=600).status_code==413
    for o in ('/etc/passwd', str(bad/'a.exe')):
        with pytest.raises(AppError): s.write(**{'What': 'Go on with it', 'Your piece': dict(path=o, meta=dict(_type='gradio.FileData'))})
    assert not [o for o in folder.rglob('*') if o.is_file() and o.stat().st_size>1<<20]
    assert files_of(s.write(**{'Bars to write': 1}))

def test_only_this_machine(served):
    "Nothing listens but the loopback"
    port = int(served[0].rsplit(':', 1)[1])
    rows = [l.split() for l in Path('/proc/net/tcp').read_text().splitlines()[1:]]
    assert {o[1].split(':')[0] for o in rows if o[3]=='0A' and int(o[1].split(':')[1], 16)==port}=={'0100007F'}

def test_told_in_words(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert cli.run('studio', [])==1 and "pip install 'meloformer[studio]'" in capsys.readouterr().err
