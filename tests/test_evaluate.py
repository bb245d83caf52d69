"What is said about music that a model wrote agrees with slow and obvious references, on real music"
import json, shutil, signal, time
import numpy as np
import pytest
import torch
from commands import Command, command
from meloformer.apps.cli import run as cli
from meloformer.music.chords import LABELS, QUALITIES, chord_pitches, parse_progression
from meloformer.data.corpus import Corpus
from meloformer.judging.evaluate import CHECKS, LINE, asked_bars, asked_chords, bar_contents, bar_similarity, chord_tones, chords_heard, control, controls_of, adherence, lines, memorised, excerpt, steps, table
from meloformer.writing.figures import FIGURES, figures
from meloformer.writing.constraints import TokenRequest
from meloformer.music.grid import DRUMS, TICKS, Grid, bar_ticks
from meloformer.tokens.grammar import random_piece
from meloformer.tokens.hid import HID
from meloformer.net.model import Config, MeloFormer
from meloformer.music.score import NOTE, Score, Track, columns

HID24 = HID()

@pytest.fixture(scope='session')
def train(corpus_folder): return Corpus(corpus_folder)

@pytest.fixture(scope='session')
def grids(train): return [HID24.decode_grid(t)[0] for t in train]

def longest_slowly(x, corpus):
    "The longest run of steps that two rows share, by the table of all pairs; and all the places where it ends"
    best,before = 0,np.zeros(len(corpus)+1, int)
    for s in x:
        row = np.append(0, np.where((corpus==s) & (s!=0), before[:-1]+1, 0))
        best,before = max(best, int(row.max())),row
    return best

def test_copies_as_by_the_table_of_all_pairs(grids):
    "Two pieces of real music against ten others, melodies and players apart"
    rest = grids[10:20]
    all_ = np.concatenate([steps(lines(g)) for g in rest])
    for g,m in zip(grids[:2], memorised(grids[:2], rest)):
        r = lines(g)
        for who,which in (('melody', r['line']==0), ('player', r['line']>0)):
            n = longest_slowly(steps(r)[which], all_)
            assert m[who]['notes'] == n+1
            assert longest_slowly(steps(r)[which], steps(lines(rest[m[who]['of']]))) == n # the piece that is named has it

def hidden(piece, theme, at, first, n, up):
    "A piece of which one player's notes, from place `at` on, are followed by `n` notes of a theme, `up` semitones higher, and then by a wide leap"
    copied = theme[first:first+n].copy()
    copied['pitch'] += up
    copied['onset'] += piece['onset'][at]+100*TICKS-copied['onset'][0]
    after = piece[at:].copy()
    after['onset'] += copied['onset'][-1]+777-after['onset'][0]
    return np.concatenate([piece[:at], copied, after])

@pytest.mark.parametrize('up', [3, -5, 0])
@pytest.mark.parametrize('n', [24, 61])
def test_a_hidden_melody_is_found_with_its_exact_length(grids, up, n):
    line = lambda g: (r := lines(g))[r['line']==r['line'].max()]
    at = next(i for i,g in enumerate(grids) if len(line(g))>=120)
    theme = line(grids[at])
    noise = np.random.default_rng(1)
    own = columns(LINE, onset=np.arange(200)*7*TICKS, pitch=noise.integers(0, 128, 200))
    r = hidden(own, theme, 100, 37, n, up)
    pitch = r['pitch'].clip(0, 127)
    assert (r['pitch']==pitch)[100:100+n].all()
    score = Score(TICKS*24, columns(NOTE, onset=r['onset'], duration=TICKS, pitch=pitch, velocity=80), [Track(56)])
    g = Grid.from_score(score)
    for at_once in (1<<21, 500): # a corpus in one part, and in many
        m = memorised([g], grids, at_once)[0]['player']
        assert (m['notes'], m['of'], m['beats']) == (n, at, (theme['onset'][37+n-1]-theme['onset'][37])/(24*TICKS))

def test_training_pieces_are_copies_and_noise_is_not(grids):
    noise = [HID24.decode_grid(random_piece(HID24, np.random.default_rng(i), 12))[0] for i in range(4)]
    found = memorised(grids[:6]+noise, grids)
    for i,(g,m) in enumerate(zip(grids[:6], found)):
        r = lines(g)
        assert (m['copied_bars'], m['nearest_bars'], m['nearest'], m['player']['of']) == (1, 1, i, i)
        assert m['player']['notes'] == np.bincount(r['line'])[1:].max()
        assert m['melody']['notes'] == (r['line']==0).sum()
    assert all(m['copied_bars']==0 and m['player']['notes']<8 for m in found[6:])

def test_memory_stays_what_it_is(grids):
    "A corpus in many parts says the same as in one, but for which of two equally long copies is named"
    a,b = memorised(grids[-4:], grids[:40]),memorised(grids[-4:], grids[:40], at_once=1000)
    for x,y in zip(a, b):
        assert {k: v for k,v in x.items() if k not in ('player','melody')} == {k: v for k,v in y.items() if k not in ('player','melody')}
        for k in ('player','melody'): assert (x[k]['notes'], x[k]['once']) == (y[k]['notes'], y[k]['once'])

def bars_slowly(grid):
    "Each bar as a list of notes: program, onset in the bar, duration, pitch; and how long it is"
    s,starts = grid.score(),np.append(0, np.cumsum(bar_ticks(grid.bars, grid.positions_per_beat)))
    res = [[] for _ in grid.bars]
    for n in s.notes:
        t = s.tracks[n['track']]
        b = int(np.searchsorted(starts, n['onset'], 'right'))-1
        res[b].append((DRUMS if t.is_drum else t.program, int(n['onset'])-int(starts[b]), 0 if t.is_drum else int(n['duration']), int(n['pitch'])))
    return res,np.diff(starts).tolist()

def contents_slowly(grid):
    "Each bar as its length and a sorted list of notes, pitches seen from the lowest, but for drums"
    bars,long = bars_slowly(grid)
    low = [min([p for who,*_,p in b if who!=DRUMS], default=0) for b in bars]
    return [(l, tuple(sorted((who,t,d,p if who==DRUMS else p-m) for who,t,d,p in b))) for b,m,l in zip(bars, low, long)]

def test_bars_are_the_same_exactly_when_their_notes_are(grids):
    pieces = grids[:8]+[HID24.decode_grid(random_piece(HID24, np.random.default_rng(i), 8))[0] for i in range(4)]
    slow,fast,kinds = [],[],[]
    for g in pieces:
        h,k = bar_contents(g)
        slow,fast,kinds = slow+contents_slowly(g),fast+h.tolist(),kinds+k.tolist()
    assert len(set(zip(slow, fast))) == len(set(slow)) == len(set(fast))
    for (_,b),k in zip(slow, kinds): assert k == (0 if not b else 1 if len(b)==1 else 2 if all(o[0]==DRUMS for o in b) else 3)

def test_transposed_bars_are_the_same(grids):
    g = grids[0]
    up = Grid(g.positions_per_beat, g.bars, g.notes.copy())
    up.notes['pitch'] += 3
    assert np.array_equal(bar_contents(g)[0], bar_contents(up)[0])
    assert memorised([up], [g])[0]['copied_bars'] == 1

def test_similarity_as_counted_by_sets(grids):
    for g in grids[:3]:
        bars = [{(t, d, p) for _,t,d,p in b} for b in bars_slowly(g)[0]]
        total,pairs = bar_similarity(g, 12)
        for t in range(1, 13):
            got = [len(a & b)/len(a | b) for a,b in zip(bars, bars[t:]) if a | b]
            assert np.isclose(total[t-1], sum(got)) and pairs[t-1]==len(got)

@pytest.mark.parametrize('meter', [(4,4), (3,4), (6,8)])
def test_pure_chord_tones(meter):
    "A piece of nothing but the tones of its chords has precision, recall and F1 of 1, in every label"
    long,labels = 4*24*TICKS*meter[0]//meter[1],range(1, len(LABELS))
    rows = [(i*long, long, 48+p, 80, 0) for i,l in enumerate(labels) for p in np.flatnonzero(chord_pitches(l))]
    s = Score(24*TICKS, np.array(rows, NOTE), [Track()], meters=np.array([(0, *meter)], [('onset','i4'),('numerator','u1'),('denominator','u2')]))
    ask = TokenRequest(bars=len(labels), chords=[[(l, None)] for l in labels], meter=meter)
    assert set(chord_tones(s, ask).values()) == {1.}
    up = Score(s.tpq, s.notes.copy(), s.tracks, meters=s.meters)
    up.notes['pitch'] += 1
    assert chord_tones(up, ask)['f1'] < .35

def test_triads_are_heard():
    text = 'C Am F G | Dm Bb:2 Eb | C#m F#'
    ask = TokenRequest(bars=3, chords=parse_progression(text))
    onset,label,end = asked_chords(Score(24*TICKS, np.array([(2*96*TICKS, 96*TICKS, 60, 80, 0)], NOTE), [Track()]), ask)
    rows = []
    for o,e,l in zip(onset, np.append(onset[1:], end), label):
        root = 36+(int(l)-1)//len(QUALITIES)
        rows += [(int(o), int(e-o), p, 80, 0) for p in [root, *(48+np.flatnonzero(chord_pitches(int(l))))]]
    s = Score(24*TICKS, np.array(rows, NOTE), [Track()])
    for by in ('beat','bar'):
        for mode in (False, True): assert chords_heard(s, ask, by, mode)['f1'] == 1
    assert chord_tones(s, ask)['f1'] == 1

def test_real_music_keeps_to_its_own_frame(train):
    pieces = [excerpt(HID24, t, 16) for t in train][:12]
    c = control(HID24, pieces, [controls_of(HID24, t) for t in pieces])
    assert c['legal'] == dict(legal=1, canonical=1)
    assert all(c['kept'][k]==1 for k in ('players','meter','tempo')) and set(c['kept'])==set(CHECKS)
    assert c['kept']['chords heard'] > .95 and c['kept']['chord tones'] > .8 # they pass, and chords were recognised at cuts
    assert c['chance']['chords heard'] < .4 and c['chance']['chord tones'] < c['kept']['chord tones']-.2

def test_empty_bars_at_the_end_count(train):
    "What was asked of bars that stay empty was not followed; their meter is the one asked for"
    t = next(t for t in train if HID24.decode_grid(t)[0].bars['numerator'][0]==1) # it begins with a pickup of one beat
    t = excerpt(HID24, t, 4)
    a = controls_of(HID24, t)
    s = HID24.decode(excerpt(HID24, t, 1))
    bars,bar_requests = asked_bars(s, a)
    assert len(s.bars())==1 and len(bars)==len(bar_requests)==4 and [o['numerator'] for o in bars]==[o.meter[0] for o in bar_requests]
    assert adherence(s, a)['meter']==adherence(s, a)['tempo']==1
    assert chord_tones(s, a)['recall'] < .1 < chord_tones(HID24.decode(t), a)['recall']

def test_another_check_joins_in(train, monkeypatch):
    monkeypatch.setitem(CHECKS, 'notes', lambda score, ask: 1. if len(score.notes) else 0.)
    t = excerpt(HID24, train[0], 8)
    assert adherence(HID24.decode(t), controls_of(HID24, t))['notes'] == 1
    assert control(HID24, [t], [controls_of(HID24, t)])['kept']['notes'] == 1

def test_nothing_is_asked_of_silence():
    "Pieces of drums, of one note, and of empty bars have figures, or none"
    drums = Grid.from_score(Score(192, columns(NOTE, onset=np.arange(16)*192, duration=24, pitch=38, velocity=80), [Track(0, True)]))
    one = Grid.from_score(Score(192, columns(NOTE, onset=[2000], duration=24, pitch=38, velocity=80), [Track()]))
    for g in (drums, one):
        m = memorised([g], [g, drums, one])[0]
        assert m['player']['notes']==0 and m['copied_bars']==0 and m['music_bars']==0
        bar_similarity(g)
        d = figures(g)
        assert np.isnan(d['pitch_entropy']) == (g is drums) and np.isnan(d['kick_on_1']) == (g is one)
    assert memorised([drums], []) [0]['nearest'] == -1 and memorised([], [drums]) == []

@pytest.fixture(scope='session')
def model_folder(tmp_path_factory):
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp('model')/'run'
    MeloFormer(Config(width=64, layers=1, heads=1, kv_heads=1)).save(out, HID24)
    return out

def test_command_goes_on_where_it_was_stopped(model_folder, corpus_folder, tmp_path):
    args = ['evaluate', model_folder, '--data', corpus_folder, '--pieces', 2, '--bars', 3, '--out', tmp_path/'out']
    p = Command(*args)
    first,until = tmp_path/'out/free-000.npz',time.time()+600
    while not first.exists() and time.time()<until: time.sleep(.02)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=1200)[1]
    assert p.returncode==130 and 'goes on from here' in err
    before = first.stat().st_mtime_ns
    assert not (tmp_path/'out/evaluation.json').exists()
    res = command(*args)
    assert res.returncode==0, res.stderr
    assert first.stat().st_mtime_ns == before
    whole = command(*args[:-1], tmp_path/'again', '--page')
    assert whole.returncode==0, whole.stderr
    a,b = (json.loads((tmp_path/o/'evaluation.json').read_text()) for o in ('out','again'))
    assert a == b
    assert a['legal']['free']['legal']==a['legal']['asked']['legal']==1
    assert {k: a['control']['asked']['kept'][k] for k in ('players','meter','tempo')}==dict(players=1, meter=1, tempo=1)
    for k in ('free','asked'): # all figures that music of both sides has, with the interval of the difference around the difference
        found = a['figures'][k]
        assert found['pieces']+found['silent']==2 and found['real']==a['pieces']['validation'] and {o['figure'] for o in found['figures']}<=set(FIGURES)
        assert all(o['low']<=o['mine']-o['real']+1e-4 and o['mine']-o['real']<=o['high']+1e-4 for o in found['figures'])
    bits = {k: v[0] for k,v in a['bits'][-1]['bits'].items()} # the model knows nothing, and any help is welcome
    assert max(bits['copying'], bits['bigram'])<bits['unigram']<bits['whole'] and bits['memory']<bits['whole']
    html = (tmp_path/'again/report.html').read_text()
    assert 1<=html.count('<iframe')<=4 and html.count('data:image/png')==2 and not (tmp_path/'out/report.html').exists()
    assert table(a) in whole.stdout and (tmp_path/'again/evaluation.png').read_bytes()[:4]==b'\x89PNG'
    changed = command(*args, '--temperature', .5) # other pieces are written, those of before are not taken for them
    assert changed.returncode==0 and first.stat().st_mtime_ns != before

def test_command_judges_a_folder(corpus_folder, midi_folder, tmp_path):
    (tmp_path/'midi').mkdir()
    for f in sorted(midi_folder.glob('*.mid'))[100:104]: shutil.copy(f, tmp_path/'midi')
    (tmp_path/'midi/broken.mid').write_bytes(b'MThd')
    res = command('evaluate', tmp_path/'midi', '--data', corpus_folder, '--bars', 8, '--out', tmp_path/'out')
    assert res.returncode==0 and '1 files cannot be read' in res.stdout, res.stderr
    r = json.loads((tmp_path/'out/evaluation.json').read_text())
    assert r['pieces']['files']==4 and r['legal']=={} and 'bits' not in r and r['copies']['training']['copied_bars']==1
    own = {o['figure']: o for o in r['figures']['files']['figures']}
    assert r['beside']=='validation' and own['in_chord']['mine']>.7 and own['players']['mine']>=2 and 'snare_on_2_and_4' not in own

@pytest.mark.parametrize('args,words', [(['nowhere'], 'nowhere'), (['{model}', '--bars', '1'], '--bars'), (['{model}', '--data', '{model}'], 'prepared corpus'), (['{empty}'], 'no MIDI')])
def test_command_says_what_is_wrong(args, words, model_folder, corpus_folder, tmp_path, capsys):
    (tmp_path/'empty').mkdir()
    args = [o.format(model=model_folder, empty=tmp_path/'empty') for o in args]
    if '--data' not in args: args += ['--data', str(corpus_folder)]
    status = cli('evaluate', [*args, '--out', str(tmp_path/'out')])
    err = capsys.readouterr().err
    assert status==1 and words in err and err.count('\n')==1, err
