"""How fast `meloformer prepare` is, and how much memory it takes, as the number of files grows

python benchmarks/prepare.py MIDI_FOLDER [--counts "1000 10000 100000"]

A list repeats the files of the folder until there are enough; so all work is done for each, and copies are left out at the end.
Memory is that of the largest process. Speed with one process and with two is measured in turns at the first count."""
import os, subprocess, sys, tempfile, time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from fastcore.script import call_parse
from report import report
from meloformer.data.corpus import find_midi

def prepare(files, workers, where):
    "Seconds, and gigabytes of the largest process"
    (where/'list.txt').write_text('\n'.join(files))
    out,start = where/f'{time.time_ns()}',time.perf_counter()
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'prepare', str(where/'list.txt'), str(out), '--workers', str(workers)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ|dict(OMP_NUM_THREADS='1'))
    _,status,used = os.wait4(p.pid, 0)
    assert status==0
    return time.perf_counter()-start,used.ru_maxrss/1e6

@call_parse
def main(
    folder: str, # MIDI files
    counts: str = '1000 10000 100000', # Numbers of files
    repeats: int = 5 # Of the first count, with one process and with two
):
    "Time prepare"
    some,counts = [str(Path(o).absolute()) for o in find_midi(folder)],list(map(int, counts.split()))
    take = lambda n: list(islice(cycle(some), n))
    with tempfile.TemporaryDirectory() as d:
        d,took = Path(d),{1: [], 2: []}
        empty = median(prepare(take(20), 2, d)[0] for _ in range(3)) # what it takes to start
        for _ in range(repeats):
            for w in took: took[w].append(prepare(take(counts[0]*w), w, d)[0]-empty)
        one,two = (median(counts[0]*w/t for t in took[w]) for w in took)
        rows = []
        for n in counts:
            s,gb = prepare(take(n), 2, d)
            rows.append(dict(files=n, files_per_second=round(n/s), peak_gb=round(gb, 3)))
            print(rows[-1], flush=True)
    report('prepare', command='python benchmarks/prepare.py MIDI_FOLDER', start_s=round(empty, 2), one_process_files_per_second=round(one), two_processes_files_per_second=round(two), two_over_one=round(two/one, 2), rows=rows)
