"""Generated tokens and notes a second with the cache, on one thread

python benchmarks/generate.py RUN [--bars 32] [--repeats 5]

Each repeat writes a piece with another seed; loading is not counted. The cost of the last quarter of the tokens is set against
that of the first, to see whether a token gets dearer as the piece grows. Then one step of the model after invented music of 1,024 to
32,768 tokens, 110 a bar for eight instruments, without the choice of the token."""
import time
from statistics import median
import numpy as np
import torch
from fastcore.script import call_parse
from report import report
from meloformer.generate import compose
from meloformer.cache import Cache
from meloformer.guide import Ask
from meloformer.hid import HID
from meloformer.masks import FIELDS, toy_ids
from meloformer.model import MeloFormer
from meloformer.runs import find_checkpoint

def step_ms(model, length, steps=100):
    "Median milliseconds of one step after so many tokens, and the entries that it reads"
    ids,cache = toy_ids(length, length//32, bar_tokens=110, programs=8),Cache(model)
    model.prefill(cache, torch.zeros(1, length, dtype=torch.long), ids)
    row,took = torch.stack([getattr(ids, f)[:, -1] for f in FIELDS], 1),[]
    for _ in range(steps):
        start = time.perf_counter()
        model.step(cache, torch.zeros(1, dtype=torch.long), row)
        took.append(time.perf_counter()-start)
    return dict(ms=round(1e3*median(took), 2), entries=cache.used[0]-steps//2)

@call_parse
def main(
    run: str,         # A run of meloformer train, or a checkpoint
    bars: int = 32,   # Length of each piece
    repeats: int = 5  # Pieces
):
    "Time generation"
    torch.set_num_threads(1)
    ckpt = find_checkpoint(run)
    model,hid,rows = MeloFormer.load(ckpt),HID.load(ckpt),[]
    for seed in range(repeats):
        at,tokens = [time.perf_counter()],[]
        for t in compose(model, hid, Ask(bars=bars), seed):
            tokens.append(t)
            at.append(time.perf_counter())
        d,n,notes = np.diff(at),len(tokens),len(hid.decode(np.array(tokens)).notes)
        rows.append(dict(tokens=n, tokens_per_second=n/(at[-1]-at[0]), notes_per_second=notes/(at[-1]-at[0]), late_over_early=np.median(d[-n//4:])/np.median(d[2:n//4])))
    res = {k: round(median(o[k] for o in rows), 2) for k in rows[0]}
    steps = {n: [step_ms(model, n) for _ in range(repeats)] for n in (1024, 4096, 8192, 32768)}
    steps = {n: dict(ms=median(o['ms'] for o in v), entries=v[0]['entries']) for n,v in steps.items()}
    report('generate', command='python benchmarks/generate.py RUN', size=f'{sum(p.numel() for p in model.parameters())/1e6:.1f} M parameters', bars=bars, repeats=repeats, **res, step_after_tokens=steps)
