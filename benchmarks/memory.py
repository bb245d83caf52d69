"""How far is the network to be trusted, beside what a piece has said before?

    python benchmarks/memory.py CORPUS [--run RUN] [--pieces 36] [--longest 6144]

Fits the weights of `meloformer.net.memory` on pieces of the training split, and says what they gain on pieces of the validation split, with 95 % intervals over pieces. Other lengths of runs are tried beside them."""
import math
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import report, weights_of
from meloformer.data.corpus import Corpus
from meloformer.judging.bits import piece_edges, token_nats
from meloformer.judging.compare import interval, resample, some_pieces
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.memory import MEMORY_WEIGHTS, count_followers, fit_weights, remembered
from meloformer.net.model import MeloFormer
from meloformer.tokens.vocabulary import PITCH

LENGTHS = [tuple(MEMORY_WEIGHTS), (4,6,8,12,16,24), (8,16), (6,), (12,), (24,)] # of runs

def heard(model, data, pieces, longest):
    "Of some pieces: probabilities by the network, tokens, notes"
    res,hid = [],data.hid
    for i in tqdm(some_pieces(data, pieces).tolist(), desc='pieces', disable=None):
        t = np.asarray(data[i]).astype(np.int64)
        edges = piece_edges(hid, t)
        t = t[:max(edges[1], edges[edges<=longest][-1])]
        res.append((torch.from_numpy(np.exp(-token_nats(model, hid, t)))[1:], t, int((hid.kind[t]==PITCH)[1:].sum())))
    return res

def counts(found, lengths): return [count_followers(t, lengths)[1:] for _,t,_ in found]

@call_parse
def main(
    corpus: str,      # Folder made by meloformer prepare
    run: str = None,  # A run of meloformer train, or a checkpoint (default: the model that comes along)
    pieces: int = 36, # Of each split
    longest: int = 6144 # Tokens of a piece
):
    "Fit the weights, and measure what they gain"
    torch.set_num_threads(1)
    ckpt = find_checkpoint(run)
    model = MeloFormer.load(ckpt)
    train,val = (heard(model, Corpus(corpus, o), pieces, longest) for o in ('train','val'))
    notes = np.array([n for *_,n in val])
    draws = resample(len(val), 1000, np.random.default_rng(0))
    nats = lambda f: np.array([float(-f(p, i).log().sum()) for i,(p,*_) in enumerate(val)])
    per_note = lambda x: [round(float(x.sum()/notes.sum()/math.log(2)), 4), *interval((draws@x)/(draws@notes)/math.log(2)).round(4).tolist()]
    alone,rows = nats(lambda p,i: p),[]
    print(f'{"alone":28}{per_note(alone)}', flush=True)
    for lengths in LENGTHS:
        w = fit_weights(torch.cat([p for p,*_ in train]), torch.cat(counts(train, lengths)))
        seen = counts(val, lengths)
        rows.append(dict(lengths=lengths, weights=w.numpy().round(3).tolist(), bits=per_note(x := nats(lambda p,i: remembered(p, seen[i], w))), less=per_note(alone-x)))
        print(f'{str(lengths):28}{rows[-1]}', flush=True)
    report('memory', command='python benchmarks/memory.py CORPUS', weights=weights_of(ckpt), data=Path(corpus).name, longest=longest, pieces=len(val),
        notes=int(notes.sum()), alone=per_note(alone), rows=rows)
