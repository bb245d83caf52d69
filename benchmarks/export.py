"""Does the exported step write as fast as PyTorch, and what PyTorch writes?

    python benchmarks/export.py [--tokens 120] [--repeats 5]

A piece for piano, bass and drums with one seed, by turns with PyTorch and with ONNX Runtime, on one thread each; sampler and grammar are the same for both, and counted. The tokens must be the same. Seconds are those
of the processor, which other work on the machine does not lengthen much; `faster` is the median of the ratios of neighbouring turns. Then 500 tokens are read step by step by both, without sampler: the largest
difference of a logit, and again the speed."""
import tempfile, time
from itertools import islice
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse
from report import report
from meloformer.apps.onnx import OnnxModel, stepped_logits, write_export
from meloformer.net.model import MeloFormer
from meloformer.writing.generate import compose
from meloformer.writing.request import GenerationRequest

def timed(f):
    "What a function gives, and how many of it a second of the processor"
    start = time.process_time()
    res = f()
    return res,len(res)/(time.process_time()-start)

def figures(pairs):
    "Medians of both and of their ratio"
    both,ratios = zip(*pairs),[b/a for a,b in pairs]
    return dict(zip(('pytorch','onnx'), (round(median(o), 1) for o in both)), faster=round(median(ratios), 2))

@call_parse
def main(
    tokens: int = 120, # Of each piece that is written
    read: int = 500,   # Of the piece that is read
    repeats: int = 5
):
    torch.set_num_threads(1)
    model = MeloFormer.from_pretrained()
    asked = GenerationRequest(chords='Am F C G', instruments='piano, bass, drums', bars=32).parse(model.hid)
    with tempfile.TemporaryDirectory() as tmp:
        write_export(model, tmp)
        size,models = (Path(tmp)/'model.onnx').stat().st_size,(model, OnnxModel(tmp))
        write = lambda m,seed: timed(lambda: list(islice(compose(m, model.hid, asked, seed), tokens)))
        written = [[write(m, seed) for m in models] for seed in range(repeats)]
        assert all(a[0]==b[0] for a,b in written)
        piece = list(islice(compose(model, model.hid, asked, 0), read))
        logits = [stepped_logits(m, model.hid, piece) for m in models]
        stepped = [[timed(lambda m=m: stepped_logits(m, model.hid, piece[:tokens]))[1] for m in models] for _ in range(repeats)]
    report('export', ('onnx','onnxruntime','onnxscript'), command='python benchmarks/export.py', tokens=tokens, repeats=repeats, megabytes=round(size/1e6, 2), read=len(piece), largest_difference=float((logits[0]-logits[1]).abs().max()),
        written_tokens_a_second=figures([(a[1], b[1]) for a,b in written]), read_tokens_a_second=figures(stepped))
