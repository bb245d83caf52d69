"A transformer for symbolic music that reads a piece as a list of bars"
__version__ = "0.4.0"
from importlib import import_module

_homes = dict(Score='music.score', HID='tokens.hid', MeloFormer='writing.request', GenerationRequest='writing.request', generate='writing.request', train='training.train', prepare='data.corpus', evaluate='judging.evaluate')

def __getattr__(name): # modules are imported when something in them is asked for, so that `import meloformer` takes no time
    if name not in _homes: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_homes[name]}'), name)

def __dir__(): return sorted([*globals(), *_homes])
