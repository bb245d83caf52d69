"""What `meloformer.budget.cost` predicts beside what is measured: seconds and peak memory of a training step

python benchmarks/cost.py CORPUS [--sizes "tiny small"] [--lengths "1024 2048 4096 8192"]

Each cell (size, mask, length) trains a few steps on real packed music in a process of its own, on one thread, and counts the seconds of
that process, so that other programs do not count. Memory is what PyTorch's allocator hands out, weights and averages included; what the
system sees of the process stands beside it. Memory is predicted without any constant. Seconds are predicted by the four constants of
`Speed`, fitted on every other cell and tried on the rest. Compiled cells run the model compiled for the processor in bfloat16, with
PyTorch's causal kernel in place of ours, which is what a card holds in memory. Cells measured before are kept, each with its commit."""
import json, os, resource, subprocess, sys, time
from itertools import combinations
from statistics import median
import numpy as np
import torch
from fastcore.script import call_parse
from report import earlier, head, report
from torch.utils._pytree import tree_leaves
from meloformer.data.corpus import Corpus
from meloformer.budget.cost import FakePlan, allocated, memory, step_work
from meloformer.net.model import MeloFormer, config
from meloformer.training.optim import make_optimizer
from meloformer.data.packing import Packs, Window
from meloformer.training.ranks import Ranks
from meloformer.training.train import batcher, train_step

def measure(corpus, cell, repeats):
    "One cell"
    torch.set_num_threads(1)
    size,mask,length,kind,optimizer,checkpointing = cell
    compiled,length = kind=='compiled',int(length)
    cfg,window,ranks = config(size, mask=mask, checkpointing=checkpointing=='1'),Window(length),Ranks('cpu', 'bf16' if compiled else None)
    packs,model = Packs(Corpus(corpus), window),MeloFormer(cfg)
    own = make_optimizer(model, 1e-4, kind=optimizer)
    called,make,took,work,rss = torch.compile(model, dynamic=False, fullgraph=True) if compiled else model,batcher(model, window),[],[],lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    start = time.perf_counter()
    m = memory(cfg, length, 1, 'flex' if compiled else 'gather', compiled, 1, lambda o: make_optimizer(o, 1e-4, kind=optimizer))
    predicting = time.perf_counter()-start
    def batch(i):
        b = make([packs[i]])
        return b._replace(plan=FakePlan(b.ids.shape)) if compiled else b
    before = rss()
    for i in range(repeats+1):
        b,start = batch(i),time.process_time()
        train_step(called, own, [b], ranks)
        took.append(time.process_time()-start)
        if not compiled: work.append(step_work(cfg, b.ids, m, 'gather'))
    held = sum(x.nbytes for x in [*model.parameters(), *tree_leaves([o.state_dict()['state'] for o in getattr(own, 'each', (own,))])] if isinstance(x, torch.Tensor))
    grown = rss()-before # before the profiler takes its own
    gb = (held+allocated(lambda: train_step(called, own, [b], ranks)))/1e9
    res = dict(gb=gb, predicted_gb=m.total/1e9, predicted_in_s=predicting, process_grown_gb=grown/1e9, allocated_grown_gb=gb-sum(p.nbytes for p in model.parameters())/1e9)
    return res | (dict(seconds=median(took[1:])) | {k: float(np.mean([w[k] for w in work[1:]])) for k in work[0]} if work else {})

def fit(rows):
    "Seconds of a unit of each kind of work; none is negative, and relative errors count"
    X,best = np.array([[r[k] for k in WORK]+[1.] for r in rows])/np.array([[r['seconds']] for r in rows]),(np.inf, None)
    for some in (list(s) for n in range(1, 6) for s in combinations(range(5), n)): # of all least squares without negative parts the best
        w = np.linalg.lstsq(X[:, some], np.ones(len(X)), rcond=None)[0]
        off = ((X[:, some]@w-1)**2).sum()
        if (w>=0).all() and off<best[0]: best = off,np.bincount(some, w, 5)
    return best[1]

WORK = ('linear','attention','moved','tiles')

def table(rows):
    "All figures"
    timed,rows = [r for r in rows if 'seconds' in r],[dict(r) for r in rows]
    each = fit(timed[::2])
    for r in timed: r['predicted_seconds'] = float(np.dot([r[k] for k in WORK]+[1.], each))
    spread = lambda a,b,rs: [round(float(o), 2) for o in np.quantile([r[a]/r[b] for r in rs], (0, .5, 1))]
    kind = lambda k: [r for r in rows if r['kind']==k]
    return dict(speed={**{k: float(f'{1/e:.3g}') if e else None for k,e in zip(WORK, each)}, 'start': round(float(each[-1]), 3)},
        seconds_predicted_to_measured=spread('predicted_seconds', 'seconds', timed[1::2]), gb_predicted_to_measured=spread('predicted_gb', 'gb', kind('gather')),
        compiled_gb_predicted_to_measured=spread('predicted_gb', 'gb', kind('compiled')), process_over_allocated=spread('process_grown_gb', 'allocated_grown_gb', kind('gather')),
        slowest_prediction_s=round(max(r['predicted_in_s'] for r in rows), 1))

@call_parse
def main(
    corpus: str,          # Folder made by meloformer prepare
    sizes: str = 'tiny small', # Model sizes
    masks: str = 'meloformer sliding dense', # Presets of meloformer.net.masks
    lengths: str = '1024 2048 4096 8192', # Places in a window
    more: str = 'tiny,meloformer,2048,gather,muon,0 small,meloformer,2048,gather,muon,0 small,meloformer,4096,gather,adamw,1 tiny,meloformer,1024,compiled,adamw,0 tiny,meloformer,4096,compiled,adamw,0 tiny,meloformer,4096,compiled,adamw,1 small,meloformer,2048,compiled,muon,0 small,meloformer,2048,compiled,adamw,1', # Other cells: size, mask, length, gather or compiled, optimizer, checkpointing
    repeats: int = 3,     # Steps that count
    refit: bool = False,  # Measure nothing, fit the cells that are there
    one: str = ''         # For its own use: measure this and print it
):
    "Predict and measure"
    if one: return print(json.dumps(measure(corpus, one.split(','), repeats)))
    rows,name = earlier('cost'),lambda r: ','.join(str(r[k]) for k in ('size','mask','length','kind','optimizer','checkpointing'))
    cells = [f'{s},{m},{n},gather,adamw,0' for s in sizes.split() for n in lengths.split() for m in masks.split()]+more.split()
    for cell in () if refit else cells:
        out = subprocess.run([sys.executable, __file__, corpus, '--repeats', str(repeats), '--one', cell], capture_output=True, text=True, check=True, env=os.environ|dict(KINETO_LOG_LEVEL='5')).stdout
        new = dict(zip(('size','mask','length','kind','optimizer','checkpointing'), cell.split(',')))|json.loads(out.splitlines()[-1])|dict(commit=head())
        new = {k: float(f'{v:.4g}') if isinstance(v, float) else v for k,v in new.items()}|dict(length=int(new['length']))
        rows = sorted([r for r in rows if name(r)!=cell]+[new], key=lambda r: (r['kind']!='gather', r['optimizer'], r['checkpointing'], r['size']!='tiny', r['length'], r['mask']))
        print(new, flush=True)
        if cell!=cells[-1]: report('cost', command='python benchmarks/cost.py CORPUS', rows=rows)
    report('cost', command='python benchmarks/cost.py CORPUS', **table(rows), rows=rows)
