"""What each of the three phases buys, beside a run that begins with the full batch and all workers

python benchmarks/phases.py CORPUS [--size tiny] [--batch_size 4] [--num_workers 1]

Both are `meloformer train`, stopped after forty steps with everything. Of each phase: tokens a second, share of the time without a batch, peak memory (of the card, or of the process), graphs compiled so far (on a card); and of
the whole run, the time to its first step, and how much memory all of its processes share out among themselves."""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median
from fastcore.script import call_parse
from report import report

def memory(pid):
    "Gigabytes of a process and its children, what they share counted once"
    pids = [pid]+[int(o) for t in Path(f'/proc/{pid}/task').glob('*/children') for o in t.read_text().split()]
    return sum(int(line.split()[1]) for p in pids for line in Path(f'/proc/{p}/smaps_rollup').read_text().splitlines() if line.startswith('Pss:'))/1e6

def train(flags, run, last):
    "Figures of each phase, and of the whole, which is stopped at step `last`"
    start,first,peak,log = time.perf_counter(),None,{},run/'log.jsonl'
    p = subprocess.Popen([sys.executable, '-m', 'meloformer.apps.cli', 'train', *(str(x) for k,v in flags.items() for x in ((f'--{k}',) if v is True else (f'--{k}', v)))], stdout=subprocess.DEVNULL)
    phase,asked = 0,False
    while p.poll() is None:
        time.sleep(.05)
        if log.exists() and (rows := log.read_text().splitlines()):
            try: row = json.loads(rows[-1])
            except ValueError: continue # half a line
            phase = row.get('phase', phase)
            if first is None: first = time.perf_counter()-start
            if row['step'] >= last and not asked: asked = not p.terminate()
        try: peak[phase] = max(peak.get(phase, 0), memory(p.pid))
        except (FileNotFoundError, ProcessLookupError): pass # it has just ended
    assert p.returncode == 0
    rows = [o for o in map(json.loads, log.read_text().splitlines()) if 'loss' in o]
    by = lambda k,n,f: round(f([o[k] for o in rows if o.get('phase')==n and k in o] or [0]), 4)
    phases = [dict(phase=n, tokens_per_second=round(by('tokens_per_second', n, median)), wait=by('wait', n, median), peak_gb=by('gb', n, max), all_processes_gb=round(peak.get(n, 0), 3), graphs=int(by('graphs', n, max))) for n in sorted({o['phase'] for o in rows})]
    return dict(first_step_s=round(first, 2), seconds=round(time.perf_counter()-start, 1), phases=phases)

@call_parse
def main(
    corpus: str, # Folder made by meloformer prepare
    size: str = 'tiny',
    max_seq_len: int = 1024,
    batch_size: int = 4,
    num_workers: int = 1,
    repeats: int = 5
):
    "Measure the phases"
    rows = []
    with tempfile.TemporaryDirectory() as d:
        for r in range(repeats):
            for at_once in (False, True):
                run = Path(d)/f'{r}-{at_once}'
                flags = dict(data=corpus, out=run, model_size=size, max_seq_len=max_seq_len, batch_size=batch_size, gradient_accumulation_steps=1, num_workers=num_workers, steps=1000, val_every=10**6, save_every=10**6, sample_bars=0, val_windows=1, log_every=1)
                rows.append(dict(at_once=at_once) | train(flags|(dict(at_once=True) if at_once else {}), run, 40 if at_once else 140))
                print(rows[-1], flush=True)
    report('phases', command='python benchmarks/phases.py CORPUS', size=size, max_seq_len=max_seq_len, batch_size=batch_size, num_workers=num_workers, rows=rows)
