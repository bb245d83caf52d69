"`encode_file` with a parser that some files bring down; a module of its own, since workers that load it need no PyTorch"
import os, signal, time
from pathlib import Path
from meloformer.data.corpus import encode_file

def nasty(path, **kw):
    "Files are called after what they do"
    name = Path(path).name
    if 'segfault' in name: os.kill(os.getpid(), signal.SIGSEGV)
    if 'exit' in name: os._exit(3)
    if 'once' in name and not (flag := Path(path).with_suffix('.seen')).exists(): flag.touch(); os._exit(1)
    if 'hang' in name: time.sleep(1000)
    if 'memory' in name: raise MemoryError
    return encode_file(path, **kw)

def divide(n): return 1//n
