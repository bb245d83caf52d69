"Build README.md and the docs site from the notebooks, with nbdev's own passes and no Quarto"
import base64, os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import yaml
from execnb.nbio import read_nb
from fastcore.script import call_parse
from latex2mathml.converter import convert as mathml
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html
from nbdev.processors import FilterDefaults
from nbdev.serve import proc_nbs
from nbdev.serve_drv import main as proc_nb

callouts = dict(note='note', tip='tip', warning='warning', important='danger', caution='warning')

def text(o): return o if isinstance(o, str) else ''.join(o or [])

def fence(s, info=''):
    "`s` as a fenced block, with more ticks than it has inside"
    ticks = '`'*max(3, 1+max([len(o) for o in re.findall(r'`{3,}', s)], default=0))
    return f'{ticks}{info}\n{s.rstrip()}\n{ticks}'

def fold(src, opts):
    "A code cell, folding if `#| exports` or `#| code-fold` asks"
    code,how = fence(src, 'python'),opts.get('code-fold')
    if not how: return code
    title = opts.get('code-summary', '"Code"').strip('"')
    return f'???{"+"*(how=="show")} source "{title}"\n\n' + '\n'.join('    '+o for o in code.splitlines())

def outside_code(s, f):
    "Apply `f` to the parts of markdown `s` that are not code"
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', s, flags=re.M|re.S)
    return ''.join(o if i%2 else f(o) for i,o in enumerate(parts))

def unlink_code(s):
    "Undo the links nbdev puts inside fenced blocks"
    return re.sub(r'^```.*?^```', lambda m: re.sub(r'\[(`[^`]+`)\]\(http[^)]+\)', r'\1', m[0]), s, flags=re.M|re.S)

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

def showdoc(s):
    "nbdev's `show_doc` markdown, with the anchor its links point to"
    s = re.sub(r'^---\n+', '', unlink_code(s))
    s = re.sub(r'^\[source\]\(([^)]+)\)\{[^}]*\}\n+(#+) (\S+) *$', r'\2 \3\n\n[source](\1){ .source }', s, flags=re.M)
    return re.sub(r'^(#+) (\S+) *$', lambda m: f'{m[1]} `{m[2]}` {{ #{m[2].lower()} .symbol data-toc-label="{m[2]}" }}', s, count=1, flags=re.M)

def png_width(data, scale=2):
    "Width to show a base64 PNG at, as the inline backend draws `scale` pixels for each point"
    return int.from_bytes(base64.b64decode(text(data)[:64])[16:20], 'big')//scale

def opening(nb):
    "What the title cell says below title and subtitle; nbdev drops it"
    s = next((c.source for c in nb.cells if c.cell_type=='markdown' and re.search(r'^# ', c.source, flags=re.M)), '')
    for o in (r'^# .*\n*', r'^> .*\n*'): s = re.sub(o, '', s, count=1, flags=re.M)
    s = re.sub(r'^- [\w-]+: .*\n*', '', s, flags=re.M).strip()
    return NbdevLookup().linkify(s) if s else ''

class Page:
    "One notebook that nbdev has processed, as markdown"
    def __init__(self, fn, root, nbs):
        self.rel,self.nb,self.meta,self.files = fn.relative_to(root),read_nb(fn),{},{}
        self.opening = opening(read_nb(nbs/self.rel))
        self.dest = _nbpath2html(self.rel).with_suffix('.md')
        raw = [c.source for c in self.nb.cells if c.cell_type=='raw' and c.source.startswith('---')]
        if raw: self.meta = yaml.safe_load(raw[0].strip().strip('-'))
        self.title = self.meta.get('title', self.dest.stem)

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
            elif 'text/markdown' in d:
                md = text(d['text/markdown'])
                yield showdoc(md) if c.source.strip().splitlines()[-1].startswith('show_doc') else md
            elif 'text/plain' in d: yield fence(text(d['text/plain']), '{ .text .output }'*site)
            elif o.get('text'): yield fence(text(o['text']), '{ .text .output }'*site)

    def md(self, site=True):
        "Body as markdown for the site, or else for a README"
        res = [admonitions(outside_code(self.opening, math)) if site else self.opening]
        for i,c in enumerate(self.nb.cells):
            s = c.source
            if c.cell_type=='markdown' and 'AUTOGENERATED' not in s:
                res.append(admonitions(outside_code(s, math)) if site else s)
            if c.cell_type!='code': continue
            opts = dict(re.findall(r'^#\| *([\w-]+): *(.*)$', s, flags=re.M))
            src = re.sub(r'^#\|.*\n?', '', s, flags=re.M).strip()
            if src and opts.get('echo')!='false': res.append(fold(src, opts) if site else fence(src, 'python'))
            if opts.get('output')!='false': res += self.outputs(c, i, site)
        return '\n\n'.join(o.strip('\n') for o in res if o.strip())+'\n'

    def contents(self, s, dest):
        "What to write for body `s` at `dest`: a dict of path to bytes, pictures among them"
        return {dest: s.encode(), **{dest.parent/k: v for k,v in self.files.items()}}

def write(files):
    for k,v in files.items():
        k.parent.mkdir(parents=True, exist_ok=True)
        k.write_bytes(v)

def readme(page, root, nbs, url):
    "README.md and its pictures, for a reader of the repository: paths start at its root, symbols are not linked to the site at `url`"
    s = re.sub(rf'\[(`[^`]+`)\]\({re.escape(url)}[^)]*\)', r'\1', page.md(site=False))
    for k in page.files: s = s.replace(f']({k})', f']({nbs}/assets/readme/{Path(k).name})')
    s = re.sub(r'(\]\(|src=")(?=(assets|tutorials|studies)/)', rf'\1{nbs}/', s)
    s = re.sub(r'\]\((\w+\.ipynb)', rf']({nbs}/\1', s)
    s = f"# {page.title}\n\n> {page.meta.get('description', '')}\n\n{s}"
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

def relink(s, page, url):
    "Links to the published site as links between pages"
    def _f(m): return os.path.relpath(Path(m[1]).with_suffix('.md'), page.dest.parent) + (m[2] or '')
    def _nb(m): return f"]({_nbpath2html(Path(m[1]+'.ipynb')).with_suffix('.md').as_posix()}{m[2] or ''})"
    s = re.sub(re.escape(url)+r'/?([\w/-]+\.html)(#[\w.]+)?', _f, s)
    return re.sub(r'\]\(([^):]+)\.ipynb(#[^)]*)?\)', _nb, s)

def nav(pages):
    "Side bar: home, then numbered notebooks, then a section for each folder"
    def _item(p): return {p.title: str(p.dest)}
    top = [p for p in pages if len(p.rel.parts)==1]
    res = [{'Home': 'index.md'}, {'Library': [_item(p) for p in top if p.rel.stem!='index']}]
    for d in sorted({p.rel.parts[0] for p in pages if p not in top}):
        kids = [p for p in pages if p.rel.parts[0]==d]
        res.append({d.capitalize(): [_item(p) for p in sorted(kids, key=lambda p: (p.meta.get('order', 99), str(p.rel)))]})
    return res

@call_parse
def main(
    n_workers: int = 2,   # Processes for nbdev's notebook pass
    readme_only: bool = False, # Only write README.md?
    check: bool = False   # Complain about a README.md that is out of date, in place of writing it?
):
    "Write README.md, then the site in the `doc_path` of settings.ini; a broken link is an error"
    cfg = get_config()
    root,url,src,site = cfg.config_path,(cfg.doc_host+cfg.doc_baseurl).rstrip('/'),cfg.config_path/'_site',cfg.doc_path.resolve()
    if readme_only:
        proc = root/'_proc/readme'
        proc.mkdir(parents=True, exist_ok=True)
        proc_nb((cfg.nbs_path/cfg.readme_nb, proc/cfg.readme_nb, FilterDefaults))
    else: proc = proc_nbs(n_workers=n_workers, force=True)
    pages = [Page(p, proc, cfg.nbs_path) for p in sorted(proc.rglob('*.ipynb'))]
    files = readme(next(p for p in pages if str(p.rel)==cfg.readme_nb), root, cfg.nbs_path.name, url)
    if check:
        old = [str(k.relative_to(root)) for k,v in files.items() if not k.exists() or k.read_bytes()!=v]
        if old: sys.exit(f"Not as {cfg.readme_nb} has it: {', '.join(old)}. Run `make prepare`.")
    else:
        shutil.rmtree(cfg.nbs_path/'assets/readme', ignore_errors=True)
        write(files)
    if readme_only: return
    shutil.rmtree(src, ignore_errors=True)
    for p in pages:
        lead = f"*{p.meta['description']}*{{ .lead }}\n\n" if p.meta.get('description') else ''
        s = f'# {p.title}\n\n{lead}'+relink(p.md(), p, url)
        write(p.contents(s, src/'pages'/p.dest))
    if (cfg.nbs_path/'assets').exists(): shutil.copytree(cfg.nbs_path/'assets', src/'pages/assets', ignore=lambda d,fs: {'readme'})
    conf = yaml.safe_load((root/'mkdocs.yml').read_text())
    conf |= dict(site_name=cfg.title, site_description=cfg.description, site_url=url+'/', docs_dir='pages', site_dir=str(site), nav=nav(pages),
                 copyright=f'{cfg.copyright} · <a href="{cfg.git_url}">source</a>, under the Apache License 2.0')
    (src/'mkdocs.yml').write_text(yaml.dump(conf, sort_keys=False))
    env = os.environ | dict(NO_MKDOCS_2_WARNING='1')
    status = subprocess.call([sys.executable, '-m', 'mkdocs', 'build', '--strict', '-f', str(src/'mkdocs.yml')], env=env)
    if status: sys.exit(status)
    if bad := list(broken_links(site, url)): sys.exit('Links that lead nowhere:\n' + '\n'.join(f'  {p}: {ref}' for p,ref in bad))
    print(f'{len(pages)} pages in {cfg.doc_path.name}, no broken link')
