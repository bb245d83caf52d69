"""Training tokens a second and peak memory, beside the same model with PyTorch's own kernel, causal and with a boolean mask

python benchmarks/train.py CORPUS [--wanted "tiny:1024 … small:32768"] [--repeats 5]

A step is one window of real packed music: batch and plan, forward, backward, AdamW. All kinds of attention are timed in turn on the same
windows; a ratio is the median of the ratios of the rounds. Peak memory is that of a process of its own. Rows that end in ! run ours
alone, for one step, with checkpointing: what they tell is memory. Rows measured before are kept, each with its commit."""
import json, resource, subprocess, sys, time
from dataclasses import replace
from statistics import median
from fastcore.script import call_parse
from report import earlier, head, report
from rivals import RIVALS
from meloformer.data.corpus import Corpus
from meloformer.net.model import MeloFormer, config
from meloformer.data.packing import Packs, Window
from meloformer.training.optim import make_optimizer
from meloformer.training.ranks import Ranks
from meloformer.training.train import batcher, train_step

def measure(corpus, size, length, repeats, kinds, checkpointing):
    "Seconds of each step of each kind, and peak memory in GB"
    window,ranks = Window(length),Ranks('cpu')
    packs,model = Packs(Corpus(corpus), window),MeloFormer(replace(config(size), checkpointing=checkpointing))
    optimizer,times,make = make_optimizer(model, 1e-4),{k: [] for k in kinds},batcher(model, window)
    for i in range(repeats+1):
        for k in kinds:
            start = time.perf_counter()
            batch = make([packs[i]])
            if k!='gather':
                start = time.perf_counter()
                batch = batch._replace(plan=RIVALS[k](model.rule, batch.ids))
            train_step(model, optimizer, [batch], ranks)
            if i or not repeats: times[k].append(time.perf_counter()-start)
    return dict(times=times, tokens=window.tokens, peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6)

@call_parse
def main(
    corpus: str,        # Folder made by meloformer prepare
    wanted: str = 'tiny:1024 tiny:2048 tiny:4096 tiny:8192 small:1024 small:2048 small:4096 small:8192 small:16384 small:32768!', # Model sizes and window lengths
    repeats: int = 5,   # Steps that count; medians are reported
    one: str = ''       # For its own use: measure this and print it
):
    "Time training steps"
    if one:
        size,length,kinds,n,checkpointing = one.split(',')
        print(json.dumps(measure(corpus, size, int(length), int(n), kinds.split('+'), checkpointing=='1')))
        return
    def child(*o): return json.loads(subprocess.run([sys.executable, __file__, corpus, '--one', ','.join(map(str, o))], capture_output=True, text=True, check=True).stdout)
    rows = earlier('train')
    for row in wanted.split():
        size,length = row.rstrip('!').split(':')
        new = dict(size=size, length=int(length), checkpointing=row.endswith('!'), commit=head())
        if new['checkpointing']:
            r = child(size, length, 'gather', 0, 1)
            new |= dict(tokens_per_second=round(r['tokens']/r['times']['gather'][0]), peak_gb=round(r['peak'], 2))
        else:
            both,alone = child(size, length, '+'.join(['gather',*RIVALS]), repeats, 0),child(size, length, 'gather', 1, 0)
            t = both['times']
            new |= dict(tokens_per_second=round(both['tokens']/median(t['gather'])), **{f'{k}_tokens_per_second': round(both['tokens']/median(t[k])) for k in RIVALS},
                        **{f'{k}_over_gather': round(median(a/b for a,b in zip(t[k], t['gather'])), 2) for k in RIVALS}, peak_gb=round(alone['peak'], 2))
        print(new, flush=True)
        key = lambda o: (o['size']!='tiny', o['length'], o['checkpointing'])
        rows = sorted([o for o in rows if key(o)!=key(new)]+[new], key=key)
        report('train', command='python benchmarks/train.py CORPUS', repeats=repeats, rows=rows)
