"""Training steps of this version beside those of an earlier checkout, in turns

python benchmarks/steps.py CORPUS EARLIER [--wanted "tiny:2048 small:8192"] [--repeats 5]

EARLIER is a checkout of an earlier commit (`git worktree add EARLIER fb41527` is version 0.3.0). A step is one window of real packed music: batch and plan, forward, backward, optimizer. Both versions wait in processes of their own and take
the same windows in turn; a ratio is the median of the ratios of the rounds. Three ways: AdamW and Muon in float32, and what `meloformer train` does if it is told nothing."""
import json, os, subprocess, sys
from pathlib import Path
from statistics import median
from fastcore.script import call_parse
from report import report

CHILD = '''
import json, sys, time
sys.meta_path = [o for o in sys.meta_path if 'editable' not in str(o).lower()] # an installed version would lend its modules to the other
import meloformer
assert meloformer.__file__.startswith(sys.argv.pop()), meloformer.__file__
try:
    from meloformer.data.corpus import Corpus; from meloformer.data.packing import Packs, Window; from meloformer.net.model import MeloFormer, config
    from meloformer.training.optim import make_optimizer; from meloformer.training.ranks import Ranks, default_precision; from meloformer.training.train import batcher, train_step
except ImportError: # before it had parts; it trained in float32 on a processor
    from meloformer.corpus import Corpus; from meloformer.packing import Packs, Window; from meloformer.model import MeloFormer, config
    from meloformer.optim import make_optimizer; from meloformer.ranks import Ranks; from meloformer.train import batcher, train_step
    default_precision = lambda device: 'fp32'
corpus, size, length, kind, precision = sys.argv[1:]
window = Window(int(length))
packs, model, ranks = Packs(Corpus(corpus), window), MeloFormer(config(size)), Ranks('cpu', precision if precision!='default' else default_precision('cpu'))
optimizer, make = make_optimizer(model, 1e-4, kind=kind), batcher(model, window)
for line in sys.stdin:
    start = time.perf_counter()
    train_step(model, optimizer, [make([packs[int(line)]])], ranks)
    print(time.perf_counter()-start, flush=True)
'''
WAYS = ('adamw','fp32'), ('muon','fp32'), ('muon','default')

class Version:
    "A checkout that takes steps when it is asked to"
    def __init__(self, folder, *what):
        self.p = subprocess.Popen([sys.executable, '-c', CHILD, *map(str, what), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd='/', env=os.environ|dict(PYTHONPATH=str(folder)))
    def step(self, i):
        self.p.stdin.write(f'{i}\n'); self.p.stdin.flush()
        return float(self.p.stdout.readline())
    def close(self): self.p.stdin.close(); self.p.wait()

@call_parse
def main(
    corpus: str,  # Folder made by meloformer prepare
    earlier: str, # Checkout of an earlier version
    wanted: str = 'tiny:2048 small:8192', # Model sizes and window lengths
    repeats: int = 5 # Steps that count, after one that does not
):
    "Time training steps"
    corpus,earlier,here,rows = Path(corpus).resolve(),Path(earlier).resolve(),Path(__file__).parent.parent,[]
    commit = subprocess.run(['git','-C',earlier,'rev-parse','--short','HEAD'], capture_output=True, text=True, check=True).stdout.strip()
    for size,length in (o.split(':') for o in wanted.split()):
        for kind,precision in WAYS:
            both = [Version(o, corpus, size, length, kind, precision) for o in (earlier, here)]
            rounds = [[v.step(i) for v in both] for i in range(repeats+1)][1:]
            for v in both: v.close()
            before,now = (median(o) for o in zip(*rounds))
            rows.append(dict(size=size, length=int(length), optimizer=kind, precision=precision, seconds_before=round(before, 3), seconds=round(now, 3), times_as_fast=round(median(a/b for a,b in rounds), 2)))
            print(rows[-1], flush=True)
    report('steps', command='python benchmarks/steps.py CORPUS EARLIER', earlier=commit, repeats=repeats, omp_num_threads=os.environ.get('OMP_NUM_THREADS', 'as PyTorch has it'), load_average=round(os.getloadavg()[0], 1), rows=rows)
