"Build README.md and the docs site from the notebooks, without Quarto; what cells define is read from their source, not run"
import ast, base64, os, re, shutil, subprocess, sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import yaml
from execnb.nbio import read_nb
from fastcore.script import call_parse
from latex2mathml.converter import convert as mathml
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from runtime import FILES, Missing, runtime
from symbols import directives, qual_name, symbols

callouts = dict(note='note', tip='tip', warning='warning', important='danger', caution='warning')

def text(o): return o if isinstance(o, str) else ''.join(o or [])

def fence(s, info=''):
    "`s` as a fenced block, with more ticks than it has inside"
    ticks = '`'*max(3, 1+max([len(o) for o in re.findall(r'`{3,}', s)], default=0))
    return f'{ticks}{info}\n{s.rstrip()}\n{ticks}'

def fold(code):
    "The source of a cell that asks to be shown with `#| exports`"
    return '???+ source "Source"\n\n' + '\n'.join('    '+o for o in fence(code, 'python').splitlines())

def outside_code(s, f):
    "Apply `f` to the parts of markdown `s` that are not code"
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', s, flags=re.M|re.S)
    return ''.join(o if i%2 else f(o) for i,o in enumerate(parts))

def math(s):
    "TeX as MathML, which browsers draw without a script"
    s = re.sub(r'\$\$(.+?)\$\$', lambda m: mathml(m[1].strip(), display='block'), s, flags=re.S)
    return re.sub(r'(?<![\\$\w])\$([^$\n]+?)\$(?![\d$])', lambda m: mathml(m[1]), s)

def admonitions(s):
    "Quarto's `::: {.callout-note}` blocks as admonitions"
    def _f(m):
        title = re.search(r'title="([^"]*)"', m[2])
        body = '\n'.join('    '+o for o in m[3].strip().splitlines())
        return f'!!! {callouts.get(m[1], "note")}' + (f' "{title[1]}"' if title else '') + f'\n\n{body}\n'
    return re.sub(r'^:::+ *\{\.callout-(\w+)([^}]*)\}\n(.*?)^:::+ *$', _f, s, flags=re.M|re.S)

def png_width(data, scale=2):
    "Width to show a base64 PNG at, as the inline backend draws `scale` pixels for each point"
    return int.from_bytes(base64.b64decode(text(data)[:64])[16:20], 'big')//scale

def page_path(rel):
    "Where the page of a notebook lies, as nbdev names it: in its folder, without its number"
    return rel.with_name(re.sub(r'^\d+[a-z0-9]*_', '', rel.name.lower())).with_suffix('.md')

def front(src):
    "What the title cell says: title, subtitle, `- key: value` lines, and the rest"
    title,sub = (re.search(rf'^{o} (.*)$', src, flags=re.M) for o in '#>')
    keys = dict(re.findall(r'^- ([\w-]+): (.*)$', src.split('\n\n## ')[0], flags=re.M))
    for o in (r'^# .*\n*', r'^> .*\n*'): src = re.sub(o, '', src, count=1, flags=re.M)
    rest = re.sub(r'^- [\w-]+: .*\n*', '', src, flags=re.M).strip()
    return title and title[1].strip(),sub[1].strip() if sub else '',{k: yaml.safe_load(v) for k,v in keys.items()},rest

@cache
def line_numbers(module):
    "Where the definitions of a module stand in it"
    return {qual_name(o): o.lineno for o in ast.parse(module.read_text()).body if hasattr(o, 'name')}

class Page:
    "A notebook, to be written as markdown"
    def __init__(self, fn, nbs):
        self.fn,self.rel,self.nb,self.files = fn,fn.relative_to(nbs),read_nb(fn),{}
        self.dest = page_path(self.rel)
        cells = self.nb.cells
        self.first = next((c for c in cells if c.cell_type=='markdown' and re.search(r'^# ', c.source, flags=re.M)), None)
        title,self.description,self.meta,self.opening = front(self.first.source if self.first else '')
        self.title = title or self.dest.stem
        self.module = next((directives(c.source)['default_exp'] for c in cells if c.cell_type=='code' and 'default_exp' in directives(c.source)), None)
        self.symbols = {i: list(symbols(c.source)) for i,c in enumerate(cells) if c.cell_type=='code' and self.is_export(c)}

    def is_export(self, c): return not {'export','exports'}.isdisjoint(directives(c.source))

    def names(self):
        "Each name that has a place on this page, and its anchor"
        for each in self.symbols.values():
            for o in each:
                if hasattr(o.node, 'name'): yield from ((k, k.lower()) for k in (o.name, *o.members))

    def image(self, data, ext, nm):
        p = f'{self.dest.stem}_files/{nm}.{ext}'
        self.files[p] = base64.b64decode(data) if ext=='png' else data.encode()
        return p

    def outputs(self, c, i, site):
        for j,o in enumerate(c.get('outputs', [])):
            d,nm = o.get('data', {}),f'{i:02}-{j}'
            if 'image/svg+xml' in d: yield f"![]({self.image(text(d['image/svg+xml']), 'svg', nm)})"
            elif 'image/png' in d:
                size = f"{{ width={png_width(d['image/png'])} }}" if site else ''
                yield f"![]({self.image(text(d['image/png']), 'png', nm)}){size}"
            elif 'text/html' in d: yield f'<div class="nb-html" markdown="0">\n{text(d["text/html"])}\n</div>'
            elif 'text/markdown' in d: yield text(d['text/markdown'])
            elif 'text/plain' in d: yield fence(text(d['text/plain']), '{ .text .output }'*site)
            elif o.get('text'): yield fence(re.sub(r'\x1b\[[0-?]*[ -/]*[@-~]', '', text(o['text'])), '{ .text .output }'*site)

    def definitions(self, i, cfg):
        "What cell `i` exports, in the order of its source"
        for o in self.symbols[i]:
            code = fence(o.stub, '{ .python .signature }')
            if not hasattr(o.node, 'name'): yield code
            else: yield f'### `{o.name}` {{ #{o.name.lower()} .symbol data-toc-label="{o.name}" }}'
            if not hasattr(o.node, 'name'): continue
            module = cfg.lib_path/(self.module.replace('.', '/')+'.py')
            url = f'{cfg.git_url}/blob/{cfg.branch}/{module.relative_to(cfg.config_path).as_posix()}#L{line_numbers(module)[o.name]}'
            yield f'[source]({url}){{ .source title="{o.name} in the package" }}'
            yield ''.join(f'<a id="{k.lower()}"></a>' for k in o.members)
            yield code
            yield outside_code(o.doc, lambda s: s.replace('<', '&lt;'))

    def md(self, cfg, site=True):
        "Body as markdown for the site, or else for a README"
        def prose(s): return admonitions(outside_code(s, math)) if site else s
        res = []
        for i,c in enumerate(self.nb.cells):
            s,d = c.source,directives(c.source)
            if c is self.first: res.append(prose(self.opening))
            elif c.cell_type=='markdown': res.append(prose(s))
            if c.cell_type!='code' or not d.keys().isdisjoint(('hide','exporti','default_exp')): continue
            src = re.sub(r'^#\|.*\n?', '', s, flags=re.M).strip()
            if i in self.symbols:
                res += map(prose, self.definitions(i, cfg))
                if 'exports' in d: res.append(fold(src))
            elif src and d.get('echo')!='false': res.append(fence(src, 'python'))
            if d.get('output')!='false': res += self.outputs(c, i, site)
        return '\n\n'.join(o.strip('\n') for o in res if o.strip())+'\n'

    def contents(self, s, dest):
        "What to write for body `s` at `dest`: a dict of path to bytes, pictures among them"
        return {dest: s.encode(), **{dest.parent/k: v for k,v in self.files.items()}}

def write(files):
    for k,v in files.items():
        k.parent.mkdir(parents=True, exist_ok=True)
        k.write_bytes(v)

def readme(page, cfg):
    "README.md and its pictures, for a reader of the repository: paths start at its root"
    root,nbs,s = cfg.config_path,cfg.nbs_path.name,page.md(cfg, site=False)
    for k in page.files: s = s.replace(f']({k})', f'](assets/readme/{Path(k).name})')
    s = outside_code(s, lambda o: re.sub(r'(\]\(|src="|href=")(?!\w+:|#|/)', rf'\1{nbs}/', o))
    s = f'# {page.title}\n\n> {page.description}\n\n{s}'
    return {root/'README.md': s.encode(), **{root/nbs/'assets/readme'/Path(k).name: v for k,v in page.files.items()}}

class Links(HTMLParser):
    "The anchors of a page, and what it refers to"
    def __init__(self, s):
        super().__init__()
        self.ids,self.refs = set(),[]
        self.feed(s)
    def handle_starttag(self, tag, attrs):
        for k,v in attrs:
            if k in ('id', 'name') and v: self.ids.add(v)
            if k in ('href', 'src') and v and tag!='base': self.refs.append(v)

def broken_links(site, url=''):
    "Links between the pages in folder `site`, published at `url`, that lead nowhere: `(page, link)` pairs"
    pages = {p: Links(p.read_text()) for p in sorted(site.rglob('*.html'))}
    base = urlsplit(url).path.rstrip('/')+'/'
    for p,page in pages.items():
        for ref in page.refs:
            u = urlsplit(ref.removeprefix(url) if url and ref.startswith(url) else ref)
            if u.scheme or u.netloc: continue
            path = unquote(u.path)
            to = site/path.removeprefix(base).lstrip('/') if path.startswith('/') else p.parent/path if path else p
            to = to.resolve()/'index.html' if to.is_dir() else to.resolve()
            if not to.exists() or (u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids): yield p.relative_to(site), ref

def link_symbols(s, page, anchors):
    "Names in backticks as links to where they are explained; those of the page itself come first"
    own = dict(page.names())
    def _f(m):
        name = m[1]
        to = f'#{own[name]}' if name in own else anchors.get(name)
        if not to: return m[0]
        return f'[{m[0]}]({to if name in own else os.path.relpath(to[0], page.dest.parent)+"#"+to[1]})'
    def _line(l): return l if l.startswith(('#','    ')) else re.sub(r'(?<!\[)`([\w.]+)(?:\(\))?`(?!\])', _f, l)
    parts = re.split(r'(^```.*?^```)', s, flags=re.M|re.S)
    return ''.join(o if i%2 else '\n'.join(map(_line, o.split('\n'))) for i,o in enumerate(parts))

def relink(s, page, url):
    "Links to notebooks and to the published site as links between pages"
    def _f(m): return os.path.relpath(Path(m[1]).with_suffix('.md'), page.dest.parent) + (m[2] or '')
    def _nb(m): return f"]({page_path(Path(m[1]+'.ipynb')).as_posix()}{m[2] or ''})"
    s = re.sub(re.escape(url)+r'/?([\w/-]+\.html)(#[\w.]+)?', _f, s)
    return outside_code(s, lambda o: re.sub(r'\]\(([^):]+)\.ipynb(#[^)]*)?\)', _nb, o))

LISTEN = r'!\[([^\]]*)\]\((assets/listen/[\w-]+)\.png\)'

def players(s):
    "Pictures of pieces that lie beside their MIDI as players"
    return re.sub(LISTEN, r'<iframe class="player" src="\2.html" title="\1" loading="lazy"></iframe>', s)

def player_pages(nbs):
    "A page that plays each piece of assets/listen, beside it"
    from meloformer.music.score import Score
    import meloformer.music.sound
    return {o.relative_to(nbs).with_suffix('.html'): Score.read(o).play().page.encode() for o in sorted((nbs/'assets/listen').glob('*.mid'))}

def writer_files(folder):
    "The model that comes along, and what a page needs to write with it; the runtime is missing where npm's registry cannot be reached"
    from meloformer.apps.browser import write_page
    from meloformer import MeloFormer
    write_page(MeloFormer.from_pretrained(), folder)
    try: files = [runtime()/o for o in FILES]
    except Missing as e: print(f'The page that writes in the browser lacks its runtime: {e}')
    else:
        for o in files: shutil.copy(o, folder)

AFTER = 'tutorials','studies' # groups that follow the parts of the library, in this order

def nav(pages):
    "Side bar: home, a group for each folder (the parts of the library first), then pages that stand alone"
    def _item(p): return {p.title: str(p.dest)}
    def _place(p): return p.rel.stem!='index',p.meta.get('order', 99),str(p.rel)
    top = [p for p in pages if len(p.rel.parts)==1 and p.rel.stem!='index']
    flat,alone = [p for p in top if p.module],[p for p in top if not p.module]
    res = [{'Home': 'index.md'}]+[{'Library': [_item(p) for p in flat]}]*bool(flat)
    groups = {}
    for p in pages:
        if len(p.rel.parts)>1: groups.setdefault(p.rel.parts[0], []).append(p)
    def _rank(name):
        index = [p for p in groups[name] if p.rel.stem=='index']
        first = index[0].meta.get('order', 99) if index else 99
        return AFTER.index(name)+1 if name in AFTER else 0,first,min(str(p.rel.name) for p in groups[name] if p not in index)
    for name in sorted(groups, key=_rank):
        kids = sorted(groups[name], key=_place)
        index = [str(p.dest) for p in kids if p.rel.stem=='index'] # a path without a title is the page of the group itself
        title = next((p.title for p in kids if p.rel.stem=='index'), name.capitalize())
        res.append({title: index+[_item(p) for p in kids if p.rel.stem!='index']})
    return res+[_item(p) for p in alone]

@call_parse
def main(
    readme_only: bool = False, # Only write README.md?
    check: bool = False   # Complain about a README.md that is out of date, in place of writing it?
):
    "Write README.md, then the site in the `doc_path` of settings.ini; a broken link is an error"
    cfg = get_config()
    root,nbs,url,site = cfg.config_path,cfg.nbs_path,(cfg.doc_host+cfg.doc_baseurl).rstrip('/'),cfg.doc_path.resolve()
    src = root/'_site'
    files = readme(Page(nbs/cfg.readme_nb, nbs), cfg)
    if check:
        old = [str(k.relative_to(root)) for k,v in files.items() if not k.exists() or k.read_bytes()!=v]
        if old: sys.exit(f"Not as {cfg.readme_nb} has it: {', '.join(old)}. Run `make prepare`.")
    else:
        shutil.rmtree(nbs/'assets/readme', ignore_errors=True)
        write(files)
    if readme_only: return
    pages = [Page(p, nbs) for p in sorted(nbglob(nbs, as_path=True))]
    anchors = {}
    for p in pages:
        for name,anchor in p.names(): anchors.setdefault(name, (p.dest, anchor))
    shutil.rmtree(src, ignore_errors=True)
    for p in pages:
        lead = f'*{p.description}*{{ .lead }}\n\n' if p.description else ''
        s = players(relink(link_symbols(p.md(cfg), p, anchors), p, url))
        write(p.contents(f'# {p.title}\n\n{lead}{s}', src/'pages'/p.dest))
    if (nbs/'assets').exists(): shutil.copytree(nbs/'assets', src/'pages/assets', ignore=lambda d,fs: {'readme'})
    write({src/'pages'/k: v for k,v in player_pages(nbs).items()})
    writer_files(src/'pages/assets/browser')
    conf = yaml.safe_load((root/'mkdocs.yml').read_text())
    conf |= dict(site_name=cfg.title, site_description=cfg.description, site_url=url+'/', docs_dir='pages', site_dir=str(site), nav=nav(pages),
                 copyright=f'{cfg.copyright} · <a href="{cfg.git_url}">source</a>, under the Apache License 2.0')
    (src/'mkdocs.yml').write_text(yaml.dump(conf, sort_keys=False))
    env = os.environ | dict(NO_MKDOCS_2_WARNING='1')
    status = subprocess.call([sys.executable, '-m', 'mkdocs', 'build', '--strict', '-f', str(src/'mkdocs.yml')], env=env)
    if status: sys.exit(status)
    if bad := list(broken_links(site, url)): sys.exit('Links that lead nowhere:\n' + '\n'.join(f'  {p}: {ref}' for p,ref in bad))
    print(f'{len(pages)} pages in {cfg.doc_path.name}, no broken link')
