"""Does what is written follow the words?

    python benchmarks/adherence.py CORPUS [--run RUN] [--pieces 200] [--seeds 1] [--prefix FILE] [--minutes 60]

Eight bars of validation pieces are described by wordings that no bridge was trained with, and written anew by what is told: `own` caption over the bridge alone, with nothing held to the letter; `shuffled`, the caption of another piece;
`true`, the outline of the piece itself; `none`; `parser`, what the words settle, and no bridge; `both`, what `meloformer text` asks for, drawn once;
`attributes`, the key, density and players that are told as tokens of `meloformer.tokens.attributes`, which the weights were trained with; `prefix`, the caption as states in front of the music, of `benchmarks/prefix.py`, where its FILE is given. Told facts are measured in what is written, as captions measure them: tempo within its word's range
(TB) or one beside it (TBT), key (CK), or its relative (CKD), meter (CTS), instruments (CI, F1 of programs), words for density and register, chords (share of the sound that is in them, which go round bar by bar), harmony
(counts of pitch classes and basses in common with the piece, bar by bar, where key or chords are told). `copied` is the share of the bars of music that stand in the training split, in any key. Key is the best of Krumhansl's correlations. `sections` are pieces of two halves with captions of two songs: how much nearer
each half is to what its own caption tells than to the same of the other song. 95 % intervals over pieces. Rows are kept as they come; the same command goes on."""
import hashlib, re, time
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from prefix import Prefixed
from report import earlier, keep, report
from meloformer.training.bridge import stretch_of
from meloformer.data.captions import HELD_OUT, KEEP, facts_of, said
from meloformer.data.corpus import Corpus
from meloformer.judging.compare import interval, resample
from meloformer.judging.evaluate import BAR_KINDS, bar_contents
from meloformer.music.chords import KEY_NAMES, parse_chord
from meloformer.net.checkpoint import find_checkpoint
from meloformer import MeloFormer
from meloformer.tokens.hid import HID
from meloformer.tokens.outline import likeness, outline_of
from meloformer.writing.figures import Piece, in_chord, key_fit
from meloformer.writing.generate import compose_many
from meloformer.writing.request import GenerationRequest, with_outline

BARS,BATCH,CHORDED = 8,25,25 # bars of a piece; pieces that are written side by side; those that tell chords
TEMPI = 60, 76, 96, 112, 132, 160 # where one word for the tempo ends and the next begins
WAYS = 'own','shuffled','true','none','parser','both','attributes','prefix','sections'
BRIDGED = 'own','shuffled','both','sections' # those that another bridge changes
NOTES = {'very sparse': 6, 'sparse': 12, 'flowing': 24, 'busy': 48, 'very dense': 96} # a bar, as a token tells it

def measured(hid, tokens, first=0, stop=None):
    "Facts of some bars, and the key that fits best even where captions would tell none"
    grid,chords = hid.decode_grid(tokens)
    res = facts_of(grid, chords, first, stop)
    n = grid.notes[(grid.notes['bar']>=first) & (grid.notes['bar']<(stop or len(grid.bars)))]
    res['programs'] = sorted(set(n['program'].tolist()))
    res['bpm'] = float(res.get('tempo', 120))
    fit = key_fit(Piece.from_tokens(hid, tokens))
    res['best_key'] = KEY_NAMES[int(fit.argmax())] if np.isfinite(fit).all() else None
    return res

def described(hid, tokens, rng, need):
    "A caption of a piece in an unseen wording, which facts it tells, and all facts; None where it tells nothing of what it needs to"
    facts = measured(hid, tokens)
    for _ in range(50*bool(need & facts.keys())):
        wording,some = str(rng.choice(HELD_OUT)),{k: v for k,v in facts.items() if rng.random()<KEEP}
        if text := said(wording, some):
            told = [k for k in some if said(wording, {a: b for a,b in some.items() if a!=k})!=text]
            if need & set(told): return text,told,facts
    return None

def relative(key): # 'A minor' for 'C major'
    i = KEY_NAMES.index(key)
    return KEY_NAMES[(i+9)%12+12 if i<12 else (i-12+3)%12]

def f1(a, b): return 2*len(set(a) & set(b))/max(1, len(set(a))+len(set(b)))

def scores(told, want, got):
    "What holds of what was told"
    res,bin_of = {},lambda o: int(np.searchsorted(TEMPI, o['bpm']))
    if 'tempo' in told: res |= dict(TB=bin_of(want)==bin_of(got), TBT=abs(bin_of(want)-bin_of(got))<=1, tempo_10=abs(got['bpm']/want['bpm']-1)<=.1)
    if 'key' in told: res |= dict(CK=got['best_key']==want['key'], CKD=got['best_key'] in (want['key'], relative(want['key'])))
    if 'meter' in told: res['CTS'] = got.get('meter')==want['meter']
    if 'instruments' in told: res['CI'] = f1(want['programs'], got['programs'])
    for k in ('density','register'):
        if k in told and k in want: res[k] = got.get(k)==want[k]
    return {k: round(float(v), 4) for k,v in res.items()}

def music_bars(grid):
    "A number for each bar of music, the same in all keys"
    number,kind = bar_contents(grid)
    return number[kind==BAR_KINDS.index('music')]

def compared(hid, told, facts, piece, tokens, known):
    "What is written beside the chords that were told, the harmony of the piece, and the bars of the training split"
    grid,res = hid.decode_grid(tokens)[0],{}
    if len(bars := music_bars(grid)): res['copied'] = np.isin(bars, known).mean()
    if {'key','chords'} & set(told): res['harmony'] = likeness(outline_of(hid, piece), outline_of(hid, tokens))['harmony']
    if 'chords' in told:
        labels = np.resize([parse_chord(o) for o in facts['chords']], len(grid.bars))
        res['chords'] = np.nan_to_num(in_chord(Piece(grid, (Piece(grid).starts[:-1], labels)))) # silence keeps to none
    return {k: round(float(v), 4) for k,v in res.items()}

def as_attributes(told, facts):
    "What attributes can say of what a caption tells"
    ways = dict(key=('key', facts.get('key')), density=('density', NOTES.get(facts.get('density'))), instruments=('players', len(facts.get('instruments', ()))))
    return ', '.join(f'{k} {v}' for o,(k,v) in ways.items() if o in told)

def songs(corpus, n):
    "Excerpts with their captions: `n` as they come, and CHORDED more that tell chords, for few go round in four"
    res,i = [],0
    while len(res)<n+CHORDED:
        rng = np.random.default_rng((5, i := i+1))
        tokens,need = stretch_of(corpus, rng, BARS),{'key','tempo','meter','instruments','density','register'} if len(res)<n else {'chords'}
        if len(outline_of(corpus.hid, tokens))==BARS and (words := described(corpus.hid, tokens, rng, need)): res.append((tokens, words))
    return res

def asked(model, way, each, i, seed):
    "The request of piece `i`"
    tokens,(text,told,facts) = each[i]
    other,kw = each[(i+len(each)//2)%len(each)],dict(bars=BARS, seed=seed*100_000+i)
    if way=='own': r = GenerationRequest(text=text, no_settle=True, **kw)
    elif way=='shuffled': r = GenerationRequest(text=other[1][0], no_settle=True, **kw)
    elif way=='true': r = GenerationRequest(like=outline_of(model.hid, tokens), **kw)
    elif way=='sections': r = GenerationRequest(text=f'[1-4] {text} [5-8] {other[1][0]}', no_settle=True, **kw)
    elif way=='attributes': r = GenerationRequest(attributes=as_attributes(told, facts), **kw)
    elif way in ('none','prefix'): r = GenerationRequest(**kw)
    else: r = GenerationRequest(text=re.sub(r'\b8 bars\b', '', text), **kw)
    return (r if way=='parser' else with_outline(model, r)).parse(model.hid)

def halves(hid, each, i, tokens):
    "Each half beside what its own caption told, less the same beside what that of the other half told; None where nothing can be compared"
    res,songs = {},(each[i], each[(i+len(each)//2)%len(each)])
    for (first, stop),(_,(_,told,mine)),(_,(_,_,its)) in zip(((0, 4), (4, 8)), songs, songs[::-1]):
        got = measured(hid, tokens, first, stop)
        for k in ('density','register'):
            if k in told and k in its: res.setdefault('gap_'+k, []).append(float(got.get(k)==mine[k])-float(got.get(k)==its[k]))
        if 'instruments' in told: res.setdefault('gap_CI', []).append(f1(mine['programs'], got['programs'])-f1(its['programs'], got['programs']))
    return {k: round(float(np.mean(v)), 4) for k,v in res.items()}

def over_pieces(found):
    "Mean and interval of (piece, value), where each piece counts once, whatever its seeds; and the pieces"
    x = np.array([np.mean([v for q,v in found if q==p]) for p in dict.fromkeys(p for p,_ in found)])
    draws = resample(len(x), 2000, np.random.default_rng(0))@x/len(x)
    return [round(float(x.mean()), 3), *interval(draws).round(3).tolist(), len(x)]

def summary(rows):
    "Mean of each measure, with its interval and the pieces that tell of it"
    res = {}
    for way in dict.fromkeys(r['way'] for r in rows):
        own = [r for r in rows if r['way']==way]
        for k in dict.fromkeys(k for r in own for k in r['scores']):
            res.setdefault(way, {})[k] = over_pieces([(r['piece'], r['scores'][k]) for r in own if k in r['scores']])
    return res

def above(rows):
    "How much more `own` has than `shuffled` and `none`, piece by piece"
    by = {(r['way'], r['seed'], r['piece']): r['scores'] for r in rows}
    res = {}
    for other in ('shuffled','none'):
        pairs = [(p, by['own', s, p], by[other, s, p]) for w,s,p in by if w=='own' and (other, s, p) in by]
        for k in dict.fromkeys(k for _,a,_ in pairs for k in a):
            res.setdefault(other, {})[k] = over_pieces([(p, a[k]-b[k]) for p,a,b in pairs if k in a and k in b])[:3]
    return res

def digest(data): return hashlib.sha256(data).hexdigest()[:12]

@call_parse
def main(
    corpus: str,       # Folder made by meloformer prepare
    run: str = None,   # A model with a bridge (default: the one that comes along)
    pieces: int = 200, # Of the validation split
    seeds: int = 1,
    ways: str = ' '.join(WAYS), # Which of them
    prefix: str = None, # File of benchmarks/prefix.py; without, that way is left out
    minutes: float = 1e9 # No new pieces are begun after so many
):
    "Write, and measure"
    torch.set_num_threads(1)
    end,ckpt = time.time()+60*minutes,find_checkpoint(run)
    model,val = MeloFormer.from_pretrained(ckpt),Corpus(corpus, 'val')
    each,train = songs(val, pieces),Corpus(corpus)
    known = np.unique(np.concatenate([music_bars(train.hid.decode_grid(t)[0]) for t in train]))
    alone,bridge = ((ckpt/o).read_bytes() for o in ('model.safetensors','bridge.safetensors'))
    weights = digest(alone+bridge)
    nets,of = dict.fromkeys(WAYS, model),{w: weights if w in BRIDGED else digest(alone) for w in WAYS}
    if prefix:
        nets['prefix'],of['prefix'] = Prefixed(model),digest(alone+Path(prefix).read_bytes())
        nets['prefix'].states.load_state_dict(torch.load(prefix)['states'])
    captions = digest('\n'.join(text for _,(text,_,_) in each).encode())
    rows = [r for r in earlier('adherence') if r['weights']==of[r['way']] and r.get('captions')==captions]
    said = lambda: dict(command=f'python benchmarks/adherence.py CORPUS --pieces {pieces} --seeds {seeds}'+' --prefix FILE'*bool(prefix), weights=weights, data=Path(corpus).name, bars=BARS,
                        summary=summary(rows), above=above(rows), rows=rows)
    todo = [(s, a, w) for s in range(seeds) for a in range(0, len(each), BATCH) for w in ways.split() if w!='prefix' or prefix]
    for seed,first,way in tqdm(todo, disable=None):
        if time.time()>end or any((r['seed'], r['way'], r['piece'])==(seed, way, first) for r in rows): continue
        which = range(first, min(first+BATCH, len(each)))
        if way=='prefix': nets[way].hear([each[i][1][0] for i in which])
        written = compose_many(nets[way], model.hid, [asked(model, way, each, i, seed) for i in which], [seed*100_000+i for i in which])
        for i,tokens in zip(which, written):
            piece,(_,told,want) = each[i]
            if way=='sections': got = halves(model.hid, each, i, tokens)
            else: got = scores(told, want, measured(model.hid, tokens)) | compared(model.hid, told, want, piece, tokens, known)
            rows.append(dict(way=way, seed=seed, piece=i, weights=of[way], captions=captions, scores=got))
        keep('adherence', **said())
    for way,own in summary(rows).items(): print(f'{way:9}', '  '.join(f'{k} {m:.2f} [{a:.2f}, {b:.2f}] ({n})' for k,(m,a,b,n) in own.items()))
    for other,own in above(rows).items(): print(f'own over {other}:', '  '.join(f'{k} {m:+.2f} [{a:+.2f}, {b:+.2f}]' for k,(m,a,b) in own.items()))
    report('adherence', **said())
