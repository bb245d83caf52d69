"""How long does the command take, from its start to the picture?

    python benchmarks/command.py [--seeds 6] [--repeats 5] [--long_seeds 3]

`meloformer generate` writes 16 bars of four instruments, of a quartet and of a band, with several seeds, and 200 bars of a trio with some, each in a process of its own that is held to one core where the system can do that; of the 16 bars the median
of the repeats is told, taken by turns, 200 bars are written once. A command that writes one bar tells what starting and drawing take. The package is compiled first, as an installation does. Seconds of the clock: run it where nothing else runs."""
import os, subprocess, sys, tempfile, time
from statistics import median
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.music.score import Score
from report import head, report

FOUR = dict(quartet='violin, viola, cello, flute', band='piano, acoustic guitar, bass, drums')
TRIO = 'piano, bass, drums'

def seconds(who, bars, seed, folder):
    "Of the clock, and notes written"
    env = {k: v for k,v in os.environ.items() if k!='PYTHONDONTWRITEBYTECODE'}
    out,start = f'{folder}/new.mid',time.perf_counter()
    subprocess.run([sys.executable, '-m', 'meloformer.apps.cli', 'generate', '--bars', str(bars), '--instruments', who, '--seed', str(seed), '--out', out],
                   check=True, env=env, capture_output=True)
    return time.perf_counter()-start,len(Score.read(out).notes)

@call_parse
def main(
    seeds: int = 6,
    repeats: int = 5,   # Of each piece of 16 bars
    long_seeds: int = 3 # Of 200 bars
):
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}) # of the commands, too
    asked = [(name, who, 16, s) for s in range(1, seeds+1) for name,who in FOUR.items()]
    with tempfile.TemporaryDirectory() as d:
        seconds('violin', 1, 1, d)
        took = {}
        for o in tqdm([*asked, ('start', 'violin', 1, 1)]*repeats+[('long', TRIO, 200, s) for s in range(1, long_seeds+1)], disable=None):
            took.setdefault(o, []).append(seconds(*o[1:], d))
    rows = [dict(name=name, instruments=who, bars=bars, seed=seed, notes=t[0][1], seconds=round(median(o for o,_ in t), 2), fastest=round(min(o for o,_ in t), 2), slowest=round(max(o for o,_ in t), 2))
            for (name,who,bars,seed),t in took.items()]
    of = lambda *names: [r['seconds'] for r in rows if r['name'] in names]
    report('command', command=f'python benchmarks/command.py --seeds {seeds} --repeats {repeats} --long_seeds {long_seeds}', weights_commit=head('meloformer/weights'),
           four=[median(of(*FOUR)), max(of(*FOUR))], long=of('long'), start=of('start')[0], rows=rows)
