"""How fast windows are read, by one process on one thread

python benchmarks/reader.py CORPUS [--max_seq_len 8192]

Plain windows, windows with all augmentation, and whole batches with the lists of attention blocks that a model needs, on a card or on a processor; all by the code that a loader process runs."""
import time
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
from meloformer.data.corpus import Corpus
from meloformer.net.model import MeloFormer, config
from meloformer.data.packing import Packs, Window
from meloformer.training.train import batcher

@call_parse
def main(
    corpus: str, # Folder made by meloformer prepare
    max_seq_len: int = 8192,
    repeats: int = 7 # Each of as many windows as a second allows
):
    "Time the reader"
    torch.set_num_threads(1)
    corpus,window = Corpus(corpus, 'train'),Window(max_seq_len)
    net = MeloFormer(config('tiny'))
    card,processor = batcher(net, window, 'cuda'),batcher(net, window)
    plain,asked = Packs(corpus, window),Packs(corpus, window, transpose=5, track_dropout=.3, infill_prob=.5)
    kinds = dict(plain=lambda i: plain[i], augmented=lambda i: asked[i], batches=lambda i: card([asked[i]]), batches_on_cpu=lambda i: processor([asked[i]]))
    rates = {k: [] for k in kinds}
    full = sum(int((plain[i]['document']>=0).sum()) for i in range(len(plain)))/len(plain)/window.tokens
    for r in range(repeats+1):
        for k,f in kinds.items():
            start,n = time.perf_counter(),0
            while time.perf_counter()-start < 1: f(n%len(plain)); n += 1
            if r: rates[k].append(n*window.tokens/(time.perf_counter()-start)) # the first round warms up
    report('reader', command='python benchmarks/reader.py CORPUS', max_seq_len=max_seq_len, windows=len(plain), filled=round(full, 4), tokens_per_second={k: round(median(v)) for k,v in rates.items()})
