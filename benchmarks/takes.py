"""Which of several takes is nearest to real music

python benchmarks/takes.py FOLDER [--files 20] [--bars 16] [--takes 4]

FOLDER holds a folder of MIDI files for each set. From each set so many files are taken evenly, sixteen bars of their middle each. Reported: median and spread (the mean distance from it) of each judged figure on
those excerpts, which stand as `REAL` in the notebook `takes`; then, with the model that comes along, for each of some requests so many takes: how far they lie from real music, all of them and the one that is ranked
first, and how often a real excerpt lies nearer than a take."""
from pathlib import Path
import numpy as np
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from meloformer.music.score import Score
from meloformer.tokens.edit import bar_count, cut
from meloformer.writing.figures import figures
from meloformer.writing.takes import REAL, far, rank_takes
from meloformer.writing.request import GenerationRequest, run_takes
from meloformer.net.model import MeloFormer
from report import report

REQUESTS = [dict(chords='Am F C G', instruments='piano, fretless bass, drums', meter='4/4', tempo=110), dict(instruments='violin, violin, viola, cello', meter='3/4', tempo=80), dict(),
    dict(chords='Dm7 G7 Cmaj7 A7', instruments='piano, acoustic bass, drums', meter='4/4', tempo=140), dict(instruments='flute, harp, cello', meter='4/4', tempo=70), dict(chords='C Am Dm G', instruments='electric guitar (clean), electric bass (finger), drums, rock organ', meter='4/4', tempo=120)]

def excerpts(folder, files, bars):
    "So many bars from the middle of real songs"
    for own in (sorted(o.rglob('*.mid')) for o in sorted(Path(folder).iterdir()) if o.is_dir()):
        for f in range(files):
            s = Score.read(own[(2*f+1)*len(own)//(2*files)])
            if (n := bar_count(s))>=bars: yield cut(s, (n-bars)//2, (n+bars)//2)

def centre(rows):
    "Median and spread of each figure"
    res = {}
    for k in REAL:
        x = np.array([r[k] for r in rows if np.isfinite(r[k])])
        res[k] = [round(float(np.median(x)), 3), round(float(np.abs(x-np.median(x)).mean()), 3)]
    return res

@call_parse
def main(
    folder: str,     # A folder for each set
    files: int = 20, # Of each set
    bars: int = 16,
    takes: int = 4,
    only_real: bool = False # Measure the real excerpts, and no takes
):
    torch.set_num_threads(1)
    real = [figures(s, REAL) for s in tqdm(list(excerpts(folder, files, bars)), disable=None)]
    same = dict(command='python benchmarks/takes.py FOLDER'+' --only_real'*only_real, excerpts=len(real), real=centre(real))
    if only_real: return report('takes', **same)
    model,rows = MeloFormer.from_pretrained(),[]
    for i,words in enumerate(tqdm(REQUESTS, disable=None)):
        own = run_takes(model, model.hid, GenerationRequest(bars=bars, takes=takes, seed=100*i, **words))
        rows.append(dict(request=words, far=[round(o.far, 3) for o in own], seeds=[o.seed for o in own]))
    ours,theirs = np.concatenate([r['far'] for r in rows]),np.array([far(r) for r in real])
    report('takes', **same, far_real=round(float(np.median(theirs)), 3), far_takes=round(float(ours.mean()), 3),
        far_first=round(float(np.mean([r['far'][0] for r in rows])), 3), real_is_nearer=round(float((theirs[:, None]<ours).mean()), 3), rows=rows)
