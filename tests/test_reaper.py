"The script for REAPER, in Lua, against a stand-in of its API and a real server: what is placed is what Python gives, to the tick, in one step of undo"
import re, shutil
from copy import deepcopy
from pathlib import Path
import numpy as np, pytest
from commands import Running
from fake_reaper import Reaper, Take
from meloformer.music.score import METER, NOTE, TEMPO, Score, Track, columns, instrument_name
from meloformer.writing.request import MeloFormer

pytestmark = pytest.mark.skipif(not shutil.which('curl', path='/usr/bin'), reason='there is no curl')
script = (Path(__file__).resolve().parent.parent/'clients/meloformer_reaper.lua').read_text()
BARS,TEMPOS = ((4, 4), (3, 4), (4, 4)),((0, 90), (11, 120), (15, 125.5)) # of the project; its bars begin at 0, 4, 7, 11, 15 …

@pytest.fixture(scope='module')
def url(checkpoint):
    with Running('serve', checkpoint) as s: yield s.url

@pytest.fixture(scope='module')
def model(checkpoint): return MeloFormer.from_pretrained(checkpoint)

def notes(rng, n, step, low, channel=0):
    "Notes of a take, in ticks: [muted, start, end, channel, pitch, velocity]"
    return [[False, i*step, i*step+step-7, channel, int(rng.integers(low, low+20)), int(rng.integers(40, 100))] for i in range(n)]

@pytest.fixture
def project(tmp_path):
    "A melody in two items with a gap, and drums; the first item begins within bar 2, and its take before it"
    rng = np.random.default_rng(0)
    r = Reaper(tmp_path, BARS, TEMPOS)
    r.add('Melody', (5, 11, Take(4, notes(rng, 14, 480, 60), [(0, 0xC0, 0, 73), (5, 0xB0, 0, 64)])), (15, 23, Take(15, notes(rng, 16, 480, 60))))
    r.add('')
    r.add('My drums', (4, 23, Take(4, notes(rng, 38, 480, 36))))
    r.tracks[0].items[0].takes[0].notes[3][0] = True # muted: neither sent nor touched
    return r

def seen(r, item, take=None):
    "(start, end, pitch, velocity) of the notes that are heard of an item, in quarter notes of the project"
    a,z = r.qn(item.position),r.qn(item.position+item.seconds)
    t = take or item.takes[item.active]
    each = [(t.origin+o[1]/960, min(z, t.origin+o[2]/960), *o[4:]) for o in t.notes if not o[0]]
    return [(round(s*960), round(e*960), *o) for s,e,*o in each if a-1e-6<=s<z-1e-6]

def sent(r, until=23):
    "What the script should send: from the bar line before the first item on"
    tracks = [r.tracks[0], r.tracks[2]]
    rows = [(s-4*960, e-s, p, v, i) for i,t in enumerate(tracks) for item in t.items for s,e,p,v in seen(r, item)]
    meters = np.array([(0, 3, 4), (3*960, 4, 4)], METER)
    at = [0, 7*960, 11*960]
    s = Score(960, np.array(rows, NOTE), [Track(73, name='Melody'), Track(0, True, 'My drums')], columns(TEMPO, onset=np.array(at), bpm=np.array([90, 120, 125.5])), meters)
    return Score.from_bytes(s.to_bytes())

def of(score, track, a, z):
    "What an answer has in these quarter notes of the project"
    return sorted((int(o['onset'])+3840, int(o['onset']+o['duration'])+3840, int(o['pitch']), int(o['velocity'])) for o in score.notes if o['track']==track and a*960<=o['onset']+3840<z*960)

def asked(r, url, typed='seed=3; top_k=5', start=0, stop=0):
    r.typed,r.range = typed,(r.time(start), r.time(stop))
    r.run(re.sub(r"local URL = '.*?'", f"local URL = '{url}'", script))

def test_bars_anew(project, url, model):
    "Three bars of the project: new takes over the range, the same notes around it, a new item in the gap; the old takes stay"
    r,before = project,deepcopy(project)
    asked(r, url, 'seed=5; top_k=5', start=7.2, stop=19)
    assert not r.boxes and r.undo==['MeloFormer: bars 2 to 4']
    want = model.infill(sent(before), '2-4', seed=5, top_k=5)
    a,b,gap = r.tracks[0].items
    drums, = r.tracks[2].items
    assert of(want, 0, 11, 15) and sorted(seen(r, gap))==[(s, min(e, 15*960), *o) for s,e,*o in of(want, 0, 11, 15)]
    assert (r.qn(gap.position), r.qn(gap.position+gap.seconds))==(pytest.approx(11), pytest.approx(15))
    for item,i,track,lo,hi in ((a, 0, 0, 5, 11), (b, 1, 0, 15, 23), (drums, 0, 2, 4, 23)):
        old = before.tracks[track].items[i]
        assert len(item.takes)==2 and item.active==1 and item.takes[1].name=='MeloFormer seed 5'
        assert seen(r, item, item.takes[0])==seen(before, old) and item.takes[1].controls==old.takes[0].controls
        kept = [o for o in seen(before, old) if not 7*960<=o[0]<19*960]
        new = [(s, min(e, 19*960, hi*960), *o) for s,e,*o in of(want, track//2, max(7, lo), min(19, hi))]
        assert sorted(seen(r, item))==sorted(kept+new) and new and [o for o in item.takes[1].notes if o[0]]==[o for o in old.takes[0].notes if o[0]]
    assert [o.selected for o in r.items()]==[True, True, False, True] and not list(r.folder.iterdir())

def test_some_players(project, url, model):
    "rewrite leaves the others without a new take; add makes a track"
    r,before = project,deepcopy(project)
    asked(r, url, 'rewrite=drums; seed=4; top_k=5', 4, 7)
    assert not r.boxes and [len(o.takes) for o in r.items()]==[1, 1, 2]
    want = model.infill(sent(before), '1', rewrite='drums', seed=4, top_k=5)
    assert sorted(o for o in seen(r, r.tracks[2].items[0]) if o[0]<7*960)==[(s, min(e, 7*960), *o) for s,e,*o in of(want, 1, 4, 7)]
    r = before
    had = sent(r)
    asked(r, url, 'add=bass; seed=5; top_k=5')
    assert not r.boxes and len(r.tracks)==4 and [len(o.takes) for o in r.items()]==[1]*4
    want = model.generate(prompt=had, add='bass', seed=5, top_k=5)
    item, = r.tracks[3].items
    assert seen(r, item)==[(s, min(e, 23*960), *o) for s,e,*o in of(want, 2, 4, 23)]!=[] and r.tracks[3].name==want.tracks[2].name and item.takes[0].controls[0][3]==want.tracks[2].program

def test_goes_on(project, url, model):
    "A range beyond the music: new items there; the piece before it stays as it is"
    r,before = project,deepcopy(project)
    asked(r, url, start=23, stop=31)
    want = model.continue_(sent(before), 7, seed=3, top_k=5)
    assert not r.boxes and r.undo==['MeloFormer: bars 6 to 7'] and [len(o.takes) for o in r.items()]==[1]*len(r.items())
    for track,i in ((0, 0), (2, 1)):
        new = [o for item in r.tracks[track].items for o in seen(r, item) if o[0]>=23*960]
        assert sorted(new)==[(s, min(e, 31*960), *o) for s,e,*o in of(want, i, 23, 31)]
    assert any(o['onset']>=19*960 for o in want.notes)

def test_a_new_piece(tmp_path, url, model):
    "A range alone, in the project's meter and tempo"
    r = Reaper(tmp_path, BARS, TEMPOS)
    asked(r, url, 'instruments=flute, drums; seed=2; top_k=5', 7, 15)
    want = model.generate(bars=2, meter='4/4', tempo=90, instruments='flute, drums', seed=2, top_k=5)
    assert not r.boxes and [t.name for t in r.tracks]==[instrument_name(t.program, t.is_drum) for t in want.tracks] and len(r.tracks)==2
    for i,t in enumerate(r.tracks):
        item, = t.items
        assert r.qn(item.position)==pytest.approx(7) and (item.takes[0].notes[0][3]==9)==want.tracks[i].is_drum
        rows = [(7*960+round(o['onset']*960/want.tpq), 7*960+round((o['onset']+o['duration'])*960/want.tpq), int(o['pitch']), int(o['velocity'])) for o in want.notes if o['track']==i]
        assert sorted(seen(r, item))==sorted((s, min(e, 15*960), *o) for s,e,*o in rows)

@pytest.mark.parametrize('typed,start,stop,words', [('seed=x', 7, 15, 'seed'), ('sed=3', 7, 15, 'sed'), ('chords=C Q', 7, 15, "'Q'"), ('fill=2', 7, 15, 'time range says which bars'), ('', 0, 0, 'Select a time range'),
    ('???', 7, 15, 'Write it like this'), ('', 4, 40, 'let it begin later'), ('add=bass', 20, 40, 'goes beyond the music'), ('bars=2', 0, 0, 'already')])
def test_said_in_a_box(project, url, typed, start, stop, words):
    before = deepcopy(project)
    asked(project, url, typed, start, stop)
    assert len(project.boxes)==1 and words in project.boxes[0], project.boxes
    assert not project.undo and [seen(project, o) for o in project.items()]==[seen(before, o) for o in before.items()]

def test_other_boxes(project, tmp_path):
    asked(project, 'http://127.0.0.1:9', 'seed=1', 7, 15)
    project.tracks[0].items[1].takes[0].length = 4
    asked(project, 'http://127.0.0.1:9', 'seed=1', 7, 15)
    empty = Reaper(tmp_path, ((4, 4), (3, 4)))
    asked(empty, 'http://127.0.0.1:9')
    asked(empty, 'http://127.0.0.1:9', start=0, stop=7)
    words = [*project.boxes, *empty.boxes]
    assert ['meloformer serve' in words[0], 'repeats its notes' in words[1], 'Select MIDI items' in words[2], 'meter changes' in words[3]]==[True]*4 and not project.undo
