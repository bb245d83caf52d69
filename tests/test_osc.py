"The OSC server as a process of its own: what comes in parts, in any order and twice is the same piece; what is no message is answered in a sentence; nothing ends it but Ctrl-C"
import random, signal, socket, struct, sys
from pathlib import Path
import numpy as np, pytest
from commands import Running
from conftest import slowness
from test_edit import absolute, full_of_life
from meloformer.apps import cli
from meloformer.apps.jobs import Limits
from meloformer.apps.osc import Sketch, bar_messages, made
from meloformer.music.score import Score, Track, columns, NOTE
from meloformer.writing.request import MeloFormer

sys.path.append(str(Path(__file__).resolve().parent.parent/'clients'))
from meloformer_osc import Osc, Refused

SHORT = dict(bars=2, instruments='flute', chords='C G', top_k=5)

@pytest.fixture(scope='module')
def server(checkpoint):
    with Running('osc', checkpoint) as s: yield s

@pytest.fixture(scope='module')
def model(checkpoint): return MeloFormer.from_pretrained(checkpoint)

@pytest.fixture
def osc(server): return Osc(server.port, timeout=60*slowness())

@pytest.fixture(scope='module')
def song():
    "Four bars of a melody and a bass; long enough for several packets as MIDI"
    rng = np.random.default_rng(0)
    melody = columns(NOTE, onset=20*np.arange(384), duration=20, pitch=rng.integers(60, 84, 384), velocity=rng.integers(40, 100, 384), track=0)
    bass = columns(NOTE, onset=480*np.arange(16), duration=440, pitch=rng.integers(33, 45, 16), velocity=80, track=1)
    return Score(480, np.concatenate([melody, bass]), [Track(73), Track(32)])

def said(osc):
    "The sentence of the next error"
    with pytest.raises(Refused) as e:
        while True: osc.hear()
    return str(e.value)

def test_as_midi(osc, model, song):
    "In parts, the last first and one of them twice; a part that is lost is named"
    data = song.to_bytes()
    want = [model.infill(Score.from_bytes(data), '2-3', rewrite='32', seed=s).to_bytes() for s in (5, 6)]
    n = -(-len(data)//500)
    parts = [(i+1, n, data[i*500:(i+1)*500]) for i in range(n)]
    for o in (parts[-1], *parts[:0:-1]): osc.send('/midi', 'a', *o)
    osc.send('/piece', 'a')
    assert f'part 1 of {n} has not arrived' in said(osc)
    osc.send('/midi', 'a', *parts[0])
    assert osc.write(id='a', mask=(2, 3, 1), seed=5, takes=2)==want
    assert osc.write(id='b', seed=7, **SHORT)==[model.generate(seed=7, **SHORT).to_bytes()]

def test_what_stays(osc, model, tmp_path):
    "Pedals, bends, lyrics and names of the file that was sent"
    (tmp_path/'a.mid').write_bytes(full_of_life())
    new, = osc.write(full_of_life(), id='life', mask=(2, 3), seed=1)
    assert new==model.infill(tmp_path/'a.mid', '2-3', seed=1).to_bytes()
    assert {k: v for k,v in absolute(full_of_life()).items() if 'note_' not in k[2]}.items()<=absolute(new).items()

def test_as_bars(osc, model, song):
    "Bars in any order and twice, then only those that were written come back; put in their places they are what Python gives"
    def here(each):
        for address,b,t,*notes in each:
            if address=='/bar': sketch.bar(b, t, *notes)
    sketch = Sketch(Limits())
    sent = list(bar_messages(song, range(4), 4, [4, 7]))
    for t,o in ((4, 'flute'), (7, 'bass')): osc.send('/track', 1, t, o); sketch.track(t, o)
    osc.send('/bar', 1, 2, 7, 1, 1, 0., 1.) # comes again, and other
    for address,*args in random.Random(0).sample(sent*2, len(sent)*2): osc.send(address, 1, *args)
    osc.send('/piece', 1)
    assert osc.hear()==('/piece', [1, 2, 4, 400])
    here(sent)
    got = list(osc.events(1, mask=(2, 2, 7), answer='bars', seed=5))
    bars = [a for k,a in got if k=='/bar']
    assert {(a[2], a[3]) for a in bars}=={(2, 4), (2, 7)} and got[-1][1][:2]==[1, 1]
    here(('/bar', *a[2:]) for a in bars)
    want = model.infill(song, '2', rewrite='32', seed=5)
    assert sketch.score().notes.tolist()==want.notes.tolist()!=song.notes.tolist()
    kinds = [k for k,_ in got]
    assert kinds[:3]==['/waiting','/writing','/progress'] and kinds[-1]=='/done' and got[-1][1][2]==len(kinds)-1-kinds.index('/track')
    osc.send('/again', 1)
    assert [osc.hear() for _ in range(got[-1][1][2]+1)]==got[kinds.index('/track'):]

def test_another_port(server):
    "Max sends from one port and hears at another"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        s.settimeout(60)
        Osc(server.port).send('/hello')
        o = Osc(server.port)
        o.send('/reply', s.getsockname()[1])
        o.send('/hello')
        assert s.recv(1<<16).startswith(b'/ready\0')

def test_hostile(osc, server):
    "Whatever comes: a sentence, and the server lives on"
    bundle = lambda *sizes: b'#bundle\0'+bytes(8)+b''.join(struct.pack('>i', n)+b'/hel'[:max(n, 0)] for n in sizes)
    nested = made('/x')
    for _ in range(3000): nested = b'#bundle\0'+bytes(8)+struct.pack('>i', len(nested))+nested
    for data,words in ((b'', 'no OSC message'), (b'\xff'*1000, 'no OSC message'), (b'/', 'damaged'), (b'/bar\0\0\0\0,iii\0\0\0\0\0\0', 'damaged'), (b'/\xff\xff\0', 'damaged'), (bundle(-8), 'bytes follow'),
            (bundle(1<<30), 'bytes follow'), (b'#bundle\0', None), (nested[:60000], 'bytes follow'), (b'/hello\0\0,I\0\0', "of type 'I'"), (b'/bar\0\0\0\0,[[[[[[[', 'damaged')):
        osc.socket.send(data)
        if words: assert words in said(osc), data[:20]
    for m,words in ((('/nothing', 1), 'no address'), (('/bar', 1), 'write it like this'), (('/bar', 1, 2**31-1, 0), 'counted from 1'), (('/bar', 1, 1, -1), 'from 0 to 255'), (('/bar', 1, 1, 0, 60, 80, 1e30, 1.), 'below'),
            (('/bar', 1, 1, 0, float('nan'), 80, 0., 1.), 'below'), (('/bar', 1, 1, 0, 'a', 'b', 'c', 'd'), 'notes are numbers'), (('/tempo', 1, 1, float('inf')), 'below'), (('/option', 1, 'seed', 2**62), 'below'),
            (('/midi', 1, 1, 2**31-1, b'x'), 'at most 4096'), (('/midi', 1, 'x', 1, b'x'), 'a whole number'), (('/track', 1, 0, b'x'), 'a number or a text'), (('/option', 1, 'prompt', '/etc/passwd'), 'no field'),
            (('/option', 1, 'bars', 'x'), '--bars is a number'), (('/reply', 70000), 'ports lie'), (('/generate', 'x'*99), 'at most 80'), (('/cancel', 9), 'not being written'), (('/again', 9), 'no answer yet')):
        osc.send(*m)
        assert words in said(osc), m
    for options,words in ((dict(bars=0), '--bars is at least 1'), (dict(bars=10**9), 'at most 128'), (dict(chords='C Q'), 'not a chord'), (dict(takes=99), '--takes'), (dict(fill='2'), 'need a piece'), (dict(temperature='9'*400), '')):
        for k,v in options.items(): osc.send('/option', words, k, v)
        osc.send('/generate', words)
        assert words in said(osc)
    osc.send('/midi', 'm', 1, 1, b'<html>'); osc.send('/generate', 'm')
    assert 'is not a MIDI file' in said(osc)
    osc.send('/bar', 'n', 1, 0, 60, 80, 4., 1.); osc.send('/generate', 'n')
    assert 'begins at 4' in said(osc)
    rng = random.Random(0)
    for _ in range(300): osc.socket.send(bytes(rng.choice((47, 35, 44, 0, rng.randrange(256))) for _ in range(rng.randrange(60))))
    with pytest.raises(TimeoutError):
        osc.socket.settimeout(.5*slowness())
        while True:
            try: osc.hear()
            except Refused: pass
    osc.send('/hello')
    assert osc.hear()[0]=='/ready' and server.poll() is None

def test_cancelled(osc):
    "Who does not want to wait any longer says so; while it is written nothing of it can be changed"
    kinds = []
    for address,_ in osc.events('c', **SHORT|dict(bars=128)):
        kinds.append(address)
        if address=='/progress' and '/cancelled' not in kinds and kinds.count('/progress')==1:
            osc.send('/bar', 'c', 1, 0)
            assert 'is being written' in said(osc)
            osc.send('/cancel', 'c')
    assert kinds[-1]=='/cancelled' and kinds.count('/progress')<128

def test_taken_and_ended(server, capsys, checkpoint):
    "A port that is taken is said before the model is loaded; Ctrl-C ends it, also while it writes"
    assert cli.run('osc', ['no-such-model', '--port', str(server.port)])==1
    assert 'give another with --port' in capsys.readouterr().err
    with Running('osc', checkpoint) as s:
        next(Osc(s.port).events(1, **SHORT|dict(bars=128)))
        s.send_signal(signal.SIGINT)
        assert s.wait(60*slowness())==130 and 'stopped' in s.stderr.read()

def test_token(checkpoint, capsys, monkeypatch):
    monkeypatch.delenv('MELOFORMER_TOKEN', raising=False)
    assert cli.run('osc', [str(checkpoint), '--host', '0.0.0.0'])==1 and 'MELOFORMER_TOKEN' in capsys.readouterr().err
    with Running('osc', checkpoint, '--host', '0.0.0.0', MELOFORMER_TOKEN='secret') as s:
        o = Osc(s.port, timeout=60*slowness())
        for m in (('/generate', 1), ('/hello',), ('/hello', 'sécret')):
            o.send(*m)
            assert 'a token is needed' in said(o)
        o.send('/hello', 'secret')
        assert o.hear()[0]=='/ready' and len(o.write(**SHORT))==1

def test_told_in_words(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'pythonosc', None)
    assert cli.run('osc', [])==1 and "pip install 'meloformer[osc]'" in capsys.readouterr().err
