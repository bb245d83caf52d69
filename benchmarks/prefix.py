"""Texts as a prefix: the plainest way to let a model hear words, which the bridge is set beside

    python benchmarks/prefix.py CORPUS FILE [--run RUN] [--steps 550]

A caption is eight states in front of the music, anew in each layer, made linearly from the words of the caption as the bridge hears them (Li & Liang, "Prefix-Tuning", 2021); the model itself is frozen. They lie in the slots of eight
summaries, of bars before the first, which by the rules of the mask every token and every summary of the piece reads. They learn from the first tokens of eight-bar stretches of the training split and the captions that `meloformer train_bridge` draws,
one in ten of which is left unsaid. Measured on the validation split: bits a note with a stretch's own caption, with another's, with none, and without a prefix. `benchmarks/adherence.py --prefix FILE` writes with it."""
import hashlib, time
from dataclasses import replace
from functools import partial
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from report import report
from meloformer import MeloFormer
from meloformer.data.corpus import Corpus
from meloformer.judging.compare import interval, resample
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.masks import FIELDS
from meloformer.net.model import losses
from meloformer.tokens.vocabulary import PITCH
from meloformer.training.bridge import described, stretch_of
from meloformer.training.optim import lr_at
from meloformer.writing.constraints import piece_ids

BARS,K,RANK = 8,8,128 # bars of a stretch; states of a prefix; numbers that a text becomes on the way
SILENT = .1 # share of the captions that are not said in training
SIZE,TOKENS = 8,512 # stretches of a step; tokens that are read of each, so that there is time for more of them

def behind(ids):
    "Ids of one piece behind those of a prefix"
    own,n = ids.at([0]*K),torch.arange(-K, 0, dtype=torch.int32)[None]
    own = replace(own, bar=n, order=2*n+1, slot=n+K)
    both = {k: torch.cat([getattr(own, k), getattr(ids, k)], 1) for k in FIELDS}
    both['slot'][:, K:] += K
    return replace(ids, **both, n_summaries=ids.n_summaries+K)

class Prefixed(MeloFormer):
    "A frozen model that reads a text first"
    def __init__(self, model):
        super().__init__(model.cfg)
        self.load_state_dict(model.state_dict())
        self.requires_grad_(False).eval()
        self.hid,self.hear_words,shape = model.hid,model.bridge.hear,(len(self.blocks), K, model.cfg.width)
        into,out = nn.Linear(model.bridge.cfg.words, RANK, bias=False),nn.Linear(RANK, int(np.prod(shape)))
        nn.init.normal_(into.weight)
        nn.init.zeros_(out.weight) # what a text changes is learned from nothing
        nn.init.normal_(out.bias, std=.02)
        with torch.no_grad(): out.bias.view(shape).add_(self.summary)
        self.states = nn.Sequential(into, out, nn.Unflatten(1, shape))
        for l,b in enumerate(self.blocks): b.register_forward_pre_hook(partial(self.lay, l))

    def hear(self, texts):
        "Take up a text for each piece"
        self.texts = self.states(F.normalize(self.hear_words(texts)))

    def lay(self, layer, block, given):
        "The states in front of what a layer is given"
        x,*rest = given
        return torch.cat([self.text[:, layer], x[:, K:]], 1),*rest

    def prefill(self, cache, tokens, ids, then=None, b=0, *rest):
        "Piece `b` is begun behind its own text"
        self.text = self.texts[b:b+1]
        return super().prefill(cache, tokens, behind(ids), then, b, *rest)

    def nats(self, tokens):
        "Of a piece with the first of the texts: its mean loss, and the number of its tokens"
        ids,t,self.text = behind(piece_ids(self.hid, tokens)),torch.from_numpy(tokens)[None],self.texts[:1]
        return losses(self(t, ids, self.plan(ids))[:, :-1], t[:, 1:]).mean()

def drawn(corpus, *seed):
    "A stretch and its caption"
    rng = np.random.default_rng(seed)
    tokens = stretch_of(corpus, rng, BARS)
    ((text, *_),_), = described(corpus.hid, tokens, rng)[1]
    return tokens,text

@torch.no_grad()
def heard(model, plain, corpus, n):
    "Bits of `n` stretches with their own caption, another's, none and no prefix, and their notes, shape (n, 5)"
    each,res = [drawn(corpus, 9, i) for i in range(n)],[]
    for i,(tokens,text) in enumerate(each):
        def bits(said): model.hear([said]); return model.nats(tokens).item()
        ids,t = piece_ids(plain.hid, tokens),torch.from_numpy(tokens)[None]
        bare = losses(plain(t, ids, plain.plan(ids))[:, :-1], t[:, 1:]).mean().item()
        nats = np.array([bits(text), bits(each[i-1][1]), bits(''), bare])
        res.append([*nats*(len(tokens)-1)/np.log(2), (plain.hid.kind[tokens]==PITCH).sum()])
    return np.array(res)

@call_parse
def main(
    corpus: str,       # Folder made by meloformer prepare
    file: str,         # Where the prefix is written
    run: str = None,   # A model (default: the one that comes along)
    steps: int = 550, # Of 8 stretches
    lr: float = .003,  # Peak learning rate of AdamW
    val: int = 128     # Stretches of the validation split
):
    "Train, keep and measure"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ckpt,train,start = find_checkpoint(run),Corpus(corpus),time.perf_counter()
    plain = MeloFormer.from_pretrained(ckpt)
    if not plain.bridge: raise ValueError(f'{ckpt}: has no bridge, whose ear for words the prefix takes; train one: meloformer train_bridge')
    model = Prefixed(plain)
    opt = torch.optim.AdamW(model.states.parameters(), lr, betas=(.9, .99), weight_decay=.01)
    for step in (bar := tqdm(range(steps), disable=None)):
        rng,lost = np.random.default_rng((1, step)),0
        for o in opt.param_groups: o['lr'] = lr_at(step, steps, lr, warmup=steps//50+1, decay=.5)
        for i in range(SIZE):
            tokens,text = drawn(train, 0, step, i)
            model.hear(['' if rng.random()<SILENT else text])
            loss = model.nats(tokens[:TOKENS])/SIZE
            loss.backward()
            lost += loss.item()
        torch.nn.utils.clip_grad_norm_(model.states.parameters(), 1.)
        opt.step()
        opt.zero_grad(set_to_none=True)
        bar.set_postfix_str(f'{lost:.3f} nats')
        if step%50==49: print(f'step {step+1}/{steps}  loss {lost:.3f} nats a token  {time.perf_counter()-start:.0f} s', flush=True)
    torch.save(model.states.state_dict(), file)
    minutes,rows = (time.perf_counter()-start)/60,heard(model, plain, Corpus(corpus, 'val'), val)
    draws = resample(len(rows), 1000, np.random.default_rng(0))
    ratio = lambda a,b: [round(float(a.sum()/b.sum()), 3), *interval((draws@a)/(draws@b)).round(3).tolist()]
    names = 'own','another','none','no_prefix'
    report('prefix', command=f'python benchmarks/prefix.py CORPUS FILE --steps {steps} --lr {lr}', weights=hashlib.sha256((ckpt/'model.safetensors').read_bytes()).hexdigest()[:12],
        data=Path(corpus).name, steps=steps, minutes=round(minutes, 1), parameters=sum(p.numel() for p in model.states.parameters()), stretches=len(rows),
        bits_a_note={k: ratio(o, rows[:, -1]) for k,o in zip(names, rows.T)}, share_of_none={k: ratio(o, rows[:, 2]) for k,o in zip(names, rows.T)})
