"The demo's corpus and its steps"
import subprocess, sys
from pathlib import Path
import pytest
import demo, demo_corpus
from demo import Step, run_steps
from meloformer.music.score import Score

def test_corpus(midi_folder):
    files = sorted(midi_folder.glob('*.mid'))
    assert len(files) == 117 and len(demo_corpus.works()) > 400
    scores = [Score.read(f) for f in files]
    assert not any(s.notices for s in scores)
    assert all(len(s.tracks)>3 for s in scores)
    assert len({tuple(o.program for o in s.tracks) for s in scores}) > 4 # ensembles

def test_corpus_bars(midi_folder):
    "BWV 269 is in 3/4 with a pickup of a quarter note, and its last chord stands on a first beat"
    s = Score.read(midi_folder/'bach-bwv269.mid')
    assert s.meters.tolist() == [(0, 1, 4), (480, 3, 4)]
    assert s.bars()['length'].tolist()[:2] == [480, 1440]
    assert s.notes['onset'][-1] == s.bars()['onset'][-1]

def test_corpus_ties(midi_folder):
    "As many notes as music21 counts once it has merged the tied ones"
    from music21 import converter
    for work in ('bach-bwv10.7', 'haydn-opus1no1-movement1'):
        stream = converter.parse(demo_corpus.works()[work], forceSource=True, storePickle=False)
        n = sum(len(el.pitches) for p in stream.parts for el in p.stripTies().flatten().notes if not el.duration.isGrace)
        assert n == len(Score.read(midi_folder/f'{work}.mid').notes)

def test_corpus_is_reused_and_reports(tmp_path, monkeypatch):
    assert not demo_corpus.write_corpus(tmp_path, 2, 1)
    files = sorted(tmp_path.iterdir())
    times = [f.stat().st_mtime_ns for f in files]
    assert len(files)==2 and not demo_corpus.write_corpus(tmp_path, 2, 1)
    assert [f.stat().st_mtime_ns for f in files] == times
    bad = tmp_path/'bad.mxl'
    bad.write_text('no music')
    monkeypatch.setattr(demo_corpus, 'works', lambda: {'bad': bad})
    assert list(demo_corpus.write_corpus(tmp_path/'out', None, 1)) == ['bad']

def test_meters_of_cut_bars():
    "A bar cut in two by a repeat sign is one bar; a bar that is too long is refused"
    from music21 import meter, note, stream
    def part(*lengths):
        p = stream.Part()
        for i,o in enumerate(lengths):
            m = stream.Measure(number=i)
            if not i: m.append(meter.TimeSignature('4/4'))
            m.append(note.Note(quarterLength=o))
            p.append(m)
        return demo_corpus.meters(p)['onset'].tolist()
    assert part(1, 4, 3, 1, 4, 3) == [0, 480, 2400, 4320, 6240]
    assert part(4, 2, 4, 4) == [0, 1920, 2880, 4800]
    with pytest.raises(ValueError, match='5.000 quarter notes'): part(4, 5, 4)

@pytest.fixture
def steps(tmp_path, monkeypatch):
    "Two steps that append a line to a file each, and what the files hold after a run"
    monkeypatch.chdir(tmp_path)
    def _step(nm, text): return Step(nm, f'''python -c "open('{nm}', 'a').write('{text} ')"''', [Path(nm)])
    def _run(a='1', b='2'):
        run_steps([_step('a', a), _step('b', b)], Path('out/steps.json'))
        return Path('a').read_text()+Path('b').read_text()
    return _run

def test_steps_are_reused(steps):
    assert steps() == steps() == '1 2 '
    assert steps(b='3') == '1 3 '        # only what changed runs again
    assert steps(a='0', b='3') == '0 3 ' # and all that follows
    Path('b').unlink()
    assert steps(a='0', b='3') == '0 3 '

def test_a_stopped_step_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    go = Step('stop', '''python -c "import sys, pathlib; f = pathlib.Path('a'); n = f.exists(); f.open('a').write('x'); sys.exit(not n)"''', [Path('a')])
    with pytest.raises(SystemExit, match='Step 1 ended with status 1'): run_steps([go], Path('steps.json'))
    run_steps([go], Path('steps.json'))
    assert Path('a').read_text() == 'xx'

def test_a_step_that_only_seems_finished(tmp_path, monkeypatch):
    "A stopped training leaves its folder and exit status 0; the next step must not start"
    monkeypatch.chdir(tmp_path)
    train = Step('train', """python -c "import pathlib; p = pathlib.Path('run'); p.mkdir(exist_ok=True); (p/str(len(list(p.iterdir())))).touch()" """,
                 [Path('run')], [Path('run/1')])
    with pytest.raises(SystemExit, match='has not finished: there is no run/1'): run_steps([train], Path('steps.json'))
    run_steps([train], Path('steps.json')) # goes on: what the first run left is still there
    assert sorted(o.name for o in Path('run').iterdir()) == ['0', '1']

def test_demo_steps_exist():
    "Every command of the demo is one that there is"
    for s in demo.STEPS:
        res = subprocess.run([*demo.argv(s.command)[:4 if 'meloformer' in s.command else 2], '--help'], cwd=demo.root, capture_output=True, text=True)
        assert res.returncode == 0, res.stderr
