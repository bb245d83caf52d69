"What a cell defines, read from its source: names, and signatures with the comments of their parameters and fields"
import ast, io, re, tokenize
from dataclasses import dataclass, field
from textwrap import dedent, wrap

WIDTH = 84 # of a signature, in characters: what a page shows beside both of its sidebars
FUNCTION = ast.FunctionDef,ast.AsyncFunctionDef
SHOWN = 'dataclass','property','cached_property','classmethod','staticmethod','contextmanager' # decorators that tell how to call

@dataclass
class Symbol:
    "A definition as a page shows it"
    name: str        # With its class, if it was patched into one
    node: ast.AST
    stub: str        # Python, without bodies
    doc: str = ''    # Docstring
    members: list = field(default_factory=list) # Names of public methods, for anchors

def directives(src):
    "nbdev's directives of a cell: name to value"
    return {k: v.strip() for k,v in re.findall(r'^#\| *([\w-]+):?(.*)$', src, flags=re.M)}

def is_public(name): return not name.startswith('_')

def decorator(o): return ast.unparse(o.func if isinstance(o, ast.Call) else o).split('.')[-1]

def patched(node):
    "The class that a function is patched into with fastcore's `@patch`, if any"
    if not isinstance(node, FUNCTION) or 'patch' not in map(decorator, node.decorator_list): return
    a = node.args.args[0].annotation
    while isinstance(a, ast.BinOp): a = a.left # of A|B, the first
    return ast.unparse(a)

def qual_name(node):
    "`Class.name` of what is patched, else its name"
    cls = patched(node)
    return f'{cls}.{node.name}' if cls else node.name

def comments(src):
    "What is said after a `#`: line number to text, line number to whether the line holds nothing else"
    said,alone = {},{}
    for o in tokenize.generate_tokens(io.StringIO(src).readline):
        if o.type!=tokenize.COMMENT: continue
        said[o.start[0]],alone[o.start[0]] = o.string.lstrip('#| ').strip(),not o.line[:o.start[1]].strip()
    return said,alone

def header_end(src, node):
    "Line of the colon that ends the header of a definition"
    depth = 0
    for o in tokenize.generate_tokens(io.StringIO(src).readline):
        if o.start[0]<node.lineno or o.type!=tokenize.OP: continue
        depth += (o.string in '([{')-(o.string in ')]}')
        if o.string==':' and not depth: return o.start[0]

def above(line, said, alone):
    "The comment lines right above a line, as one text"
    first = line
    while alone.get(first-1): first -= 1
    return ' '.join(said[i] for i in range(first, line))

def parameters(node, src, said, alone):
    "(code, comment) for each parameter"
    a,end = node.args,header_end(src, node)
    plain = a.posonlyargs+a.args
    defaults = [None]*(len(plain)-len(a.defaults))+a.defaults
    each = [('', o, d) for o,d in zip(plain, defaults)]
    if a.vararg: each.append(('*', a.vararg, None))
    elif a.kwonlyargs: each.append(('*', None, None))
    each += [('', o, d) for o,d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: each.append(('**', a.kwarg, None))
    if a.posonlyargs: each.insert(len(a.posonlyargs), ('/', None, None))
    res,lines = [],[]
    for stars,arg,default in each:
        if arg is None:
            res.append((stars, ''))
            lines.append(0)
            continue
        kind,note = arg.annotation,''
        if isinstance(kind, ast.Call) and ast.unparse(kind.func)=='Param': # fastcore's: help, then type
            note,kind = ast.literal_eval(kind.args[0]),kind.args[1] if len(kind.args)>1 else None
        code = stars+arg.arg+(f': {ast.unparse(kind)}' if kind else '')
        if default is not None: code += (' = ' if kind else '=')+ast.unparse(default)
        line = max(o.end_lineno for o in (arg, default) if o is not None)
        res.append((code, note or above(arg.lineno, said, alone)))
        lines.append(line)
    for i,line in enumerate(lines): # a comment is of the last parameter on its line
        last = i+1==len(lines) or lines[i+1]!=line
        if last and line!=end and line in said and not alone[line]: res[i] = res[i][0],said[line]
    return res

def beside(items, width, indent='    ', sep=','):
    "Lines of code with their comments beside them, or above where there is no room"
    codes = [indent+code+sep*(not code.startswith('**')) for code,_ in items] # no comma may follow **kw
    col = max((len(c) for c,(_,note) in zip(codes, items) if note and len(c)<=width//2), default=0)+2
    res = []
    for code,(_,note) in zip(codes, items):
        if not note: res.append(code)
        elif len(code)<=col-2: res += [f'{code if not i else "":{col}}# {o}' for i,o in enumerate(wrap(note, width-col-2))]
        else: res += [f'{indent}# {o}' for o in wrap(note, width-len(indent)-2)]+[code]
    return res

def signature(node, src, said, alone, width=WIDTH):
    "A function without its body, in as many lines as it takes"
    params,end = parameters(node, src, said, alone),header_end(src, node)
    gives = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    note = said.get(end, '') if node.body[0].lineno>end else ''
    if not note and node.returns and node.returns.lineno>node.lineno: note = above(node.returns.lineno, said, alone)
    head = f'{"async " if isinstance(node, ast.AsyncFunctionDef) else ""}def {node.name}('
    if patched(node): params[0] = 'self',params[0][1]
    line = head+', '.join(code for code,_ in params)+f'){gives}'+(f'  # {note}' if note else '')
    deco = [f'@{ast.unparse(o)}' for o in node.decorator_list if decorator(o) in SHOWN]
    if len(line)<=width and not any(note for _,note in params): return deco+[line]
    tail = f'){gives}'
    if not note: return deco+[head, *beside(params, width), tail]
    if len(tail)+len(note)+4<=width: return deco+[head, *beside(params, width), f'{tail}  # {note}']
    return deco+[head, *beside(params, width), tail, *(f'# {o}' for o in wrap(note, width-2))]

def fields(node, said, alone):
    "(code, comment) for each public field or constant of a class"
    for o in node.body:
        if not isinstance(o, (ast.AnnAssign,ast.Assign)): continue
        name = ast.unparse(o.target if isinstance(o, ast.AnnAssign) else o.targets[0])
        if not is_public(name): continue
        code = ast.unparse(o)
        if len(code)>WIDTH-4: code = code.split('=')[0]+'= …'
        yield code,said.get(o.end_lineno) or above(o.lineno, said, alone)

def methods(node): return [o for o in node.body if isinstance(o, FUNCTION) and is_public(o.name)]

def class_stub(node, src, said, alone):
    "A class: its fields, how it is made, and its public methods, each with what it says of itself"
    bases = ', '.join(map(ast.unparse, [*node.bases, *(o.value for o in node.keywords)]))
    res = [f'@{ast.unparse(o)}' for o in node.decorator_list if decorator(o) in SHOWN]
    res.append(f'class {node.name}{f"({bases})" if bases else ""}:')
    body = beside(list(fields(node, said, alone)), WIDTH, sep='')
    for o in node.body:
        if not isinstance(o, FUNCTION) or not (is_public(o.name) or o.name=='__init__'): continue
        lines,doc = signature(o, src, said, alone, WIDTH-4),ast.get_docstring(o)
        if doc and body: body.append('')
        if '  # ' not in lines[-1] and not lines[-1].startswith('#'): lines[-1] += ':' if doc else ': ...'
        body += ['    '+l for l in lines]
        if doc: body += wrap(f'"{doc.splitlines()[0]}"', WIDTH, initial_indent=' '*8, subsequent_indent=' '*9)
    return '\n'.join(res+(body or ['    ...']))

def symbols(src):
    "The public definitions of a cell, in the order of its source, constants among them"
    src = re.sub(r'^#\|.*', '', dedent(src), flags=re.M)
    said,alone = comments(src)
    for node in ast.parse(src).body:
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            stub = class_stub(node, src, said, alone)
            yield Symbol(node.name, node, stub, ast.get_docstring(node) or '', [f'{node.name}.{o.name}' for o in methods(node)])
        elif isinstance(node, FUNCTION) and all(map(is_public, qual_name(node).split('.'))):
            yield Symbol(qual_name(node), node, '\n'.join(signature(node, src, said, alone)), ast.get_docstring(node) or '')
        elif isinstance(node, (ast.Assign,ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            names = [o.id for o in ast.walk(target) if isinstance(o, ast.Name)]
            if not names or not all(map(is_public, names)) or isinstance(target, (ast.Attribute,ast.Subscript)): continue
            lines = src.splitlines()
            while alone.get(node.lineno-1): node.lineno -= 1
            yield Symbol(', '.join(names), node, '\n'.join(lines[node.lineno-1:node.end_lineno]))
