"The server as a process of its own: twenty ask at once, some hang up, some send what is no music; nothing is lost, and nothing of the machine is told"
import asyncio, base64, io, json, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from urllib.request import urlopen
import httpx, numpy as np, pytest, schemathesis, soundfile
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, negative_data_rejection, response_schema_conformance, status_code_conformance
from commands import Running
from conftest import slowness
from test_edit import absolute, full_of_life
from test_transcribe import played, song
from meloformer.apps import cli
from meloformer.music.hearing import transcribed
from meloformer.music.score import Score
from meloformer.writing.request import MeloFormer

root = Path(__file__).resolve().parent.parent
sys.path.append(str(root/'clients'))
from meloformer_client import Refused, Server

SHORT = dict(bars=2, instruments='flute', chords='C G', top_k=5)

@pytest.fixture(scope='module')
def server(checkpoint):
    with Running('serve', checkpoint, '--waiting', 30) as s: yield s

@pytest.fixture(scope='module')
def model(checkpoint): return MeloFormer.from_pretrained(checkpoint)

def memory(s): return int(next(l for l in Path(f'/proc/{s.pid}/status').read_text().splitlines() if l.startswith('VmRSS')).split()[1])
def figure(s, name): return float(next(l for l in urlopen(s.url+'/metrics').read().decode().splitlines() if l.startswith(name+' ')).split()[1])
def wait_for(f, seconds=30):
    end = time.time()+seconds*slowness()
    while not (r := f()): assert time.time()<end; time.sleep(.02)
    return r

def test_python_client(server, model, tmp_path):
    c = Server(server.url)
    assert c.health()['status']=='ok'
    a,b = c.generate(takes=2, seed=7, **SHORT)
    assert [a, b] == [model.generate(seed=s, **SHORT).to_bytes() for s in (7, 8)]
    song = tmp_path/'a.mid'
    song.write_bytes(a)
    assert c.infill(a, '1', seed=1)==[model.infill(song, '1', seed=1).to_bytes()]
    assert c.go_on(a, 4)==[model.continue_(song, 4).to_bytes()]
    got = list(c.stream(**SHORT))
    assert [k for k,_ in got]==['waiting','writing','bar','bar','done'] and [d['bar'] for k,d in got if k=='bar']==[1, 2]
    assert all(base64.b64decode(d['midi'])[:4]==b'MThd' for k,d in got if k=='bar')
    with pytest.raises(Refused, match='--bars is at least 1, not 0') as e: c.generate(bars=0)
    assert e.value.status==422

def test_the_file_that_was_sent(server, model, tmp_path):
    "Pedals, bends, lyrics and names come back, and the chords of its markers are kept: as if the file were read here"
    c,f = Server(server.url),tmp_path/'a.mid'
    for data in (full_of_life(), model.generate(bars=4, instruments='flute', chords='Am F C G7', meter='4/4', top_k=5).to_bytes()):
        f.write_bytes(data)
        new, = c.infill(data, '2-3', seed=1, top_k=5)
        assert new==model.infill(f, '2-3', seed=1, top_k=5).to_bytes()
        kept = {k: v for k,v in absolute(data).items() if 'note_' not in k[2]}
        assert len(kept)>3 and kept.items()<=absolute(new).items()

def test_a_key_is_drawn_again_here_too(server, model):
    "What is heard in another key is drawn again, as in Python"
    asked = dict(bars=4, instruments='flute', key='D minor', top_k=5)
    got = Server(server.url).generate(takes=3, seed=1, **asked)
    assert set(got)=={o.to_bytes() for o in model.generate_many(3, seed=1, **asked)}!={o.to_bytes() for o in model.generate_many(3, seed=1, attempts=1, **asked)}

WALTZ = 'a waltz for flute, 2 bars'

def test_sentences_and_recordings(server, model, tmp_path):
    "Over HTTP the same as in Python, and nothing is told of where a recording lay"
    sound,c = io.BytesIO(),Server(server.url)
    soundfile.write(sound, played(song()), 22050, 'PCM_16', format='wav')
    (tmp_path/'a').write_bytes(sound.getvalue())
    heard = transcribed(tmp_path/'a', meter='4/4', program=24)
    assert c.text(WALTZ, seed=3)==[model.generate(text=WALTZ, seed=3).to_bytes()]
    assert c.transcribe(sound.getvalue(), instrument='24', meter='4/4')==heard.score.to_bytes()
    r = httpx.post(server.url+'/v1/transcribe.mid', params=dict(as_played=True, instrument='24', meter='4/4'), content=sound.getvalue(), timeout=120)
    assert r.headers['content-type']=='audio/midi' and r.content==heard.played.to_bytes()
    for junk in (b'', b'MThd', b'RIFF'+bytes(99), b'ID3'*999, b'fLaC'*999):
        r = httpx.post(server.url+'/v1/transcribe.mid', content=junk, timeout=120)
        assert r.status_code==422 and r.json()['detail'][0]['msg'].startswith('sound: ') and 'tmp' not in r.text, junk
    for wrong in (dict(meter='1/0'), dict(instrument='drums'), dict(tempo=1e9), dict(sound='?')):
        with pytest.raises(Refused) as e: c.transcribe(b'RIFF', **wrong) if 'sound' not in wrong else c.ask('/v1/transcribe', wrong)
        assert e.value.status==422, wrong

def test_like(server, model, tmp_path):
    "A recording, or MIDI, that a piece is to be like: the same as in Python; what is neither, or too much, is a sentence that tells of no folder, and so is a model that does not listen"
    sound,asked = io.BytesIO(),dict(bars=2, instruments='flute', seed=3)
    soundfile.write(sound, played(song(2)), 22050, 'PCM_16', format='wav')
    (tmp_path/'a.wav').write_bytes(sound.getvalue())
    with Running('serve', '--bars', 8) as s:
        c,hears = Server(s.url),MeloFormer.from_pretrained()
        made = c.generate(like=sound.getvalue(), meter='4/4', **asked)
        assert made==[hears.generate(like=tmp_path/'a.wav', meter='4/4', **asked).to_bytes()]!=c.generate(meter='4/4', **asked)
        (tmp_path/'a.mid').write_bytes(made[0])
        assert c.generate(like=made[0], seed=4)==[hears.generate(like=tmp_path/'a.mid', seed=4).to_bytes()]
        assert [k for k,_ in c.stream(like=made[0], like_facts='rhythm', **asked)]==['waiting','writing','bar','bar','done']
        silence,hours,long = io.BytesIO(),io.BytesIO(),hears.generate(bars=9, instruments='flute').to_bytes()
        soundfile.write(silence, np.zeros(22050), 22050, 'PCM_16', format='wav')
        soundfile.write(hours, np.zeros(5*3600*8000, np.float32), 8000, 'PCM_16', format='flac')
        for data,words in ((b'', 'is no sound'), (b'MThd', 'like'), (b'ID3'*999, 'is no sound'), (silence.getvalue(), 'like: is silent'), (hours.getvalue(), 'like: lasts 5.0 hours'), (long, 'at most 8 bars')):
            r = httpx.post(s.url+'/v1/generate', json=dict(like=base64.b64encode(data).decode()), timeout=120)
            assert r.status_code==422 and words in r.json()['detail'][0]['msg'] and 'tmp' not in r.text, (words, r.text)
        for wrong in (dict(bars=0), dict(form='AB'), dict(like_facts='rhythm,drums'), dict(meter='3/8')):
            with pytest.raises(Refused, match=f'--{min(wrong)}'): c.generate(like=sound.getvalue(), **wrong)
        assert c.health()['status']=='ok'
    with pytest.raises(Refused, match='does not listen to outlines; leave --like out'): Server(server.url).generate(like=made[0])

def test_javascript_client(server, model, tmp_path):
    code = f"""import {{ Server }} from '{root}/clients/meloformer.mjs'
    const c = new Server('{server.url}'), short = {json.dumps(SHORT|dict(seed=7))}, hex = o => Buffer.from(o).toString('hex'), kinds = []
    const [a] = await c.generate(short)
    const [b] = await c.infill(a, '1', {{seed: 1}})
    const [waltz] = await c.text('{WALTZ}', {{seed: 3}})
    const like = await c.generate({{like: a}}).catch(e => [e.status, e.message.slice(0, 9)])
    const deaf = await c.transcribe(new Uint8Array([1, 2])).catch(e => [e.status, e.message.slice(0, 6)])
    for await (const [kind] of c.stream({{...short, bars: 3}})) kinds.push(kind)
    const no = await c.generate({{bars: 0}}).catch(e => [e.status, e.message])
    console.log(JSON.stringify([hex(a), hex(b), kinds, no, (await c.health()).status, hex(waltz), deaf, like]))"""
    (tmp_path/'a.mjs').write_text(code)
    r = subprocess.run(['node', tmp_path/'a.mjs'], capture_output=True, text=True, timeout=300)
    assert r.returncode==0, r.stderr
    a,b,kinds,no,status,waltz,deaf,like = json.loads(r.stdout)
    assert like==[422, 'the model'] # of this server does not listen
    assert bytes.fromhex(waltz)==model.generate(text=WALTZ, seed=3).to_bytes() and deaf==[422, 'sound:']
    song = model.generate(seed=7, **SHORT)
    song.write(tmp_path/'a.mid')
    assert bytes.fromhex(a)==song.to_bytes() and bytes.fromhex(b)==model.infill(tmp_path/'a.mid', '1', seed=1).to_bytes()
    assert kinds==['waiting','writing','bar','bar','bar','done'] and no==[422, '--bars is at least 1, not 0'] and status=='ok'

def test_twenty_at_once(server, model):
    "Nothing is lost, nobody gets another's piece, who comes first is served first, and memory stays where it was"
    async def all_of(n, start):
        async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=100)) as c:
            async def one(i):
                r = await c.post('/v1/generate', json=SHORT|dict(seed=start+i))
                return r.status_code,base64.b64decode(r.json()['takes'][0]['midi']),time.monotonic()
            return await asyncio.gather(*map(one, range(n)))
    got = asyncio.run(all_of(20, 0))
    assert [o[0] for o in got]==[200]*20 and [o[1] for o in got]==[model.generate(seed=i, **SHORT).to_bytes() for i in range(20)]
    assert figure(server, 'meloformer_jobs_together_sum') > figure(server, 'meloformer_jobs_together_count')
    before = memory(server)
    for k in range(5): asyncio.run(all_of(20, 100*k))
    assert memory(server)-before < 20_000, 'kB'
    assert figure(server, 'meloformer_waiting')==figure(server, 'meloformer_writing')==0

def test_fair_order(server):
    "Jobs that cannot be written together end in the order in which they came"
    song = Server(server.url).generate(**SHORT)[0]
    ended,came = [],[]
    def ask(i):
        for kind,_ in Server(server.url).stream('continue', song, bars=3, seed=i):
            if kind=='waiting': came.append(i)
            if kind=='done': ended.append(i)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for i,t in enumerate(threads): t.start(); wait_for(lambda: len(came)==i+1)
    for t in threads: t.join(300)
    assert ended==list(range(8))

def test_a_full_line_and_cancelling(server):
    "The thirty-first is told to come later; who is cancelled, or hangs up, leaves at once, and the others get what they asked for"
    c = Server(server.url)
    stream = c.stream(**SHORT|dict(bars=128))
    kind,what = next(stream)
    wait_for(lambda: figure(server, 'meloformer_writing')==1)
    results = []
    def ask(i):
        try: results.append(c.generate(seed=i, **SHORT))
        except Refused as e: results.append(e.status)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(33)]
    for t in threads: t.start()
    wait_for(lambda: results.count(429)==3)
    c.cancel(what['id'])
    assert [k for k,_ in stream][-1]=='cancelled'
    for t in threads: t.join(300)
    assert len(results)==33 and sum(o!=429 for o in results)==30
    gone = c.stream(**SHORT|dict(bars=128))
    next(gone)
    wait_for(lambda: figure(server, 'meloformer_writing')==1)
    gone.close()
    wait_for(lambda: figure(server, 'meloformer_writing')==0, 10)
    with pytest.raises(Refused, match='no such job'): c.cancel('none')

def raw(server, data, shut=False):
    "What comes back for some bytes"
    with socket.create_connection(('127.0.0.1', server.port), timeout=60) as s:
        s.sendall(data)
        if shut: s.shutdown(socket.SHUT_WR)
        return s.recv(1<<16).decode('latin-1')

def test_hostile(server, tmp_path):
    "Whatever is sent: a status below 500, and the server lives on"
    post = lambda **kw: httpx.post(server.url+'/v1/generate', timeout=120, **kw)
    secret = tmp_path/'secret.mid'
    secret.write_bytes(b'MThd')
    for name,value in (('prompt', str(secret)), ('like', str(secret)), ('midi', str(secret)), ('out', str(secret)), ('model', '/'), ('device', 'cuda')): assert post(json={name: value}).status_code==422
    for body in (dict(midi=base64.b64encode(o).decode()) for o in (b'', b'MThd', b'\xff'*1000, b'MThd\0\0\0\6\0\1\xff\xff\0\1', b'<html>', b'MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\xff\xff\xff\xff'+b'\x90'*999)):
        assert post(json=body).status_code==422, body
    for body in (dict(chords='('*2000), dict(instruments=','.join('a'*900)), dict(meter='1/0'), dict(meter='999999999/4'), dict(temperature='nan'), dict(density='-'*1999), dict(pitch_range='C999999'), dict(form='A'*1000), dict(top_p='1,'*900), dict(attributes='key '*400)):
        assert post(json=dict(bars=1)|body).status_code==422, body
    for body in (dict(polyphony='9'*1900), dict(summary_bars=2**31-1), dict(prompt_bars=2**31-1), dict(max_rest_bars=2**31-1), dict(off_chord_weight=1e-300), dict(top_k='9'*1900), dict(temperature=1e300), dict(temperature=1e-300)):
        assert post(json=SHORT|body).status_code in (200, 422), body
    assert post(json=dict(seed=2**31-1, tempo=2**31-1, **SHORT)).status_code in (200, 422)
    assert post(content=b'['*100_000, headers={'content-type': 'application/json'}).status_code<500
    assert post(content=b'{"seed": '+b'9'*5000+b'}', headers={'content-type': 'application/json'}).status_code<500
    assert post(content=b'{"temperature": NaN}', headers={'content-type': 'application/json'}).status_code==422
    assert post(content=bytes((5<<20)), headers={'content-type': 'application/json'}).status_code==413
    assert post(content=(b'x'*(1<<20) for _ in range(6))).status_code==413
    assert ' 400 ' in raw(server, b'\0\1\2\r\n\r\n') and ' 413 ' in raw(server, b'POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n')
    assert ' 421 ' in raw(server, b'GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n')
    assert httpx.get(server.url+'/../../etc/passwd').status_code==404
    assert secret.read_bytes()==b'MThd' and Server(server.url).health()['status']=='ok' and len(Server(server.url).generate(**SHORT))==1

schemathesis.openapi.media_type('audio/midi', st.binary())
@schemathesis.serializer('audio/midi')
def as_it_is(ctx, value): return value if isinstance(value, bytes) else str(value).encode()

def test_schema(checkpoint):
    "What schemathesis draws from the schema: never a fault of the server, and each answer is as the schema has it"
    with Running('serve', checkpoint, '--bars', 2) as s:
        schema,seen = schemathesis.openapi.from_url(s.url+'/openapi.json'),set()
        checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection]
        @settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        @given(st.data())
        def draw(data):
            case = data.draw(operation.as_strategy(generation_mode=mode))
            seen.add(case.call_and_validate(checks=checks).status_code)
        for o in schema.get_all_operations():
            for mode in GenerationMode.POSITIVE,GenerationMode.NEGATIVE:
                operation = o.ok()
                try: draw()
                except Unsatisfiable: assert mode==GenerationMode.NEGATIVE # where nothing is asked, nothing can be asked wrongly
        assert {200, 404, 422} <= seen

def test_token(checkpoint, capsys, monkeypatch):
    monkeypatch.delenv('MELOFORMER_TOKEN', raising=False)
    assert cli.run('serve', [str(checkpoint), '--host', '0.0.0.0'])==1 and 'MELOFORMER_TOKEN' in capsys.readouterr().err
    with Running('serve', checkpoint, '--host', '0.0.0.0', MELOFORMER_TOKEN='secret') as s:
        url = f'http://127.0.0.1:{s.port}'
        for token in (None, 'wrong', 'sécret'.encode().decode('latin-1')):
            with pytest.raises(Refused, match='a token is needed') as e: Server(url, token).generate(**SHORT)
            assert e.value.status==401
        assert len(Server(url, 'secret').generate(**SHORT))==1 and Server(url).health()['status']=='ok'

@pytest.mark.parametrize('times', [1, 2])
def test_taken_and_ended(server, checkpoint, capsys, times):
    "A port that is taken is said before the model is loaded; Ctrl-C ends it, also while somebody waits, and twice"
    assert cli.run('serve', [str(checkpoint), '--port', str(server.port)])==1
    assert 'give another with --port' in capsys.readouterr().err
    with Running('serve', checkpoint) as s:
        stream = Server(s.url).stream(**SHORT|dict(bars=128))
        next(stream)
        for _ in range(times): s.send_signal(signal.SIGINT); time.sleep(.05)
        if times==1: assert [k for k,_ in stream][-1]=='cancelled'
        _,err = s.communicate()
        assert s.returncode==130 and 'Traceback' not in err and (times==2 or err=='\nmeloformer serve: stopped; nothing half-written is left\n'), err

def test_half_a_request_is_cut_off(checkpoint):
    "Ctrl-C waits for its other half, but not for long; that is no fault, and no traceback"
    with Running('serve', checkpoint) as s,socket.create_connection(('127.0.0.1', s.port)) as half:
        half.sendall(b'POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{')
        assert Server(s.url).health()['status']=='ok' # the half has come before
        s.send_signal(signal.SIGINT)
        _,err = s.communicate()
    assert s.returncode==130 and 'Cancel 1 running task' in err and 'Traceback' not in err and err.endswith('meloformer serve: stopped; nothing half-written is left\n'), err

def test_told_in_words(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert cli.run('serve', [])==1 and "pip install 'meloformer[serve]'" in capsys.readouterr().err
