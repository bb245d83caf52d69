"""Texts as a prefix: the plainest way to let a model hear words, which the bridge is set beside

    python benchmarks/prefix.py CORPUS FILE [--run RUN] [--steps 1000]

A caption is eight states in front of the music, anew in each layer, made linearly from the words of the caption as the bridge hears them, at unit length (Li & Liang, "Prefix-Tuning", 2021); the model itself is frozen. They lie in the slots of eight
summaries, of bars before the first, which by the rules of the mask every token and every summary of the piece reads. They learn from the first tokens of eight-bar stretches of the training split and the captions that `meloformer train_bridge` draws,
one in ten of which is left unsaid. Measured on the validation split: bits a note with a stretch's own caption, with another's, with none, and without a prefix. `benchmarks/adherence.py --prefix FILE` writes with it. Stopped, the same command goes on from the last 25 steps."""
import time
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import report, weights_of
from meloformer import MeloFormer
from meloformer.data.corpus import Corpus
from meloformer.judging.compare import interval, resample
from meloformer.net.checkpoint import find_checkpoint
from meloformer.net.masks import FIELDS, Ids
from meloformer.tokens.vocabulary import PITCH
from meloformer.training.bridge import described, stretch_of
from meloformer.training.optim import lr_at
from meloformer.writing.constraints import piece_ids

BARS,K,RANK,LR = 8,8,128,.003 # bars of a stretch; states of a prefix; numbers that a text becomes on the way; peak learning rate of AdamW
SIZE,TOKENS,SILENT = 8,384,.1 # stretches of a step; tokens that are read of each, so that there is time for more; share of captions left unsaid

def behind(ids):
    "Ids of one piece behind those of a prefix"
    n,first = torch.arange(-K, 0, dtype=torch.int32)[None],ids.at([0]*K)
    own = {k: getattr(first, k) for k in FIELDS} | dict(bar=n, order=2*n+1, slot=n, index=0*n)
    return Ids(**{k: torch.cat([o, getattr(ids, k)], 1)+K*(k=='slot') for k,o in own.items()}, n_summaries=ids.n_summaries+K)

def mean_loss(model, ids, tokens):
    "Of the tokens of a piece, in nats"
    t = torch.from_numpy(tokens)[None]
    return torch.nn.functional.cross_entropy(model(t, ids, model.plan(ids))[0, :-1], t[0, 1:])

class Prefixed(MeloFormer):
    "A frozen model that reads a text first"
    def __init__(self, model):
        super().__init__(model.cfg)
        self.load_state_dict(model.state_dict())
        self.requires_grad_(False).eval()
        self.hid,self.hear_words,shape = model.hid,model.bridge.hear,(len(self.blocks), K, model.cfg.width)
        into,out = torch.nn.Linear(model.bridge.cfg.words, RANK, bias=False),torch.nn.Linear(RANK, int(np.prod(shape)))
        for w,std in ((into.weight, 1), (out.bias, .02), (out.weight, 0)): torch.nn.init.normal_(w, std=std) # texts begin to matter from nothing
        with torch.no_grad(): out.bias.view(shape).add_(self.summary)
        self.states = torch.nn.Sequential(into, out, torch.nn.Unflatten(1, shape))
        for l,b in enumerate(self.blocks): b.register_forward_pre_hook(lambda _, given, l=l: self.lay(l, given))

    def hear(self, texts): # one for each piece
        self.texts = self.states(torch.nn.functional.normalize(self.hear_words(texts)))

    def lay(self, layer, given):
        "The states in front of what a layer is given"
        return torch.cat([self.text[:, layer], given[0][:, K:]], 1),*given[1:]

    def prefill(self, cache, tokens, ids, then=None, b=0, *rest): # piece `b` is begun behind its own text
        self.text = self.texts[b:b+1]
        return super().prefill(cache, tokens, behind(ids), then, b, *rest)

    def nats(self, tokens, text):
        "Mean loss of a piece behind a text"
        self.hear([text])
        self.text = self.texts
        return mean_loss(self, behind(piece_ids(self.hid, tokens)), tokens)

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
        nats = [model.nats(tokens, o).item() for o in (text, each[i-1][1], '')]+[mean_loss(plain, piece_ids(plain.hid, tokens), tokens).item()]
        res.append([*np.array(nats)*(len(tokens)-1)/np.log(2), (plain.hid.kind[tokens]==PITCH).sum()])
    return np.array(res)

@call_parse
def main(
    corpus: str,       # Folder made by meloformer prepare
    file: str,         # Where the prefix is written
    run: str = None,   # A model (default: the one that comes along)
    steps: int = 1000, # Of 8 stretches
    val: int = 128     # Stretches of the validation split
):
    "Train, keep and measure"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ckpt,train,state = find_checkpoint(run),Corpus(corpus),dict(step=0, seconds=0)
    plain = MeloFormer.from_pretrained(ckpt)
    if not plain.bridge: raise ValueError(f'{ckpt}: has no bridge, whose ear for words the prefix takes; train one: meloformer train_bridge')
    model = Prefixed(plain)
    opt = torch.optim.AdamW(model.states.parameters(), LR, betas=(.9, .99), weight_decay=.01)
    if Path(file).exists():
        state = torch.load(file)
        for o,k in ((model.states, 'states'), (opt, 'optimizer')): o.load_state_dict(state[k])
    start = time.process_time()-state['seconds']
    for step in tqdm(range(state['step'], steps), disable=None):
        rng = np.random.default_rng((1, step))
        for o in opt.param_groups: o['lr'] = lr_at(step, steps, LR, warmup=steps//50+1, decay=.5)
        for tokens,text in (drawn(train, 0, step, i) for i in range(SIZE)):
            (model.nats(tokens[:TOKENS], '' if rng.random()<SILENT else text)/SIZE).backward()
        torch.nn.utils.clip_grad_norm_(model.states.parameters(), 1.)
        opt.step()
        opt.zero_grad(set_to_none=True)
        state = dict(states=model.states.state_dict(), optimizer=opt.state_dict(), step=step+1, seconds=time.process_time()-start)
        if step%25==24 or step+1==steps: torch.save(state, file)
    rows = heard(model, plain, Corpus(corpus, 'val'), val)
    draws = resample(len(rows), 1000, np.random.default_rng(0))
    def to(b): return {k: [round(float(a.sum()/b.sum()), 4), *interval((draws@a)/(draws@b)).round(4).tolist()] for k,a in zip(('own','another','none','no_prefix'), rows.T)}
    report('prefix', command=f'python benchmarks/prefix.py CORPUS FILE --steps {steps}', weights=weights_of(ckpt),
        data=Path(corpus).name, steps=state['step'], minutes_of_a_processor=round(state['seconds']/60, 1), parameters=sum(p.numel() for p in model.states.parameters()), stretches=len(rows),
        bits_a_note=to(rows[:, 4]), share_of_another=to(rows[:, 1]), share_of_none=to(rows[:, 2]))
