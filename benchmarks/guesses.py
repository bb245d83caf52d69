"""How much is saved by guesses at what comes next?

    python benchmarks/guesses.py [--seeds 3] [--repeats 5]

Pieces of 16 bars of the ensembles of `command.py`, written with guesses and without, by turns. Told are tokens, how many of them a step of the network gives, and the median of the ratios of time. The pieces have to be the same. Run it alone."""
import time
from statistics import median
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.net.cache import ArrayStep
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.model import MeloFormer
from meloformer.tokens.hid import HID
from meloformer.writing import generate
from meloformer.writing.request import GenerationRequest
from command import FOUR
from report import report, weights_of

def written(model, hid, who, seed, guesses):
    "Notes of a piece, its tokens, steps of the network, seconds"
    counts,guess,states,add = dict(tokens=0, steps=0),generate.Echo.guess,ArrayStep.states,generate.Echo.add
    def counted(what, f):
        def one(*a):
            counts[what] += 1
            return f(*a)
        return one
    ArrayStep.states,generate.Echo.add = counted('steps', states),counted('tokens', add)
    if not guesses: generate.Echo.guess = lambda *_: []
    start = time.perf_counter()
    try: score = generate.generate_score(model, hid, GenerationRequest(bars=16, instruments=who).parse(hid), seed)
    finally: ArrayStep.states,generate.Echo.guess,generate.Echo.add = states,guess,add
    return [tuple(o) for o in score.notes.tolist()],counts['tokens'],counts['steps'],time.perf_counter()-start

@call_parse
def main(
    seeds: int = 3,  # Of each ensemble
    repeats: int = 5 # Of each piece
):
    torch.set_num_threads(1)
    ckpt = find_checkpoint(None)
    model,hid,rows = MeloFormer.load(ckpt),HID.load(ckpt),[]
    for name,seed in tqdm([(n, s) for s in range(1, seeds+1) for n in FOUR], disable=None):
        pairs = [[written(model, hid, FOUR[name], seed, o) for o in (True, False)] for _ in range(repeats)]
        (notes,tokens,steps,_),(others,*_) = pairs[0]
        assert notes==others, 'a guess has changed a piece'
        rows.append(dict(name=name, seed=seed, notes=len(notes), tokens=tokens, tokens_a_step=round(tokens/steps, 2), ratio=round(median(a[3]/b[3] for a,b in pairs), 2)))
    report('guesses', command=f'python benchmarks/guesses.py --seeds {seeds} --repeats {repeats}', weights=weights_of(ckpt), rows=rows)
