"""Generated tokens and notes a second with the cache, on one thread

python benchmarks/generate.py RUN [RUN …] [--bars 32] [--repeats 5]

Each run writes pieces with other seeds, by turns as it is and compiled; loading is not counted, and the first compiled piece, in which the
compiler works, is told apart. The cost of the last quarter of the tokens is set against that of the first, to see whether a token gets dearer as the piece
grows. Then one step, the choice of the token included, after invented music of 1,024 to 32,768 tokens, 110 a bar for eight instruments. Sizes measured before are kept, each with its commit."""
import time
from statistics import median
import numpy as np
import torch
from fastcore.script import Param, call_parse
from report import earlier, head, report
from meloformer.writing.generate import BatchGenerator, compose
from meloformer.net.cache import Cache
from meloformer.writing.constraints import TokenRequest
from meloformer.tokens.hid import HID
from meloformer.net.masks import FIELDS, toy_ids
from meloformer.net.model import MeloFormer
from meloformer.net.checkpoint import find_checkpoint

def step_ms(model, hid, length, compiled, steps=200):
    "Median milliseconds of one step after so many tokens, and the entries that it may read"
    ids,cache,w = toy_ids(length, length//32, bar_tokens=110, programs=8),Cache(model),BatchGenerator(model, hid, [TokenRequest()], [0])
    model.prefill(cache, torch.zeros(1, length, dtype=torch.long), ids)
    row,took,w.cache,w.compiled = torch.stack([getattr(ids, f)[:, -1] for f in FIELDS], 1),[],cache,compiled
    for i in range(steps+5):
        start = time.perf_counter()
        cache.make_room()
        with torch.inference_mode(not compiled): (w.read_compiled if compiled else w.read)([(0, row)], torch.zeros(1, dtype=torch.long), row)
        took.append(time.perf_counter()-start)
    return dict(ms=round(1e3*median(took[5:]), 2), entries=cache.width if compiled else max(cache.used))

def timed(model, hid, bars, seed, compiled):
    "A piece, and what it took"
    at,tokens = [time.perf_counter()],[]
    for t in compose(model, hid, TokenRequest(bars=bars), seed, compiled=compiled):
        tokens.append(t)
        at.append(time.perf_counter())
    d,n,notes = np.diff(at),len(tokens),len(hid.decode(np.array(tokens)).notes)
    return dict(tokens=n, tokens_per_second=n/(at[-1]-at[0]), notes_per_second=notes/(at[-1]-at[0]), late_over_early=np.median(d[-n//4:])/np.median(d[2:n//4]), seconds=at[-1]-at[0])

def measured(run, bars, repeats):
    "Rows of one run, as it is and compiled"
    ckpt = find_checkpoint(run)
    model,hid = MeloFormer.load(ckpt),HID.load(ckpt)
    first,rows = timed(model, hid, bars, 0, True)['seconds'],{False: [], True: []}
    for seed in range(repeats):
        for c,own in rows.items(): own.append(timed(model, hid, bars, seed, c))
    for c,own in rows.items():
        steps = {n: step_ms(model, hid, n, c) for n in (1024, 4096, 8192, 32768)}
        yield dict(size=f'{sum(p.numel() for p in model.parameters())/1e6:.1f} M parameters', compiled=c, commit=head(), bars=bars, repeats=repeats, **{k: round(median(o[k] for o in own), 2) for k in own[0]},
            step_after_tokens=steps, **(dict(first_piece_seconds=round(first, 1)) if c else {}))

@call_parse
def main(
    runs: Param('Runs of meloformer train, or checkpoints', str, nargs='+'),
    bars: int = 32,   # Length of each piece
    repeats: int = 5  # Pieces
):
    "Time generation"
    torch.set_num_threads(1)
    for run in runs:
        rows = list(measured(run, bars, repeats))
        for r in rows: print(r, flush=True)
        kept = [r for r in earlier('generate') if r['size']!=rows[0]['size']]
        report('generate', command='python benchmarks/generate.py RUN …', rows=sorted(kept+rows, key=lambda r: (float(r['size'].split()[0]), r['compiled'])))
