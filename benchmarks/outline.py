"""Does a model listen to what bars are to be like?

    python benchmarks/outline.py CORPUS [RUN] [--windows 40]

Bits a note on validation windows of 2,048 places: told nothing, the truth of every bar, the truth of another window (the one before, bar by bar), and one fact alone. With 95 % intervals over windows; a model listens if the truth takes at least 15 % of the bits, and another's adds some."""
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from report import report, weights_of
from meloformer.data.corpus import Corpus
from meloformer.data.packing import Packs, Window
from meloformer.judging.compare import interval, resample
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.pretrained import *
from meloformer.net.model import MeloFormer
from meloformer.tokens.outline import FACTS
from meloformer.training.outline import bits_told

@call_parse
def main(
    corpus: str,      # Folder made by meloformer prepare
    run: str = None,  # A run of meloformer outline, or a checkpoint (default: the model that comes along)
    windows: int = 40 # Of the validation split
):
    "Measure nothing, the truth, another's, and each fact alone"
    torch.set_num_threads(1)
    ckpt = find_checkpoint(run)
    rows = bits_told(MeloFormer.from_pretrained(ckpt), Packs(Corpus(corpus, 'val'), Window(2048), shuffle=False), windows)
    notes,draws = rows[:, -1],resample(len(rows), 1000, np.random.default_rng(0))
    ratio = lambda a,b: [round(float(a.sum()/b.sum()), 3), *interval((draws@a)/(draws@b)).round(3).tolist()]
    names = 'nothing','truth','another',*FACTS
    bits = {k: ratio(o, notes) for k,o in zip(names, rows.T)}
    share = {k: ratio(o, rows[:, 0]) for k,o in zip(names[1:], rows.T[1:])}
    for k in names: print(f'{k:9} {bits[k]}  {share.get(k, "")}', flush=True)
    report('outline', command='python benchmarks/outline.py CORPUS', weights=weights_of(ckpt),
        data=Path(corpus).name, windows=len(rows), notes=int(notes.sum()), bits_a_note=bits, share_of_nothing=share)
