"""Files a second and tokens a note, there and back, beside MidiTok's REMI on the same files in the same run

python benchmarks/encode.py MIDI_FOLDER [--files 100] [--repeats 5]

MIDI_FOLDER may hold a folder for each of several sets, of which as many files each are taken. Time is that of the processor.

REMI has 12 positions a beat here and says program, tempo and meter, as HID does; velocity in 32 bins both. HID runs at 12 and 24, with and
without recognising chords. Each is timed over all files, in turn, `repeats` times; the medians count. Reading the file is part of encoding;
decoding ends with a score of the library at hand. Then the structure ids of 32,768 tokens, and two processes against one."""
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
import numpy as np
from fastcore.script import call_parse
from miditok import REMI, TokenizerConfig
from symusic import Score as SymScore
from report import report
from meloformer.data.corpus import Limits, encode_file, find_midi
from meloformer.tokens.hid import HID
from meloformer.music.score import MidiError, Score

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

def timed(f, clock=time.process_time):
    "Seconds, and what came of it"
    start = clock()
    res = f()
    return clock()-start,res

ALL = Limits(0, 10**9, 0, 10**9, 0, 0, 10**9, -2, 2) # keep whatever is read
def prepared(hid): return lambda path: encode_file(path, hid, ALL)['tokens']

def drawn(folder, n):
    "`n` files that can be read, as many of each set, evenly spread"
    sets = {}
    for p in find_midi(folder): sets.setdefault(p.relative_to(folder).parts[0] if len(p.relative_to(folder).parts)>1 else '', []).append(p)
    res,each = [],-(-n//len(sets))
    for paths in sets.values():
        some = [p for p in (paths[i] for i in np.unique(np.linspace(0, len(paths)-1, 2*each).astype(int))) if readable(p)]
        res += [some[i] for i in np.unique(np.linspace(0, len(some)-1, each).astype(int))]
    return res[:n]

def race(ways, items, repeats):
    "Seconds of each way over the items of its own, `repeats` times in turn; and the last results"
    times,last = {k: [] for k in ways},{}
    for k,f in ways.items(): f(items[k][0])
    for _ in range(repeats):
        for k,f in ways.items():
            t,last[k] = timed(lambda: [f(o) for o in items[k]])
            times[k].append(t)
    return times,last

def structure_ms(hid, tokens, repeats):
    "Milliseconds for the structure ids of 32,768 tokens"
    t = np.concatenate(tokens)
    t = np.resize(t, 32768)
    return 1000*median(timed(lambda: hid.structure(t))[0] for _ in range(10*repeats))

def encode_24(path): return len(HID(24)(path))

def scaling(paths, repeats):
    "How much faster two processes are than one"
    def seconds(n):
        with ProcessPoolExecutor(n, get_context('spawn')) as ex:
            list(ex.map(encode_24, paths[:8*n]))
            return timed(lambda: list(ex.map(encode_24, paths, chunksize=4)), time.perf_counter)[0]
    return median(seconds(1)/seconds(2) for _ in range(repeats))

@call_parse
def main(
    source: str,       # Folder of MIDI files
    files: int = 100,  # Take so many, evenly spread
    repeats: int = 5   # Runs; medians are reported
):
    "Compare HID with REMI"
    paths = drawn(source, files)
    remi = REMI(TokenizerConfig(beat_res={(0, 16): 12}, num_velocities=32, pitch_range=(0, 127), use_programs=True, one_token_stream_for_programs=True,
                                use_tempos=True, use_time_signatures=True, use_pitchdrum_tokens=False, program_changes=True))
    ways = dict(remi_12=lambda p: remi(SymScore(str(p))).ids, hid_12=HID(12), hid_24=HID(24), hid_24_without_chords=bare(HID(24)), prepare_24=prepared(HID(24)))
    times,tokens = race(ways, {k: paths for k in ways}, repeats)
    back = dict(remi_12=remi.decode, hid_12=HID(12).decode, hid_24=HID(24).decode)
    back_times,_ = race(back, tokens, repeats)
    notes = {k: sum(len(Score.read(p).quantized(24 if '24' in k else 12).notes) for p in paths) for k in ways}
    res = {k: dict(files_per_second=round(len(paths)/median(t), 1), against_remi=round(median(a/b for a,b in zip(times['remi_12'], t)), 2),
                   tokens_per_note=round(sum(map(len, tokens[k]))/notes[k], 3)) for k,t in times.items()}
    for k,t in back_times.items(): res[k] |= dict(decoded_per_second=round(len(paths)/median(t), 1), decoding_against_remi=round(median(a/b for a,b in zip(back_times['remi_12'], t)), 2))
    for k,v in res.items(): print(k, v)
    report('encode', ('miditok',), command='python benchmarks/encode.py MIDI_FOLDER', files=len(paths), notes=notes['hid_24'], repeats=repeats, **res,
           structure_of_32768_tokens_ms=round(structure_ms(HID(24), tokens['hid_24'], repeats), 2), two_processes_against_one=round(scaling(paths, repeats), 2))
