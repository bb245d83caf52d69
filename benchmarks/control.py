"""Does a model keep to what is typed, is what it writes music, and is it new?

    python benchmarks/control.py RUN CORPUS [--seeds 3] [--device cuda]

A dozen progressions, each with players of its own, are typed and written with several seeds, all else as `meloformer generate` has it. How well the notes keep to them is measured in two
ways (`meloformer.judging.evaluate`): by the recogniser of chords, which hears only the notes, and by the share of what sounds that belongs to the
chord; `chance` is the same music held against the other progressions, `real` music of the validation split against its own chords.
Then 100 pieces in all are checked to be music, and what was written is searched for in the training split, in any key, beside validation pieces, which
the model has not seen. Pieces are kept in --out, so that the same command goes on where it was stopped.
"""
import time
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from report import report, weights_of
from meloformer.data.corpus import Corpus
from meloformer.judging.evaluate import HARMONY, control, copies, controls_of, adherence, legal, memorised, excerpt, write_all
from meloformer.writing.generate import make_request
from meloformer.writing.constraints import TokenRequest
from meloformer.tokens.hid import HID
from meloformer.net.model import MeloFormer
from meloformer.net.checkpoint import find_checkpoint

BAND,QUARTET = 'piano, fretless bass, drums','violin, violin, viola, cello'
TYPED = [('Am F C G', BAND, '4/4', 120), ('C G Am F', 'acoustic guitar, acoustic bass, drums', '4/4', 100), ('Dm7 G7 Cmaj7 Cmaj7', 'piano, acoustic bass, drums', '4/4', 140),
    ('C Am Dm G', QUARTET, '4/4', 90), ('Em C G D', 'distortion guitar, electric bass (pick), drums', '4/4', 150), ('Gm Eb Bb F', 'string ensemble 1, flute', '4/4', 80),
    ('F | Bb | Gm C | F', QUARTET, '4/4', 110), ('D A Bm F#m G D G A', 'piano', '4/4', 70), ('A7 D7 A7 E7', 'piano, acoustic bass, drums', '4/4', 110),
    ('C F G C', 'piano', '3/4', 140), ('Cm Ab Eb Bb', 'church organ, trumpet', '4/4', 100), ('Bm Em F# Bm', 'flute, clarinet, bassoon', '3/4', 96)]

def mean(rows): return {k: round(float(np.mean([r[k] for r in rows if k in r])), 4) for k in rows[0]}

@call_parse
def main(
    run: str,         # A run of meloformer train, or a checkpoint
    corpus: str,      # Prepared corpus that it was trained on
    out: str = None,  # Folder where pieces are kept (default: control_ and the name of the run)
    seeds: int = 3,   # Pieces for each progression
    bars: int = 16,   # Length of these
    pieces: int = 100, # To be checked in all; those beyond the typed ones are half as long, with nothing asked
    device: str = 'cpu'
):
    "Measure control, legality and memorisation"
    ckpt,train,val = find_checkpoint(run),Corpus(corpus),Corpus(corpus, 'val')
    hid,model = HID.load(ckpt),MeloFormer.load(ckpt)
    typed = [make_request(hid, bars, chords=chords, instruments=players, meter=meter, tempo=tempo) for chords,players,meter,tempo in TYPED]
    requests = dict(typed=[a for a in typed for _ in range(seeds)], free=[TokenRequest(bars=bars//2)]*max(0, pieces-seeds*len(typed)))
    sets = write_all(ckpt, requests, Path(out or f'control_{Path(run).resolve().name}'), device=device)
    good = [(hid.decode(t), a) for t,a in zip(sets['typed'], requests['typed']) if legal(hid, t)['legal']]
    rows = [dict(chords=o[0], players=o[1], meter=o[2], tempo=o[3], kept=mean([adherence(s, b) for s,b in good if b is a])) for o,a in zip(TYPED, typed)]
    chance = mean([{k: f(s, b) for k,f in HARMONY.items()} for s,a in good for b in typed if b is not a and b.meter==a.meter])
    heard = [excerpt(hid, val[i], bars) for i in np.sort(np.random.default_rng(0).permutation(len(val))[:64])]
    real = control(hid, heard, [controls_of(hid, t) for t in heard])
    every = sum(sets.values(), [])
    grids = {k: [hid.decode_grid(t)[0] for t in v] for k,v in dict(sets, validation=heard).items()}
    start = time.perf_counter()
    found = memorised(sum(grids.values(), []), (hid.decode_grid(t)[0] for t in train))
    took = time.perf_counter()-start
    ends = np.cumsum([len(v) for v in grids.values()])
    report('control', command='python benchmarks/control.py RUN CORPUS', size=f'{sum(p.numel() for p in model.parameters())/1e6:.1f} M parameters', checkpoint=ckpt.name,
        weights=weights_of(ckpt), corpus=train.fingerprint[:12], bars=bars, seeds=seeds, rows=rows,
        typed=mean([adherence(s, a) for s,a in good]), chance=chance, real=real['kept'], legal=dict(pieces=len(every), **mean([{k: float(v) for k,v in legal(hid, t).items()} for t in every])),
        copies={k: copies(found[e-len(v):e]) for (k,v),e in zip(grids.items(), ends)},
        search=dict(notes=sum(len(g.notes) for v in grids.values() for g in v), tokens=int(train.index['length'].sum()), seconds=round(took, 1)))
