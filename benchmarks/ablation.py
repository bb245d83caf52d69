"""What each edge, distance and coordinate is worth: bits a note of small models that may spend the same FLOPs

python benchmarks/ablation.py CORPUS [--variants "meloformer window8 …"] [--teraflops 33]

Every variant trains from the same seed on the same windows in the same order, one window a step, until its forward and backward
passes have used up the budget; so a rule that reads less sees more music. FLOPs are those of a GPU that skips empty blocks of 128.
With --steps all see the same music instead. Validation is the whole validation split. @1 after a name is another seed. Each result
is kept as soon as there is one: a run that was stopped goes on."""
import json, time
from pathlib import Path
from statistics import mean
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
import meloformer.net.model
from report import report
from meloformer.data.corpus import Corpus
from meloformer.net.blocks import occupancy
from meloformer.net.masks import PRESETS, RR, RS, SR, SS, bars_back, causal, near_bars, same_bar, same_document, same_instrument
from meloformer.net.model import HEAD_DIM, Config, MeloFormer, batch_ids
from meloformer.data.packing import Packs, Window, reader, stack
from meloformer.training.optim import lr_at, make_optimizer
from meloformer.training.ranks import Ranks
from meloformer.training.train import batcher, train_step, validate

law,summaries = causal & same_document,RS | SR & same_bar | SS
RULES = dict(
    window8=law & (RR & bars_back(*range(9)) | summaries),
    few=law & (RR & bars_back(0, 1, 2, 4, 8, 16) | summaries),
    window4=law & (RR & near_bars(4) | summaries),
    own_bar=law & (RR & same_bar | summaries),
    instrument=law & (RR & (same_bar | bars_back(1, 2, 4, 8, 12, 16, 24, 32) | same_instrument) | summaries))

def turned(*coordinates, base=10_000.):
    "Rotary angles over these fields of the ids, each with an equal share of the pairs"
    def f(ids):
        turns = torch.arange(HEAD_DIM//2).tensor_split(len(coordinates))
        angle = torch.cat([(ids.order//2 if c=='order' else getattr(ids, c))[..., None]*base**(-torch.arange(len(t))/len(t)) for c,t in zip(coordinates, turns)], -1)[:, None]
        return angle.cos(),angle.sin()
    return f

TURNS = [o.split() for o in ('order', 'bar order', 'bar index', 'bar position', 'bar position order')]
VARIANTS = {**{k: dict(mask=k) for k in (*PRESETS, *RULES)}, 'museformer two passes': dict(mask='museformer', two_pass=True), 'meloformer two passes': dict(mask='meloformer', two_pass=True),
            **{f'meloformer-{e}': dict(mask=f'meloformer-{e}') for e in ('SS','RS','RS-SR-SS')}, **{f'rotary {" ".join(o)}': dict(turn=turned(*o)) for o in TURNS}, 'rotary base 500': dict(turn=turned('bar', 'index', 'position', base=500.))}

def flops(model, ids):
    "Floating-point operations of matrix products, forward and backward, of a window of one sample"
    c,N = model.cfg,ids.shape[1]
    layers = sum(p.numel() for n,p in model.blocks.named_parameters() if p.ndim==2)
    pairs = sum(int(occupancy(r, ids)[0].sum())*128**2 for r in model.rules)
    return 6*(N*layers+(N-ids.n_summaries)*c.vocab_size*c.width)+14*HEAD_DIM*c.heads*c.layers*pairs

def train(corpus, max_seq_len, budget, steps, lr, seed, mask='meloformer', two_pass=False, turn=None):
    "Bits a note on validation, and what was spent"
    PRESETS.update({k: v.named(k, f'{k}.') for k,v in RULES.items()})
    own = meloformer.net.model.rotary
    if turn: meloformer.net.model.rotary = turn
    torch.manual_seed(seed)
    cfg = Config(width=128, layers=4, heads=2, kv_heads=2, vocab_size=len(Corpus(corpus).hid), mask=mask, two_pass=two_pass)
    model,window,ranks = MeloFormer(cfg),Window(max_seq_len),Ranks('cpu')
    packs,val = Packs(Corpus(corpus), window, seed),Packs(Corpus(corpus, 'val'), window, shuffle=False)
    each = mean(flops(model, batch_ids(stack([packs[i]]), window.n_summaries)) for i in range(8))
    steps,optimizer = steps or round(budget/each),make_optimizer(model, 0.)
    batches,start,tokens = reader(packs, 0, 1, make=batcher(model, window)),time.perf_counter(),0
    for i in tqdm(range(steps), desc=mask, disable=None):
        for g in optimizer.param_groups: g['lr'] = lr_at(i, steps, lr)
        tokens += train_step(model, optimizer, [next(batches)], ranks)[1]
    took = time.perf_counter()-start
    bits = validate(model, val, ranks)['bits']
    meloformer.net.model.rotary = own
    return dict(bits_per_note=round(bits, 3), gigaflops_a_window=round(each/1e9, 2), steps=steps, tokens=tokens, seconds=round(took))

@call_parse
def main(
    corpus: str,              # Folder made by meloformer prepare
    variants: str = ','.join(VARIANTS), # Which of them, with commas between; @1 after a name gives another seed
    max_seq_len: int = 4096,  # Places in a window
    teraflops: float = 33.,   # To spend on each
    steps: int = 0,           # To train each, whatever it costs
    lr: float = 3e-3          # Peak learning rate
):
    "Train all variants on the same budget"
    out,mine = Path(__file__).parent/'results'/'ablation.json',f'{max_seq_len} places, '+(f'{steps} steps' if steps else f'{teraflops:g} teraflops')
    have = lambda: json.loads(out.read_text())['rows'] if out.exists() else {}
    for v in variants.split(','):
        if v in have().get(mine, {}): continue
        name,_,seed = v.partition('@')
        row = train(corpus, max_seq_len, teraflops*1e12, steps, lr, int(seed or 0), **VARIANTS[name])
        rows = have()
        rows.setdefault(mine, {})[v] = row
        report('ablation', command='python benchmarks/ablation.py CORPUS', rows=rows)
