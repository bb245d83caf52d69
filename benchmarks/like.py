"""Is what is written like what it is to be like?

    python benchmarks/like.py CORPUS [--pieces 40] [--sound]

Eight bars from the middle of validation pieces, each set in its turn, are the song to be like. The model that comes along writes eight bars from nothing: told nothing, told all facts of these bars, told each fact alone; with --sound also told what is heard of them, played by FluidSynth and transcribed, tempo and meter typed. Shares in common with the song, and with the song before it, which nobody asked for; the difference with 95 % intervals over pieces."""
import tempfile
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from report import report, weights_of
from meloformer.music.hearing import transcribed
from meloformer.data.corpus import Corpus
from meloformer.judging.compare import interval, resample
from meloformer.net.checkpoint import find_checkpoint
from meloformer import MeloFormer
from meloformer.tokens.infill import bar_starts, select_bars
from meloformer.tokens.outline import FACTS, likeness, outline_of
from meloformer.tokens.vocabulary import BOS, EOS

BARS = 8
HEARD = 'harmony, register, rhythm, lengths, dynamics' # facts that a recording tells of

def songs(corpus, n):
    "Eight bars from the middle of validation pieces, as scores, the sets in turn"
    rng = np.random.default_rng(0)
    sets = [rng.permutation(np.flatnonzero(corpus.set_of==k)) for k in range(len(corpus.sets))]
    order = [o[k] for k in range(max(map(len, sets))) for o in sets if k<len(o)]
    res = []
    for i in order:
        t = np.asarray(corpus[i]).astype(np.int64)
        first = len(bar_starts(corpus.hid, t))//2-BARS//2
        if first<0: continue
        part = select_bars(corpus.hid, t, np.arange(first, first+BARS)).tokens
        res.append((corpus.sets[corpus.set_of[i]], corpus.hid.decode(np.concatenate([[BOS], part, [EOS]]))))
        if len(res)==n: return res
    return res

def heard(score):
    "What a transcription makes of a score that is played; None where too little is heard"
    bar = score.bars()[0]
    with tempfile.TemporaryDirectory() as tmp:
        score.write(f'{tmp}/a.wav')
        try: return transcribed(f'{tmp}/a.wav', float(score.tempos[0]['bpm']), f"{bar['numerator']}/{bar['denominator']}", 0.).score
        except ValueError as e: print(e)

@call_parse
def main(
    corpus: str,       # Folder made by meloformer prepare
    pieces: int = 40,  # Of the validation split
    sound: bool = False, # Ask for what is heard of a recording, too
):
    "Write, and compare"
    torch.set_num_threads(1)
    ckpt = find_checkpoint()
    model,data = MeloFormer.from_pretrained(ckpt),Corpus(corpus, 'val')
    asked = {'nothing': None, 'all': 'all', **{k: k for k in FACTS}, **({'sound': HEARD} if sound else {})}
    of = lambda score: outline_of(model.hid, model.hid.encode(score))
    rows,before = {k: [] for k in asked},None
    for _,song in tqdm(songs(data, pieces+1), desc='songs', disable=None):
        if before:
            for k,facts in asked.items():
                like = heard(song) if k=='sound' else song
                if facts and like is None: continue
                told = dict(like=like, like_facts=facts) if facts else {}
                made = of(model.generate(bars=BARS, attempts=1, seed=len(rows[k]), **told))
                rows[k].append([[likeness(of(o), made).get(f, 0.) for f in FACTS] for o in (song, before)])
        before = song
    res = {}
    for k,r in rows.items():
        x,draws = np.array(r),resample(len(r), 1000, np.random.default_rng(0))
        d = x[:, 0]-x[:, 1]
        span = interval(draws@d/len(r)).T.round(3).tolist()
        res[k] = dict(pieces=len(r), **{f: dict(own=round(float(x[:, 0, i].mean()), 3), more_than_another=[round(float(d[:, i].mean()), 3), *span[i]]) for i,f in enumerate(FACTS)})
        print(f'{k:9}', '  '.join(f"{f} {o['own']:.2f} {o['more_than_another'][0]:+.2f}" for f in FACTS for o in (res[k][f],)), f'  ({len(r)} songs)', flush=True)
    report('like', command=f'python benchmarks/like.py CORPUS --pieces {pieces}'+' --sound'*sound, weights=weights_of(ckpt),
        data=Path(corpus).name, likeness=res)
