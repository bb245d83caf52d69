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
