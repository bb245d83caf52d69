"""Files a second and tokens a note, beside MidiTok's REMI on the same files in the same run

python benchmarks/encode.py MIDI_FOLDER [--files 100] [--repeats 5]

REMI has 12 positions a beat here and says program, tempo and meter, as HID does; velocity in 32
bins both. HID runs at 12 and 24, with and without recognising chords. Each is timed over all files, in turn, `repeats` times;
the medians count."""
import time
from statistics import median
import numpy as np
from fastcore.script import call_parse
from miditok import REMI, TokenizerConfig
from symusic import Score as SymScore
from report import report
from meloformer.corpus import find_midi
from meloformer.hid import HID
from meloformer.score import MidiError, Score

def readable(path):
    try: return len(Score.read(path).notes)
    except MidiError: return 0

def bare(hid):
    "Encode without recognising chords"
    def f(path):
        s = Score.read(path)
        s.chords = [(0, 'N')]
        return hid.encode(s)
    return f

@call_parse
def main(
    source: str,       # Folder of MIDI files
    files: int = 100,  # Take so many, evenly spread
    repeats: int = 5   # Runs; medians are reported
):
    "Compare HID with REMI"
    paths = [p for p in find_midi(source) if readable(p)]
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths)-1, files).astype(int))]
    remi = REMI(TokenizerConfig(beat_res={(0, 16): 12}, num_velocities=32, pitch_range=(0, 127), use_programs=True, one_token_stream_for_programs=True,
                                use_tempos=True, use_time_signatures=True, use_pitchdrum_tokens=False, program_changes=True))
    ways = dict(remi_12=lambda p: remi(SymScore(str(p))).ids, hid_12=HID(12), hid_24=HID(24), hid_24_without_chords=bare(HID(24)))
    times,tokens = {k: [] for k in ways},{}
    for k,f in ways.items(): f(paths[0])
    for _ in range(repeats):
        for k,f in ways.items():
            start = time.perf_counter()
            tokens[k] = sum(len(f(p)) for p in paths)
            times[k].append(time.perf_counter()-start)
    notes = {k: sum(len(Score.read(p).quantized(24 if '24' in k else 12).notes) for p in paths) for k in ways}
    res = {k: dict(files_per_second=round(len(paths)/median(t), 1), against_remi=round(median(a/b for a,b in zip(times['remi_12'], t)), 2),
                   tokens_per_note=round(tokens[k]/notes[k], 3)) for k,t in times.items()}
    for k,v in res.items(): print(f'{k:22} {v["files_per_second"]:7} files/s  {v["against_remi"]:6} x REMI  {v["tokens_per_note"]} tokens a note')
    report('encode', ('miditok',), command='python benchmarks/encode.py MIDI_FOLDER', files=len(paths), notes=notes['hid_24'], repeats=repeats, **res)
