"""One attention call, forward and backward, beside PyTorch's own kernel with a causal and with a boolean mask

python benchmarks/attention.py CORPUS [--lengths "2048 4096 8192 16384"] [--repeats 5]

The heads are those of a model size; queries, keys and values are random, ids and masks those of real packed music. All kinds are timed
in turn on the same window; a ratio is the median of the ratios of the rounds. Then what it takes to make a plan, and, with one thread,
the block lists that a GPU wants. Peak memory is that of a process of its own for each kind, above what the process had before."""
import json, resource, subprocess, sys, time
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
from rivals import RIVALS
from meloformer.net.attention import GatherPlan, attend
from meloformer.data.corpus import Corpus
from meloformer.net.blocks import block_lists, occupancy
from meloformer.net.masks import preset
from meloformer.net.model import HEAD_DIM, batch_ids, config
from meloformer.data.packing import Packs, Window, stack

WAYS = dict(gather=GatherPlan, **RIVALS)

def windows(corpus, length, n):
    "Ids of some windows"
    window = Window(length)
    packs = Packs(Corpus(corpus), window)
    return [batch_ids(stack([packs[i]]), window.n_summaries) for i in range(n)]

def call(plan, x, weight):
    "Seconds of forward and backward"
    start = time.perf_counter()
    torch.autograd.grad(attend(*x, plan), x, weight)
    return time.perf_counter()-start

def timed(f):
    start = time.perf_counter()
    return f(),time.perf_counter()-start

def measure(corpus, size, mask, length, repeats, kinds):
    "Seconds of each kind in each round, seconds to make plans and block lists, and peak memory in GB"
    cfg,rule = config(size),preset(mask)
    times,plans,blocks,share = {k: [] for k in kinds},[],[],[]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i,ids in enumerate(windows(corpus, length, repeats+1)):
        x = [torch.randn(1, h, ids.shape[1], HEAD_DIM).requires_grad_() for h in (cfg.heads, cfg.kv_heads, cfg.kv_heads)]
        for k in kinds:
            plan,took = timed(lambda: WAYS[k](rule, ids))
            s = call(plan, x, torch.ones_like(x[0]))
            if i: times[k].append(s)
            if i and k=='gather': plans.append(took); share.append(plan.pairs/length**2)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        blocks.append(timed(lambda: block_lists(*occupancy(rule, ids)))[1])
        torch.set_num_threads(threads)
    return dict(times=times, plan=median(plans or [0]), blocks=median(blocks), share=median(share or [0]), peak=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1e6)

@call_parse
def main(
    corpus: str,          # Folder made by meloformer prepare
    lengths: str = '2048 4096 8192 16384', # Places in a window
    size: str = 'small',  # The model size whose heads are taken
    mask: str = 'meloformer', # Preset of meloformer.net.masks
    repeats: int = 5,     # Rounds that count
    one: str = ''         # For its own use: measure this and print it
):
    "Time one call of attention"
    if one:
        length,kinds = one.split(',')
        print(json.dumps(measure(corpus, size, mask, int(length), repeats, kinds.split('+'))))
        return
    def child(n, length, kinds): return json.loads(subprocess.run([sys.executable, __file__, corpus, '--size', size, '--mask', mask, '--repeats', str(n), '--one', f'{length},{kinds}'], capture_output=True, text=True, check=True).stdout)
    rows = []
    for length in map(int, lengths.split()):
        r,peak = child(repeats, length, '+'.join(WAYS)),{k: child(1, length, k)['peak'] for k in WAYS}
        t = r['times']
        rows.append(dict(length=length, **{f'{k}_ms': round(1e3*median(v), 1) for k,v in t.items()}, **{f'{k}_over_gather': round(median(a/b for a,b in zip(t[k], t['gather'])), 2) for k in RIVALS},
                         pairs_computed=round(r['share'], 3), plan_ms=round(1e3*r['plan'], 1), block_lists_ms=round(1e3*r['blocks'], 1), **{f'{k}_peak_gb': round(v, 2) for k,v in peak.items()}))
        print(rows[-1], flush=True)
    report('attention', command='python benchmarks/attention.py CORPUS', size=size, mask=mask, repeats=repeats, rows=rows)
