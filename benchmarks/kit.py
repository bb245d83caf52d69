"""Do drums that are new know kick, snare and hat, and do velocities vary?

    python benchmarks/kit.py [--seeds 4] [--bars 8] [--kit_bars "0 4"]

Six bands over progressions, as `meloformer generate` has all else, with the same seeds as the model likes its drums (`kit_bars` 0) and by default. Of each: the shares of pieces, and of four bars in a row with
drums, in which each of kick, snare and hat or ride is struck, and the figures of drums; then how many velocities tracks of 32 notes and more have, of the 32 that tokens know, and tokens a second, the pieces side by side.
Rows of other settings stay in the results file."""
import time
import numpy as np
import torch
from fastcore.script import call_parse
from report import earlier, report
from meloformer.net.model import MeloFormer
from meloformer.writing.figures import FIGURES, Piece
from meloformer.writing.generate import compose_many
from meloformer.writing.request import GenerationRequest
from meloformer.writing.rules import KIT

BANDS = [('Am F C G', 'piano, bass, drums', 120), ('C G Am F', 'acoustic guitar, acoustic bass, drums', 100), ('Em C G D', 'distortion guitar, electric bass (pick), drums', 150),
    ('Dm7 G7 Cmaj7 Cmaj7', 'electric piano, fretless bass, drums', 96), ('F Dm Bb C', 'electric guitar, organ, synth bass, drums', 128), ('D A Bm G', 'violin, piano, electric bass (finger), drums', 90)]

def kits(p, window=4):
    "Is each of the kit in the piece; the same of each `window` bars with drums"
    drums = p.notes['program']==128
    bars = np.unique(p.bar[drums])
    has = np.array([[np.isin(p.pitch[drums & (p.bar==b)], o).any() for o in KIT] for b in bars]).reshape(-1, 3)
    return bool(has.any(0).all()),[bool(has[i:i+window].any(0).all()) for i in range(len(bars)-window+1)]

def counted(pieces, most=32):
    "How many velocities tracks of `most` notes and more have"
    return [len(np.unique(p.notes['velocity'][p.player==q])) for p in pieces for q in range(len(p.programs)) if (p.player==q).sum()>=most]

def measure(model, requests, seeds):
    start = time.perf_counter()
    tokens = compose_many(model, model.hid, requests, seeds)
    seconds = time.perf_counter()-start
    pieces = [Piece.from_tokens(model.hid, t) for t in tokens]
    whole,windows = zip(*map(kits, pieces))
    v,mean = counted(pieces),lambda x: round(float(np.nanmean(x)), 3)
    return dict(pieces=len(pieces), whole_kit=mean(whole), whole_kit_in_four_bars=mean(sum(windows, [])), **{k: mean([FIGURES[k](p) for p in pieces]) for k in ('kick_on_1','snare_on_2_and_4','hats','fills','one_value','same_pitch','in_chord')},
        tracks=len(v), velocities=float(np.median(v)), eight_velocities=mean([n>=8 for n in v]), tokens_a_second=round(sum(map(len, tokens))/seconds, 1))

@call_parse
def main(
    seeds: int = 4,
    bars: int = 8,
    kit_bars: str = '0 4' # Settings
):
    torch.set_num_threads(1)
    model,rows = MeloFormer.from_pretrained(),[]
    for k in map(int, kit_bars.split()):
        requests = [GenerationRequest(chords=c, instruments=i, meter='4/4', tempo=t, bars=bars, kit_bars=k).parse(model.hid) for c,i,t in BANDS for _ in range(seeds)]
        rows.append(dict(kit_bars=k, bars=bars, **measure(model, requests, [s for _ in BANDS for s in range(seeds)])))
    done = [(r['kit_bars'], r['bars']) for r in rows]
    report('kit', command=f'python benchmarks/kit.py --seeds {seeds} --bars {bars}', rows=[*(r for r in earlier('kit') if (r['kit_bars'], r['bars']) not in done), *rows])
