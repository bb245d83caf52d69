"From nothing to a new piece of music; each step is a command that you can also type yourself"
import json, os, shlex, shutil, signal, subprocess, sys, time
from dataclasses import dataclass
from pathlib import Path

root = Path(__file__).resolve().parent.parent
out,steps = Path('demo'),600

@dataclass
class Step:
    what: str     # Told to the reader
    command: str  # As typed in a shell in the repository's folder
    makes: list   # Files and folders that it leaves, removed before it starts afresh
    proof: list = None # What is there once it has finished, if not all of `makes` (a stopped training leaves things too)

    @property
    def lacking(self): return [str(o) for o in (self.proof or self.makes) if not o.exists()]

STEPS = [
    Step('Taking Bach chorales and string quartets from the music21 library, as MIDI files',
         f'python scripts/demo_corpus.py --out {out}/midi', [out/'midi']),
    Step('Encoding them as tokens: bar by bar, each bar opened by its chord',
         f'meloformer prepare {out}/midi {out}/data', [out/'data']),
    Step('Training a small model from scratch',
         f'meloformer train --data {out}/data --out {out}/run --model_size tiny --batch_size 2 --gradient_accumulation_steps 1 '
         f'--max_seq_len 1024 --num_workers 0 --steps {steps}', [out/'run'], [out/f'run/step_{steps:06}', out/'run/curve.png']),
    Step('Writing a new piece for string quartet',
         f'meloformer generate {out}/run --out {out}/piece.mid --bars 16 --seed 1 --instruments "violin, violin, viola, cello" --meter 4/4 --tempo 90', [out/'piece.mid', out/'piece.png']),
]

def argv(command):
    "The command with this interpreter, whether or not its environment is active"
    name,*args = shlex.split(command)
    return [sys.executable, *(['-m', 'meloformer.apps.cli'] if name=='meloformer' else []), *args]

def remove(path):
    if path.is_dir(): shutil.rmtree(path)
    else: path.unlink(missing_ok=True)

def run(args):
    "Exit status of a command; Ctrl-C is left to the command, which may want to save, and then ends this program too"
    asked = []
    old = signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    try: status = subprocess.run(args).returncode
    finally: signal.signal(signal.SIGINT, old)
    if asked: raise KeyboardInterrupt
    return status

def run_steps(steps, state_file):
    "Run what is not finished: a step that was stopped goes on, one that has changed starts afresh, and so do all after it"
    state = json.loads(state_file.read_text()) if state_file.exists() else []
    def _save():
        state_file.parent.mkdir(exist_ok=True)
        state_file.write_text(json.dumps(state, indent=1))
    for i,s in enumerate(steps):
        print(f'\n== {i+1}/{len(steps)} {s.what}\n$ {s.command}', flush=True)
        command,finished = state[i] if i < len(state) else (None, False)
        if finished and command==s.command and not s.lacking:
            print('   there from an earlier run')
            continue
        if finished or command!=s.command:
            for o in s.makes: remove(o)
        state[i:] = [[s.command, False]]
        _save()
        start = time.time()
        if status := run(argv(s.command)):
            sys.exit(f'Step {i+1} ended with status {status}. What was finished stays; `make demo` goes on from here.')
        if s.lacking: sys.exit(f"Step {i+1} has not finished: there is no {', '.join(s.lacking)}. `make demo` goes on from here.")
        state[i][1] = True
        _save()
        print(f'   {time.time()-start:.0f} s')

def main():
    os.chdir(root)
    try: run_steps(STEPS, out/'steps.json')
    except KeyboardInterrupt:
        print('\nStopped. What was finished stays; `make demo` goes on from there.', file=sys.stderr)
        sys.exit(130)
    print(f'''
Done. Look at or listen to
  {out}/piece.mid   the new piece, for any MIDI player or notation program
  {out}/piece.png   its piano roll
  {out}/run         the trained model; curve.png is its training curve
To start afresh, delete {out}/. To use your own music: meloformer prepare FOLDER data''')

if __name__ == '__main__': main()
