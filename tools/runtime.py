"ONNX Runtime for browsers, from npm: fetched once, checked, and kept in the user's cache"
import base64, os, shutil, subprocess, tarfile, tempfile
from hashlib import sha512
from pathlib import Path

NAME,VERSION = 'onnxruntime-web','1.30.0'
SHA512 = 'q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=='
FILES = 'ort.wasm.bundle.min.mjs','ort-wasm-simd-threaded.wasm'

class Missing(Exception):
    "Why it cannot be had, in a sentence"

def unpack(data, folder):
    "The `FILES` of a package, once it is the one that is meant"
    if (found := base64.b64encode(sha512(data).digest()).decode())!=SHA512: raise Missing(f'{NAME} {VERSION} has the sha512 {found}, not {SHA512}')
    with tempfile.TemporaryFile() as f:
        f.write(data)
        f.seek(0)
        with tarfile.open(fileobj=f) as tar:
            for o in FILES: (folder/o).write_bytes(tar.extractfile(f'package/dist/{o}').read())

def runtime(cache=None):
    "The folder that holds `FILES`; `Missing` where the registry cannot be reached"
    cache = Path(cache or os.environ.get('XDG_CACHE_HOME') or Path.home()/'.cache')/'meloformer'
    folder = cache/f'{NAME}-{VERSION}'
    if folder.is_dir(): return folder
    if not shutil.which('npm'): raise Missing('npm is not installed')
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as tmp:
        tmp = Path(tmp)
        try: p = subprocess.run(['npm','pack',f'{NAME}@{VERSION}','--silent','--fetch-retries=1','--fetch-timeout=60000'], cwd=tmp, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired: raise Missing('the npm registry did not answer within five minutes') from None
        if p.returncode: raise Missing(f'npm could not fetch {NAME} {VERSION}: {" ".join((p.stderr or p.stdout).split())[-200:]}')
        new = tmp/'new'
        new.mkdir()
        unpack((tmp/f'{NAME}-{VERSION}.tgz').read_bytes(), new)
        try: new.rename(folder)
        except OSError: # another process was faster
            if not folder.is_dir(): raise
    return folder
