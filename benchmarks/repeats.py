"""How much of a piece can be told from its own past: the token that followed the last time the same tokens stood there

python benchmarks/repeats.py CORPUS

For each token of the validation split the longest of the last 16, 8, 4 or 2 tokens that has stood earlier in the piece is looked up, and what followed
it there is the guess. Shares of tokens by the length that was found, and how often the guess is right; by set."""
import numpy as np
from fastcore.script import call_parse
from report import report
from meloformer.data.corpus import Corpus

LENGTHS = 16,8,4,2

def grams(
    tokens: np.ndarray, # One piece, shape (T,)
    n: int
) -> np.ndarray: # A number for the last `n` tokens at each place, the same for the same tokens, shape (T,); 0 where there are fewer
    "Name the runs of `n` tokens"
    if len(tokens) < n: return np.zeros(len(tokens), int)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, n)
    _,name = np.unique(runs, axis=0, return_inverse=True)
    return np.concatenate([np.zeros(n-1, int), 1+name.ravel()])

def guesses(
    tokens: np.ndarray # One piece, shape (T,)
) -> tuple: # Guess of each token's successor, and index in `LENGTHS` of what was found, each of shape (T,); `len(LENGTHS)` and -1 where nothing was
    "What followed the longest match, at its last place"
    guess,found = np.full(len(tokens), -1),np.full(len(tokens), len(LENGTHS))
    for i,n in enumerate(LENGTHS):
        last = {}
        for t,g in enumerate(grams(tokens, n).tolist()):
            if g and found[t]==len(LENGTHS) and g in last: guess[t],found[t] = tokens[last[g]+1],i
            last[g] = t
    return guess,found

@call_parse
def main(
    corpus: str # Folder made by meloformer prepare
):
    "Count what the past of each piece tells"
    assert guesses(np.array([1, 2, 3, 9, 1, 2]))[0].tolist() == [-1]*5+[3]
    corpus = Corpus(corpus, 'val')
    seen,right = np.zeros((2, len(corpus.sets), len(LENGTHS)+1))
    for i,s in enumerate(corpus.set_of):
        t = np.asarray(corpus[i]).astype(int)
        guess,found = guesses(t)
        np.add.at(seen[s], found[:-1], 1)
        np.add.at(right[s], found[:-1], guess[:-1]==t[1:])
    rows = [dict(set=name, tokens=int(n.sum()), share=(n/n.sum()).round(3).tolist(), right=(r/n.clip(min=1)).round(3).tolist(), all=round(r.sum()/n.sum(), 3))
            for name,n,r in zip(corpus.sets, seen, right) if n.sum()]
    report('repeats', command='python benchmarks/repeats.py CORPUS', lengths=LENGTHS, rows=rows)
