"""What quantising does to real music, in milliseconds, for each set and grid

python benchmarks/round_trip.py FOLDER … [--files 200] [--grids "4 8 12 24 48"]

Errors are those of `Score.losses`: at the file's own tempo, against the file itself. Lengths leave drums out."""
from pathlib import Path
import numpy as np
from fastcore.script import Param, call_parse
from tqdm.auto import tqdm
from report import report
from meloformer.data.corpus import find_midi
from meloformer.music.grid import Grid
from meloformer.music.score import MidiError, Score

def errors(scores, ppb):
    "One row of the table"
    l = np.concatenate([s.losses(ppb) for s in scores])
    tuned = np.concatenate([~np.array([t.is_drum for t in s.tracks], bool)[s.notes['track']] for s in scores])
    kept = l[~l['merged']]
    onset,length = 1000*abs(kept['onset']),1000*abs(kept['length'][tuned[~l['merged']]])
    pct = lambda a,q: round(float(np.percentile(a, q)), 1) if len(a) else None
    return dict(notes=len(l), onset_mean_ms=round(float(onset.mean()), 2), onset_p95_ms=pct(onset, 95), onset_over_20_ms_percent=round(100*float((onset>20).mean()), 2),
                length_median_ms=pct(length, 50), length_p95_ms=pct(length, 95), velocity_mean=round(float(abs(kept['velocity']).mean()), 2), merged_percent=round(100*float(l['merged'].mean()), 3))

def read(paths):
    "Scores, and how many could not be read"
    res = []
    for p in tqdm(paths, desc='read', disable=None):
        try: res.append(Score.read(p))
        except MidiError: pass
    return [s for s in res if len(s.notes)],len(paths)-len(res)

@call_parse
def main(
    folders: Param('Folders of MIDI files', str, nargs='+'),
    files: int = 100,          # Take so many of each, evenly spread
    grids: str = '4 8 12 24 48' # Positions a beat
):
    "Measure what quantising does"
    rows = []
    for f in folders:
        paths = find_midi(f)
        scores,unreadable = read([paths[i] for i in np.unique(np.linspace(0, len(paths)-1, files).astype(int))])
        for ppb in map(int, grids.split()):
            rows.append(dict(set=Path(f).name, files=len(scores), unreadable=unreadable, positions_per_beat=ppb)|errors(scores, ppb))
            print(rows[-1], flush=True)
    report('round_trip', command='python benchmarks/round_trip.py FOLDER …', rows=rows)
