"From sound to MIDI: whatever the rate and the channels, in bounded memory; what is no music is refused in a sentence"
import hashlib, re, sys, tracemalloc
from importlib.resources import files
import numpy as np, pytest
soundfile = pytest.importorskip('soundfile')
pytest.importorskip('onnxruntime')
pytest.importorskip('scipy')
import fake_transkun
from commands import command
from meloformer.music import hearing as tr
from meloformer.music.score import Score
from meloformer import MeloFormer

RATE,BPM = 22050,110

def pluck(pitch, seconds, rate):
    "A string: harmonics that fade, high ones first"
    t,f = np.arange(int(seconds*rate))/rate,440*2**((pitch-69)/12)
    k = np.arange(1, max(2, min(10, int(rate/2/f))))[:, None]
    return (np.exp(-t*(1.5+.8*k))*np.sin(2*np.pi*k*f*t)/k**1.3).sum(0)*np.minimum(1, t*200)

def song(bars=6, seed=0):
    "Notes of a song: second, length, pitch, loudness"
    rng,q,rows = np.random.default_rng(seed),60/BPM,[]
    for b in range(bars):
        root = (45, 41, 48, 43)[b%4]
        rows += [((4*b+k)*q+.4, 2*q, root, .9) for k in (0, 2)]+[(4*b*q+.4, 4*q, root+12+p, .5) for p in (3 if root==45 else 4, 7)]
        rows += [((4*b+k)*q+.4, q/2, root+24+int(rng.choice([0, 2, 7, 12])), .8) for k in np.arange(0, 4, .5) if k==0 or rng.random()<.8]
    return rows

def played(rows, rate=RATE):
    "Samples of notes"
    x = np.zeros(int((max(a+d for a,d,*_ in rows)+1)*rate))
    for a,d,p,v in rows:
        i = int(a*rate)
        y = pluck(p, d, rate)
        x[i:i+len(y)] += .2*v*y
    return x/np.abs(x).max()*.9

def f_of(found, rows):
    "F of (second, pitch), 50 milliseconds apart at most"
    left,hits = [(a, p) for a,_,p,_ in rows],0
    for a,p in found:
        if near := [o for o in left if o[1]==p and abs(o[0]-a)<=.05]:
            left.remove(near[0])
            hits += 1
    return 2*hits/(len(found)+len(rows))

@pytest.fixture(scope='module')
def wav(tmp_path_factory):
    f = tmp_path_factory.mktemp('sound')/'song.wav'
    soundfile.write(f, played(song()), RATE)
    return f

def test_command(wav, tmp_path):
    "Notes, tempo, meter and bars of a song; a picture; nothing else is left"
    res = command('transcribe', wav, '--out', tmp_path/'a.mid', '--picture', tmp_path/'a.png', '--as-played')
    assert res.returncode==0, res.stderr
    s = Score.read(tmp_path/'a.mid')
    first = s.seconds(s.notes['onset']).min()
    assert f_of([(a-first+.4, int(p)) for a,p in zip(s.seconds(s.notes['onset']), s.notes['pitch'])], song())>.8
    assert abs(np.median(s.tempos['bpm'])/BPM-1)<.03 and (s.meters['numerator'][-1], s.meters['denominator'][-1])==(4, 4)
    assert sorted(o.name for o in tmp_path.iterdir())==['a.mid','a.png'] and '4/4' in res.stdout

@pytest.mark.parametrize('rate,channels,kind', [(8000, 1, 'wav'), (11025, 2, 'flac'), (96000, 6, 'wav'), (192_000, 1, 'wav'), (44100, 2, 'ogg')])
def test_rates_and_channels(tmp_path, rate, channels, kind):
    "The same notes are heard at any rate, on any number of channels"
    rows = song(2)
    f = tmp_path/f'a.{kind}'
    soundfile.write(f, np.repeat(played(rows, rate)[:, None], channels, 1), rate)
    n = tr.notes_in(tr.listen(f))
    assert f_of(list(zip(n['onset'], n['pitch'].astype(int))), rows)>(.6 if rate<11025 else .75)

def test_floats(tmp_path):
    "Samples may be of any scale, and what is no number is silence"
    x = played(song(2)).astype('f4')
    broken = x.copy()
    broken[5000:5100],broken[20000:20100],broken[40000] = np.nan,np.inf,1e30
    for name,y in dict(plain=x, int16=32768*x, broken=broken).items():
        soundfile.write(tmp_path/f'{name}.wav', y, RATE, 'FLOAT')
        n = tr.notes_in(tr.listen(tmp_path/f'{name}.wav'))
        assert f_of(list(zip(n['onset'], n['pitch'].astype(int))), song(2))>.6, name

def spoken(seconds, rate=RATE, seed=0):
    "Noise shaped like speech: syllables of a gliding buzz in three formants, hisses, pauses"
    from scipy.signal import lfilter
    rng,x = np.random.default_rng(seed),[]
    while sum(map(len, x))<seconds*rate:
        n = int(rate*rng.uniform(.12, .3))
        pitch = rng.uniform(95, 170)*np.exp(rng.uniform(-.8, .8)*np.arange(n)/rate)
        y = np.diff(np.floor(np.cumsum(pitch)/rate), prepend=0)+.02*rng.normal(size=n)
        for f in (rng.uniform(300, 800), rng.uniform(900, 2200), 2700):
            r = np.exp(-np.pi*90/rate)
            y = lfilter([1-r], [1, -2*r*np.cos(2*np.pi*f/rate), r*r], y)
        x += [y/np.abs(y).max()*np.hanning(n), .05*rng.normal(size=int(rate*rng.uniform(0, .08))), np.zeros(int(rate*rng.choice([0, .03, .3])))]
    return .5*np.concatenate(x)

def test_speech(tmp_path):
    "What speaks has no beat that could be found: the command says that it is not sure"
    soundfile.write(tmp_path/'a.wav', spoken(12), RATE)
    res = command('transcribe', tmp_path/'a.wav')
    assert res.returncode==0 and 'Not sure: type' in res.stdout and not res.stderr
    assert sorted(o.name for o in tmp_path.iterdir())==['a.mid','a.wav']

def bad_files(tmp):
    rng = np.random.default_rng(0)
    (tmp/'text.mp3').write_text('<html>'*100)
    (tmp/'empty.wav').write_bytes(b'')
    soundfile.write(tmp/'none.wav', np.zeros(0), RATE)
    soundfile.write(tmp/'silent.wav', np.zeros(4*RATE), RATE)
    soundfile.write(tmp/'noise.wav', .1*rng.normal(size=4*RATE), RATE)
    soundfile.write(tmp/'slow.wav', rng.normal(size=4000), 4000)
    soundfile.write(tmp/'short.wav', played(song(1))[:RATE], RATE)
    (tmp/'cut.flac').write_bytes(b'fLaC'+bytes(100))
    (tmp/'locked.m4p').write_bytes(b'\0\0\0\x20ftypM4P \0\0\2\0'+bytes(range(256))*8)
    soundfile.write(tmp/'broken.flac', played(song(2)), RATE)
    whole = bytearray((tmp/'broken.flac').read_bytes())
    whole[len(whole)//2:len(whole)//2+2000] = bytes(2000)
    (tmp/'broken.flac').write_bytes(whole)
    return dict(text='is no sound', empty='is no sound', none='holds no sound', silent='is silent', noise='too few for music', slow='4,000|4000 samples', short='too (few|short)', cut='is no sound', locked='is no sound', broken='is no sound')

def test_bad_files(tmp_path, capsys):
    "One sentence each, and nothing is written"
    from meloformer.apps.cli import run
    words = bad_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    for f in [*before, tmp_path/'gone.wav', tmp_path]:
        assert run('transcribe', [str(f), '--out', str(tmp_path/'x.mid')])==1
        err = capsys.readouterr().err
        assert err.count('\n')==1 and f.name in err
        if f.stem in words: assert re.search(words[f.stem], err), err
    assert sorted(tmp_path.iterdir())==before

def test_bad_flags(wav, tmp_path, capsys):
    "Said before anything is heard"
    from meloformer.apps.cli import run
    (tmp_path/'taps').write_text('1\n.5\n2\n3\n')
    for args,words in ((['--tempo', '2'], '--tempo'), (['--meter', '3/8'], 'whole quarter'), (['--beats', tmp_path/'taps'], 'no list of beats'), (['--instrument', 'zither9'], 'General MIDI'),
        (['--out', 'a.xyz'], 'cannot be written'), (['--picture', 'a.jpg'], '.png'), (['--beats', tmp_path/'gone'], 'gone'), (['--first_beat', '900'], '--first_beat')):
        assert run('transcribe', [str(wav), *map(str, args)])==1
        err = capsys.readouterr().err
        assert err.count('\n')==1 and words in err
    assert not wav.with_suffix('.mid').exists()

def test_without_extra(wav, monkeypatch, capsys):
    from meloformer.apps.cli import run
    monkeypatch.setattr(tr, 'find_spec', lambda name: None if name=='onnxruntime' else True)
    assert run('transcribe', [str(wav)])==1
    assert "pip install 'meloformer[audio]'" in capsys.readouterr().err

def test_like_a_recording(wav, tmp_path, monkeypatch, capsys):
    "`generate --like song.wav` hears it once, as `transcribe` does with this tempo and meter, says how, and how like it the piece is"
    from meloformer.apps.cli import run
    from meloformer.writing import generate as g
    heard = []
    def hear(path, *typed, **kw):
        heard.append(typed)
        return tr.transcribed(path, *typed)
    monkeypatch.setattr(g, 'transcribed', hear)
    asked = '--bars 2 --instruments piano,violin --seed 3 --attempts 1 --tempo 110 --meter 4/4'.split()
    assert run('generate', ['--like', str(wav), *asked, '--out', str(tmp_path/'a.mid')])==0
    said = capsys.readouterr().out
    t = tr.transcribed(wav, 110, '4/4')
    assert heard==[(110, '4/4')] and f'--like is heard as {len(t.notes)} notes, {t.beats}' in said
    assert re.search(r'in common with --like: harmony \d+%, register \d+%, rhythm \d+%, lengths \d+%, dynamics \d+%\n', said)
    told = dict(instruments='piano,violin', bars=2, seed=3, attempts=1)
    model = MeloFormer.from_pretrained()
    made,also = Score.read(tmp_path/'a.mid'),model.generate(like=t, tempo=110, meter='4/4', **told)
    assert made.to_bytes()==Score.from_bytes(also.to_bytes()).to_bytes() and len(made.bars())==2
    assert made.to_bytes()!=Score.from_bytes(model.generate(tempo=110, meter='4/4', **told).to_bytes()).to_bytes()

def test_like_a_bad_recording(wav, tmp_path, monkeypatch, capsys):
    "One sentence, and nothing is written"
    from meloformer.apps.cli import run
    (tmp_path/'text.mp3').write_text('<html>'*100)
    soundfile.write(tmp_path/'silent.wav', np.zeros(4*RATE), RATE)
    before = sorted(tmp_path.iterdir())
    for args,words in (([tmp_path/'text.mp3'], 'is no sound'), ([tmp_path/'silent.wav'], 'is silent'), ([tmp_path/'gone.flac'], 'gone.flac'), ([wav, '--meter', '3/8'], '--meter'),
        ([wav, '--like_facts', 'rhythm,drums'], 'drums')):
        assert run('generate', ['--like', *map(str, args), '--out', str(tmp_path/'x.mid')])==1
        err = capsys.readouterr().err
        assert err.count('\n')==1 and '--' in err and words in err
    monkeypatch.setattr(tr, 'find_spec', lambda name: None)
    assert run('generate', ['--like', str(wav), '--out', str(tmp_path/'x.mid')])==1
    assert "pip install 'meloformer[audio]'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir())==before

def test_goes_on_where_it_was_stopped(wav, tmp_path, monkeypatch, capsys):
    "What was heard before Ctrl-C is not heard anew, and the score is the same; a kept file that is foreign or damaged is not believed"
    from meloformer.apps.cli import run
    out,kept,calls,stop = tmp_path/'a.mid',tmp_path/'a.mid.heard',[],[99]
    class Ears(tr.Ears):
        def __call__(self, x):
            if len(calls)==stop[0]: raise KeyboardInterrupt
            calls.append(len(x))
            return super().__call__(x)
    monkeypatch.setattr(tr, 'Ears', Ears)
    def heard(until, *args):
        calls.clear()
        stop[0] = until
        return run('transcribe', [*map(str, args or (wav,)), '--out', str(out)]),len(calls)
    status,n = heard(99)
    whole = out.read_bytes()
    out.unlink()
    assert status==0 and n>=4 and not kept.exists()
    capsys.readouterr()
    assert heard(n-2)==(130, n-2) and 'the same command goes on from here' in capsys.readouterr().err
    assert [o.name for o in tmp_path.iterdir()]==['a.mid.heard']
    part = kept.read_bytes()
    assert heard(1)==(130, 1) and kept.read_bytes()[:len(part)]==part and len(kept.read_bytes())>len(part) # and was stopped again
    assert heard(99)==(0, 1) and out.read_bytes()==whole and not kept.exists()
    soundfile.write(tmp_path/'other.wav', played(song(seed=1)), RATE)
    for bad,again in ((part[:-1], 3), (part[:99]+b'?'+part[100:], n), (bytes(len(part)), n), (b'', n)):
        kept.write_bytes(bad)
        assert heard(99)==(0, again) and out.read_bytes()==whole and not kept.exists()
    kept.write_bytes(part)
    assert heard(99, tmp_path/'other.wav')[1]==n and out.read_bytes()!=whole # of another sound
    monkeypatch.setattr('meloformer.__version__', 'another')
    kept.write_bytes(part)
    assert heard(99)==(0, n) and not kept.exists()

class Deaf:
    "A network that hears nothing, at once"
    version = b''
    def __call__(self, x): return np.zeros((len(x), tr.FRAMES, 88, 2), np.float32)

@pytest.fixture
def pianist(tmp_path, monkeypatch):
    "Forty seconds that a stand-in for transkun hears as notes, some of which last over one or two of its stretches"
    notes = [(1+.5*i, 1.4+.5*i, 50+i%24, 40+i%60) for i in range(60)]+[(2., 14.5, 90, 64), (6.25, 29.5, 30, 100), (30., 31., 30, 7), (38., 39.5, 91, 60)]
    fake_transkun.install(tmp_path/'lib', notes)
    monkeypatch.syspath_prepend(tmp_path/'lib')
    for o in [o for o in sys.modules if o.split('.')[0]=='transkun']: monkeypatch.delitem(sys.modules, o)
    monkeypatch.setattr(tr, 'Ears', Deaf)
    monkeypatch.setattr(tr, 'notes_in', lambda p: np.array(sorted(notes), tr.HEARD)) # beats are found in these
    soundfile.write(tmp_path/'a.wav', np.arange(40*44100)/44100/100, 44100, 'FLOAT')
    yield notes
    for o in [o for o in sys.modules if o.split('.')[0]=='transkun']: sys.modules.pop(o)

def test_a_piano_alone(pianist, tmp_path, monkeypatch, capsys):
    "Every note is there once and whole, wherever stretches begin; stopped, those that were heard are not heard anew"
    from meloformer.apps.cli import run
    found = tr.piano_notes(tmp_path/'a.wav')
    want = sorted(pianist, key=lambda n: (n[0], n[2]))
    assert [(int(p), int(v)) for p,v in zip(found['pitch'], found['velocity'])]==[n[2:] for n in want]
    assert np.abs(found['onset']-[n[0] for n in want]).max()<1e-3 and np.abs(found['end']-[n[1] for n in want]).max()<1e-3
    assert 'torchaudio' not in sys.modules
    calls,stop = [],[99]
    class Pianist(tr.Pianist):
        def __call__(self, x, start):
            if len(calls)==stop[0]: raise KeyboardInterrupt
            calls.append(start)
            return super().__call__(x, start)
    monkeypatch.setattr(tr, 'Pianist', Pianist)
    ask = ['transcribe', [str(tmp_path/'a.wav'), '--piano', '--tempo', '120', '--meter', '4/4', '--out', str(tmp_path/'a.mid')]]
    assert run(*ask)==0 and f'{len(want)} notes' in capsys.readouterr().out
    whole,n = (tmp_path/'a.mid').read_bytes(),len(calls)
    calls.clear()
    stop[0] = 2
    assert run(*ask)==130 and (tmp_path/'a.mid.heard').exists() and 'goes on' in capsys.readouterr().err
    stop[0] = 99
    assert run(*ask)==0 and len(calls)==n and (tmp_path/'a.mid').read_bytes()==whole and not (tmp_path/'a.mid.heard').exists()

def test_without_transkun(wav, monkeypatch, capsys):
    "The sentence says what to install"
    from meloformer.apps.cli import run
    monkeypatch.setattr(tr, 'find_spec', lambda name: name!='transkun')
    assert run('transcribe', [str(wav), '--piano'])==1
    err = capsys.readouterr().err
    assert err.count('\n')==1 and "--piano needs transkun, which hears pianos: pip install 'meloformer[piano]'" in err

def test_memory_is_bounded(tmp_path, monkeypatch):
    "Six minutes more take no more than what was heard in them"
    monkeypatch.setattr(tr, 'Ears', Deaf)
    most = []
    for minutes in (1, 7):
        f = tmp_path/f'{minutes}.wav'
        soundfile.write(f, np.full(minutes*60*8000, .1), 8000)
        tracemalloc.start()
        p = tr.listen(f)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert abs(p.seconds-60*minutes)<2
    assert most[1]-most[0]<3*6*60*tr.FPS*182 # a byte for each key twice, and the flux

def test_shipped():
    "The network comes with the package as it was published, and its licence with it"
    a = files('meloformer')/'assets'
    assert hashlib.sha256((a/tr.MODEL).read_bytes()).hexdigest()=='2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec'
    assert 'Apache License' in (a/'basic-pitch.LICENSE').read_text() and 'Spotify' in (a/'basic-pitch.NOTICE').read_text()
