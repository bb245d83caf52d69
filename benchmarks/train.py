"""Training tokens a second and peak memory, beside the same model with causal attention (PyTorch's own kernel)

python benchmarks/train.py CORPUS [--sizes "tiny small"] [--lengths "1024 2048 4096 8192"] [--repeats 5]

A step is one window of real packed music: plan, forward, backward, AdamW. Both kinds of attention are timed in turn on the same
windows; the ratio is the median of the ratios. Peak memory is that of a process of its own for each row."""
import json, resource, subprocess, sys, time
from statistics import median
import torch.nn.functional as F
from fastcore.script import call_parse
from report import report
from meloformer.attention import make_plan
from meloformer.corpus import Corpus
from meloformer.model import MeloFormer, batch_ids, config, loss_sum
from meloformer.packing import Packs, Window, stack
from meloformer.train import make_optimizer

class CausalPlan:
    "Every position reads all before it, whatever the rule says: the kernel to be compared with, not a model to be trained"
    def __init__(self, ids): self.shape = ids.shape
    def bind(self, rule): return self
    def attend(self, q, k, v): return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1]!=k.shape[1])

def step(model, optimizer, batch, window, causal):
    ids = batch_ids(batch, window.n_summaries)
    plan = CausalPlan(ids) if causal else make_plan(model.rule, ids)
    (loss_sum(model(batch['tokens'], ids, plan), batch['labels'])/window.tokens).backward()
    optimizer.step()
    optimizer.zero_grad()

def measure(corpus, size, length, repeats, kinds):
    "Seconds of each step of each kind, and peak memory in GB"
    window = Window(length)
    packs,model = Packs(Corpus(corpus), window),MeloFormer(config(size))
    optimizer,times = make_optimizer(model, 1e-4),{k: [] for k in kinds}
    for i in range(repeats+1):
        for k in kinds:
            batch,start = stack([packs[i]]),time.perf_counter()
            step(model, optimizer, batch, window, k=='causal')
            if i: times[k].append(time.perf_counter()-start)
    return dict(times=times, tokens=window.tokens, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6)

@call_parse
def main(
    corpus: str,        # Folder made by meloformer prepare
    sizes: str = 'tiny small', # Model sizes
    lengths: str = '1024 2048 4096 8192', # Window lengths
    repeats: int = 5,   # Steps that count; medians are reported
    one: str = ''       # For its own use: measure this and print it
):
    "Time training steps"
    if one:
        size,length,kinds = one.split(',')
        print(json.dumps(measure(corpus, size, int(length), repeats, kinds.split('+'))))
        return
    def child(*o): return json.loads(subprocess.run([sys.executable, __file__, corpus, '--repeats', str(repeats), '--one', ','.join(o)], capture_output=True, text=True, check=True).stdout)
    rows = []
    for size in sizes.split():
        for length in lengths.split():
            both,alone = child(size, length, 'gather+causal'),child(size, length, 'gather')
            t = both['times']
            rows.append(dict(size=size, length=int(length), tokens_per_second=round(both['tokens']/median(t['gather'])), causal_tokens_per_second=round(both['tokens']/median(t['causal'])),
                             ratio=round(median(c/g for c,g in zip(t['causal'], t['gather'])), 2), peak_gb=round(alone['peak'], 2)))
            print(rows[-1], flush=True)
    report('train', command='python benchmarks/train.py CORPUS', repeats=repeats, rows=rows)
