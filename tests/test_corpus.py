"A corpus is the same however often its making is interrupted, and whoever does the work"
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pytest
from commands import Command, command
from conftest import same_folders
from meloformer.data import corpus
from meloformer.data.corpus import Corpus, build, encode_file
from meloformer.tokens.hid import HID
from meloformer.music.score import NOTE, TEMPO, Score, Track, columns

@pytest.fixture(scope='module')
def whole(midi_folder, tmp_path_factory):
    "All files, in one go"
    out = tmp_path_factory.mktemp('whole')/'data'
    build(midi_folder, out, progress=False)
    return out

def test_killed_again_and_again(midi_folder, whole, tmp_path):
    "kill -9 at any moment, of the process and all its workers, up to five times"
    rng,out,kills = random.Random(0),tmp_path/'data',0
    while not out.exists():
        p = Command('prepare', midi_folder, out, '--workers', 2)
        records = tmp_path/'data.part/records.bin'
        size = lambda: records.stat().st_size if records.exists() else 0
        before = size()
        while p.poll() is None and (size()==before or kills==5): time.sleep(.005)
        time.sleep(rng.random()*.1)
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
            kills += 1
        else: assert p.returncode==0, p.stderr.read()
        p.communicate()
    assert kills>=3 and same_folders(out, whole) and [o.name for o in tmp_path.iterdir()]==['data']

def test_nothing_is_done_twice(midi_folder, whole, tmp_path, monkeypatch):
    done = []
    def work(path, **kw):
        if len(done)==40 and path not in done: raise KeyboardInterrupt
        assert path not in done
        done.append(path)
        return encode_file(path, **kw)
    monkeypatch.setattr(corpus, 'encode_file', work)
    with pytest.raises(KeyboardInterrupt, match='goes on from here'): build(midi_folder, tmp_path/'data', progress=False)
    done_before,done[:] = list(done),[]
    monkeypatch.setattr(corpus, 'encode_file', lambda path, **kw: (done.append(path), encode_file(path, **kw))[1])
    build(midi_folder, tmp_path/'data', progress=False)
    assert len(done_before)==40 and not set(done) & set(done_before) and same_folders(tmp_path/'data', whole)

def test_a_damaged_journal(midi_folder, whole, tmp_path, monkeypatch):
    "Power went while it was written: what does not fit is done again"
    def stop(path, **kw): raise KeyboardInterrupt
    for name,spoil in (('tokens.bin', lambda b: b[:-3000]+bytes(1000)+b[-2000:]), ('rows.jsonl', lambda b: b[:-100]), ('records.bin', lambda b: b[:-5])):
        out = tmp_path/name.split('.')[0]
        paths = iter(range(40))
        monkeypatch.setattr(corpus, 'encode_file', lambda path, **kw: encode_file(path, **kw) if next(paths, None) is not None else stop(path))
        with pytest.raises(KeyboardInterrupt): build(midi_folder, out, progress=False)
        f = out.with_name(out.name+'.part')/name
        f.write_bytes(spoil(f.read_bytes()))
        monkeypatch.undo()
        build(midi_folder, out, progress=False)
        assert same_folders(out, whole)

def test_other_settings_begin_anew(midi_folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, 'encode_file', lambda path, **kw: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): build(midi_folder, tmp_path/'data', HID(12), progress=False)
    monkeypatch.undo()
    build(midi_folder, tmp_path/'data', progress=False)
    assert same_folders(tmp_path/'data', whole)

def test_two_at_once(midi_folder, tmp_path):
    p = Command('prepare', midi_folder, tmp_path/'data', '--workers', 1)
    while not (tmp_path/'data.part/records.bin').exists(): time.sleep(.01); assert p.poll() is None
    with pytest.raises(ValueError, match='another meloformer prepare'): build(midi_folder, tmp_path/'data', progress=False)
    assert p.wait(1200)==0

# ------------------------------------------------------------------------------------------------ copies

def song(seed, bars=24, shift=0, program=0, bpm=120, cut=0, moved=0):
    "Sixteenths over 24 bars that two seeds share none of"
    rng = np.random.default_rng(seed)
    n = columns(NOTE, onset=np.arange(bars*16)*120, duration=120, pitch=45+shift+rng.integers(0, 30, bars*16), velocity=80)
    for b in range(moved): n['pitch'][16*b+1] += 1
    return Score(480, n[16*cut:], [Track(program)], tempos=np.array([(0, bpm)], TEMPO))

def test_near_copies_stay_together(tmp_path):
    "Transposed, faster, for another instrument: one is kept. With half of the bars changed: both, on one side"
    for i in range(40):
        song(i).write(tmp_path/f'in/{i:02}-a.mid')
        song(i, shift=3, program=40, bpm=200, moved=1).write(tmp_path/f'in/{i:02}-b.mid')
        song(i, moved=6).write(tmp_path/f'in/{i:02}-c.mid')
    info = build(tmp_path/'in', tmp_path/'data', val_share=.4, progress=False, max_overlap=.85)
    rows = {Path(r['path']).stem: r for r in map(json.loads, (tmp_path/'data/files.jsonl').read_text().splitlines())}
    near = [k for k,r in rows.items() if r['reason']=='nearly a duplicate']
    assert len(near)>=32 and all(k.endswith('-b') and f"{k[:2]}-a" in rows[k]['detail'] for k in near) # estimates have an error
    sides = [{rows[f'{i:02}-{o}'].get('split') for o in 'abc'}-{None} for i in range(40)]
    assert sum(len(o)==1 for o in sides)>=38 and info['tokens'].keys()=={'train','val'}
    for n in (0, 2): assert same_folders(tmp_path/'data', again(tmp_path, n))

def again(tmp_path, n):
    build(tmp_path/'in', tmp_path/f'{n}', val_share=.4, workers=n, progress=False, max_overlap=.85)
    return tmp_path/f'{n}'

# ------------------------------------------------------------------------------------------------ few files

def test_few_files_hold_one_out(tmp_path):
    "Where no group falls into validation by itself the one of the smallest fingerprint does; where there is one group only, that is said"
    for i in range(4): song(i).write(tmp_path/f'in/{i}.mid')
    info = build(tmp_path/'in', tmp_path/'data', val_share=1e-6, progress=False)
    assert info['counts']=={'kept': 4} and len(Corpus(tmp_path/'data', 'val'))==1 and 'no validation' not in corpus.summary(info)
    assert info['tokens']==build(tmp_path/'in', tmp_path/'again', val_share=1e-6, progress=False)['tokens']
    assert 'give a --val_share above 0' in corpus.summary(build(tmp_path/'in', tmp_path/'none', val_share=0, progress=False))
    song(0).write(tmp_path/'one/a.mid')
    assert 'one group, so give more files' in corpus.summary(build(tmp_path/'one', tmp_path/'1', progress=False))

def test_dot_folders_are_skipped(tmp_path):
    song(0).write(tmp_path/'in/a.mid')
    song(1).write(tmp_path/'in/.trash/b.mid')
    assert [o.name for o in corpus.find_midi(tmp_path/'in')]==['a.mid']

# ------------------------------------------------------------------------------------------------ many machines

def test_dask(midi_folder, whole, tmp_path):
    "A scheduler and workers in processes of their own, one of them killed on the way: the same bytes"
    (tmp_path/'s').mkdir()
    scheduler = subprocess.Popen([sys.executable, '-m', 'dask', 'scheduler', '--host', '127.0.0.1', '--port', '0', '--no-dashboard', '--scheduler-file', str(tmp_path/'s/file')], stderr=subprocess.DEVNULL)
    started = [scheduler]
    try:
        while not (tmp_path/'s/file').exists() or not (tmp_path/'s/file').read_text(): time.sleep(.05); assert scheduler.poll() is None
        address = json.loads((tmp_path/'s/file').read_text())['address']
        def worker(): started.append(subprocess.Popen([sys.executable, '-m', 'dask', 'worker', address, '--nthreads', '1', '--no-dashboard', '--no-nanny', '--local-directory', str(tmp_path)], stderr=subprocess.DEVNULL))
        worker(); worker()
        p = Command('prepare', midi_folder, tmp_path/'data', '--dask', address)
        records = tmp_path/'data.part/records.bin'
        while not (records.exists() and records.stat().st_size): time.sleep(.01); assert p.poll() is None
        started[1].kill()
        assert p.wait(1200)==0, p.stderr.read()
        assert same_folders(tmp_path/'data', whole)
    finally:
        for o in started: o.kill(); o.wait()

def test_no_scheduler(midi_folder, tmp_path):
    res = command('prepare', midi_folder, tmp_path/'data', '--dask', 'tcp://127.0.0.1:1')
    assert res.returncode==1 and 'no Dask scheduler answers there' in res.stderr.splitlines()[-1], res.stderr

# ------------------------------------------------------------------------------------------------ performances

def test_beats(tmp_path):
    "A piece played without a click is kept if somebody says where its beats are; a damaged list costs its piece"
    when = np.cumsum(np.append(1, .45+.12*np.sin(np.arange(150)*1.7)))
    s = song(1, bars=12)
    at = lambda t: np.rint(960*np.interp(t/480, np.arange(151), when)).astype(int)
    n = s.notes.copy()
    n['onset'],n['duration'] = at(s.notes['onset']),100
    for name in 'ab': Score(480, n, s.tracks).write(tmp_path/f'in/{name}.mid')
    with pytest.raises(ValueError, match='off the grid|across the bars'): build(tmp_path/'in', tmp_path/'1', val_share=0, progress=False)
    (tmp_path/'beats').mkdir()
    (tmp_path/'beats/a.beats').write_text('\n'.join(f'{t:.3f}\t{i%4+1}' for i,t in enumerate(when)))
    bad = ('1.0 1\n0.5 2\n', '', 'nan 1\n1 2', '1 1\n1.001 2', '1 1\n2 1e300', '\0\xff', '1\n2', '-1e9 1\n-999999999 2')
    for i,text in enumerate(bad):
        (tmp_path/f'in/b{i}.mid').write_bytes((tmp_path/'in/b.mid').read_bytes())
        (tmp_path/f'beats/b{i}.beats').write_text(text)
    (tmp_path/'in/b.mid').unlink()
    info = build(tmp_path/'in', tmp_path/'2', val_share=0, progress=False, beats=tmp_path/'beats')
    assert info['counts']=={'kept': 1, 'unreadable': len(bad)} and 'b0.beats: is no list of beats' in (tmp_path/'2/files.jsonl').read_text()
    grid = Corpus(tmp_path/'2').hid.decode(Corpus(tmp_path/'2')[0])
    assert np.array_equal(grid.notes['onset'], s.quantized().notes['onset'])

# ------------------------------------------------------------------------------------------------ a corpus that grows

@pytest.fixture(scope='module')
def forty(tmp_path_factory):
    "Forty pieces: songs, near copies, halves in common, exact copies, some too short, some broken"
    d = tmp_path_factory.mktemp('forty')
    for i in range(12):
        song(i, bars=12).write(d/f'{i:02}-a.mid')
        song(i, bars=12, shift=i%4, moved=(0, 1, 4)[i%3]).write(d/f'{i:02}-b.mid')
        song(i, bars=12, moved=5, program=30).write(d/f'{i:02}-c.mid')
    song(50, bars=1).write(d/'short.mid')
    (d/'broken.mid').write_bytes(b'MThd')
    (d/'empty.mid').write_bytes(b'')
    (d/'copy.mid').write_bytes((d/'03-a.mid').read_bytes())
    return sorted(d.iterdir())

@pytest.mark.parametrize('seed', range(3))
def test_growing_is_preparing_at_once(forty, tmp_path, seed, monkeypatch):
    "Split at random, some in two parts: the same bytes, the split is kept, and no bytes are read twice"
    rng = random.Random(seed)
    parts = [[o for o in forty if rng.random()<.5] for _ in range(3)]
    for i,o in enumerate(parts): (tmp_path/f'{i}.txt').write_text('\n'.join(map(str, rng.sample(o, len(o)))))
    lists,how = [tmp_path/f'{i}.txt' for i in range(3)],dict(val_share=.3, together=r'(0[0-3])-' if seed==1 else '', progress=False)
    build(lists, tmp_path/'once', **how)
    sides = lambda: {r['path']: r.get('split', r['reason']) for r in map(json.loads, (tmp_path/'data/files.jsonl').read_text().splitlines())}
    done,before = [],{}
    monkeypatch.setattr(corpus, 'encode_file', lambda path, **kw: (done.append(Path(path).read_bytes()), encode_file(path, **kw))[1])
    for o in lists:
        fresh = len(done)
        build(o, tmp_path/'data', **how)
        assert not {o for o in done[:fresh] if o} & {o for o in done[fresh:] if o} and before.items() <= sides().items()
        before = sides()
    assert len(before)==len({o for p in parts for o in p}) and {'train','val'} <= set(before.values())
    assert same_folders(tmp_path/'data', tmp_path/'once')
    build(lists[0], tmp_path/'data', **how)
    assert sides()==before # what is there is not taken again

def test_growing_goes_on_after_a_kill(forty, tmp_path, monkeypatch):
    "In the middle of the work, and between the two moves at its end: the old corpus is there, and the same call ends it"
    lists = [tmp_path/'a.txt', tmp_path/'b.txt']
    for o,some in zip(lists, (forty[:20], forty[20:])): o.write_text('\n'.join(map(str, some)))
    build(lists, tmp_path/'once', progress=False)
    build(lists[0], tmp_path/'data', progress=False)
    old = Corpus(tmp_path/'data').fingerprint
    left = iter(range(7))
    def stop(path, **kw):
        if next(left, None) is None: raise KeyboardInterrupt
        return encode_file(path, **kw)
    monkeypatch.setattr(corpus, 'encode_file', stop)
    with pytest.raises(KeyboardInterrupt): build(lists[1], tmp_path/'data', progress=False)
    assert Corpus(tmp_path/'data').fingerprint==old
    monkeypatch.undo()
    real = os.replace
    def killed(a, b):
        if Path(a).name=='done': raise KeyboardInterrupt
        real(a, b)
    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(KeyboardInterrupt): build(lists[1], tmp_path/'data', progress=False)
    assert not (tmp_path/'data').exists()
    monkeypatch.undo()
    monkeypatch.setattr(corpus, 'encode_file', lambda path, **kw: 1/0) # all is done
    build(lists[1], tmp_path/'data', progress=False)
    assert same_folders(tmp_path/'data', tmp_path/'once') and sorted(o.name for o in tmp_path.iterdir())==['a.txt', 'b.txt', 'data', 'once']

def test_growing_with_other_settings(forty, tmp_path):
    "One sentence names the flag, and nothing is touched"
    (tmp_path/'a.txt').write_text('\n'.join(map(str, forty[:6])))
    build(tmp_path/'a.txt', tmp_path/'data', progress=False)
    before = {o.name: o.read_bytes() for o in (tmp_path/'data').iterdir()}
    for flags,words in ((['--positions_per_beat', 12], '--positions_per_beat 24, not 12'), (['--min_notes', 8], '--min_notes 32, not 8'), (['--val_share', .2], '--val_share 0.05, not 0.2'), (['--pedal'], '--pedal False, not True')):
        res = command('prepare', tmp_path/'a.txt', '--out', tmp_path/'data', *flags)
        assert res.returncode==1 and words in res.stderr and res.stderr.strip().count('\n')==0, res.stderr
    m = json.loads(before['manifest.json'])
    (tmp_path/'data/manifest.json').write_text(json.dumps(m|dict(version=2)))
    with pytest.raises(ValueError, match='another version'): build(tmp_path/'a.txt', tmp_path/'data', progress=False)
    (tmp_path/'data/manifest.json').write_bytes(before['manifest.json'])
    assert before=={o.name: o.read_bytes() for o in (tmp_path/'data').iterdir()} and not (tmp_path/'data.part').exists()

# ------------------------------------------------------------------------------------------------ the page

def test_the_fate_of_each_file(forty, tmp_path, monkeypatch):
    "Left out and why, mended and how, kept; names are text, not HTML; of very many files the first stand there, and how many more there are"
    (tmp_path/'<b>x\n.mid').write_bytes(b'')
    (tmp_path/'cut.mid').write_bytes(song(70).to_bytes()[:-200])
    build([*forty, tmp_path/'<b>x\n.mid', tmp_path/'cut.mid'], tmp_path/'data', progress=False)
    page = (tmp_path/'data/report.html').read_text()
    rows = [o.removeprefix('<tr><td>').split('<td>') for o in page.splitlines() if o.startswith('<tr><td>')]
    assert len(rows)==len(forty)+2 and '<b>' not in page and f'{tmp_path}/&lt;b&gt;x\\n.mid' in page
    fate = {Path(o).name: (a, b) for o,a,b in rows}
    assert fate['short.mid'][0].startswith('left out: too few') and fate['copy.mid']==('left out: duplicate', f'of {forty[9]}')
    assert fate['broken.mid']==('left out: unreadable', 'is cut off within its header')
    assert fate['cut.mid'][0]=='kept for training' and fate['cut.mid'][1].startswith('the file is cut off')
    kinds = [0 if a.startswith('left') else 1 if b else 2 for _,a,b in rows]
    assert kinds==sorted(kinds) and set(kinds)=={0, 1, 2}
    monkeypatch.setattr(corpus, 'MOST_FATES', 9)
    page = corpus._fates_table(tmp_path/'data')
    assert page.count('<tr><td>')==9 and f'{len(rows)-9} more stand in files.jsonl' in page

def seen(ax):
    "The labels of axes: title, and ticks within their limits"
    ticks = [(o, o.get_position()[i], lim) for minor in (False, True) for i,lim,each in ((0, ax.get_xlim(), ax.get_xticklabels(minor)), (1, ax.get_ylim(), ax.get_yticklabels(minor))) for o in each]
    return [ax.title, *(o for o,at,lim in ticks if o.get_text() and min(lim)<=at<=max(lim))]

@pytest.mark.parametrize('lengths', [(5000, 30_000), (900, 950), (40, 90_000), (7000, 7000)])
def test_no_label_lies_on_another(midi_folder, tmp_path, lengths, monkeypatch):
    "Whatever the numbers: many reasons, many files, pieces of nearly the same length"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    (tmp_path/'list.txt').write_text('\n'.join(map(str, sorted(midi_folder.glob('*.mid'))[:12])))
    info = build(tmp_path/'list.txt', tmp_path/'data', progress=False)
    for o in ('train','val'):
        index = np.load(tmp_path/f'data/{o}.npy')
        index['length'] = np.geomspace(*lengths, len(index))
        np.save(tmp_path/f'data/{o}.npy', index)
    reasons = [*(f'too {o}' for o in ('few notes','many notes','few beats','many beats','few pitches','few seconds','many seconds')), 'off the grid', 'across the bars', 'other meters', 'unreadable', 'nearly a duplicate', corpus.TIES]
    info['counts'] = {'kept': 12_345_678} | {k: 10**i//3 for i,k in enumerate(reasons)}
    n,words = corpus._token_counts(tmp_path/'data', HID()),HID().words
    monkeypatch.setattr(corpus, '_token_counts', lambda *_: {w[1]: 998_877*(i%50) for i,w in enumerate(words) if w[1] in n or w[1].startswith(('Program','Chord'))})
    fig = corpus._pictures(info, tmp_path/'data')
    FigureCanvasAgg(fig).draw()
    boxes = [(o.get_text(), o.get_window_extent()) for ax in fig.axes for o in seen(ax)]
    assert len(boxes)>60
    for i,(a,x) in enumerate(boxes):
        assert fig.bbox.containsx(x.x0) and fig.bbox.containsx(x.x1), a
        for b,y in boxes[:i]: assert not x.overlaps(y), (a, b)
