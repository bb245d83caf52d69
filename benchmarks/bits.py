"""Bits a note of held-out music, by set and by context, beside who counts and who copies from the piece

    python benchmarks/bits.py CORPUS [--run RUN] [--pieces 40] [--longest 16384]

Pieces are drawn from the validation split, each set in its turn; of longer ones the first --longest tokens count. With one core the 2.9 M model takes some minutes."""
import time
from pathlib import Path
import torch
from fastcore.script import call_parse
from report import report, weights_of
from meloformer.judging.bits import bits_text, by_set, draw_bits, measure_bits
from meloformer.data.corpus import Corpus
from meloformer.net.model import MeloFormer, count_parameters
from meloformer.net.checkpoint import find_checkpoint

@call_parse
def main(
    corpus: str,      # Folder made by meloformer prepare
    run: str = None,  # A run of meloformer train, or a checkpoint (default: the model that comes along)
    pieces: int = 40, # Of the validation split (0: all)
    longest: int = 16384, # Tokens of a piece
    seed: int = 0,    # Of the choice of pieces
    picture: str = None, # PNG file to draw
    device: str = 'cpu'
):
    "Measure bits a note"
    torch.set_num_threads(1)
    ckpt,start = find_checkpoint(run),time.time()
    model = MeloFormer.load(ckpt, device)
    found = by_set(measure_bits(model, Corpus(corpus), Corpus(corpus, 'val'), pieces, longest=longest, seed=seed))
    if picture: draw_bits(found).figure.savefig(picture, dpi=120)
    print(bits_text(found), flush=True)
    report('bits', command='python benchmarks/bits.py CORPUS', size=f'{count_parameters(model.cfg)/1e6:.1f} M parameters', weights=weights_of(ckpt),
        data=Path(corpus).name, longest=longest, seed=seed, seconds=round(time.time()-start), rows=found)
