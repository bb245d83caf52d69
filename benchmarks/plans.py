"""Does a model listen to what bars are to be like?

    python benchmarks/plans.py CORPUS RUN [--windows 24]

Bits a note on validation windows of 2,048 places: nothing told, the truth told of every bar, the truth of another window told (the one before, bar by bar), and the truth with every second bar left untold. With 95 % intervals over windows; the gate is 15 % less with the truth than with nothing, and more with another's."""
import hashlib, math
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import report
from meloformer.data.corpus import Corpus
from meloformer.data.packing import IGNORE, Packs, Window, stack
from meloformer.judging.compare import interval, resample
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.masks import with_latents
from meloformer.net.model import MeloFormer, batch_ids, losses
from meloformer.tokens.vocabulary import PITCH

@torch.no_grad()
def nats_of(model, x, ids, latents=None):
    "Nats of a window"
    return float(losses(model(x['tokens'], ids, model.plan(ids), latents), x['labels']).sum())

def wide(z, ids): return torch.nn.functional.pad(z, (0, 0, 0, ids.n_latents-z.shape[1]))

@call_parse
def main(
    corpus: str,      # Folder made by meloformer prepare
    run: str,         # A run of meloformer train --plans, or a checkpoint
    windows: int = 24 # Of the validation split
):
    "Measure nothing, the truth, and another's"
    torch.set_num_threads(1)
    ckpt = find_checkpoint(run)
    model,data,w = MeloFormer.load(ckpt),Corpus(corpus, 'val'),Window(2048)
    packs,rows,notes,before = Packs(data, w, shuffle=False),[],[],None
    n = min(windows, len(packs)-1)
    for i in tqdm(range(-1, n), desc='windows', disable=None):
        x = stack([packs[i%len(packs)]])
        ids = batch_ids(x, w.n_summaries)
        told = with_latents(ids)
        with torch.no_grad(): z = wide(model.encode_bars(x['tokens'], ids), told)
        if before is not None:
            half = with_latents(ids, (ids.bar[:, :w.n_summaries]%2==0))
            rows.append([nats_of(model, x, ids), nats_of(model, x, told, z), nats_of(model, x, told, before), nats_of(model, x, half, z)])
            ok = x['labels']!=IGNORE
            notes.append(int((data.hid.kind[x['labels'][ok].numpy()]==PITCH).sum()))
        before = z
    rows,notes = np.array(rows)/math.log(2),np.array(notes)
    draws = resample(len(rows), 1000, np.random.default_rng(0))
    per_note = lambda o: [round(float(o.sum()/notes.sum()), 3), *interval((draws@o)/(draws@notes)).round(3).tolist()]
    share = lambda o: [round(float(o.sum()/rows[:, 0].sum()), 3), *interval((draws@o)/(draws@rows[:, 0])).round(3).tolist()]
    names = 'none','true','other','half'
    bits = {k: per_note(rows[:, j]) for j,k in enumerate(names)}
    of_none = {k: share(rows[:, j]) for j,k in enumerate(names) if j}
    for k in names: print(f'{k:6}{bits[k]}  {of_none.get(k, "")}', flush=True)
    report('plans', command='python benchmarks/plans.py CORPUS RUN', weights=hashlib.sha256((ckpt/'model.safetensors').read_bytes()).hexdigest()[:12], step=ckpt.name, data=Path(corpus).name,
        windows=len(rows), notes=int(notes.sum()), bits_a_note=bits, share_of_none=of_none)
