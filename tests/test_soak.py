"Nothing grows over many files, pieces and steps; and what does grow would be told"
import gc, random, subprocess, sys, tempfile, threading
import pytest
from conftest import root
sys.path.append(str(root/'benchmarks'))
import soak

def test_a_curve_that_grows():
    flat,warm = [100+i%2 for i in range(100)],[50+i for i in range(20)]
    assert all(abs(v)<1 for v in soak.growth(flat).values())
    assert all(v<=1 for v in soak.growth(warm+[70+i%2 for i in range(80)]).values()) # that is what the first fifth is for
    g = soak.growth([100+i*.1 for i in range(100)])
    assert 5<g['end']<8 and 6<g['line']<9 and 4<g['highest']<8
    assert soak.growth(flat[:90]+[150]*10)['highest']>40

@pytest.mark.parametrize('leaks', (False, True))
def test_what_is_left_is_told(leaks, monkeypatch, tmp_path):
    "Memory, open files, threads, processes and temporary files; memory is counted by what is held, for a worker with a past has room to spare"
    held,over = [],threading.Event()
    def part(n, where, seeds):
        def run(k, out, tick):
            for i in range(k):
                if leaks and k==n: held.append(bytearray(2<<20))
                tick()
            if not leaks or k<n: return
            held.extend([open(tmp_path/'f', 'w'), subprocess.Popen(['sleep', '60']), tempfile.NamedTemporaryFile(delete=False)])
            threading.Thread(target=over.wait, daemon=True).start()
        return run
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setitem(soak.PARTS, 'prepare', part)
    monkeypatch.setattr(soak, 'resident', lambda: 300+sum(len(o) for o in held if isinstance(o, bytearray))/1e6)
    row = soak.soaked('prepare', 100, None)
    said = soak.faults(row, 2.)
    over.set()
    for p in held:
        if isinstance(p, subprocess.Popen): p.kill(); p.wait()
    if not leaks: assert not said
    else: assert all(any(w in s for s in said) for w in ('resident memory grew', 'files open were', 'threads were', 'processes were', 'temporary files were')), said

@pytest.mark.parametrize('part,n', [('prepare', 300), ('generate', 20), ('train', 40), ('muon', 40)])
def test_small(part, n, pytestconfig):
    "A part of `benchmarks/soak.py`, too short to tell two per cent"
    if not pytestconfig.getoption('slow'): pytest.skip('takes minutes: --slow')
    row = soak.in_process(part, n, None)
    assert len(row['resident_mb'])>=20 and not soak.faults(row, 10.)

def test_mutated_files_are_other_files():
    data = soak.invented(0).to_bytes()
    assert len({soak.mutated(random.Random(i), data) for i in range(50)})>30

def test_pictures_leave_no_figure(tmp_path):
    "A figure holds itself in circles: it is gone with its picture, and not some seventy pictures later"
    from matplotlib.figure import Figure
    score = soak.invented(0, 4)
    for _ in range(10): score.save_png(tmp_path/'a.png')
    assert sum(type(o) is Figure for o in gc.get_objects())<=2 # one may have been seen by Python's own collection while it was drawn
