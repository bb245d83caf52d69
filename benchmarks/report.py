"How every benchmark reports: one JSON line, and the same in benchmarks/results/"
import hashlib, json, os, platform, subprocess
from importlib.metadata import version
from pathlib import Path
import torch

def processor():
    "The name of the processor, as the system tells it"
    f = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in f.read_text().splitlines() if o.startswith('model name')] if f.exists() else []
    return f'{names[0] if names else platform.processor()}, {os.cpu_count()} cores'

here = Path(__file__).parent
def head(*paths):
    "The last commit, or the last that changed some paths of the repo"
    return subprocess.run(['git', 'log', '-1', '--format=%h', '--', *paths], cwd=here.parent, capture_output=True, text=True).stdout.strip()

def weights_of(checkpoint):
    "Which weights a folder holds: the start of their hash"
    return hashlib.sha256((Path(checkpoint)/'model.safetensors').read_bytes()).hexdigest()[:12]

def earlier(name):
    "Rows of the results that are there"
    f = here/'results'/f'{name}.json'
    return json.loads(f.read_text())['rows'] if f.exists() else []

def keep(name, packages=(), **figures):
    "Keep the figures, with device, versions and commit"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    d = dict(benchmark=name, device=device, threads=torch.get_num_threads(), python=platform.python_version(),
             versions={p: version(p) for p in ('torch','numpy','symusic',*packages)}, commit=head(), **figures)
    (here/'results').mkdir(exist_ok=True)
    (here/'results'/f'{name}.json').write_text(json.dumps(d, indent=1)+'\n')
    return d

def report(name, packages=(), **figures):
    "Keep the figures, and print them"
    print(json.dumps(keep(name, packages, **figures)))
