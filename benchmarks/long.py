"""Does the register of players stay where it is over long pieces?

    python benchmarks/long.py DATA [--seeds 6] [--bars 200] [--minutes 20]

Two ensembles write pieces of so many bars from nothing, as `meloformer generate` has all else, with the same seeds as the model likes and, by default, led back to their registers (`near_register`). Of each player the median pitch of
each fifth of the piece is taken; counted is how far the highest lies above the lowest, the mean over players, beside the pieces of the validation split of DATA, a corpus, that are so long. Rows are kept as they come, and what is in the results
file, of the same weights, is not done again."""
import time
from dataclasses import replace
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import earlier, keep, report, weights_of
from meloformer.data.corpus import Corpus
from meloformer.judging.evaluate import excerpt
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.model import MeloFormer
from meloformer.tokens.hid import HID
from meloformer.writing.figures import Piece, figures
from meloformer.writing.generate import compose
from meloformer.writing.request import GenerationRequest
from meloformer.writing.rules import near_register

ENSEMBLES = 'violin, cello, piano','piano, bass, drums'
WAYS = 'free','led' # as the model likes, by default
TOLD = 'drift climb ambitus same_pitch one_value density'.split()

def request(hid, who, bars, way):
    "What is asked"
    r,back = GenerationRequest(bars=bars, instruments=who).parse(hid),near_register().says
    return r if way=='led' else replace(r, rules=[o for o in r.rules if getattr(o, 'says', '')!=back])

def row(p): return {k: round(float(v), 3) for k,v in figures(p, TOLD).items()}

def medians(rows): return {k: [round(float(o), 2) for o in np.nanpercentile([r[k] for r in rows], [50, 0, 100])] for k in TOLD}

@call_parse
def main(
    data: str,     # A corpus
    seeds: int = 6,
    bars: int = 200,
    minutes: float = 1e9 # No new piece is begun after so many
):
    "Measure, and keep each row"
    torch.set_num_threads(1)
    ckpt,end,val = find_checkpoint(None),time.time()+60*minutes,Corpus(data, 'val')
    model,hid = MeloFormer.load(ckpt),HID.load(ckpt)
    weights = weights_of(ckpt)
    real = [Piece.from_tokens(hid, excerpt(hid, t, bars)) for t in (val[i] for i in range(len(val))) if hid.structure(t).bar.max()+1>=bars]
    rows = [r for r in earlier('long') if r['weights']==weights and r['bars']==bars]
    key = lambda r: (r['who'], r['seed'], r['way'])
    of = lambda w: [r for r in rows if r['way']==w]
    said = lambda: dict(command='python benchmarks/long.py DATA', pieces=len(real), real=medians([row(p) for p in real]),
                        written={w: medians(of(w)) for w in WAYS if of(w)}, rows=rows)
    for seed,who,w in tqdm([(s, o, w) for s in range(1, seeds+1) for o in ENSEMBLES for w in WAYS], disable=None):
        new = dict(who=who, seed=seed, way=w, bars=bars, weights=weights)
        if key(new) in map(key, rows) or time.time()>end: continue
        tokens = np.array(list(compose(model, hid, request(hid, who, bars, w), seed)))
        rows.append(new|row(Piece.from_tokens(hid, tokens)))
        keep('long', **said())
    report('long', **said())
