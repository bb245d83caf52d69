"""Which settings of the sampler come closest to real music?

    python benchmarks/sampling.py DATA [--run RUN] [--pieces 24] [--bars 16] [--minutes 15] [--only "n0 n2 n4 h4"]

DATA is a corpus, of which the validation split counts, or a folder of MIDI that the model was not trained on. Pieces are written from nothing and over the
chords, players, meters and tempos of real pieces, with the same seeds for every setting, and all figures of `meloformer.writing.figures` are set beside those of the
real ones: their differences in units of what halves of the real music differ by, their mean the distance. First the nuclei and temperatures; then, with the
nearest of them, how far notes lean to typed chords and how long players may rest, how much of their probability pitches keep that were struck just before, and, as music is written by default, whether places and lengths are cut by the nucleus, or drawn at other temperatures.
Settings are named n0, n1 …, h1, h2 …, r1, r2 … and p0, p1 … in the order of `NUCLEI`, `HARMONY`, `REPEATS` and `PLACES`; --only chooses some. What is written is kept in --out, so that the same command goes on where it was stopped; --minutes ends it after the setting at
hand, and the table has the settings that are there. Pictures lie in --out, too.
"""
import hashlib, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import report, weights_of
from meloformer.judging.compare import compare, draw_figures, interval, rows, some_pieces, summary
from meloformer.data.corpus import Corpus, find_midi
from meloformer.judging.evaluate import controls_of, excerpt
from meloformer.writing.figures import Piece
from meloformer.writing.generate import compose_many
from meloformer.writing.constraints import TEMPERATURE, TOP_P, TokenRequest
from meloformer.tokens.hid import HID
from meloformer.music.midi import MidiError
from meloformer.net.model import MeloFormer
from meloformer.writing.rules import chord_tones, other_pitches
from meloformer.net.checkpoint import find_checkpoint
from meloformer.music.score import Score

FIRST = dict(top_p='all .9') # of version 0.3.0: the nucleus over all tokens at once
NUCLEI = [FIRST, dict(top_p=1), dict(top_p=.9), dict(top_p=.95), dict(top_p='pitch .9'), dict(top_p='pitch .95'), dict(top_p='pitch .9, velocity .95, chord .95'),
    dict(top_p='.98, pitch .9'), dict(top_p='pitch .9', temperature='between .95'), dict(top_p=1, temperature='pitch .9'), dict(top_p=1, temperature='all .95'),
    dict(top_p=.98, temperature='.95, between 1')]
HARMONY = [dict(off_chord_weight=w, max_rest_bars=rest) for rest in (2, -1) for w in (.25, .1, .5, 1)] # the first of them in the rows above
REPEATS = [dict(HARMONY[0], repeat_weight=w) for w in (1, .6, .4, .3, .2)] # the first of them in all other rows
PLACES = [dict(top_p=.9), dict(top_p='.9, position 1'), dict(top_p='.9, position .97'), dict(top_p='.9, position 1, length 1'),
    *[dict(top_p='.9, position 1, length 1', temperature=t) for t in ('position 1.05', 'length 1.1', 'position 1.05, length 1.05')]] # with the third of REPEATS

def digest(*what): return hashlib.sha256(repr(what).encode()).hexdigest()[:12]

def heard(hid, data, n, bars):
    "Openings of real music, as tokens"
    if (Path(data)/'manifest.json').exists():
        val = Corpus(data, 'val')
        return [excerpt(hid, val[i], bars) for i in some_pieces(val, n, bars)]
    res,files = [],np.random.default_rng(0).permutation(sorted(find_midi(data)))
    for f in tqdm(files, desc='read', disable=None):
        if len(res)==n: break
        try: tokens = excerpt(hid, hid.encode(Score.read(f)), bars)
        except MidiError as e: print(f'{e}; left out')
        else:
            if len(hid.decode_grid(tokens)[0].notes): res.append(tokens)
    return res

def ask_all(frames, bars, sampling, off_chord_weight, max_rest_bars, repeat_weight=1):
    "The requests of one setting, from nothing and over real frames"
    other = [other_pitches().softly(repeat_weight)] if repeat_weight<1 else []
    asked = dict(max_rest_bars=None if max_rest_bars<0 else max_rest_bars, rules=[*other, *[chord_tones().softly(off_chord_weight)]*(off_chord_weight<1)])
    return dict(free=[TokenRequest(bars=bars, max_bar_tokens=400, rules=other, **sampling)]*len(frames), asked=[replace(f, max_bar_tokens=400, **sampling, **asked) for f in frames])

def pieces_of(model, hid, requests, path):
    "Tokens of pieces that are written side by side, or were before"
    if not path.exists():
        tokens = compose_many(model, hid, requests, range(len(requests)))
        part = path.with_suffix('.part')
        with open(part, 'wb') as f: np.savez(f, *tokens)
        part.replace(path)
    with np.load(path) as f: return [f[k] for k in f]

def beside(hid, tokens, real, bars, floor):
    "Pieces beside real music, in units of a floor: that of the real music as it is, whoever plays in the pieces"
    return replace(compare([Piece.from_tokens(hid, t) for t in tokens if len(hid.decode_grid(t)[0].notes)], real, bars=bars), floor=floor)

def figures_of(c):
    "Mean of each figure with its interval, and what the real music has"
    return {r['figure']: [round(r[k], 4) for k in ('mine','mine_low','mine_high','real')] for r in rows(c)}

def row(name, setting, found, first):
    "What is reported of a setting; `less`: how much nearer it is than the first, over draws of the same pieces"
    res = dict(name=name, **setting)
    for kind,c in found.items():
        low,high = c.distance_interval
        res[kind] = dict(distance=round(c.distance, 3), low=round(low, 3), high=round(high, 3), pieces=len(c.mine), figures=figures_of(c))
        if len(c.draws)==len(first[kind].draws):
            res[kind]['less'] = [round(float(x), 3) for x in (first[kind].distance-c.distance, *interval(first[kind].far(first[kind].draws)-c.far(c.draws)))]
    return res

def draw_rolls(sets, path):
    "Some pieces of each setting, the same frames of all"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(12, 2.2*len(sets)), layout='constrained')
    some = lambda v: [v[i] for i in np.linspace(0, len(v)-1, 3).astype(int)]
    for axes,(name,scores) in zip(fig.subplots(len(sets), 3, squeeze=False), sets.items()):
        for ax,s in zip(axes, some(scores)):
            s.plot(ax, legend=False)
            ax.set_title(name, fontsize=8, pad=14)
    fig.savefig(path, dpi=100)

def said(sampling, **weights): return '; '.join(f'{k} {v}' for k,v in (sampling | weights).items())

def table(rows):
    "Distances of all settings, to be read"
    cell = lambda o: f"{o['distance']:6.2f} {'[%.2f, %.2f]' % (o['low'], o['high']):15}"
    out = [f"{'':4}{'from nothing':24}{'over real frames':24}setting; * nearer than the first, 95 %"]
    for r in rows:
        star = {k: '*' if r[k].get('less', [0,0])[1]>0 else ' ' for k in ('free','asked')}
        out.append(f"{r['name']:4}{cell(r['free'])}{star['free']} {cell(r['asked'])}{star['asked']} {said(**{k: v for k,v in r.items() if k not in ('name','free','asked')})}")
    return '\n'.join(out)

def nearest(done): return min(done, key=lambda o: np.mean([c.distance for c in o[2].values()]))

@call_parse
def main(
    data: str,        # Corpus, or a folder of MIDI files
    run: str = None,  # A run of meloformer train, or a checkpoint (default: the model that comes along)
    out: str = 'sampling', # Folder where pieces and pictures are kept
    pieces: int = 24, # For each setting, from nothing and as many over real frames
    bars: int = 16,   # Length of each
    real: int = 150,  # Real pieces
    minutes: float = 1e9, # Begin no other setting after so long
    only: str = None  # Names of settings to run, such as "n0 n4 h2" (default: all); the others are compared with the first
):
    "Compare settings"
    torch.set_num_threads(1)
    start,out,ckpt = time.time(),Path(out),find_checkpoint(run)
    model,hid = MeloFormer.load(ckpt),HID.load(ckpt)
    out.mkdir(parents=True, exist_ok=True)
    weights = weights_of(ckpt)
    tokens = heard(hid, data, real, bars)
    few = [tokens[i] for i in np.linspace(0, len(tokens)-1, min(pieces, len(tokens))).astype(int)] # of all sets, for a corpus has one after the other
    music,frames = [Piece.from_tokens(hid, t) for t in tokens],[controls_of(hid, t) for t in few]
    floor,done,told = compare(music, music, bars=bars, mix=False).floor,[],[t.tolist() for t in few]
    names = [*(f'n{i}' for i in range(len(NUCLEI))), *(f'h{i}' for i in range(1, len(HARMONY))), *(f'r{i}' for i in range(1, len(REPEATS))), *(f'p{i}' for i in range(len(PLACES)))]
    chosen = only.split() if only else names
    if bad := [o for o in chosen if o not in names]: raise ValueError(f"--only: no setting is called {bad[0]}; there are {' '.join(names)}")
    def measure(name, sampling, **kept):
        requests,setting,found = ask_all(frames, bars, sampling, **kept),dict(sampling=sampling, **kept),{}
        paths = {k: out/f'{k}-{digest(weights, bars, sampling, sorted(kept.items()) if k=="asked" else kept.get("repeat_weight", 1), told)}.npz' for k in requests}
        if name not in chosen or time.time()-start > 60*minutes and not all(p.exists() for p in paths.values()): return
        for kind,own in requests.items():
            wrote = pieces_of(model, hid, own, paths[kind])
            found[kind] = beside(hid, wrote, music, bars, floor)
        done.append((name, setting, found, wrote))
        print(name, said(**setting), {k: round(c.distance, 2) for k,c in found.items()}, flush=True)
    for i,s in enumerate(tqdm(NUCLEI, desc='nuclei and temperatures', disable=None)): measure(f'n{i}', s, **HARMONY[0])
    best = nearest(done)[1]['sampling'] if done else dict(top_p=TOP_P, temperature=TEMPERATURE)
    for i,h in enumerate(tqdm(HARMONY[1:], desc='lean and rest', disable=None), 1): measure(f'h{i}', best, **h)
    for i,h in enumerate(tqdm(REPEATS[1:], desc='repeats', disable=None), 1): measure(f'r{i}', best, **h)
    for i,s in enumerate(tqdm(PLACES, desc='places and lengths', disable=None)): measure(f'p{i}', s, **REPEATS[2])
    if not done: raise ValueError('no setting was run; give more --minutes')
    first,(name,setting,found,wrote) = done[0],nearest(done)
    draw_figures({k: summary(f['asked']) for k,f in {first[0]: first[2], name: found}.items()}).figure.savefig(out/'figures.png', dpi=100)
    draw_rolls({k: [hid.decode(t) for t in v] for k,v in {'real': few, first[0]: first[3], name: wrote}.items()}, out/'rolls.png')
    result = [row(n, s, f, first[2]) for n,s,f,_ in done]
    print(table(result), flush=True)
    report('sampling', command='python benchmarks/sampling.py DATA', size=f'{sum(p.numel() for p in model.parameters())/1e6:.1f} M parameters', weights=weights, data=Path(data).name,
        bars=bars, real=len(music), halves=round(float(found['asked'].by_half.mean()), 3), nearest=dict(name=name, **setting), rows=result)
