"""What `meloformer.cost` predicts beside what is measured: seconds and peak memory of a training step

python benchmarks/cost.py CORPUS [--sizes "tiny small"] [--lengths "1024 2048 4096 8192"]

Each cell (size, mask, length) trains a few steps on real packed music in a process of its own. Seconds are predicted as operations of
the layers and logits, and operations of attention, each at a speed of its own, and a start; the three constants are fitted on every
other cell and tried on the rest. Memory is predicted without any constant and compared with what the process takes above what it had
before the first step."""
import json, resource, subprocess, sys, time
from statistics import median
import numpy as np
from fastcore.script import call_parse
from report import report
from meloformer.corpus import Corpus
from meloformer.cost import flops, memory
from meloformer.model import MeloFormer, config
from meloformer.packing import Packs, Window
from meloformer.optim import make_optimizer
from meloformer.ranks import Ranks
from meloformer.train import batcher, train_step

def measure(corpus, size, mask, length, repeats):
    "One cell"
    cfg,window,ranks = config(size, mask=mask),Window(length),Ranks('cpu')
    packs,model = Packs(Corpus(corpus), window),MeloFormer(cfg)
    optimizer,make,took,ops,peak = make_optimizer(model, 1e-4),batcher(model, window),[],[],lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6
    before = peak()
    for i in range(repeats+1):
        start = time.perf_counter()
        batch = make([packs[i]])
        train_step(model, optimizer, [batch], ranks)
        took.append(time.perf_counter()-start)
        f = flops(cfg, batch.ids, 'gather')
        ops.append((3*(f.linear+f.logits), 3.5*f.attention))
    return dict(seconds=median(took[1:]), linear=float(np.mean([o[0] for o in ops[1:]])), attention=float(np.mean([o[1] for o in ops[1:]])),
                gb=peak()-before, predicted_gb=(memory(cfg, length).total-memory(cfg, length).weights)/1e9)

@call_parse
def main(
    corpus: str,          # Folder made by meloformer prepare
    sizes: str = 'tiny small', # Model sizes
    masks: str = 'meloformer sliding dense', # Presets of meloformer.masks
    lengths: str = '1024 2048 4096 8192', # Places in a window
    repeats: int = 3,     # Steps that count
    one: str = ''         # For its own use: measure this and print it
):
    "Predict and measure"
    if one:
        size,mask,length = one.split(',')
        print(json.dumps(measure(corpus, size, mask, int(length), repeats)))
        return
    rows = []
    for size in sizes.split():
        for length in lengths.split():
            for mask in masks.split():
                out = subprocess.run([sys.executable, __file__, corpus, '--repeats', str(repeats), '--one', f'{size},{mask},{length}'], capture_output=True, text=True, check=True).stdout
                rows.append(dict(size=size, mask=mask, length=int(length))|json.loads(out))
                print(rows[-1], flush=True)
    X,y = np.array([[r['linear'], r['attention'], 1] for r in rows]),np.array([r['seconds'] for r in rows])
    fit = np.linalg.lstsq(X[::2]/y[::2, None], np.ones(len(y[::2])), rcond=None)[0] # relative errors count
    for r,p in zip(rows, X@fit): r['predicted_seconds'] = float(p)
    ratio = lambda a,b: [round(float(o), 2) for o in np.quantile([r[a]/r[b] for r in rows[1::2]], (0, .5, 1))]
    rows = [{k: float(f'{v:.4g}') if isinstance(v, float) else v for k,v in r.items()} for r in rows]
    report('cost', command='python benchmarks/cost.py CORPUS', gflops_linear=round(1e-9/fit[0], 1), gflops_attention=round(1e-9/fit[1], 1), start_s=round(float(fit[2]), 3),
           seconds_predicted_to_measured=ratio('predicted_seconds', 'seconds'), gb_predicted_to_measured=ratio('predicted_gb', 'gb'), rows=rows)
