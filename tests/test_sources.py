"Archives, tables, lists and addresses: the same music from each, and none of them may do harm"
import bz2, gzip, io, json, os, re, shutil, struct, subprocess, sys, tarfile, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote
import pytest
from conftest import same_folders
from test_corpus import song
from meloformer.apps.cli import run
from meloformer.data import sources
from meloformer.data.corpus import Corpus, build, find_midi
from meloformer.data.sources import Member, read_midi
from meloformer.music.midi import MidiError

@pytest.fixture(scope='module')
def songs(): return {f'{"jazz/" if i%2 else ""}{i:02}.mid': song(i).to_bytes() for i in range(6)}

def lay(folder, songs):
    for k,v in songs.items():
        (folder/k).parent.mkdir(parents=True, exist_ok=True)
        (folder/k).write_bytes(v)

def zipped(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, 'w', method) as z:
        for k,v in entries: z.writestr(k, v)
    return path

def tarred(path, entries, mode='w:gz'):
    with tarfile.open(path, mode) as t:
        for k,v in entries:
            o = k if isinstance(k, tarfile.TarInfo) else tarfile.TarInfo(k)
            o.size = len(v)
            t.addfile(o, io.BytesIO(v))
    return path

def same_music(a, b): return [o.tolist() for o in Corpus(a)]==[o.tolist() for o in Corpus(b)] and Corpus(a).sets==Corpus(b).sets

# ------------------------------------------------------------------------------------------------ the same from everywhere

def test_the_same_from_each(songs, tmp_path, capsys):
    "A folder, archives of four kinds, a list, with any number of workers: the same tokens and sets"
    lay(tmp_path/'in', songs)
    (tmp_path/'list.jsonl').write_text('\n'.join(json.dumps(dict(path=f'{tmp_path}/in/{k}')) for k in sorted(songs)))
    row = sorted(songs.items())
    made = [zipped(tmp_path/'a.zip', row), tarred(tmp_path/'a.tar', row, 'w'), tarred(tmp_path/'a.tgz', row), tarred(tmp_path/'a.tar.xz', row, 'w:xz')]
    build(tmp_path/'in', tmp_path/'data', val_share=0, progress=False)
    for i,f in enumerate(made):
        assert run('prepare', [str(f), '--out', str(tmp_path/f'{i}'), '--val_share', '0', '--workers', str(2*(i==0))])==0, capsys.readouterr().err
        assert same_music(tmp_path/f'{i}', tmp_path/'data') and Corpus(tmp_path/f'{i}').names==[f'{f}/{k}' for k,_ in row]
    build(tmp_path/'list.jsonl', tmp_path/'listed', val_share=0, progress=False)
    assert [o.tolist() for o in Corpus(tmp_path/'listed')]==[o.tolist() for o in Corpus(tmp_path/'data')]
    assert run('check', [str(made[0]), '--workers', '2'])==0 and '6 same' in capsys.readouterr().out

def test_several(songs, tmp_path, capsys):
    "One after the other; a file that is named twice is taken once; as `cp` has it, the last is where they go"
    lay(tmp_path/'a', songs)
    lay(tmp_path/'b', {'x/z.mid': song(9).to_bytes()})
    one = str(tmp_path/'a/00.mid')
    assert run('prepare', [one, str(tmp_path/'b'), str(tmp_path/'a'), str(tmp_path/'data'), '--val_share', '0', '--workers', '0'])==0
    assert [Path(o).name for o in Corpus(tmp_path/'data').names]==['00.mid', 'z.mid', *(f'{i:02}.mid' for i in (2, 4, 1, 3, 5))]
    assert Corpus(tmp_path/'data').sets==['', 'x', 'jazz'] and '7 files: 7 kept' in capsys.readouterr().out
    assert run('prepare', [one])==1 and '--out' in capsys.readouterr().err

def test_parquet(songs, tmp_path, monkeypatch):
    "Columns of bytes, and structures as on the hub; without pyarrow the extra is named"
    pa,pq = pytest.importorskip('pyarrow'),pytest.importorskip('pyarrow.parquet')
    data = list(songs.values())
    for name,column in dict(plain=data, hub=[dict(bytes=o, path='x') for o in data]).items():
        pq.write_table(pa.table(dict(title=['x']*6, midi=column)), tmp_path/f'{name}.parquet')
        assert [o.content() for o in find_midi(tmp_path/f'{name}.parquet')]==data
    pq.write_table(pa.table(dict(title=['x'])), tmp_path/'none.parquet')
    with pytest.raises(ValueError, match='none.parquet: has 0 columns of bytes'): find_midi(tmp_path/'none.parquet')
    (tmp_path/'bad.parquet').write_bytes(b'PAR1'+bytes(99))
    with pytest.raises(ValueError, match='bad.parquet: is no whole Parquet'): find_midi(tmp_path/'bad.parquet')
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ValueError, match=r"plain.parquet: needs .* 'meloformer\[parquet\]'"): find_midi(tmp_path/'plain.parquet')

def test_addresses(songs, tmp_path, monkeypatch):
    "What fsspec knows; where a package is missing one sentence says which extra has it"
    import fsspec
    lay(tmp_path/'in', songs)
    store = fsspec.filesystem('memory')
    store.put(str(tmp_path/'in'), '/far', recursive=True)
    store.put(str(tarred(tmp_path/'a.tar.gz', sorted(songs.items()))), '/far.tar.gz')
    build(tmp_path/'in', tmp_path/'data', val_share=0, progress=False)
    for i,o in enumerate(('memory://far', 'memory://far.tar.gz')):
        build(o, tmp_path/f'{i}', val_share=0, progress=False)
        assert same_music(tmp_path/f'{i}', tmp_path/'data')
    monkeypatch.setitem(sys.modules, 's3fs', None)
    fsspec.registry._registry.pop('s3', None) if hasattr(fsspec.registry, '_registry') else None
    with pytest.raises(ValueError, match=r"s3://bucket/x: needs .*'meloformer\[remote\]'"): find_midi('s3://bucket/x')
    monkeypatch.setitem(sys.modules, 'fsspec', None)
    with pytest.raises(ValueError, match=r"hf://datasets/x: needs .*'meloformer\[remote\]'"): find_midi('hf://datasets/x')

# ------------------------------------------------------------------------------------------------ hostile archives

GOOD = song(0).to_bytes()

def test_names_touch_no_disk(tmp_path, monkeypatch):
    "Paths that lead out, links, devices: shown, or passed over, but nothing is written but the corpus"
    evil = ['../../out.mid', '/abs.mid', '..\\w.mid', 'C:\\x.mid', 'a\0b.mid', 'a\nb.mid', '\x1b[31m.mid', 'x'*5000+'.mid', './././y.mid', 'é\u202e.mid']
    def info(name, kind, to=''):
        o = tarfile.TarInfo(name)
        o.type,o.linkname = kind,to
        return o
    odd = [info('l.mid', tarfile.SYMTYPE, '/etc/passwd'), info('h.mid', tarfile.LNKTYPE, '../x'), info('d.mid', tarfile.CHRTYPE), info('p.mid', tarfile.FIFOTYPE), info('f.mid', tarfile.DIRTYPE)]
    (tmp_path/'deep/down').mkdir(parents=True)
    monkeypatch.chdir(tmp_path/'deep/down')
    zipped('evil.zip', [(o, song(i).to_bytes()) for i,o in enumerate(evil)])
    with tarfile.open('evil.tar', 'w') as t:
        for o in odd: t.addfile(o)
        for i,k in enumerate(o for o in evil if '\0' not in o):
            o = tarfile.TarInfo(k)
            o.size = len(song(20+i).to_bytes())
            t.addfile(o, io.BytesIO(song(20+i).to_bytes()))
    info = build(['evil.zip', 'evil.tar'], 'data', val_share=0, progress=False)
    assert info['counts']['kept']>=len(evil)*2-3 and sum(info['counts'].values())==info['files']
    assert {o.relative_to(tmp_path).as_posix() for o in tmp_path.rglob('*') if 'data' not in o.parts}=={'deep', 'deep/down', 'deep/down/evil.zip', 'deep/down/evil.tar'}
    assert not Path('/abs.mid').exists() and '<script' not in Path('data/report.html').read_text()

def test_bombs(tmp_path, monkeypatch):
    "What unpacks to a thousand times its size is refused within its bounds; one file of it that is too large costs itself"
    monkeypatch.setattr(sources, 'SLACK', 2<<20)
    big = bytes(33<<20)
    zipped(tmp_path/'one.zip', [('big.mid', big), ('good.mid', GOOD)])
    assert [o.why for o in find_midi(tmp_path/'one.zip')]==['is 33 MB; the largest read is 32 MB', '']
    zipped(tmp_path/'many.zip', [(f'{i}.mid', big[:1<<20]) for i in range(4)])
    with pytest.raises(ValueError, match='many.zip: holds more than 100 times its size'): list(sources.walk_midi(tmp_path/'many.zip'))
    tarred(tmp_path/'many.tar.gz', [(f'{i}.txt', big[:1<<20]) for i in range(4)])
    with pytest.raises(ValueError, match='many.tar.gz: holds more than 100 times'): find_midi(tmp_path/'many.tar.gz')
    (tmp_path/'zeros.tar.bz2').write_bytes(bz2.compress(bytes(4<<20)))
    with pytest.raises(ValueError, match='zeros.tar.bz2'): find_midi(tmp_path/'zeros.tar.bz2')

def test_a_zip_that_lies(tmp_path):
    "Sizes, checksums and passwords that are not true cost the entry; a list that is broken costs the archive"
    b = bytearray(zipped(tmp_path/'z.zip', [('a.mid', GOOD), ('b.mid', GOOD)]).read_bytes())
    at = b.rindex(b'PK\1\2')
    for what,spoil in dict(size=(24, struct.pack('<I', 0xfffffff0)), crc=(16, b'abcd'), method=(10, b'\x63\0'), locked=(8, b'\1\0')).items():
        c = bytearray(b)
        c[at+spoil[0]:at+spoil[0]+len(spoil[1])] = spoil[1]
        if what=='locked': own = c.rindex(b'PK\3\4'); c[own+6:own+8] = b'\1\0'
        (tmp_path/f'{what}.zip').write_bytes(c)
        good,bad = find_midi(tmp_path/f'{what}.zip')
        assert good.content()==GOOD and bad.why, what
        with pytest.raises(MidiError): read_midi(bad)
    for cut in (b[:len(b)//2], b'PK\5\6'+bytes(10), b'', b'no archive'):
        (tmp_path/'cut.zip').write_bytes(cut)
        with pytest.raises(ValueError, match='cut.zip'): find_midi(tmp_path/'cut.zip')

def test_a_tar_that_lies(tmp_path):
    "A header that asks for gigabytes of memory, a stream that breaks off, one that is none"
    o = tarfile.TarInfo('x')
    o.type,o.size = tarfile.XHDTYPE,4<<30
    (tmp_path/'head.tar').write_bytes(o.tobuf(tarfile.GNU_FORMAT)+bytes(10_240))
    whole = tarred(tmp_path/'w.tar.gz', [('a.mid', GOOD), ('b.mid', os.urandom(20_000))]).read_bytes()
    for name,data in {'head.tar': None, 'cut.tar.gz': whole[:-3000], 'none.tar.gz': b'\x1f\x8b'+bytes(500), 'empty.tar': b'', 'page.tar': b'<html>'*200}.items():
        if data is not None: (tmp_path/name).write_bytes(data)
        with pytest.raises(ValueError, match=name): find_midi(tmp_path/name)

def test_a_bad_archive_leaves_nothing(tmp_path, capsys):
    (tmp_path/'a.zip').write_bytes(b'PK')
    assert run('prepare', [str(tmp_path/'a.zip'), str(tmp_path/'data')])==1
    err = capsys.readouterr().err
    assert err.count('\n')==1 and 'a.zip: is no whole zip' in err and [o.name for o in tmp_path.iterdir()]==['a.zip']

# ------------------------------------------------------------------------------------------------ over a network

class Store(BaseHTTPRequestHandler):
    "A folder as a web server and, below /s3, as object storage has it: lists, sizes, parts; `cut` breaks off in the middle"
    def log_message(self, *_): pass
    def answer(self, data=b'', status=200, kind='application/octet-stream', **more):
        self.send_response(status)
        for k,v in dict({'Content-Type': kind, 'Content-Length': len(data)}, **{k.replace('_','-'): v for k,v in more.items()}).items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data)
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        path,query = unquote(self.path.partition('?')[0]),parse_qs(self.path.partition('?')[2])
        s3,root = path.startswith('/s3/'),self.server.root
        f = root/path.removeprefix('/s3/' if s3 else '/').lstrip('/')
        if 'list-type' in query:
            keys = [str(o.relative_to(f)) for o in sorted(f.rglob('*')) if o.is_file() and str(o.relative_to(f)).startswith(query.get('prefix', [''])[0])]
            folded = {k: (k[len(p := query.get('prefix', [''])[0]):].partition('/')) for k in keys}
            inside = [k for k in keys if 'delimiter' not in query or not folded[k][1]]
            below = sorted({p+folded[k][0]+'/' for k in keys if 'delimiter' in query and folded[k][1]})
            rows = [f'<Contents><Key>{k}</Key><Size>{(f/k).stat().st_size}</Size><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>"1"</ETag></Contents>' for k in inside]+[f'<CommonPrefixes><Prefix>{k}</Prefix></CommonPrefixes>' for k in below]
            return self.answer(f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>{"".join(rows)}</ListBucketResult>'.encode(), kind='application/xml')
        if path=='/broken': return self.answer(b'<html>', 500, 'text/html')
        if f.is_dir() and not s3: return self.answer(''.join(f'<a href="{quote(o.name)}{"/" if o.is_dir() else ""}">x</a>' for o in sorted(f.iterdir())).encode(), kind='text/html')
        if not f.is_file(): return self.answer(b'', 404)
        data,part = f.read_bytes(),re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        same = dict(ETag='"1"', Last_Modified='Thu, 01 Jan 2026 00:00:00 GMT', Accept_Ranges='bytes')
        if not part: return self.answer(data, **same)
        a,b = int(part[1]),min(int(part[2] or len(data)-1), len(data)-1)
        self.answer(data[a:b+1], 206, Content_Range=f'bytes {a}-{b}/{len(data)}', **same)

@pytest.fixture
def store(songs, tmp_path):
    "Songs as a folder, archives and a corpus, in a store; their prepared corpus on this machine; where the store answers"
    (tmp_path/'www').mkdir()
    lay(tmp_path/'www/in', songs)
    zipped(tmp_path/'www/a.zip', sorted(songs.items()))
    tarred(tmp_path/'www/a.tar.gz', sorted(songs.items()))
    build(tmp_path/'www/in', tmp_path/'data', val_share=0, progress=False)
    shutil.copytree(tmp_path/'data', tmp_path/'www/data')
    server = ThreadingHTTPServer(('127.0.0.1', 0), Store)
    server.root = tmp_path/'www'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()

def test_over_http(store, tmp_path, capsys):
    "Archives, a file and a listed folder on a web server; what is not there, breaks or does not answer is told in one sentence, and leaves nothing"
    for i,o in enumerate(('a.zip','a.tar.gz','in/')):
        assert run('prepare', [f'http://{store}/{o}', str(tmp_path/f'{i}'), '--val_share', '0', '--workers', '0'])==0, capsys.readouterr().err
        assert [o.tolist() for o in Corpus(tmp_path/f'{i}')]==[o.tolist() for o in Corpus(tmp_path/'data')], o
    assert len(find_midi(f'http://{store}/in/00.mid'))==1
    for o in ('none.zip','none.mid','broken'):
        capsys.readouterr()
        assert run('prepare', [f'http://{store}/{o}', str(tmp_path/'x')])==1
        assert (err := capsys.readouterr().err).count('\n')==1 and f'http://{store}/{o}' in err, err
    for o in ('http://127.0.0.1:1/a.zip', f'https://{store}/a.zip'): # nobody there; no TLS
        assert run('prepare', [o, str(tmp_path/'x')])==1
        assert (err := capsys.readouterr().err).count('\n')==1 and o in err, err
    assert not list(tmp_path.glob('x*'))

def test_over_s3(store, tmp_path, monkeypatch, capsys):
    "A folder and archives in a bucket, and a corpus that training reads from there"
    import s3fs
    for k,v in dict(AWS_ENDPOINT_URL=f'http://{store}/s3', AWS_ACCESS_KEY_ID='x', AWS_SECRET_ACCESS_KEY='y', AWS_DEFAULT_REGION='us-east-1', XDG_CACHE_HOME=str(tmp_path/'cache')).items(): monkeypatch.setenv(k, v)
    s3fs.S3FileSystem.clear_instance_cache()
    (tmp_path/'www/bucket').mkdir()
    for o in ('in','a.zip','a.tar.gz','data'): (tmp_path/'www'/o).rename(tmp_path/'www/bucket'/o)
    for i,o in enumerate(('in','a.zip','a.tar.gz')):
        assert run('prepare', [f's3://bucket/{o}', str(tmp_path/f'{i}'), '--val_share', '0', '--workers', '0'])==0, capsys.readouterr().err
        assert same_music(tmp_path/f'{i}', tmp_path/'data'), o
    far = Corpus('s3://bucket/data')
    assert [o.tolist() for o in far]==[o.tolist() for o in Corpus(tmp_path/'data')]
    capsys.readouterr()
    assert run('prepare', ['s3://bucket/none', str(tmp_path/'x')])==1
    assert (err := capsys.readouterr().err).count('\n')==1 and 's3://bucket/none' in err, err
    with pytest.raises(ValueError, match='s3://bucket/nothing'): Corpus('s3://bucket/nothing')
    s3fs.S3FileSystem.clear_instance_cache()
