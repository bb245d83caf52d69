"The pieces of the home page, by fixed seeds: run it again when the model that comes along has changed, then `make prepare`"
import shlex, sys
from pathlib import Path
from fastcore.script import call_parse
from demo import argv, run

PIECES = dict(
    song = '--bars 16 --chords "Am F C G" --instruments "piano, fretless bass, drums, violin" --meter 4/4 --tempo 110 --seed 1',
    quartet = '--bars 24 --form "A A\' B A" --scale "D minor" --instruments "violin, violin, viola, cello" --meter 3/4 --tempo 120 --seed 2',
    loop = '--bars 8 --loop --chords "Em C G D" --instruments "square lead, synth bass, drums" --meter 4/4 --tempo 140 --seed 3')

def command(name, folder='.'):
    "What is typed for a piece; the home page shows the same line"
    return f'meloformer generate --out {shlex.quote(str(Path(folder)/f"{name}.mid"))} {PIECES[name]}'

@call_parse
def main(
    out: str = 'nbs/assets/listen' # Folder for the MIDI files and their piano rolls
):
    "Write the pieces of the home page"
    Path(out).mkdir(parents=True, exist_ok=True)
    for name in PIECES:
        print(f'$ {command(name, out)}', flush=True)
        if status := run(argv(command(name, out))): sys.exit(status)
